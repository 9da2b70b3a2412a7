"""FCM: an access token, then one message that is only validated, to a device that there is not."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, assert_never

import msgspec
from google.auth import exceptions

from pushgate.doctor.asking import Tools, ask, hear_the_date, trial, trouble
from pushgate.doctor.finding import Check, Finding, not_checked, ok, warning, wrong
from pushgate.doctor.patience import in_thread
from pushgate.errors import CredentialError
from pushgate.http2.target import Target
from pushgate.outcome import Accepted, Deferred, Outcome, Rejected, Undeliverable
from pushgate.provider import ProviderRequest
from pushgate.provider.answer import json_object
from pushgate.provider.credentials import FETCH_DEADLINE_S, Fetched, TokenFault
from pushgate.provider.fcm import build_request, classify, head
from pushgate.provider.fcm_answer import THIRD_PARTY
from pushgate.provider.fcm_payload import look
from pushgate.provider.fcm_settings import HOST, Settings
from pushgate.provider.fields import split_url
from pushgate.provider.key_files import read_proxy, read_service_account
from pushgate.provider.peer import target, tls_context

TOKEN_BYTES = 105
_ROLE = (
    "give the service account the role Firebase Cloud Messaging API Admin in project {project}, and enable the Firebase"
    " Cloud Messaging API there"
)
_ANEW = "make a new key for the service account and put it in the place of credentials_file"
NEXT_STEPS: Mapping[str, str] = {
    "SENDER_ID_MISMATCH": "project_id is not the project of the app (google-services.json): correct project_id",
    "PERMISSION_DENIED": _ROLE,
    "NOT_FOUND": "no project is called {project}: copy the project id (not name or number) from the Firebase console",
    "UNAUTHENTICATED": "Google gave the token and FCM does not take it: is this the endpoint of the same Google?",
    THIRD_PARTY: "upload the APNs key or Web Push certificate of the app to project {project}",
}
"""What to do about what FCM says. What it means for a delivery stands in `provider.fcm_answer`."""
DENIED: Mapping[str, tuple[str, str]] = {
    "SERVICE_DISABLED": ("the API is disabled", "enable the Firebase Cloud Messaging API in project {project}"),
    "CONSUMER_INVALID": ("there is no such project", NEXT_STEPS["NOT_FOUND"]),
    "IAM_PERMISSION_DENIED": ("the role is missing", _ROLE + "; a project that does not exist is denied like this too"),
    "BILLING_DISABLED": ("billing is disabled", "enable billing for project {project}"),
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": (
        "the token is not for messaging",
        "give the machine or workload the scope https://www.googleapis.com/auth/firebase.messaging",
    ),
}
"""ErrorInfo.reason (google.rpc) -> what is denied, and what to do."""
_GRANTS = (
    ("Invalid JWT: Token must be a short-lived", "the clock", "this machine's clock is off: let it be set by NTP"),
    ("Invalid JWT Signature", "the key was deleted or disabled", _ANEW),
    ("Invalid grant: account not found", "the service account was deleted", f"make a service account anew, or {_ANEW}"),
)
"""How Google words invalid_grant -> what it means, and what to do."""
_OAUTH_WORDS = frozenset(
    {"access_denied", "deleted_client", "disabled_client", "internal_failure", "invalid_client", "invalid_grant"}
    | {"invalid_request", "invalid_scope", "org_internal", "unauthorized_client", "unsupported_grant_type"}
)


def host(settings: Settings) -> Target:
    """Where an app's messages go. Raises `CredentialError`."""
    proxy = read_proxy(settings.proxy, settings.proxy_login_file)
    return target(HOST, endpoint=settings.endpoint, proxy=proxy, tls=tls_context(ca_file=settings.ca_file))


def token_host(settings: Settings) -> Target | None:
    """Where its tokens come from; None where the environment of the process says so. Raises `CredentialError`."""
    if settings.credentials_file is None:
        return None
    where = read_service_account(settings.credentials_file).info["token_uri"]
    proxy = read_proxy(settings.proxy, settings.proxy_login_file)
    tls = tls_context(ca_file=settings.ca_file)
    tls.set_alpn_protocols(["http/1.1"])
    scheme, _, rest = str(where).partition("://")
    try:
        split_url(f"{scheme}://{rest.partition('/')[0]}", schemes=("https",))
    except ValueError as error:
        mend = "name the key file of a service account as Google issued it (JSON)"
        raise CredentialError(f"{settings.credentials_file}: token_uri is no address -> {mend}") from error
    return target("", endpoint=f"{scheme}://{rest.partition('/')[0]}", proxy=proxy, tls=tls)


