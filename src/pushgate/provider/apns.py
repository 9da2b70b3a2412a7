"""APNs: one app's way to Apple's push service (Apple: "Sending notification requests to APNs")."""

from __future__ import annotations

import math
import re
from binascii import a2b_base64
from functools import lru_cache
from typing import Self

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from pushgate.http2 import Pool, encode_headers
from pushgate.model import Delivery, Prio
from pushgate.outcome import Cause, Deferred, Outcome, Undeliverable
from pushgate.provider import ProviderRequest
from pushgate.provider.answer import CONNECTION_REASONS
from pushgate.provider.apns_answer import ACCEPTED, EXPIRED_TOKEN, NEW_CONNECTION_REASONS, classify
from pushgate.provider.apns_answer import REASONS as ANSWER_REASONS
from pushgate.provider.apns_payload import MAX_PAYLOAD_BYTES, Look, fits, is_background, look, payload
from pushgate.provider.apns_settings import HOSTS, Settings, client_certificate
from pushgate.provider.credentials import ApnsToken, Clock
from pushgate.provider.key_files import read_proxy, read_signing_key
from pushgate.provider.peer import Line, target, tls_context
from pushgate.provider.sharing import Release, Sharing

__all__ = ["REASONS", "ApnsProvider", "Form", "Settings", "build_request", "classify", "form"]

MAX_PUSHKEY_CHARS = 4096

NOT_A_TOKEN = "the pushkey is not a device token"  # noqa: S105 - not a password
TOO_LARGE = "too large for APNs"
EXPIRED_CERTIFICATE = "certificate expired"
REASONS = ANSWER_REASONS | CONNECTION_REASONS | {NOT_A_TOKEN, TOO_LARGE, EXPIRED_CERTIFICATE}
"""Every reason that an outcome of this provider can give."""

_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")


class Form(Struct, frozen=True):
    """What an app's settings fix about every request: parts of the header block, encoded once, and the look."""

    start: bytes
    urgent: bytes
    considerate: bytes
    background: bytes
    token_encoding: str
    look: Look


def form(settings: Settings, *, authority: str) -> Form:
    """The form of an app's requests."""

    def kind(push_type: str, priority: str) -> bytes:
        return encode_headers(
            [("apns-topic", settings.bundle_id), ("apns-push-type", push_type), ("apns-priority", priority)]
        )

    return Form(
        start=encode_headers([(":method", "POST"), (":scheme", "https"), (":authority", authority)]),
        urgent=kind("alert", "10"),
        considerate=kind("alert", "5"),
        background=kind("background", "5"),
        token_encoding=settings.token_encoding,
        look=look(settings),
    )


def authorization(bearer: str) -> bytes:
    """The authorization header, encoded to be kept until the token changes."""
    return encode_headers([("authorization", bearer)], never_indexed=("authorization",))


def build_request(delivery: Delivery, *, form: Form, authorization: bytes) -> ProviderRequest | Undeliverable:
    """The delivery as APNs wants it, `authorization` encoded (empty where a certificate proves us).

    Undeliverable where no such request can be made: `refuse` tells that beforehand, unless the settings have changed.
    """
    token = _device_token(delivery.device.pushkey, form.token_encoding)
    if token is None:
        return Undeliverable(NOT_A_TOKEN)
    body = payload(delivery, form.look)
    if len(body) > MAX_PAYLOAD_BYTES:
        return Undeliverable(TOO_LARGE)
    fields = (
        form.start,
        _beginning(":path", "/3/device/", len(token)),
        token.encode(),
        _kind(delivery, form),
        authorization,
        _beginning("apns-id", "", len(delivery.id)),
        delivery.id.encode(),
        _beginning("apns-expiration", "", len(expiration := b"%d" % delivery.expires_at)),
        expiration,
    )
    return ProviderRequest(b"".join(fields), body)


@lru_cache(maxsize=256)
def _beginning(name: str, prefix: str, chars: int) -> bytes:
    """An encoded field without the last `chars` of its value: literals end with the value as it is."""
    whole = encode_headers([(name, prefix + "0" * chars)], never_indexed=(":path",))
    return whole[: len(whole) - chars]


def _kind(delivery: Delivery, form: Form) -> bytes:
    """Topic, push type and priority (A_27167). A mere badge is an `alert` for APNs, `background` shows nothing."""
    if is_background(delivery, form.look):
        return form.background
    return form.urgent if delivery.notification.prio is Prio.HIGH else form.considerate


