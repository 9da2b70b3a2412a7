"""The management port: health for supervisors, metrics for Prometheus, a page for operators. Never a pushkey.

GET /                      the status page; /status.json is what it shows, /status/events tells what changes
GET /health/live           200 while the process answers at all
GET /health/ready          200 while notifications are taken; 503 with the reason otherwise
GET /metrics               Prometheus' text format, or OpenMetrics where it is asked for
GET /explain               what happened to a request or a delivery (id)
GET /rejections            what is remembered of dead pushkeys (app, prefix, after, limit)
GET /rejections/count      how much of it, by app and reason
POST /rejections/forget    forget it ({"app", "prefix", "since"})

Whatever is not about health wants the token of the port, where it has one. What concerns rejections is for this machine
only, besides (`guard`).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from pushgate.console import page
from pushgate.console.guard import Guard
from pushgate.console.live import Live
from pushgate.console.page import PRIVATE
from pushgate.console.rejections import Pages, Rejections
from pushgate.errors import RequestError, SpoolUnavailable
from pushgate.journal import Explained
from pushgate.metrics.exposition import OPENMETRICS, PROMETHEUS, accepts_openmetrics, pages
from pushgate.metrics.families import Family

log = structlog.get_logger(__name__)

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Collect = Callable[[], Awaitable[Iterable[Family]]]
"""Everything that is counted, of all processes together."""
Explain = Callable[[str], Awaitable[Explained]]
"""What is known of an id, by all processes together."""

ANSWER_WITHIN_S = 60.0
READ = ("GET", "HEAD")
HEALTH = ("/health/live", "/health/ready")
"""Open to all who reach the port: supervisors have no token."""
CLOSE = ((b"connection", b"close"),)
"""Nobody keeps a place at this port who has not shown its token."""
EVENTS = "/status/events"
PAGES = ("/", "/status.json", EVENTS, "/explain")
"""What a browser may show."""
_ASKED = re.compile(rb"id=([A-Za-z0-9._-]{1,128})")


class _Answer(Struct, frozen=True):
    status: int
    media_type: str
    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()
    more: Iterable[bytes] | None = None
    """What follows the body, made part by part: of a thousand lanes the metrics are three megabytes."""


class Console:
    """The management port as an ASGI application."""

    def __init__(
        self,
        *,
        unready: Callable[[], str | None],
        collect: Collect,
        explain: Explain | None = None,
        rejections: Rejections | None = None,
        address: str = "",
        token: bytes = b"",
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`unready` says why no notifications are taken, or None; `collect` gives all metrics, `explain` what an id is.

        `rejections` is the spool, `address` where this port listens: the pages about rejections need both, the status
        page the latter. `token` has to be shown for all but health; nothing has where it is empty. `clock` gives
        unix seconds that nobody sets back, from now on, unless another one is given.
        """
        self._unready = unready
        self._collect = collect
        self._explain = explain
        self._pages = None if rejections is None else Pages(rejections)
        self._guard = Guard(address, token=token)
        self._live = Live(collect, unready=unready, clock=clock or _steady())

    def change_token(self, token: bytes) -> None:
        """Want another one from now on."""
        self._guard.token = token

    async def watch(self) -> None:
        """Look at the metrics now and then, for ever: what the status page tells of the last hour comes from that."""
        await self._live.watch()

    def drain(self) -> None:
        """The gateway stops: let go of whoever watches. Everything else is answered on."""
        self._live.end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            if scope["path"] == EVENTS and scope["method"] == "GET":
                self._guard.check_reader(scope)
                await self._live.stream(receive, send, [(b"content-type", b"text/event-stream"), *PRIVATE])
                return
            async with asyncio.timeout(ANSWER_WITHIN_S):
                answer = await self._answer(scope, receive)
        except RequestError as refused:
            answer = _refusal(refused, scope["path"])
        except SpoolUnavailable as fault:
            answer = _json(503, {"error": f"The spool does not answer: {fault}"})
        except TimeoutError:
            answer = _json(503, {"error": "The spool does not answer in time."})
        if answer.more is not None and scope["http_version"] == "1.0":  # which has no chunks (RFC 9112 §6.1)
            answer = replace(answer, body=b"".join((answer.body, *answer.more)), more=None)
        headers = [(b"content-type", answer.media_type.encode()), *answer.headers]
        if answer.more is None:
            headers.append((b"content-length", b"%d" % len(answer.body)))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": answer.more is not None})
        if answer.more is not None:
            for part in answer.more:
                await asyncio.sleep(0)  # others have their turn meanwhile
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _answer(self, scope: Scope, receive: Receive) -> _Answer:
        path, method = scope["path"], scope["method"]
        if path in HEALTH:
            _check_method(method, READ)
            return self._health(path)
        if path in PAGES:
            self._guard.check_reader(scope)
            _check_method(method, READ)
            return await self._page(path, scope["query_string"])
        self._guard.check_token(scope)
        if path == "/metrics":
            _check_method(method, READ)
            return await self._metrics(scope)
        return await self._about_rejections(scope, receive)

    async def _about_rejections(self, scope: Scope, receive: Receive) -> _Answer:
        path = scope["path"]
        if self._pages is None or path not in ("/rejections", "/rejections/count", "/rejections/forget"):
            raise RequestError(404, "There is nothing at this path.")
        _check_method(scope["method"], ("POST",) if path == "/rejections/forget" else READ)
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

    async def _page(self, path: str, query_string: bytes) -> _Answer:
        match path:
            case "/":
                return _Answer(200, "text/html; charset=utf-8", page.page(), page.headers())
            case "/status.json":
                return _json(200, await self._live.status(), PRIVATE)
            case "/explain":
                if self._explain is None:
                    raise RequestError(404, "There is nothing at this path.")
                return _json(200, await self._explain(_id_in(query_string)), PRIVATE)
            case _:
                raise RequestError(405, "This path takes GET only.", details={"allow": "GET"})

    async def _metrics(self, scope: Scope) -> _Answer:
        wanted = ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"accept")
        openmetrics = accepts_openmetrics(wanted)
        media_type = OPENMETRICS if openmetrics else PROMETHEUS
        first, *more = islice(parts := pages(await self._collect(), openmetrics=openmetrics), 2)
        return _Answer(200, media_type, first, [(b"vary", b"accept")], more=chain(more, parts) if more else None)

    def _health(self, path: str) -> _Answer:
        if path == "/health/live" or (reason := self._unready()) is None:
            return _json(200, {"status": "ok"}, CLOSE)
        return _json(503, {"status": "not ready", "reason": reason}, CLOSE)


