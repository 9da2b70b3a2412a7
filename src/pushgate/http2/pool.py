"""Keeps connections to one target: opens more when streams run out, replaces the dying, shares streams among owners."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Hashable
from functools import cached_property
from typing import Any, Protocol

from pushgate.errors import NotSent
from pushgate.http2.backoff import Backoff
from pushgate.http2.connection import Connection, Listener, State
from pushgate.http2.frames import GoAway
from pushgate.http2.headers import Response
from pushgate.http2.limits import Limits
from pushgate.http2.queue import AwaitedCall, Call, Queue
from pushgate.http2.shares import Share, Shares
from pushgate.http2.target import Target

ATTEMPTS = 4
"""How often a request that was certainly not acted on is sent at most, the first time included."""
MUTE_FORGET_S = 60.0
"""A connection that falls mute so long after the last pause is a first one: those in a row are what costs pauses."""


class Opener(Protocol):
    """How a connection is made: `Connection.open`."""

    def __call__(
        self, target: Target, *, connect_timeout_s: float, limits: Limits, on_state: Listener, turn: int
    ) -> Coroutine[Any, Any, Connection]:
        """Connect, or raise NotSent."""
        ...


class Pool:
    """Connections to one target, made when they are needed, and shared by owners: none of them can take all streams.

    Readable for metrics: `connections` (taking requests), `connections_opened`, `connections_failed` (never came to
    be), `connections_lost` (ended without a GOAWAY), `connections_mute` (left because they answered nothing in time),
    `goaways` (connections that got one), `pings`, `repeats` (requests sent again after NotSent), `waiting` (for a free
    stream), `in_flight`. `last_goaway` holds the peer's reason, for a log.
    """

    def __init__(
        self,
        target: Target,
        *,
        max_connections: int = 4,
        max_waiting: int = 10_000,
        connect_timeout_s: float = 10.0,
        backoff_first_s: float = 0.5,
        backoff_most_s: float = 60.0,
        limits: Limits | None = None,
        rng: Callable[[], float] = random.random,
        opener: Opener = Connection.open,
    ) -> None:
        self.connections_opened = self.connections_failed = self.connections_lost = self.connections_mute = 0
        self.goaways = self.pings = self.repeats = 0
        self.last_goaway: GoAway | None = None
        self._target = target
        self._max_connections = max_connections
        self._connect_timeout_s = connect_timeout_s
        self._limits = limits or Limits()
        self._backoff = Backoff(first_s=backoff_first_s, most_s=backoff_most_s, random=rng)
        self._mute_backoff = Backoff(first_s=backoff_first_s, most_s=backoff_most_s, random=rng, forget_s=MUTE_FORGET_S)
        self._old: set[Connection] = set()
        """Those that were there when the last one fell mute: what befalls them now is the same misfortune."""
        self._opener = opener
        self._usable: list[Connection] = []
        self._leaving: dict[Connection, bool] = {}
        """Take no requests any more but are not gone; whether that was put down as a failure."""
        self._on_trial: Connection | None = None
        """The newest connection until it has answered something: only that ends the backing off."""
        self._shares = Shares()
        self._queue = Queue(self._shares, max_waiting=max_waiting)
        self._connecting: asyncio.Task[None] | None = None
        self._turn = 0
        """One more with each connection that led to nothing: the next one begins with another address."""
        self._is_closed = False

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    @property
    def connections(self) -> int:
        """How many connections take requests."""
        return len(self._usable)

    @property
    def waiting(self) -> int:
        """How many requests wait for a free stream."""
        return len(self._queue)

    def waiting_of(self, owner: Hashable) -> int:
        """How many requests of this owner wait for a free stream."""
        share = self._shares.by_owner.get(owner)
        return 0 if share is None else len(share.calls)

    @property
    def in_flight(self) -> int:
        """How many requests wait for their answers."""
        return sum(connection.in_flight for connection in (*self._usable, *self._leaving))

    def join(self, owner: Hashable) -> Share:
        """Make an owner known, so that streams are kept free for its first request too."""
        share = self._shares.add(owner)
        self._measure()
        return share

    def leave(self, owner: Hashable) -> None:
        """This owner makes no more requests."""
        self._shares.forget(owner)
        self._dispatch()

    async def request(self, head: bytes, body: bytes, *, timeout_s: float, owner: Hashable = None) -> Response:
        """Send a request and wait for its answer. Raises NotSent or Unanswered, see `send`."""
        answer: asyncio.Future[Response] = self._loop.create_future()
        call = AwaitedCall(head, body, timeout_s=timeout_s, answer=answer)
        self.send(call, owner=owner)
        try:
            return await answer
        except asyncio.CancelledError:
            call.cancel()
            raise

    def send(self, call: Call, *, owner: Hashable = None) -> None:
        """Send a request on a connection with a free stream and tell it the answer, both within its `timeout_s`.

        One `owner` gets only so many streams that some are left for the others (see `shares`).

        What a connection certainly did not act on goes to another one, a few times. The call is told NotSent when
        nobody has acted on it (the peer is down, no stream became free in time, the pool is closed), perhaps before
        this returns; Unanswered when the peer may have acted on it.
        """
        call.pool = self
        call.share = self._shares.by_owner.get(owner) or self.join(owner)
        call.deadline = self._loop.time() + call.timeout_s
        if self._is_closed:
            call.refuse("the pool is closed")
        elif call.timeout_s <= 0:
            call.refuse("no time left")
        else:
            self._place(call)

    def will_repeat(self, call: Call) -> bool:
        """Whether a call that nobody acted on is sent again: soon, and before those that came later."""
        if call.attempts >= ATTEMPTS or self._is_closed or call.deadline <= self._loop.time():
            return False
        self._loop.call_soon(self._repeat, call)
        return True

    def withdraw(self, call: Call) -> None:
        """Nobody waits for this one any more."""
        if call.connection is None:
            self._queue.remove(call)
        elif call.stream is not None:
            call.connection.abandon(call.stream, "cancelled")
            self._dispatch()

    def renew(self) -> None:
        """Leave all connections: what waits or comes takes new ones, what is in flight is awaited on the old ones.

        For a peer that answers, but wants other connections: no pause that an earlier failure cost is waited for.
        """
        for connection in list(self._usable):
            connection.drain()
            self._part(connection, is_gone=False)
        self._backoff.succeeded()
        self._mute_backoff.succeeded()
        self._dispatch()

    async def close(self, timeout_s: float = 0.0) -> None:
        """Take no more requests, wait for those in flight for at most `timeout_s`, close every connection."""
        self._is_closed = True
        self._queue.refuse_all("the pool is closed")
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        live = (*self._usable, *self._leaving)
        await asyncio.gather(*(connection.close(timeout_s) for connection in live))

    # The way of a request

    def _place(self, call: Call) -> None:
        """Give the request to a connection, or let it wait, or refuse it where it cannot even wait."""
        share = call.share
        if not share.calls and self._shares.may_start(share):
            connection = self._with_room()
            if connection is not None:
                call.submit(connection)
                return
        if self._queue.is_full_for(share):
            call.refuse("too many requests wait for a free stream")
            return
        self._queue.append(call)
        self._grow()

    def _repeat(self, call: Call) -> None:
        """Place a request again, before those that came later."""
        if call.is_over:
            return
        if self._is_closed:
            call.refuse("the pool is closed")
            return
        self.repeats += 1
        call.avoid, call.connection = call.connection, None
        self._queue.append_again(call)
        self._dispatch()

    def _dispatch(self) -> None:
        """Give waiting requests to whatever has room, each owner's in their order."""
        self._measure()
        while (call := self._queue.first()) is not None and (connection := self._with_room(call.avoid)) is not None:
            self._queue.take(call)
            call.submit(connection)
        if self._queue:
            self._grow()

    def _measure(self) -> None:
        """Count the streams that owners share: only those of connections that are open, so that one is free at once."""
        shares = self._shares
        if shares.is_shared:
            shares.streams = shares.held + sum(connection.free_streams for connection in self._usable)

    def _with_room(self, avoid: Connection | None = None) -> Connection | None:
        """The first connection that takes a request now, `avoid` only if there is no other."""
        last_choice = None
        for connection in self._usable:
            if connection.has_room:
                if connection is not avoid:
                    return connection
                last_choice = connection
        return last_choice

    # Connections

    def _grow(self) -> None:
        """Open another connection if streams are what requests wait for, one at a time.

        A connection that has answered nothing yet is given its time: the peer may allow more streams when it has
        (APNs: one until the first valid token). With no connection and none to be tried yet, nobody waits.
        """
        if self._is_closed or self._connecting is not None or len(self._usable) >= self._max_connections:
            return
        if any(not connection.answered for connection in self._usable):
            return
        now = self._loop.time()
        pause_s = max(self._backoff.pause_s(now), self._mute_backoff.pause_s(now))
        if pause_s <= 0:
            self._connecting = self._loop.create_task(self._connect())
        elif not self._usable:
            self._queue.refuse_all(f"no connection, next try in {pause_s:.1f} s")

    async def _connect(self) -> None:
        connection: Connection | None = None
        why = "no connection could be made"
        try:
            connection = await self._opener(
                self._target,
                connect_timeout_s=self._connect_timeout_s,
                limits=self._limits,
                on_state=self._on_state,
                turn=self._turn,
            )
        except NotSent as error:
            why = str(error)
        finally:
            self._connecting = None
            self._take(connection, why)

    def _take(self, connection: Connection | None, why: str) -> None:
        """Use a new connection. Where none came to be, nobody waits in vain and the peer is left alone for a while."""
        if connection is not None and connection.is_usable:
            self.connections_opened += 1
            self._usable.append(connection)
            self._on_trial = connection
            self._dispatch()
            return
        if connection is not None:
            why = "the peer takes no requests"
            if not connection.is_closed:
                self._leaving[connection] = True
        self.connections_failed += 1
        self._turn += 1
        self._backoff.failed(self._loop.time())
        if not self._usable:
            self._queue.refuse_all(why)

    def _on_state(self, connection: Connection, state: State) -> None:
        """A connection tells that something about it changed."""
        if state is State.ROOM:
            if connection is self._on_trial and connection.answered:
                self._on_trial = None
                self._backoff.succeeded()
        elif state is State.PING:
            self.pings += 1
        elif state is State.GOAWAY:
            self.goaways += 1
            self.last_goaway = connection.goaway
        if not connection.is_usable:
            self._part(connection, is_gone=state is State.CLOSED)
        self._dispatch()

    def _part(self, connection: Connection, *, is_gone: bool) -> None:
        """A connection takes no more requests. One that took some and answered none counts as a failure, once."""
        if connection in self._usable:
            self._usable.remove(connection)
            self._leaving[connection] = connection.is_mute
            if connection.is_mute:
                self._put_down_mute(connection)
            self._old.discard(connection)
        if connection not in self._leaving:
            return
        is_barren = connection.started > 0 and not connection.answered and not connection.in_flight
        if is_barren and not self._leaving[connection] and not self._is_closed:
            self._leaving[connection] = True
            self._turn += 1
            self._backoff.stumbled(self._loop.time())
        if is_gone:
            del self._leaving[connection]
            if connection.goaway is None and not connection.was_closed:
                self.connections_lost += 1

    def _put_down_mute(self, connection: Connection) -> None:
        """A connection answered nothing in time. The first one costs no pause, its replacements do.

        Unlike other failures this is not forgotten with the next answer: the peer may give one on each connection.
        """
        self.connections_mute += 1
        self._turn += 1
        if connection not in self._old:
            self._mute_backoff.stumbled(self._loop.time())
            self._old = set(self._usable)
