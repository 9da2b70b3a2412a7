"""HTTP to the caller: routes, who calls, how large a body may be, and which status an error has. Plain ASGI.

The order in which a request is judged: who (401), where (404, 405), whether this caller may (401), whether we take
anything now (503), how often this caller may (429), the form of the body (415), its size (413), its content (400).
Every answer is JSON but the readable page of the API.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from msgspec import Struct

from pushgate import wire
from pushgate.allowance import Allowances
from pushgate.errors import RequestError, SpoolUnavailable
from pushgate.intake import Intake, answer_notify
from pushgate.journal import OFF, Journal
from pushgate.metrics import NOBODY, Metrics
from pushgate.model import Caller
from pushgate.refusals import Refusals
from pushgate.request_id import HEADER, RequestIds
from pushgate.scope import DIRECT, Direct
from pushgate.tracing import Tracing
from pushgate.turns import Turns

log = structlog.get_logger(__name__)

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Identify = Callable[[Scope], Caller]
"""Who sends this request. Raises `RequestError` 401 when that is nobody we know."""

UNAUTHENTICATED = "Missing or invalid mutual TLS (mTLS) certificate."
UNEXPECTED = "Unexpected failure during processing."
TOO_OFTEN = "This caller sends more requests than it may."
OVERLOADED = "Push Gateway under maintenance or overloaded."
RETRY_AFTER_S = 5
TELL_EVERY_S = 5.0
HEAVY_BYTES = 16_384
"""Longer bodies are worked on one in each turn of the event loop."""
LINGER_S = 1.0
"""How long a caller whose body was refused is listened to, so that it reads the answer instead of a reset."""


class Document(Struct, frozen=True):
    """Something fixed that is served: its media type and its bytes."""

    media_type: str
    body: bytes


class _Route(Struct, frozen=True):
    method: str
    is_plain: bool
    too_large: str
    answer: Callable[[bytes, Caller], Awaitable[bytes]]


class Application:
    """The API of the gateway as an ASGI application."""

    def __init__(
        self,
        intake: Intake,
        *,
        limits: wire.Limits,
        base_path: str,
        request_timeout_s: float,
        identify: Identify,
        documents: Mapping[str, Document],
        metrics: Metrics,
        journal: Journal = OFF,
        allowances: Allowances | None = None,
        tracing: Tracing | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._intake = intake
        self._limits = limits
        self._request_timeout_s = request_timeout_s
        self.identify = identify
        """Who sends a request. May be replaced at any time."""
        self.allowances = allowances or Allowances()
        """How many requests each caller may make."""
        self._metrics = metrics
        self._monotonic = monotonic
        self._journal = journal
        self._tracing = tracing
        self._request_ids = RequestIds()
        self._refusals = Refusals()
        self._turns = Turns()
        self._tell_again_at = 0.0
        self.draining = False
        """While true every notification is answered 503."""
        root = f"{base_path}/push/v1"
        self._routes = {
            f"{root}/notify": _Route("POST", True, wire.NOTIFY_TOO_LARGE, self._notify),
            f"{root}/notify/batch": _Route("POST", True, wire.BATCH_BODY_TOO_LARGE, self._batch),
            f"{root}/notifyEncrypted/batch": _Route("POST", False, wire.BATCH_BODY_TOO_LARGE, self._encrypted_batch),
        }
        self._documents = {f"{root}/{name}": document for name, document in documents.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        who = NOBODY
        entry = self._request_ids.begin(scope["headers"])
        if self._tracing is not None:
            self._tracing.accept(entry)
        try:
            caller = self.identify(scope)
            who = entry.caller = caller.name
            status, body, headers = await self._answer(scope, receive, caller)
        except RequestError as refused:
            status, body = refused.status, wire.encode_error(refused.error, refused.details)
            headers = _headers_of(refused, scope)
            if status < 500:
                self._refusals.tell(who, status, refused.error, self._monotonic())
        except SpoolUnavailable as fault:
            self._tell(fault)
            status, body, headers = 503, wire.encode_error(OVERLOADED), [(b"retry-after", b"%d" % RETRY_AFTER_S)]
        except asyncio.CancelledError:
            raise
        except Exception as fault:  # noqa: BLE001 - the caller gets a 500 with nothing of the inside
            log.error("request failed unexpectedly", fault=type(fault).__name__, at=_innermost(fault))
            status, body, headers = 500, wire.encode_error(UNEXPECTED), []
        self._metrics.count_request(who, status)
        if who is not NOBODY and status != 429:  # these could push all others out
            self._journal.answered(entry, status)
            if self._tracing is not None:
                self._tracing.answered(entry, status)
        direct: Direct | None = scope.get(DIRECT) if status == 200 and not headers else None
        if direct is not None and direct.answer(scope, _HEADERS % entry.request_id, body):
            return
        headers.append((HEADER, entry.request_id))
        if _CLOSE not in headers:
            await _send(send, status, body, headers)
            return
        await _send(send, status, body, headers, whole=False)
        await _linger(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _tell(self, fault: SpoolUnavailable) -> None:
        """Now and then: there may be thousands of requests a second that meet the same fault."""
        now = self._monotonic()
        if now >= self._tell_again_at:
            self._tell_again_at = now + TELL_EVERY_S
            log.error("spool takes nothing", fault=str(fault))

    async def _answer(
        self, scope: Scope, receive: Receive, caller: Caller
    ) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
        try:
            found = self._find(scope, caller)
            body = await self._body(scope, receive, found) if isinstance(found, _Route) else b""
        except RequestError as refused:
            if refused.status != 429 or not await self._passed_over(scope, receive):
                refused.ends_connection |= _has_body(scope)  # nobody reads it
            raise
        if isinstance(found, _Route):
            if len(body) > HEAVY_BYTES:
                await self._turns.mine()
            return 200, await found.answer(body, caller), []
        headers = [(b"content-type", found.media_type.encode())]
        return 200, found.body, [*headers, _CLOSE] if _has_body(scope) else headers

    def _find(self, scope: Scope, caller: Caller) -> _Route | Document:
        """What is asked for, if this caller may have it now. Raises `RequestError`."""
        path, method = scope["path"], scope["method"]
        if b"%" in scope.get("raw_path", b""):
            path = ""  # a rule of a proxy in front sees it as it was written, so we take it by no other spelling
        if (document := self._documents.get(path)) is not None:
            if method not in ("GET", "HEAD"):
                raise _wrong_method("GET, HEAD")
            return document
        if (route := self._routes.get(path)) is None:
            raise RequestError(404, "There is nothing at this path.")
        if method != route.method:
            raise _wrong_method(route.method)
        if route.is_plain and not caller.plain:
            raise RequestError(401, "This caller may only send sealed notifications (/push/v1/notifyEncrypted/batch).")
        if self.draining:
            raise RequestError(503, OVERLOADED, retry_after_s=RETRY_AFTER_S)
        if (wait_s := self.allowances.wait_s(caller.name, self._monotonic())) > 0:
            raise RequestError(429, TOO_OFTEN, retry_after_s=math.ceil(wait_s))
        return route

    async def _passed_over(self, scope: Scope, receive: Receive) -> bool:
        """Whether the body is small, and all of it has come and gone: the connection can be used on.

        Who is over its limit shall not make new connections all the time: a handshake costs more than a request.
        """
        headers = dict(scope["headers"])
        if b"expect" in headers or b"transfer-encoding" in headers:
            return False
        if int(headers.get(b"content-length", b"0")) > self._limits.max_request_kb * 1024:
            return False
        try:
            async with asyncio.timeout(self._request_timeout_s):
                while (message := await receive()).get("more_body", False):
                    pass
        except TimeoutError:
            return False
        return bool(message["type"] == "http.request")

    async def _body(self, scope: Scope, receive: Receive, route: _Route) -> bytes:
        """The body, never more of it than the limit. Raises `RequestError` 413 or 415."""
        limit, announced = self._limits.max_request_kb * 1024, 0
        for name, value in scope["headers"]:
            if name == b"content-type":
                _check_media_type(value)
            elif name in _COMPRESSES and value.lower() != _COMPRESSES[name]:
                raise RequestError(415, "The body must not be compressed.")
            elif name == b"content-length":
                announced = int(value)
        if announced > limit:
            raise self._too_large(route)
        direct: Direct | None = scope.get(DIRECT)
        body = None if direct is None else direct.take_body(scope)
        if body is None:
            try:
                async with asyncio.timeout(self._request_timeout_s):
                    body = await _read(receive, limit)
            except TimeoutError:
                raise _cut_short("the body did not arrive in time") from None
        if body is None or len(body) > limit:
            raise self._too_large(route)
        return body

    def _too_large(self, route: _Route) -> RequestError:
        return RequestError(
            413,
            route.too_large,
            details={"max_request_size_kb": self._limits.max_request_kb},
            ends_connection=True,
        )

    # --- the three endpoints ---

    async def _notify(self, body: bytes, caller: Caller) -> bytes:
        notification = wire.decode_notify(body, self._limits)
        (verdict,) = await self._intake.accept([notification], caller)
        self._metrics.count_notifications("notify", caller.name, (verdict.status,))
        return wire.encode_notify(answer_notify(verdict))

    async def _batch(self, body: bytes, caller: Caller) -> bytes:
        items = wire.decode_batch(body, self._limits)
        verdicts = await self._intake.accept([item.notification for item in items], caller)
        return self._batch_answer("notify/batch", caller, [item.id for item in items], verdicts)

    async def _encrypted_batch(self, body: bytes, caller: Caller) -> bytes:
        items = wire.decode_encrypted_batch(body, self._limits)
        verdicts = await self._intake.accept([item.notification for item in items], caller)
        return self._batch_answer("notifyEncrypted/batch", caller, [item.id for item in items], verdicts)

    def _batch_answer(self, api: str, caller: Caller, ids: list[str], verdicts: list[wire.Verdict]) -> bytes:
        self._metrics.count_notifications(api, caller.name, [verdict.status for verdict in verdicts])
        return wire.encode_batch(ids, verdicts)


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The body, or None as soon as it is longer than the limit."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False) and message["type"] == "http.request":
        return body if len(body) <= limit else None
    chunks, size = [body], len(body)
    while message.get("more_body", False) and size <= limit:
        message = await receive()
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
    if message["type"] == "http.disconnect":
        raise _cut_short("the body ended early")
    return b"".join(chunks) if size <= limit else None


def _cut_short(reason: str) -> RequestError:
    return RequestError(400, wire.INVALID_FORMAT, details={"path": "$", "reason": reason}, ends_connection=True)


_COMPRESSES = {b"content-encoding": b"identity", b"transfer-encoding": b"chunked"}
"""Headers that could name a compression, and the only value of each that names none."""


def _check_media_type(value: bytes) -> None:
    """JSON in any of its names (RFC 8259 §11, RFC 6839 §3.1), or nothing said."""
    media_type = value.split(b";", 1)[0].strip().lower()
    if media_type not in (b"", b"application/json", b"text/json") and not (
        media_type.startswith(b"application/") and media_type.endswith(b"+json")
    ):
        raise RequestError(415, "The body must be JSON: send Content-Type: application/json or none.")


def _wrong_method(allowed: str) -> RequestError:
    return RequestError(405, f"This path takes {allowed} only.", details={"allow": allowed})


def _headers_of(refused: RequestError, scope: Scope) -> list[tuple[bytes, bytes]]:
    headers = []
    if refused.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % refused.retry_after_s))
    if refused.status == 405 and refused.details is not None:
        headers.append((b"allow", str(refused.details["allow"]).encode()))
    if refused.ends_connection or any(name == b"expect" for name, _ in scope["headers"]):
        headers.append(_CLOSE)  # the body was not read, or not even sent
    return headers


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


_JSON = (b"content-type", b"application/json")
_HEADERS = b"content-type: application/json\r\n" + HEADER + b": %b\r\n"
_CLOSE = (b"connection", b"close")


async def _send(
    send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]], *, whole: bool = True
) -> None:
    """The answer; not yet its end where it is not the whole."""
    if not headers or headers[0][0] != b"content-type":
        headers = [_JSON, *headers]
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": not whole})


async def _linger(receive: Receive) -> None:
    """Let a caller that still sends finish or notice, for a bounded time: a reset now would eat our answer."""
    try:
        async with asyncio.timeout(LINGER_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _innermost(fault: BaseException) -> str:
    """Where in the code it happened: file and line, nothing of the values."""
    trace = fault.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
