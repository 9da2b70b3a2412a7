"""One TLS connection that sends requests: the session's bytes on a transport, its deadlines on one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from math import inf
from typing import cast

from pushgate.errors import NotSent
from pushgate.http2.dial import dial
from pushgate.http2.frames import ErrorCode, GoAway
from pushgate.http2.headers import Response
from pushgate.http2.limits import Limits
from pushgate.http2.liveness import Silence, Verdict, judge
from pushgate.http2.session import Session
from pushgate.http2.stream import Answer, Stream
from pushgate.http2.target import Target

WRITE_BUFFER_BYTES = 1024 * 1024
"""What the transport may hold before no new requests are given to it."""
HELD_CHUNKS = 100_000
"""Frames held back while the transport takes none: beyond it a peer that makes us answer and never reads is left."""
TIMER_SLACK_S = 0.01
"""Deadlines this close together share one waking."""


class State(StrEnum):
    """What may have changed about a connection, for its owner."""

    ROOM = "room"
    """Something arrived: there may be room for a request."""
    PING = "ping"
    GOAWAY = "goaway"
    CLOSED = "closed"


Listener = Callable[["Connection", State], None]


class Connection(asyncio.Protocol):
    """An HTTP/2 connection to one target, for many requests at a time.

    `open` makes one. A request ends with its answer, NotSent or Unanswered, at the latest when its time is up.
    """

    def __init__(self, limits: Limits, on_state: Listener | None = None, *, first_stream_id: int = 1) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._on_state = on_state
        self._session = Session(limits, clock=self._loop.time, first_stream_id=first_stream_id)
        self._streams = self._session.streams
        self._transport: asyncio.Transport | None = None
        self._flush_is_due = False
        self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at = inf
        self._heard_at = self._busy_since = self._loop.time()
        self._asked_at: float | None = None
        self._owed_since = inf
        """Since when answers have been due and none came; acknowledged PINGs and late requests do not end it."""
        self._owed_from_id = first_stream_id
        """Streams from this one on were opened after the last answer."""
        self._is_mute = False
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def open(
        cls,
        target: Target,
        *,
        connect_timeout_s: float = 10.0,
        limits: Limits | None = None,
        on_state: Listener | None = None,
        turn: int = 0,
    ) -> Connection:
        """Connect and wait for the peer's SETTINGS. Raises NotSent with what failed in its message.

        `turn` is by how many addresses of the target to begin later than its first one.
        """
        limits = limits or Limits()
        connection = cls(limits, on_state)
        try:
            async with asyncio.timeout(connect_timeout_s):
                await dial(target, connection, linger_s=limits.linger_s, turn=turn)
                await connection.ready()
        except BaseException as error:
            connection.abort("given up while connecting")
            if isinstance(error, (OSError, UnicodeError)):
                where = f"{target.host}:{target.port}"
                raise NotSent(f"cannot connect to {where}: {type(error).__name__}") from error
            raise
        return connection

    async def ready(self) -> None:
        """Wait for the peer's first SETTINGS. Raises NotSent when they will not come."""
        await asyncio.shield(self._ready)

    # Requests

    async def request(self, head: bytes, body: bytes, *, timeout_s: float) -> Response:
        """Send a request and wait for its answer, both within `timeout_s`.

        Raises NotSent when the peer has certainly not acted on it, Unanswered when it may have.
        """
        if timeout_s <= 0:
            raise NotSent("no time left")
        loop = self._loop
        answer: asyncio.Future[Response] = loop.create_future()
        stream = self.submit(head, body, answer=answer, deadline=loop.time() + timeout_s, timeout_s=timeout_s)
        try:
            return await answer
        except asyncio.CancelledError:
            self.abandon(stream, "cancelled")
            raise

    def submit(self, head: bytes, body: bytes, *, answer: Answer, deadline: float, timeout_s: float) -> Stream:
        """Send a request whose end is told to `answer`, by `deadline` on the loop's clock. Raises NotSent.

        `timeout_s` is what the caller gave it in all, its waiting for a stream included.
        """
        streams = self._streams
        was_idle = not streams.open
        stream = self._session.start(head, body, answer=answer, deadline=deadline)
        stream.timeout_s = timeout_s
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)
        if was_idle:
            self._busy_since = now = self._loop.time()
            if self._owed_since == inf:
                self._owed_since = now
            self._wake_by(now + self._limits.quiet_s)
        if deadline < self._wake_at:
            self._wake_by(deadline)
        return stream

    def abandon(self, stream: Stream, why: str) -> None:
        """Stop waiting for an answer: the stream is reset and its place is free. No effect once it has ended."""
        self._session.abandon(stream, why)
        self._settle()

    # State

    @property
    def is_usable(self) -> bool:
        """Whether it takes requests, now or when streams are free again."""
        return self._session.is_ready and not self._session.is_retired

    @property
    def in_flight(self) -> int:
        """How many requests wait for their answers."""
        return len(self._streams.open)

    @property
    def free_streams(self) -> int:
        """How many requests more the peer allows by what it announced."""
        return max(0, self._streams.max_streams - len(self._streams.open)) if self.is_usable else 0

    @property
    def has_room(self) -> bool:
        """Whether a request can go out now: a stream is free, the peer's window is open, the transport takes data.

        Where the window is closed and nothing is in flight, one may go all the same: if it is not let through in time,
        the connection is mute and is left.
        """
        streams, session = self._streams, self._session
        return (
            len(streams.open) < streams.max_streams
            and (session.out.window > 0 or not streams.open)
            and not self._is_paused
            and not session.is_retired
        )

    @property
    def started(self) -> int:
        """How many requests were begun."""
        return self._streams.started

    @property
    def answered(self) -> int:
        """How many requests were answered."""
        return self._streams.answered

    @property
    def goaway(self) -> GoAway | None:
        """The peer's last GOAWAY."""
        return self._session.goaway

    @property
    def was_closed(self) -> bool:
        """Whether it ended because we wanted it to: closed, drained, or retired with nothing left to do."""
        return self._session.was_closed

    @property
    def is_mute(self) -> bool:
        """Whether it takes no more requests because the peer let their time pass and answered none."""
        return self._is_mute

    @property
    def is_closed(self) -> bool:
        """Whether the transport is gone."""
        return self._closed.done()

    # Ends

    def drain(self) -> None:
        """Take no more requests, and close after the last answer."""
        self._session.is_retired = True
        self._settle()

    async def close(self, timeout_s: float = 0.0) -> None:
        """Drain for at most `timeout_s`, then end: what is still in flight is Unanswered."""
        self.drain()
        if timeout_s > 0 and not self._closed.done():
            await asyncio.wait([self._closed], timeout=timeout_s)
        self._session.finish(ErrorCode.NO_ERROR, "connection closed")
        self._settle()
        if not self._closed.done():
            await asyncio.wait([self._closed], timeout=self._limits.linger_s)
        self.abort("connection closed")

    def abort(self, why: str) -> None:
        """End at once, without a word to the peer."""
        self._session.lose(why)
        if self._transport is not None:
            self._transport.abort()

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is up: our preface goes out, requests follow when the peer's SETTINGS are here.

        Data, and even the end, may have come before (see `dial`).
        """
        if self._closed.done():
            return
        self._transport = cast(asyncio.Transport, transport)
        tls = transport.get_extra_info("ssl_object")
        chosen = tls.selected_alpn_protocol() if tls is not None else None
        if chosen != "h2":
            self.abort(f"the peer does not speak HTTP/2 (ALPN: {chosen})")
            return
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._heard_at = self._loop.time()
        self._settle()

    def data_received(self, data: bytes) -> None:
        """Something arrived."""
        self._heard_at = self._loop.time()
        session = self._session
        was_going = session.goaway is not None
        answered = self._streams.answered
        session.receive(data)
        if self._streams.answered != answered:
            self._owed_since = self._heard_at if self._streams.open else inf
            self._owed_from_id = self._streams.next_id
        if session.out.chunks or session.is_retired:
            self._settle()
        if self._asked_at is not None and session.awaited_ping is None:
            self._asked_at = None
        if not self._ready.done() and session.is_ready:
            self._ready.set_result(None)
            self._wake_by(self._heard_at + self._limits.idle_ping_s)
        if self._on_state is not None:
            if session.goaway is not None and not was_going:
                self._on_state(self, State.GOAWAY)
            self._on_state(self, State.ROOM)

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """The transport takes data again."""
        self._is_paused = False
        self._flush()
        if self._on_state is not None:
            self._on_state(self, State.ROOM)

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone. Whatever is still open has no answer."""
        session = self._session
        session.lose("connection lost" if exc is None else f"connection lost, {type(exc).__name__}")
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        if not self._ready.done():
            self._ready.set_exception(NotSent(session.end))
            self._ready.exception()
        self._closed.set_result(None)
        if self._on_state is not None:
            self._on_state(self, State.CLOSED)

    # Inside

    def _flush(self) -> None:
        """Write the frames of this turn of the loop as one piece."""
        self._flush_is_due = False
        chunks = self._session.out.chunks
        if self._is_paused:
            if len(chunks) > HELD_CHUNKS:
                self.abort("the peer reads nothing")
        elif chunks and self._transport is not None:
            data = b"".join(chunks)
            chunks.clear()
            self._session.written_up_to = self._streams.next_id - 2
            self._transport.write(data)

    def _settle(self) -> None:
        """Write what is due, and close where nothing more can come."""
        session = self._session
        if session.is_retired and not self._streams.open:
            self._flush()
            session.finish(ErrorCode.NO_ERROR, "connection closed")
        self._flush()
        if session.is_over and self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    def _wake_by(self, when: float) -> None:
        if when < self._wake_at and not self._session.is_over:
            if self._timer is not None:
                self._timer.cancel()
            self._wake_at = when
            self._timer = self._loop.call_at(when, self._wake)

    def _wake(self) -> None:
        """The one timer: ends what has waited long enough, and looks whether the peer is alive."""
        self._timer, self._wake_at = None, inf
        now = self._loop.time()
        streams = self._streams.open
        self._end_late([stream for stream in streams.values() if stream.deadline <= now], now)
        silence = Silence(
            heard_at=self._heard_at, busy_since=self._busy_since if streams else None, asked_at=self._asked_at
        )
        verdict, next_look = judge(silence, self._limits, now=now)
        if verdict is Verdict.DEAD:
            self.abort("the peer is silent")
            return
        if verdict is Verdict.PING:
            self._asked_at = now
            self._session.ping()
            if self._on_state is not None:
                self._on_state(self, State.PING)
        soonest = min((stream.deadline for stream in streams.values()), default=inf)
        self._settle()
        self._wake_by(max(min(soonest, next_look), now + TIMER_SLACK_S))
        if self._on_state is not None:
            self._on_state(self, State.ROOM)

    def _end_late(self, late: list[Stream], now: float) -> None:
        """End requests whose time is up. Where nothing was answered since one was opened, no more are taken.

        A request that was opened late proves little: the peer must have owed answers for half of the request's time.
        """
        owed_s = now - self._owed_since
        if not self._session.is_retired:
            self._is_mute = self._session.is_retired = any(
                stream.id >= self._owed_from_id and owed_s >= stream.timeout_s / 2 for stream in late
            )
        for stream in late:
            self._session.abandon(stream, "no answer in time")