async def ask_fcm(app_id: str, settings: Settings, *, tools: Tools) -> list[Finding]:
    """The access token, and what FCM says to one message. Raises `CredentialError` where a file cannot be read."""
    account = read_service_account(settings.credentials_file) if settings.credentials_file else None
    from pushgate.provider.google_fetch import Way, google_fetch

    way = Way(settings.ca_file, read_proxy(settings.proxy, settings.proxy_login_file))
    try:
        fetched = await in_thread(google_fetch(account, way=way), within_s=FETCH_DEADLINE_S + 1)
    except (CredentialError, TimeoutError) as error:
        await hear_the_date(host(settings), tools=tools)
        skipped = not_checked(Check.PROVIDER, app_id, "there is no token to ask with", next_step="mend the token first")
        return [token_fault(app_id, error), skipped]
    if account is not None:
        tools.trusted_by.append("Google")
    return [ok(Check.TOKEN, app_id, "Google gives an access token"), await _send(app_id, settings, fetched, tools)]


async def _send(app_id: str, settings: Settings, fetched: Fetched, tools: Tools) -> Finding:
    peer, now = host(settings), tools.clock()
    fields = head(settings.project_id, authority=peer.authority, bearer=f"Bearer {fetched.token}")
    pushkey = base64.urlsafe_b64encode(tools.entropy(TOKEN_BYTES)).decode()
    request = build_request(trial(app_id, pushkey, tools=tools), look=look(settings), head=fields, now=now)
    if isinstance(request, Undeliverable):
        return judge(app_id, settings.project_id, request, "")
    response = await ask(peer, ProviderRequest(request.head, only_validated(request.body)), tools=tools)
    if isinstance(response, Deferred):
        return judge(app_id, settings.project_id, response, "")
    outcome = classify(response.status, response.headers, response.body, now=now)
    return judge(app_id, settings.project_id, outcome, detail(response.body))


def only_validated(body: bytes) -> bytes:
    """The same request, not to be sent on (projects.messages.send: validateOnly)."""
    return msgspec.json.encode({**json_object(body), "validate_only": True})


def detail(body: bytes) -> str:
    """The word of Google's front end about a refusal, where it is one that we know; else empty."""
    error = json_object(body).get("error")
    details = error.get("details") if isinstance(error, dict) else None
    for each in details if isinstance(details, list) else ():
        if isinstance(each, dict) and str(each.get("reason")) in DENIED:
            return str(each["reason"])
    return ""


def token_fault(app_id: str, error: CredentialError | TimeoutError) -> Finding:
    """Why there is no access token, and what to do about it."""
    fault = str(error) or TokenFault.UNREACHABLE.value
    match fault:
        case TokenFault.NO_DEFAULT:
            mend = "set GOOGLE_APPLICATION_CREDENTIALS, run where there is a metadata server, or set credentials_file"
            return wrong(Check.TOKEN, app_id, fault, next_step=mend)
        case TokenFault.UNREACHABLE:
            mend = "see the way to it above; is that right, run this again"
            return wrong(Check.TOKEN, app_id, fault, next_step=mend)
    word, description = _oauth(error.__cause__)
    if word == "invalid_grant":
        meaning, mend = next(
            ((meaning, mend) for start, meaning, mend in _GRANTS if description.startswith(start)),
            ("the clock of this machine, or a key that was deleted", f"set the clock by NTP; is that right, {_ANEW}"),
        )
        return wrong(Check.TOKEN, app_id, f"Google says invalid_grant: {meaning}", next_step=mend)
    seen = f"Google says {word}" if word else "Google refuses the credentials without a word that we know"
    return wrong(Check.TOKEN, app_id, seen, next_step=f"is the service account enabled? Else {_ANEW}")


def _oauth(cause: BaseException | None) -> tuple[str, str]:
    """Google's word and how it is described, from lists of ours: nothing else of its answer is shown."""
    told: Any = cause.args[1] if isinstance(cause, exceptions.RefreshError) and len(cause.args) > 1 else None
    if not isinstance(told, dict):
        return "", ""
    word = str(told.get("error"))
    return (word if word in _OAUTH_WORDS else "", str(told.get("error_description")))


def judge(app_id: str, project: str, outcome: Outcome, denied: str) -> Finding:
    """What the outcome of a message to nobody says of the app's settings. `denied`: see `detail`."""
    taken = f"the token and project {project} are right"
    match outcome:
        case Accepted():
            return ok(Check.PROVIDER, app_id, f"accepted: {taken}")
        case Rejected(reason=reason) if reason not in NEXT_STEPS:
            return ok(Check.PROVIDER, app_id, f"{reason} to a pushkey that is nobody's, as it should be: {taken}")
        case Undeliverable(reason=reason):
            mend = "the token was taken; this release writes something that FCM does not want: is there a newer one?"
            return warning(Check.PROVIDER, app_id, f"FCM refuses the message itself: {reason}", next_step=mend)
        case Rejected(reason=reason) | Deferred(reason=reason):
            seen, mend = f"FCM says {reason}", NEXT_STEPS.get(reason, "")
            if reason == "PERMISSION_DENIED" and denied:
                meaning, mend = DENIED[denied]
                seen += f" ({denied}): {meaning}"
            if mend:
                return wrong(Check.PROVIDER, app_id, seen, next_step=mend.replace("{project}", project))
            return trouble(app_id, "FCM", outcome)
        case _:
            assert_never(outcome)
