"""Keeps looking at the metrics, and tells viewers of the status page what has changed (server-sent events).

Looked at every ten seconds; every two while somebody watches. A viewer that is in step gets what has changed since the
look before, made once for all; one that was slow gets the whole, and is never owed more than that.
WHATWG HTML §9.2 (server-sent events).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from pushgate.console.history import STEP_S, History
from pushgate.console.reading import Reading, read, share
from pushgate.console.shapes import Status
from pushgate.console.status import status
from pushgate.errors import RequestError
from pushgate.metrics.families import Family

log = structlog.get_logger(__name__)

WATCHED_STEP_S = 2.0
FRESH_S = 1.0
"""A look that is not older serves whoever asks."""
MOST_VIEWERS = 20
RETRY_MS = 3000
COLLECT_WITHIN_S = 10.0

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]


class Live:
    """What the gateway is like now, for whoever asks and for whoever watches."""

    def __init__(
        self,
        collect: Callable[[], Awaitable[Iterable[Family]]],
        *,
        unready: Callable[[], str | None],
        clock: Callable[[], float],
    ) -> None:
        self._collect = collect
        self._unready = unready
        self._clock = clock
        self._history = History()
        self._reading: Reading | None = None
        self._parts: dict[str, bytes] = {}
        self._lanes: dict[str, bytes] = {}
        """What was told of each part, and of each lane, as JSON."""
        self._turn = 0
        """One more with each look that was told."""
        self._change = b""
        self._news = asyncio.Condition()
        self._someone = asyncio.Event()
        self._ending = asyncio.Event()
        self.viewers = 0

    async def watch(self) -> None:
        """Keep looking, for ever."""
        due = self._clock()
        while True:
            try:
                await self._look()
                await self._tell()
            except Exception as fault:  # noqa: BLE001 - the page goes without, the gateway goes on
                log.warning("status cannot be read", fault=type(fault).__name__)
            due = self._clock()
            self._someone.clear()
            while (left_s := due + (WATCHED_STEP_S if self.viewers else STEP_S) - self._clock()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._someone.wait()
                        self._someone.clear()

    def end(self) -> None:
        """The gateway stops: every viewer is told so and let go."""
        self._ending.set()

    async def status(self) -> Status:
        """How it fares now."""
        reading = self._reading
        if reading is None or not 0 <= self._clock() - reading.at < FRESH_S:
            reading = await self._look()
        return status(reading, self._history, unready=self._unready() or "")

    async def stream(self, receive: Receive, send: Send, headers: Headers) -> None:
        """Tell one viewer, until it leaves or the gateway stops. Raises `RequestError` 503 where too many watch."""
        if self.viewers >= MOST_VIEWERS or self._ending.is_set():
            raise RequestError(503, f"No more than {MOST_VIEWERS} may watch, and nobody while the gateway stops.")
        self.viewers += 1
        self._someone.set()
        gone = asyncio.create_task(_until_gone(receive), name="viewer")
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._tell_viewer(send, gone)
            await send({"type": "http.response.body", "body": b"event: end\ndata: {}\n\n", "more_body": False})
        finally:
            self.viewers -= 1
            gone.cancel()

    async def _tell_viewer(self, send: Send, gone: asyncio.Task[None]) -> None:
        if not self._parts:
            await self._tell()
        turn = self._turn
        whole = b"retry: %d\n" % RETRY_MS + _event(b"status", self._whole())
        await send({"type": "http.response.body", "body": whole, "more_body": True})
        while await self._changed(turn, gone):
            is_next, turn = self._turn == turn + 1, self._turn
            event = _event(b"change", self._change) if is_next else _event(b"status", self._whole())
            await send({"type": "http.response.body", "body": event, "more_body": True})

    async def _changed(self, turn: int, gone: asyncio.Task[None]) -> bool:
        """Wait until there is something to tell. False: the viewer has gone, or the gateway stops."""

        async def news() -> None:
            async with self._news:
                await self._news.wait_for(lambda: self._turn != turn)

        waits = [asyncio.create_task(news()), asyncio.create_task(self._ending.wait())]
        try:
            await asyncio.wait([*waits, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        return not gone.done() and not self._ending.is_set()

    async def _look(self) -> Reading:
        async with asyncio.timeout(COLLECT_WITHIN_S):
            families = await self._collect()
        reading, before = read(families, at=self._clock()), self._reading
        if before is not None:
            share(reading, before)
        self._reading = reading
        self._history.add(reading)
        return reading

    async def _tell(self) -> None:
        """Make what has changed, once for all viewers, and wake them."""
        if not self.viewers:
            self._parts = {}
            return
        now = await self.status()
        parts = {name: _json(getattr(now, name)) for name in now.__struct_fields__ if name != "lanes"}
        lanes = {each.lane: _json(each) for each in now.lanes}
        changed = {name: part for name, part in parts.items() if self._parts.get(name) != part}
        changed["lanes"] = _joined([each for name, each in lanes.items() if self._lanes.get(name) != each])
        if gone := self._lanes.keys() - lanes.keys():
            changed["gone"] = _json(sorted(gone))
        async with self._news:
            self._parts, self._lanes, self._change = parts, lanes, _object(changed)
            self._turn += 1
            self._news.notify_all()

    def _whole(self) -> bytes:
        return _object({**self._parts, "lanes": _joined(list(self._lanes.values()))})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(kind: bytes, data: bytes) -> bytes:
    """JSON has no line breaks: one line of data is enough."""
    return b"event: %b\ndata: %b\n\n" % (kind, data)


_json = msgspec.json.Encoder().encode


def _joined(items: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def _object(members: Mapping[str, bytes]) -> bytes:
    return b"{" + b",".join([b'"%b":%b' % (name.encode(), value) for name, value in members.items()]) + b"}"