def _id_in(query_string: bytes) -> str:
    """Raises `RequestError` 400, which does not repeat it: it may be anything."""
    found = _ASKED.fullmatch(query_string)
    if found is None:
        raise RequestError(400, "Ask like ?id=…: an X-Request-Id, or the id of a delivery (apns-id).")
    return found[1].decode()


def _steady() -> Callable[[], float]:
    """The time as it is now, running on whatever becomes of the clock."""
    ahead_s = time.time() - time.monotonic()
    return lambda: ahead_s + time.monotonic()


def _check_method(method: str, allowed: Sequence[str]) -> None:
    if method not in allowed:
        told = ", ".join(allowed)
        raise RequestError(405, f"This path takes {told} only.", details={"allow": told})


def _json(status: int, content: object, headers: Sequence[tuple[bytes, bytes]] = ()) -> _Answer:
    return _Answer(status, "application/json", msgspec.json.encode(content), headers)


def _refusal(refused: RequestError, path: str) -> _Answer:
    headers = []
    if refused.status == 401 and path in PAGES:
        headers.append((b"www-authenticate", b'Basic realm="pushgate: any user, the token as password"'))
    if refused.status == 405 and refused.details is not None:
        headers.append((b"allow", str(refused.details["allow"]).encode()))
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refused.status != 400:
        headers += CLOSE  # the body, if it has one, was not read
    return _json(refused.status, {"error": refused.error}, headers)
