"""APNs: one app's way to Apple's push service (Apple: "Sending notification requests to APNs")."""

from __future__ import annotations

import math
import re
from binascii import a2b_base64
from functools import lru_cache, partial
from typing import Self

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from pushgate.errors import Http2Error
from pushgate.http2 import Call, Pool, Response, encode_headers
from pushgate.model import Delivery, Prio
from pushgate.outcome import Cause, Deferred, Outcome, Undeliverable
from pushgate.provider import NOTHING, Attempt, ProviderRequest, Tell, judged
from pushgate.provider.answer import CONNECTION_REASONS
from pushgate.provider.apns_answer import ACCEPTED, EXPIRED_TOKEN, NEW_CONNECTION_REASONS, classify
from pushgate.provider.apns_answer import REASONS as ANSWER_REASONS
from pushgate.provider.apns_payload import MAX_PAYLOAD_BYTES, Look, fits, is_background, look, payload
from pushgate.provider.apns_settings import HOSTS, Settings, client_certificate
from pushgate.provider.credentials import ApnsToken, Clock
from pushgate.provider.key_files import read_proxy, read_signing_key
from pushgate.provider.peer import Line, target, tls_context, unanswered
from pushgate.provider.sharing import Release, Sharing

__all__ = ["REASONS", "ApnsProvider", "Form", "Settings", "build_request", "classify", "form"]

MAX_PUSHKEY_CHARS = 4096
ID_CHARS = 36
"""Of a UUID."""

NOT_A_TOKEN = "the pushkey is not a device token"  # noqa: S105 - not a password
TOO_LARGE = "too large for APNs"
EXPIRED_CERTIFICATE = "certificate expired"
REASONS = ANSWER_REASONS | CONNECTION_REASONS | {NOT_A_TOKEN, TOO_LARGE, EXPIRED_CERTIFICATE}
"""Every reason that an outcome of this provider can give."""

_HEX = re.compile(r"[0-9A-Fa-f]+")


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
    head = b"%b%b%b%b%b%b%b" % (
        _start(form.start, len(token)),
        token.encode(),
        _kind(delivery, form),
        authorization,
        _APNS_ID if len(delivery.id) == ID_CHARS else _beginning("apns-id", "", len(delivery.id)),
        delivery.id.encode(),
        _expiration(int(delivery.expires_at)),
    )
    return ProviderRequest(head, body)


@lru_cache(maxsize=256)
def _beginning(name: str, prefix: str, chars: int) -> bytes:
    """An encoded field without the last `chars` of its value: literals end with the value as it is."""
    whole = encode_headers([(name, prefix + "0" * chars)], never_indexed=(":path",))
    return whole[: len(whole) - chars]


@lru_cache(maxsize=256)
def _start(start: bytes, token_chars: int) -> bytes:
    """The head up to the device token."""
    return start + _beginning(":path", "/3/device/", token_chars)


@lru_cache(maxsize=1024)
def _expiration(unix_s: int) -> bytes:
    return encode_headers([("apns-expiration", str(unix_s))])


_APNS_ID = _beginning("apns-id", "", ID_CHARS)


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
        return pushkey if _HEX.fullmatch(pushkey) and not len(pushkey) % 2 else None
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
        self.timeout_s = settings.request_timeout_s
        self._line = line
        self._line.join(self)
        self._token = token
        self._clock = clock
        self._releases = releases
        self.bearer = ""
        """The one that requests are made with now."""
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
        line, release = sharing.take(
            key,
            lambda: Line(lambda: Pool(peer, max_connections=settings.max_connections), peer=f"{peer.host}:{peer.port}"),
        )
        return cls(
            settings,
            line=line,
            authority=peer.authority,
            token=token,
            clock=clock,
            good_until=certificate.expires_at if certificate else math.inf,
            releases=(release, *releases),
        )

    @property
    def certificate_ends_at(self) -> float:
        """In unix seconds; 0 where none is shown."""
        return self._good_until if self._good_until < math.inf else 0.0

    def refuse(self, delivery: Delivery) -> str | None:
        """Why APNs could never take it, or None. Never names the pushkey."""
        if _device_token(delivery.device.pushkey, self._form.token_encoding) is None:
            return NOT_A_TOKEN
        return None if fits(delivery, self._form.look) else TOO_LARGE

    @property
    def waiting(self) -> int:
        """See `provider.Provider.waiting`."""
        return self._line.waiting(self)

    def start(self, delivery: Delivery, tell: Tell) -> Attempt:
        """See `provider.Provider.start`. A second attempt is made at once where only our token had expired."""
        if self._clock() >= self._good_until:
            tell(Deferred(Cause.CREDENTIALS, EXPIRED_CERTIFICATE))  # nobody would get as far as to say so
            return NOTHING
        return self._try(delivery, tell, is_again=False)

    async def close(self) -> None:
        """Let go of what was shared. Nothing is in flight any more."""
        self._line.leave(self)
        for release in self._releases:
            await release()

    def _try(self, delivery: Delivery, tell: Tell, *, is_again: bool) -> Attempt:
        bearer = self._token.bearer() if self._token else ""
        if bearer != self.bearer:
            self.bearer, self._authorization = bearer, authorization(bearer)
        request = build_request(delivery, form=self._form, authorization=self._authorization)
        if isinstance(request, Undeliverable):
            tell(request)
            return NOTHING
        call = _Attempt(self, delivery, tell, request, is_again=is_again)
        self._line.send(call, owner=self)
        return call

    def outcome(self, delivery: Delivery, response: Response) -> Outcome:
        """What an answer means. Leaves the connections where the answer says that they are of no more use."""
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

    def tries_again(self, attempt: _Attempt, bearer: str) -> bool:
        """Whether an attempt whose token APNs calls expired is made again, with another one: then it is."""
        if attempt.is_again or self._token is None or not self._token.renew(bearer):
            return False
        attempt.next = self._try(attempt.delivery, attempt.tell, is_again=True)
        return True


class _Attempt(Call):
    """A request to APNs on its way."""

    __slots__ = ("_bearer", "_provider", "delivery", "is_again", "next", "tell")

    def __init__(
        self, provider: ApnsProvider, delivery: Delivery, tell: Tell, request: ProviderRequest, *, is_again: bool
    ) -> None:
        super().__init__(request.head, request.body, timeout_s=provider.timeout_s)
        self._provider = provider
        self._bearer = provider.bearer
        self.delivery = delivery
        self.tell = tell
        self.is_again = is_again
        self.next: Attempt = NOTHING
        """The attempt that was made again in place of this one."""

    def told(self, end: Response | Http2Error) -> None:
        """See `Call.told`."""
        if not isinstance(end, Response):
            self.tell(unanswered(self, end))
            return
        if end.status == 200:
            self.tell(ACCEPTED)
        else:
            judged(self.tell, partial(self._judge, end))

    def _judge(self, answer: Response) -> None:
        outcome = self._provider.outcome(self.delivery, answer)
        expired = isinstance(outcome, Deferred) and outcome.reason == EXPIRED_TOKEN
        if not (expired and self._provider.tries_again(self, self._bearer)):
            self.tell(outcome)

    def cancel(self) -> None:
        """See `Call.cancel`."""
        super().cancel()
        self.next.cancel()


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
