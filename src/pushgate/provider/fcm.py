"""FCM: one app's way to Google's push service (FCM: HTTP v1, projects.messages.send)."""

from __future__ import annotations

import asyncio
import math
import re
from functools import partial
from hashlib import sha256
from typing import Self

import msgspec
import structlog

from pushgate.errors import CredentialError, Http2Error
from pushgate.http2 import Call, Pool, Response, encode_headers
from pushgate.model import Delivery
from pushgate.outcome import Cause, Deferred, Outcome, Undeliverable
from pushgate.provider import Attempt, ProviderRequest, Tell, judged, mistaken
from pushgate.provider.answer import CONNECTION_REASONS, NEW_CONNECTION_REASONS
from pushgate.provider.credentials import Clock, GoogleToken, TokenFault
from pushgate.provider.fcm_answer import ACCEPTED, THIRD_PARTY, TOKEN_REASONS, classify
from pushgate.provider.fcm_answer import REASONS as ANSWER_REASONS
from pushgate.provider.fcm_payload import Look, fits, look, payload
from pushgate.provider.fcm_settings import HOST, Settings
from pushgate.provider.key_files import read_proxy, read_service_account
from pushgate.provider.peer import Line, target, tls_context, unanswered
from pushgate.provider.sharing import Release, Sharing

log = structlog.get_logger(__name__)

__all__ = ["REASONS", "FcmProvider", "Settings", "build_request", "classify", "head"]

MAX_PUSHKEY_CHARS = 4096

NOT_A_TOKEN = "the pushkey is not a registration token"  # noqa: S105 - not a password
TOO_LARGE = "too large for FCM"
REASONS = ANSWER_REASONS | CONNECTION_REASONS | {*map(str, TokenFault), NOT_A_TOKEN, TOO_LARGE}
"""Every reason that an outcome of this provider can give."""

_PRINTABLE = re.compile(r"[!-.0-~]+")
"""ASCII without blanks and slashes: no registration token has others."""
_TELL_AGAIN_S = 3600


def head(project_id: str, *, authority: str, bearer: str) -> bytes:
    """The header block of every request of a project, encoded to be kept until the token changes."""
    fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", authority),
        (":path", f"/v1/projects/{project_id}/messages:send"),
        ("authorization", bearer),
        ("content-type", "application/json"),
    ]
    return encode_headers(fields, never_indexed=("authorization",))


def build_request(delivery: Delivery, *, look: Look, head: bytes, now: float) -> ProviderRequest | Undeliverable:
    """The delivery as FCM wants it. `now` in unix seconds: the message lives as long as the delivery still does.

    Undeliverable where no such request can be made: `refuse` tells that beforehand, unless the settings have changed.
    """
    if not _is_token(delivery.device.pushkey):
        return Undeliverable(NOT_A_TOKEN)
    return ProviderRequest(head, payload(delivery, look, now=now))


def _is_token(pushkey: str) -> bool:
    return len(pushkey) <= MAX_PUSHKEY_CHARS and _PRINTABLE.fullmatch(pushkey) is not None


