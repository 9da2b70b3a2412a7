"""FCM: one app's way to Google's push service (FCM: HTTP v1, projects.messages.send)."""

from __future__ import annotations

import math
import re
from hashlib import sha256
from typing import Self

import msgspec
import structlog

from pushgate.errors import CredentialError
from pushgate.http2 import Pool, encode_headers
from pushgate.model import Delivery
from pushgate.outcome import Cause, Deferred, Outcome, Undeliverable
from pushgate.provider import ProviderRequest
from pushgate.provider.answer import CONNECTION_REASONS, NEW_CONNECTION_REASONS
from pushgate.provider.credentials import Clock, GoogleToken, TokenFault, Way, google_fetch
from pushgate.provider.fcm_answer import ACCEPTED, THIRD_PARTY, TOKEN_REASONS, classify
from pushgate.provider.fcm_answer import REASONS as ANSWER_REASONS
from pushgate.provider.fcm_payload import Look, fits, look, payload
from pushgate.provider.fcm_settings import HOST, Settings
from pushgate.provider.key_files import read_proxy, read_service_account
from pushgate.provider.peer import Line, target, tls_context
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
            key, lambda: Line(lambda: Pool(peer, max_connections=settings.max_connections))
        )
        releases = (release_line, release_token)
        return cls(settings, line=line, authority=peer.authority, token=token, clock=clock, releases=releases)

    def refuse(self, delivery: Delivery) -> str | None:
        """Why FCM could never take it, or None. Never names the pushkey."""
        if not _is_token(delivery.device.pushkey):
            return NOT_A_TOKEN
        return None if fits(delivery, self._look) else TOO_LARGE

    async def send(self, delivery: Delivery) -> Outcome:
        """Make one attempt, and a second one at once where only our access token was refused."""
        try:
            bearer = await self._token.bearer()
            outcome, refused = await self._attempt(delivery, bearer)
            if refused and self._token.renew(bearer):
                outcome, _ = await self._attempt(delivery, await self._token.bearer(refused=bearer))
        except CredentialError as error:
            fault = str(error)
            # nobody said anything against the credentials where nobody answered
            return Deferred(Cause.CONNECTION if fault == TokenFault.UNREACHABLE else Cause.CREDENTIALS, fault)
        return outcome

    async def close(self) -> None:
        """Let go of what was shared. Nothing is in flight any more."""
        self._line.leave(self)
        for release in self._releases:
            await release()

    async def _attempt(self, delivery: Delivery, bearer: str) -> tuple[Outcome, bool]:
        """The outcome, and whether it was the token that FCM did not take."""
        if bearer != self._bearer:
            self._head = head(self._project_id, authority=self._authority, bearer=bearer)
            self._bearer = bearer
        now = self._clock()
        request = build_request(delivery, look=self._look, head=self._head, now=now)
        if isinstance(request, Undeliverable):
            return request, False
        response = await self._line.ask(request, timeout_s=self._timeout_s, owner=self)
        if isinstance(response, Deferred):
            return response, False
        if response.status == 200 and b'"name"' in response.body:
            return ACCEPTED, False
        outcome = classify(response.status, response.headers, response.body, now=now)
        reason = outcome.reason if isinstance(outcome, Deferred) else ""
        if reason in NEW_CONNECTION_REASONS:
            self._line.renew()
        if reason == THIRD_PARTY:
            self._tell(lane=delivery.device.app_id, now=now)
        return outcome, reason in TOKEN_REASONS

    def _tell(self, *, lane: str, now: float) -> None:
        """The lane goes on, so nobody else would say that somebody must mend the project. Once an hour."""
        if not 0 <= now - self._told_at < _TELL_AGAIN_S:
            self._told_at = now
            log.error("project lacks the credentials of APNs or Web Push", lane=lane, reason=THIRD_PARTY)
