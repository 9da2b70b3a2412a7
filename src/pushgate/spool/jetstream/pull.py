"""One lane of a worker: asks NATS for deliveries when somebody waits for them, and for no more than that.

One request is open at a time, and NATS answers it as soon as there is anything. A lane where nothing comes costs one
request each `EXPIRES_S` and a sign of life each `HEARTBEAT_S`; after `DORMANT_S` it asks no more until it is woken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from pushgate.errors import SpoolUnavailable
from pushgate.spool import Lease
from pushgate.spool.jetstream.held import Held, State
from pushgate.spool.jetstream.protocol import Message

EXPIRES_S = 60
HEARTBEAT_S = 3
SILENT_S = 2.5 * HEARTBEAT_S
"""After so long without a sign of life the request is lost: the one who had it is dead."""
DORMANT_S = 900
MOST_AT_ONCE = 1000
BREATH_S = 0.25
"""A request that ends at once with nothing is not repeated at once."""
KEEP_S = 2.0
"""What lies ready so long and nobody asks for it is left to other workers."""


class Ways(Protocol):
    """What a lane needs of the link."""

    def ask(self, lane: str, count: int, reply: str) -> None:
        """Ask for so many deliveries. Raises `SpoolUnavailable`."""
        ...

    def hold(self, lane: str, message: Message) -> Held | None:
        """What NATS gave, or None where it cannot be read."""
        ...

    def let_go(self, held: Held) -> None:
        """It is not ours any more."""
        ...

    def want_consumer(self, lane: str) -> None:
        """Somebody waits, and there may be no consumer: call `begin` of the lane when there is one, and something."""
        ...


class _Waiter(NamedTuple):
    future: asyncio.Future[list[Lease]]
    limit: int


class Pull:
    """What is ready, who waits, what was asked for."""

    def __init__(
        self, name: str, ways: Ways, *, subscribe: Callable[[Callable[[Message], None]], str], lapse_s: float
    ) -> None:
        """`lapse_s`: what NATS has not heard of for so long is not ours any more."""
        self.name = name
        self.has_consumer = False
        self.ready: deque[Held] = deque()
        self._ways = ways
        self._inbox = subscribe(self._received)
        self._waiters: deque[_Waiter] = deque()
        self._loop = asyncio.get_running_loop()
        self._request = 0
        self._wanted = 0
        """How many of the open request have not come; 0 where none is open."""
        self._asked_at = 0.0
        self._heard_at = 0.0
        self._fed_at = self._loop.time()
        """When something came last."""
        self._got = False
        """Whether the open request has brought something."""
        self._is_refused = False
        """Whether the link took no request, be it that NATS takes nothing just now: it need not be broken."""
        self._serving = False
        self._idle_since = 0.0
        self._lapse_s = lapse_s

    # --- those who wait

    async def lease(self, limit: int) -> Sequence[Lease]:
        """See `spool.Spool.lease`."""
        if not self._waiters and (leases := self._take(limit)):
            return leases
        waiter = _Waiter(self._loop.create_future(), limit)
        self._waiters.append(waiter)
        self._ask()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self._give_back(waiter.future.result())
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def refuse(self, fault: Exception) -> None:
        """Tell everybody who waits that nothing will come."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.future.done():
                waiter.future.set_exception(fault)

    def begin(self) -> None:
        """There is a consumer."""
        self.has_consumer = True
        self._fed_at = self._loop.time()
        self.retry()

    def retry(self) -> None:
        """Ask anew: what was asked before is lost."""
        self._wanted = 0
        self._ask()

    def look(self, now: float) -> Sequence[Held]:
        """A request whose owner gives no signs of life is lost. Returns what nobody here has asked for."""
        for held in [held for held in self.ready if self._has_lapsed(held, now)]:
            self.ready.remove(held)
            self._ways.let_go(held)
        if self._wanted and now - self._heard_at > SILENT_S:
            self.retry()
        if self._is_refused:
            self._is_refused = False
            self._ask()
        if not self.ready or self._waiters or now - self._idle_since < KEEP_S:
            return ()
        unwanted = list(self.ready)
        self.ready.clear()
        return unwanted

    # --- to and from NATS

    def _ask(self) -> None:
        count = min(sum(waiter.limit for waiter in self._waiters), MOST_AT_ONCE)
        if not count or self._wanted:
            return
        if not self.has_consumer:
            self._ways.want_consumer(self.name)
            return
        self._request += 1
        try:
            self._ways.ask(self.name, count, f"{self._inbox}.{self._request}")
        except SpoolUnavailable:
            self._is_refused = True  # asked again at the next look, or when the connection is back
            return
        self._wanted = count
        self._got = False
        self._asked_at = self._heard_at = self._loop.time()

    def _received(self, message: Message) -> None:
        self._heard_at = self._loop.time()
        status = message.status
        if not status:
            self._wanted = max(self._wanted - 1, 0)
            self._got = True
            self._fed_at = self._heard_at
            if (held := self._ways.hold(self.name, message)) is not None:
                self.ready.append(held)
            self._serve_soon()
        elif status != 100 and message.subject == f"{self._inbox}.{self._request}":
            self._wanted = 0
            if status in (409, 503) or self._heard_at - self._fed_at > DORMANT_S:
                self.has_consumer = False  # it, its leader or its server went away; or nothing has come for long
            if not self._got and self._heard_at - self._asked_at < BREATH_S:
                self._loop.call_later(BREATH_S, self._ask)
            else:
                self._serve_soon()

    def _serve_soon(self) -> None:
        """When all that came with it has been read."""
        if not self._serving:
            self._serving = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        self._serving = False
        while self._waiters and self.ready:
            if self._waiters[0].future.done():
                self._waiters.popleft()
            elif leases := self._take(self._waiters[0].limit):
                self._waiters.popleft().future.set_result(leases)
        if self._waiters:
            self._ask()
        elif self.ready:
            self._idle_since = self._loop.time()

    def _take(self, limit: int) -> list[Lease]:
        """Up to so many of what is ready; none where none of it is ours any more."""
        now, leases = self._loop.time(), list[Lease]()
        while self.ready and len(leases) < limit:
            held = self.ready.popleft()
            if self._has_lapsed(held, now):
                self._ways.let_go(held)
                continue
            held.state = State.LEASED
            leases.append(Lease(held.delivery, held.attempt, held))
        self._idle_since = now
        return leases

    def _has_lapsed(self, held: Held, now: float) -> bool:
        """Whether NATS has given it to another one: this process was held up for long."""
        return now - held.renewed_at > self._lapse_s

    def _give_back(self, leases: Sequence[Lease]) -> None:
        for lease in reversed(leases):
            held = lease.token
            assert isinstance(held, Held)
            held.state = State.READY
            self.ready.appendleft(held)
        self._serve()
