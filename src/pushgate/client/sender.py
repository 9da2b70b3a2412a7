"""Send notifications to a Push Gateway (Push Gateway API 1.0.0) and learn which pushkeys are dead."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, assert_never

import httpx
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pushgate import __version__
from pushgate.client.answers import read_batch, read_notify
from pushgate.client.attempts import Attempts, Retries
from pushgate.client.errors import ClientConfigError, GatewayError, RequestUnusable
from pushgate.client.results import BatchResult, ItemResult, NotifyResult
from pushgate.client.sealing import CIPHERTEXT_CHARS
from pushgate.model import EncryptedNotification, Notification, PlainNotification

MAX_BATCH_ITEMS = 100
"""What every gateway takes in one request, by the API."""

MAX_BATCH_BYTES = 256_000
"""What every gateway takes in one request, by the API: at least 256 KB."""

MAX_ID_CHARS = 64

_OPENING = b'{"notifications":['
_CLOSING = b"]}"
_ENVELOPE_BYTES = len(_OPENING) + len(_CLOSING)

_N = TypeVar("_N", PlainNotification, EncryptedNotification)


class Item(Struct, Generic[_N], frozen=True):
    """A notification of a batch with an id of the caller's own, unique in the call, at most 64 characters."""

    notification: _N
    id: str

    def __repr__(self) -> str:
        return f"Item(id={self.id!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("id", self.id)]