def _device_token(pushkey: str, encoding: str) -> str | None:
    """The device token in hex, or None where the pushkey is none. Apple: its length may be any."""
    if not pushkey or len(pushkey) > MAX_PUSHKEY_CHARS:
        return None
    if encoding == "hex":
        return pushkey if _HEX.fullmatch(pushkey) else None
    try:
        return a2b_base64(pushkey, strict_mode=True).hex()
    except ValueError:
        return None


class ApnsProvider:
    """One app of APNs. `token` is None where the line's connections show a certificate."""

    def __init__(
        self,
        settings: Settings,
        *,
        line: Line,
        authority: str,
        token: ApnsToken | None,
        clock: Clock,
        good_until: float = math.inf,
        releases: tuple[Release, ...] = (),
    ) -> None:
        """`good_until`: when the certificate ends, in unix seconds."""
        self._form = form(settings, authority=authority)
        self._good_until = good_until
        self._timeout_s = settings.request_timeout_s
        self._line = line
        self._line.join(self)
        self._token = token
        self._clock = clock
        self._releases = releases
        self._bearer = ""
        self._authorization = b""

    @classmethod
    def open(cls, settings: Settings, *, clock: Clock, sharing: Sharing) -> Self:
        """The provider with its credentials read. Connects with the first delivery. Raises CredentialError.

        Lanes of the same key share its token, and where host and trust are the same too, the connections.
        """
        certificate = client_certificate(settings)
        proxy = read_proxy(settings.proxy, settings.proxy_login_file)
        tls = tls_context(ca_file=settings.ca_file, certificate=certificate)
        peer = target(HOSTS[settings.environment], endpoint=settings.endpoint, proxy=proxy, tls=tls)
        token, identity, releases = _shared_token(settings, clock, sharing) if certificate is None else (None, b"", [])
        shown = certificate.chain_pem if certificate else b""
        trust = settings.ca_file.read_bytes() if settings.ca_file else b""
        key = ("apns", peer.host, peer.port, proxy, trust, shown, identity, settings.max_connections)
        line, release = sharing.take(key, lambda: Line(lambda: Pool(peer, max_connections=settings.max_connections)))
        return cls(
            settings,
            line=line,
            authority=peer.authority,
            token=token,
            clock=clock,
            good_until=certificate.expires_at if certificate else math.inf,
            releases=(release, *releases),
        )

    def refuse(self, delivery: Delivery) -> str | None:
        """Why APNs could never take it, or None. Never names the pushkey."""
        if _device_token(delivery.device.pushkey, self._form.token_encoding) is None:
            return NOT_A_TOKEN
        return None if fits(delivery, self._form.look) else TOO_LARGE

    async def send(self, delivery: Delivery) -> Outcome:
        """Make one attempt, and a second one at once where only our token had expired."""
        if self._clock() >= self._good_until:
            return Deferred(Cause.CREDENTIALS, EXPIRED_CERTIFICATE)  # nobody would get as far as to say so
        bearer = self._token.bearer() if self._token else ""
        outcome = await self._attempt(delivery, bearer)
        expired = isinstance(outcome, Deferred) and outcome.reason == EXPIRED_TOKEN
        if expired and self._token and self._token.renew(bearer):
            outcome = await self._attempt(delivery, self._token.bearer())
        return outcome

    async def close(self) -> None:
        """Let go of what was shared. Nothing is in flight any more."""
        self._line.leave(self)
        for release in self._releases:
            await release()

    async def _attempt(self, delivery: Delivery, bearer: str) -> Outcome:
        if bearer != self._bearer:
            self._bearer, self._authorization = bearer, authorization(bearer)
        request = build_request(delivery, form=self._form, authorization=self._authorization)
        if isinstance(request, Undeliverable):
            return request
        response = await self._line.ask(request, timeout_s=self._timeout_s, owner=self)
        if isinstance(response, Deferred):
            return response
        if response.status == 200:
            return ACCEPTED
        outcome = classify(
            response.status,
            response.headers,
            response.body,
            now=self._clock(),
            pushkey_ts=delivery.device.pushkey_ts,
        )
        if isinstance(outcome, Deferred) and outcome.reason in NEW_CONNECTION_REASONS:
            self._line.renew()
        return outcome


def _shared_token(settings: Settings, clock: Clock, sharing: Sharing) -> tuple[ApnsToken, bytes, list[Release]]:
    """The token of the settings' key, what tells the key from others, and the way to let go of the token."""
    assert settings.key_file is not None
    key = read_signing_key(settings.key_file)
    public = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    identity = msgspec.json.encode((settings.team_id, settings.key_id, public))
    token, release = sharing.take(
        ("apns token", identity),
        lambda: ApnsToken(key, key_id=settings.key_id, team_id=settings.team_id, clock=clock),
    )
    return token, identity, [release]