class FcmProvider:
    """One app of FCM."""

    def __init__(
        self,
        settings: Settings,
        *,
        line: Line,
        authority: str,
        token: GoogleToken,
        clock: Clock,
        releases: tuple[Release, ...] = (),
    ) -> None:
        self._project_id = settings.project_id
        self._look = look(settings)
        self._timeout_s = settings.request_timeout_s
        self._line = line
        self._line.join(self)
        self._authority = authority
        self._token = token
        self._clock = clock
        self._releases = releases
        self._bearer = ""
        self._head = b""
        self._told_at = -math.inf

    @classmethod
    def open(cls, settings: Settings, *, clock: Clock, sharing: Sharing) -> Self:
        """The provider with its credentials read. Connects with the first delivery. Raises CredentialError.

        Lanes of the same account share its token, and where host and trust are the same too, the connections.
        """
        from pushgate.provider.google_fetch import Way, google_fetch  # who has no app of FCM does without them

        account = read_service_account(settings.credentials_file) if settings.credentials_file else None
        proxy = read_proxy(settings.proxy, settings.proxy_login_file)
        tls = tls_context(ca_file=settings.ca_file)
        peer = target(HOST, endpoint=settings.endpoint, proxy=proxy, tls=tls)
        trust = settings.ca_file.read_bytes() if settings.ca_file else None
        identity = sha256(msgspec.json.encode(account.info, order="sorted")).digest() if account else None
        way = Way(settings.ca_file, proxy)
        token, release_token = sharing.take(
            ("google token", identity, trust, proxy),
            lambda: GoogleToken(google_fetch(account, way=way), clock=clock),
        )
        key = ("fcm", peer.host, peer.port, proxy, trust, identity, settings.max_connections)
        line, release_line = sharing.take(
            key,
            lambda: Line(lambda: Pool(peer, max_connections=settings.max_connections), peer=f"{peer.host}:{peer.port}"),
        )
        releases = (release_line, release_token)
        return cls(settings, line=line, authority=peer.authority, token=token, clock=clock, releases=releases)

    @property
    def token_ends_at(self) -> float:
        """See `GoogleToken.ends_at`."""
        return self._token.ends_at

    def refuse(self, delivery: Delivery) -> str | None:
        """Why FCM could never take it, or None. Never names the pushkey."""
        if not _is_token(delivery.device.pushkey):
            return NOT_A_TOKEN
        return None if fits(delivery, self._look) else TOO_LARGE

    @property
    def waiting(self) -> int:
        """See `provider.Provider.waiting`."""
        return self._line.waiting(self)

    def start(self, delivery: Delivery, tell: Tell) -> Attempt:
        """See `provider.Provider.start`. A second attempt is made at once where only our access token was refused."""
        attempt = _Attempt(self, delivery, tell)
        if (bearer := self._token.at_hand()) is not None:
            attempt.begin(bearer)
        else:
            attempt.fetch_and_begin()
        return attempt

    async def close(self) -> None:
        """Let go of what was shared. Nothing is in flight any more."""
        self._line.leave(self)
        for release in self._releases:
            await release()

    async def bearer(self, *, refused: str = "") -> str:
        """See `GoogleToken.bearer`."""
        return await self._token.bearer(refused=refused)

    def renew(self, refused: str) -> bool:
        """See `GoogleToken.renew`."""
        return self._token.renew(refused)

    def request(self, delivery: Delivery, bearer: str) -> ProviderRequest | Undeliverable:
        """The delivery as FCM wants it now."""
        if bearer != self._bearer:
            self._head = head(self._project_id, authority=self._authority, bearer=bearer)
            self._bearer = bearer
        return build_request(delivery, look=self._look, head=self._head, now=self._clock())

    def call(self, request: ProviderRequest, attempt: _Attempt) -> Call:
        """Send a request. Its end is told to the attempt."""
        call = _Call(request, attempt, timeout_s=self._timeout_s)
        self._line.send(call, owner=self)
        return call

    def outcome(self, delivery: Delivery, response: Response) -> Outcome:
        """What an answer means. Leaves the connections where the answer says that they are of no more use."""
        now = self._clock()
        outcome = classify(response.status, response.headers, response.body, now=now)
        reason = outcome.reason if isinstance(outcome, Deferred) else ""
        if reason in NEW_CONNECTION_REASONS:
            self._line.renew()
        if reason == THIRD_PARTY:
            self._tell(lane=delivery.device.app_id, now=now)
        return outcome

    def _tell(self, *, lane: str, now: float) -> None:
        """The lane goes on, so nobody else would say that somebody must mend the project. Once an hour."""
        if not 0 <= now - self._told_at < _TELL_AGAIN_S:
            self._told_at = now
            log.error("project lacks the credentials of APNs or Web Push", lane=lane, reason=THIRD_PARTY)


class _Attempt:
    """An attempt at FCM: perhaps a token to be fetched first, one request, or two."""

    __slots__ = ("_bearer", "_call", "_delivery", "_fetching", "_is_again", "_provider", "_tell")

    def __init__(self, provider: FcmProvider, delivery: Delivery, tell: Tell) -> None:
        self._provider = provider
        self._delivery = delivery
        self._tell = tell
        self._bearer = ""
        self._call: Call | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._is_again = False

    def begin(self, bearer: str) -> None:
        """Send the request with this token."""
        self._bearer = bearer
        request = self._provider.request(self._delivery, bearer)
        if isinstance(request, Undeliverable):
            self._tell(request)
        else:
            call = self._provider.call(request, self)
            if not call.is_over:  # it may have been told meanwhile: each would keep the other
                self._call = call

    def fetch_and_begin(self, *, refused: str = "") -> None:
        """Send the request as soon as there is a token."""
        self._fetching = asyncio.create_task(self._fetch(refused))

    def told(self, call: Call, end: Response | Http2Error) -> None:
        """What came of the request."""
        self._call = None  # it knows us: each would keep the other
        if not isinstance(end, Response):
            self._tell(unanswered(call, end))
            return
        if end.status == 200 and b'"name"' in end.body:
            self._tell(ACCEPTED)
        else:
            judged(self._tell, partial(self._judge, end))

    def _judge(self, answer: Response) -> None:
        outcome = self._provider.outcome(self._delivery, answer)
        is_refused = isinstance(outcome, Deferred) and outcome.reason in TOKEN_REASONS
        if is_refused and not self._is_again and self._provider.renew(self._bearer):
            self._is_again = True
            self.fetch_and_begin(refused=self._bearer)
        else:
            self._tell(outcome)

    def cancel(self) -> None:
        """See `provider.Attempt.cancel`."""
        if self._fetching is not None:
            self._fetching.cancel()
        if self._call is not None:
            self._call.cancel()

    async def _fetch(self, refused: str) -> None:
        try:
            bearer = await self._provider.bearer(refused=refused)
        except CredentialError as error:
            fault = str(error)
            # nobody said anything against the credentials where nobody answered
            self._tell(Deferred(Cause.CONNECTION if fault == TokenFault.UNREACHABLE else Cause.CREDENTIALS, fault))
        except Exception as bug:  # noqa: BLE001 - nobody else would tell it
            mistaken(self._tell, bug)
        else:
            judged(self._tell, partial(self.begin, bearer))


class _Call(Call):
    """A request to FCM on its way."""

    __slots__ = ("_attempt",)

    def __init__(self, request: ProviderRequest, attempt: _Attempt, *, timeout_s: float) -> None:
        super().__init__(request.head, request.body, timeout_s=timeout_s)
        self._attempt = attempt

    def told(self, end: Response | Http2Error) -> None:
        """See `Call.told`."""
        self._attempt.told(self, end)
