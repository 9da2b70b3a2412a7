"""APNs: one request to a device that there is not. What Apple says of it tells what it thinks of us."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import assert_never

from pushgate.doctor.asking import Tools, ask, trial, trouble
from pushgate.doctor.finding import Check, Finding, not_checked, ok, warning, wrong
from pushgate.http2.target import Target
from pushgate.outcome import Accepted, Deferred, Outcome, Rejected, Undeliverable
from pushgate.provider.apns import authorization, build_request, classify, form
from pushgate.provider.apns_answer import EXPIRED_TOKEN
from pushgate.provider.apns_settings import HOSTS, Settings, client_certificate
from pushgate.provider.credentials import ApnsToken
from pushgate.provider.key_files import read_proxy, read_signing_key
from pushgate.provider.peer import target, tls_context

TOKEN_BYTES = 32
_TOPIC = "is {topic} the bundle id, and is it an app of the team whose key or certificate this is? Correct bundle_id"
_KEY = (
    "key_id, team_id and key_file must belong together, and the key must not be revoked: see"
    " Certificates, Identifiers & Profiles > Keys; a clock that is ahead is refused like this too"
)
NEXT_STEPS: Mapping[str, str] = {
    "BadTopic": _TOPIC,
    "MissingTopic": _TOPIC,
    "TopicDisallowed": _TOPIC,
    "DeviceTokenNotForTopic": _TOPIC,
    "BadCertificate": "name an Apple Push Services certificate that has not been revoked",
    "BadCertificateEnvironment": "it is a certificate for the other environment: correct environment, or take another",
    "BadEnvironmentKeyIdInToken": "the key is for the other environment: correct environment, or take a key for both",
    EXPIRED_TOKEN: "this machine's clock is an hour or more behind: let it be set by NTP",
    "Forbidden": "the account may not push: look into Apple's developer account (agreements, membership)",
    "InvalidProviderToken": _KEY,
    "MissingProviderToken": "something on the way takes the authorization header out: have it let through",
    "UnrelatedKeyIdInToken": "key_id is of another team's key: correct key_id or team_id",
    "TooManyProviderTokenUpdates": "something else uses this key, with tokens that change too often: stop it",
}
"""What to do about what Apple says. What it means for a delivery stands in `provider.apns_answer`."""


def host(settings: Settings) -> Target:
    """Where an app's notifications go. Raises `CredentialError`."""
    proxy = read_proxy(settings.proxy, settings.proxy_login_file)
    tls = tls_context(ca_file=settings.ca_file, certificate=client_certificate(settings))
    return target(HOSTS[settings.environment], endpoint=settings.endpoint, proxy=proxy, tls=tls)


async def ask_apns(app_id: str, settings: Settings, *, tools: Tools) -> Finding:
    """What APNs says to one request. Raises `CredentialError`."""
    peer = host(settings)
    shown, key = client_certificate(settings), None
    if shown is not None and shown.expires_at <= tools.clock():
        mend = "have the certificate renewed"
        return not_checked(Check.PROVIDER, app_id, "nobody lets in who shows an expired certificate", next_step=mend)
    if settings.key_file is not None:
        key = ApnsToken(
            read_signing_key(settings.key_file), key_id=settings.key_id, team_id=settings.team_id, clock=tools.clock
        )
    bearer = key.bearer() if key else ""
    outcome = await _attempt(app_id, settings, peer, bearer, tools)
    expired = isinstance(outcome, Deferred) and outcome.reason == EXPIRED_TOKEN
    if expired and key is not None and key.renew(bearer):
        outcome = await _attempt(app_id, settings, peer, key.bearer(), tools)
    found = judge(app_id, settings, outcome)
    if key is not None and not found.next_step:
        tools.trusted_by.append("APNs")
    return found


async def _attempt(app_id: str, settings: Settings, peer: Target, bearer: str, tools: Tools) -> Outcome:
    raw = tools.entropy(TOKEN_BYTES)
    in_hex = settings.token_encoding == "hex"  # noqa: S105 - a kind of encoding
    delivery = trial(app_id, raw.hex() if in_hex else base64.b64encode(raw).decode(), tools=tools)
    shape = form(settings, authority=peer.authority)
    request = build_request(delivery, form=shape, authorization=authorization(bearer) if bearer else b"")
    if isinstance(request, Undeliverable):
        return request
    response = await ask(peer, request, tools=tools)
    if isinstance(response, Deferred):
        return response
    return classify(response.status, response.headers, response.body, now=tools.clock())


def judge(app_id: str, settings: Settings, outcome: Outcome) -> Finding:
    """What the outcome of a notification to nobody says of the app's settings."""
    proven = "the certificate is" if settings.key_file is None else "key and team are"
    taken = f"{proven} right, and nothing is said against {settings.bundle_id} on {settings.environment}"
    match outcome:
        case Accepted():
            return ok(Check.PROVIDER, app_id, f"accepted: {taken}")
        case Rejected(reason=reason) if reason not in NEXT_STEPS:
            return ok(Check.PROVIDER, app_id, f"{reason} to a pushkey that is nobody's, as it should be: {taken}")
        case Undeliverable(reason=reason):
            mend = "the credentials were taken; this release writes what APNs does not want: is there a newer one?"
            return warning(Check.PROVIDER, app_id, f"APNs refuses the request itself: {reason}", next_step=mend)
        case Rejected(reason=reason) | Deferred(reason=reason):
            mend = NEXT_STEPS.get(reason, "").replace("{topic}", settings.bundle_id)
            if mend:
                return wrong(Check.PROVIDER, app_id, f"APNs says {reason}", next_step=mend)
            return trouble(app_id, "APNs", outcome, with_certificate=settings.key_file is None)
        case _:
            assert_never(outcome)