class PushGatewayClient:
    """A connection to one gateway, for one event loop. Close it, or use it with `async with`.

    Every method raises RequestUnusable before anything is sent, and GatewayRefused, GatewayUntrusted,
    GatewayUnavailable or AnswerUnusable afterwards.
    """

    def __init__(
        self,
        base_url: str,
        *,
        cert_file: str | None = None,
        key_file: str | None = None,
        ca_file: str | None = None,
        tls: ssl.SSLContext | None = None,
        allow_http: bool = False,
        timeout_s: float = 10.0,
        retries: Retries | None = None,
        user_agent: str = f"pushgate-client/{__version__}",
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        """`base_url` ends in `/push/v1`, with or without a slash behind it.

        For mutual TLS give PEM files, `cert_file` with its chain and `key_file` (when it is not in the former), or a
        whole context in `tls`. Without `ca_file` the system decides which gateways to trust. `timeout_s` is for one
        attempt from connecting to the last byte. Plain http is for loopback only, unless `allow_http`. Proxies are
        taken from the environment (HTTPS_PROXY, NO_PROXY). Raises ClientConfigError.
        """
        url = _checked(base_url, allow_http=allow_http)
        if tls is not None and (cert_file or key_file or ca_file):
            raise ClientConfigError("give either tls or files: a context brings its own certificates")
        if url.scheme == "http" and cert_file:
            raise ClientConfigError("a client certificate is of no use over plain http")
        self._http = httpx.AsyncClient(
            base_url=url,
            verify=tls or _tls(cert_file=cert_file, key_file=key_file, ca_file=ca_file),
            timeout=None,  # noqa: S113 - `Attempts` bounds each attempt as a whole
            headers={
                "content-type": "application/json",
                "accept": "application/json",
                "accept-encoding": "identity",
                "user-agent": user_agent,
            },
        )
        self._attempts = Attempts(
            self._http,
            timeout_s=timeout_s,
            retries=retries or Retries(),
            clock=clock,
            sleep=sleep,
            rng=rng,
        )

    async def notify(self, notification: PlainNotification) -> NotifyResult:
        """Send one plain notification to all of its devices."""
        body = b'{"notification":' + _encoded(notification) + b"}"
        answer = await self._attempts.post("notify", body)
        return replace(read_notify(answer.body, _pushkeys(notification)), request_id=answer.request_id)

    async def notify_batch(self, notifications: Sequence[PlainNotification | Item[PlainNotification]]) -> BatchResult:
        """Send plain notifications, any number of them: as many requests are made as the API's limits ask for."""
        return await self._batch("notify/batch", notifications)

    async def notify_encrypted_batch(
        self, notifications: Sequence[EncryptedNotification | Item[EncryptedNotification]]
    ) -> BatchResult:
        """Send sealed notifications, any number of them: as many requests are made as the API's limits ask for."""
        return await self._batch("notifyEncrypted/batch", notifications)

    async def _batch(self, path: str, notifications: Sequence[_N | Item[_N]]) -> BatchResult:
        parts = [_Part.of(notification) for notification in notifications]
        _check_ids(parts)
        results: list[ItemResult] = []
        request_ids: list[str] = []
        for request in _requests(parts):
            body = _OPENING + b",".join(part.body for part in request) + _CLOSING
            try:
                answer = await self._attempts.post(path, body)
                request_ids.append(answer.request_id)
                results += read_batch(answer.body, {part.id: part.pushkeys for part in request})
            except GatewayError as error:
                error.results = tuple(results)
                raise
        return BatchResult(tuple(results), tuple(filter(None, request_ids)))

    async def close(self) -> None:
        """Let go of the connections. May be called twice."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Part(Struct, frozen=True):
    """One item of a batch as it goes out."""

    id: str
    pushkeys: frozenset[str]
    body: bytes

    @classmethod
    def of(cls, given: Notification | Item[PlainNotification] | Item[EncryptedNotification]) -> Self:
        notification = given.notification if isinstance(given, Item) else given
        id_ = given.id if isinstance(given, Item) else str(uuid.uuid4())
        if len(id_) > MAX_ID_CHARS:
            raise RequestUnusable(f"an id has {len(id_)} characters, at most {MAX_ID_CHARS} are taken")
        if isinstance(notification, EncryptedNotification) and len(notification.ciphertext) != CIPHERTEXT_CHARS:
            raise RequestUnusable(f"the ciphertext of item {id_!r} has not {CIPHERTEXT_CHARS} characters")
        body = b'{"id":' + msgspec.json.encode(id_) + b',"notification":' + _encoded(notification) + b"}"
        return cls(id_, _pushkeys(notification), body)

    def __repr__(self) -> str:
        return f"_Part(id={self.id!r})"


def _check_ids(parts: Iterable[_Part]) -> None:
    seen: set[str] = set()
    for part in parts:
        if part.id in seen:
            raise RequestUnusable(f"two items have the id {part.id!r}")
        seen.add(part.id)


def _requests(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    """Cut into requests that every gateway takes. A part that is too large by itself goes alone."""
    request: list[_Part] = []
    size = _ENVELOPE_BYTES
    for part in parts:
        if request and (len(request) == MAX_BATCH_ITEMS or size + len(part.body) > MAX_BATCH_BYTES):
            yield request
            request, size = [], _ENVELOPE_BYTES
        request.append(part)
        size += len(part.body) + 1
    if request:
        yield request


def _encoded(notification: Notification) -> bytes:
    """As JSON. `prio` is always written: the API's file requires it of plain notifications."""
    try:
        return msgspec.json.encode({"prio": notification.prio, **msgspec.to_builtins(notification)})
    except (TypeError, ValueError, RecursionError) as error:
        # Without its cause: that may hold what could not be written.
        raise RequestUnusable(f"a notification cannot be written as JSON: {type(error).__name__}") from None


def _pushkeys(notification: Notification) -> frozenset[str]:
    match notification:
        case PlainNotification():
            return frozenset(device.pushkey for device in notification.devices)
        case EncryptedNotification():
            return frozenset({notification.device.pushkey})
        case _:
            assert_never(notification)


def _checked(base_url: str, *, allow_http: bool) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ClientConfigError("base_url is not a URL") from error
    if url.scheme not in ("https", "http") or not url.host:
        raise ClientConfigError("base_url begins with https:// and a host")
    if url.userinfo or url.query or url.fragment:
        raise ClientConfigError("base_url has no user, query or fragment")
    if not url.path.rstrip("/").endswith("/push/v1"):
        raise ClientConfigError("base_url ends in /push/v1/")
    if url.scheme == "http" and not allow_http and not _is_loopback(url.host):
        raise ClientConfigError("plain http beyond loopback shows pushkeys to the network: use https")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(*, cert_file: str | None, key_file: str | None, ca_file: str | None) -> ssl.SSLContext:
    if key_file and not cert_file:
        raise ClientConfigError("a key_file needs its cert_file")
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ClientConfigError(f"cannot load ca_file {ca_file}: {error}") from error
    if cert_file:
        try:
            # With an empty password a protected key fails; with none OpenSSL would ask for it on the terminal.
            context.load_cert_chain(cert_file, key_file, password="")
        except OSError as error:
            raise ClientConfigError(f"cannot load cert_file {cert_file} with its key: {error}") from error
    return context
