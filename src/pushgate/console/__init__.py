"""The management port: health for supervisors, metrics for Prometheus, rejections for operators. Never a pushkey.

GET /health/live           200 while the process answers at all
GET /health/ready          200 while notifications are taken; 503 with the reason otherwise
GET /metrics               Prometheus text format
GET /rejections            what is remembered of dead pushkeys (app, prefix, after, limit)
GET /rejections/count      how much of it, by app and reason
POST /rejections/forget    forget it ({"app", "prefix", "since"})

Whatever is not about health wants the token of the port, where it has one. What concerns rejections is for this machine
only, besides (`guard`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST

from pushgate.console.guard import Guard
from pushgate.console.rejections import Pages, Rejections
from pushgate.errors import RequestError, SpoolUnavailable

log = structlog.get_logger(__name__)

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

ANSWER_WITHIN_S = 60.0
READ = ("GET", "HEAD")
HEALTH = ("/health/live", "/health/ready")
"""Open to all who reach the port: supervisors have no token."""


class _Answer(Struct, frozen=True):
    status: int
    media_type: str
    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()


class Console:
    """The management port as an ASGI application."""

    def __init__(
        self,
        *,
        unready: Callable[[], str | None],
        metrics: Callable[[], bytes],
        rejections: Rejections | None = None,
        address: str = "",
        token: bytes = b"",
    ) -> None:
        """`unready` says why no notifications are taken, or None; `metrics` gives the text of all metrics.

        `rejections` is the spool, `address` where this port listens: the pages about rejections need both. `token` has
        to be shown for all but health; nothing has where it is empty.
        """
        self._unready = unready
        self._metrics = metrics
        self._pages = None if rejections is None else Pages(rejections)
        self._guard = Guard(address, token=token)

    def change_token(self, token: bytes) -> None:
        """Want another one from now on."""
        self._guard.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                answer = await self._answer(scope, receive)
        except RequestError as refused:
            answer = _refusal(refused)
        except SpoolUnavailable as fault:
            answer = _json(503, {"error": f"The spool does not answer: {fault}"})
        except TimeoutError:
            answer = _json(503, {"error": "The spool does not answer in time."})
        headers = [(b"content-type", answer.media_type.encode()), (b"content-length", b"%d" % len(answer.body))]
        await send({"type": "http.response.start", "status": answer.status, "headers": [*headers, *answer.headers]})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Scope, receive: Receive) -> _Answer:
        path, method = scope["path"], scope["method"]
        if path not in HEALTH:
            self._guard.check_token(scope)
        if path in (*HEALTH, "/metrics"):
            _check_method(method, READ)
            return self._health_or_metrics(path)
        if self._pages is None or path not in ("/rejections", "/rejections/count", "/rejections/forget"):
            raise RequestError(404, "There is nothing at this path.")
        _check_method(method, ("POST",) if path == "/rejections/forget" else READ)
        self._guard.check(scope)
        match path:
            case "/rejections":
                return _json(200, await self._pages.listed(scope["query_string"]))
            case "/rejections/count":
                return _json(200, await self._pages.counted())
            case _:
                forgotten = await self._pages.forget(await self._guard.json_body(scope, receive))
                log.info("rejections forgotten", app_id=forgotten.app_id, count=forgotten.forgotten)
                return _json(200, forgotten)

    def _health_or_metrics(self, path: str) -> _Answer:
        if path == "/metrics":
            return _Answer(200, CONTENT_TYPE_LATEST, self._metrics())
        if path == "/health/live" or (reason := self._unready()) is None:
            return _json(200, {"status": "ok"})
        return _json(503, {"status": "not ready", "reason": reason})


def _check_method(method: str, allowed: Sequence[str]) -> None:
    if method not in allowed:
        told = ", ".join(allowed)
        raise RequestError(405, f"This path takes {told} only.", details={"allow": told})


def _json(status: int, content: object, headers: Sequence[tuple[bytes, bytes]] = ()) -> _Answer:
    return _Answer(status, "application/json", msgspec.json.encode(content), headers)


def _refusal(refused: RequestError) -> _Answer:
    headers = []
    if refused.status == 405 and refused.details is not None:
        headers.append((b"allow", str(refused.details["allow"]).encode()))
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refused.status != 400:
        headers.append((b"connection", b"close"))  # the body, if it has one, was not read
    return _json(refused.status, {"error": refused.error}, headers)
