"""One lane of a spool inside this process: what lies ready in memory, who waits for it, and when more is due.

A row is in `held` from before it is written until its end is written: whoever reads the store passes it over. What
is ready may be let go at any time, for the store has it too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum, auto
from typing import NamedTuple

from pushgate.model import Delivery
from pushgate.spool import Lease

NEVER_MS = 1 << 62
PLENTY = 100
"""So many rows that lie ready keep a lane busy for a while."""
PLENTY_S = 0.01
LONGEST_NAP_S = 60.0
"""A clock that is set forward is noticed after so long at the latest."""


class State(Enum):
    """Where a row in memory stands."""

    PENDING = auto()
    """It is being written."""
    READY = auto()
    LEASED = auto()
    ENDING = auto()
    """How it ended is being written."""
    GONE = auto()


class Row(Lease):
    """A delivery in memory, which can be leased as it is."""

    __slots__ = ("accepted_ms", "id", "lane", "size", "state")

    def __init__(
        self, lane: Lane, number: int, delivery: Delivery, *, accepted_ms: int, attempt: int, size: int
    ) -> None:
        self.delivery = delivery
        self.attempt = attempt
        self.lane = lane
        self.id = number
        self.accepted_ms = accepted_ms
        self.size = size
        self.state = State.PENDING


class Memory:
    """How many bytes of rows lie ready in all lanes together, and how many may."""

    __slots__ = ("limit_bytes", "plenty_until", "used_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.plenty_until = 0.0
        """By the lanes' clock: until then some lane is busy with what lies ready."""

    @property
    def full(self) -> bool:
        """Whether nothing more should be kept in memory."""
        return self.used_bytes >= self.limit_bytes


class _Waiter(NamedTuple):
    future: asyncio.Future[Sequence[Lease]]
    limit: int


class Lane:
    """What is ready, who waits, what is due. `fetch` is called when due rows should be read from the store."""

    def __init__(
        self, name: str, *, clock: Callable[[], float], fetch: Callable[[Lane], None], memory: Memory, most_ready: int
    ) -> None:
        self.name = name
        self.held: dict[int, Row | None] = {}
        """By row id. None: set aside, neither to be leased nor to be read again."""
        self.ready: deque[Row] = deque()
        self.fetch_size = max(most_ready // 2, 1)
        self.next_due_ms = NEVER_MS
        """When a row that is not held is due at the earliest."""
        self.spilling = False
        """Whether what is put goes to the store alone, because older rows wait there."""
        self._clock = clock
        self._fetch = fetch
        self._fetching = False
        self._memory = memory
        self._most_ready = most_ready
        self._promised = 0
        self._waiters: list[_Waiter] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_ms = NEVER_MS
        self._plenty_until = 0.0
        self.catching_up = asyncio.Lock()
        """Held by whoever waits for the lane to catch up, before putting many more."""

    # --- rows come

    @property
    def is_to_catch_up(self) -> bool:
        """Whether to let it send for a moment before many more are put.

        So it is while somebody takes from it and has enough for a while, and more would still go to memory.
        """
        return not self.spilling and self._plenty_until > self._clock()

    def promise(self, row: Row) -> bool:
        """Hold a row that is being written, if there is room. If not, the lane spills until it has caught up."""
        if len(self.ready) + self._promised >= self._most_ready or self._memory.full:
            self.spilling = True
        if self.spilling:
            return False
        self.held[row.id] = row
        self._promised += 1
        self._memory.used_bytes += row.size
        return True

    def promise_all(self, rows: Sequence[Row]) -> bool:
        """Hold those of these that there is room for: see `promise`. Whether that is all of them."""
        if self.spilling or len(self.ready) + self._promised + len(rows) > self._most_ready or self._memory.full:
            held = [row for row in rows if self.promise(row)]
            return len(held) == len(rows)
        self.held.update([(row.id, row) for row in rows])
        self._promised += len(rows)
        self._memory.used_bytes += sum([row.size for row in rows])
        return True

    def redeem_all(self, rows: Sequence[Row]) -> None:
        """All of these that were promised are durable."""
        self._promised -= len(rows)
        ready = State.READY  # what an enum costs to ask, it costs for each row
        for row in rows:
            row.state = ready
        self.ready.extend(rows)

    def redeem(self, row: Row, *, kept: bool) -> None:
        """A row that was promised is durable: it is ready. Or it was not stored."""
        self._promised -= 1
        if kept:
            row.state = State.READY
            self.ready.append(row)
        else:
            row.state = State.GONE
            self._memory.used_bytes -= row.size
            del self.held[row.id]

    def due_at(self, due_ms: int) -> None:
        """A row that is not held is due then."""
        self.next_due_ms = min(self.next_due_ms, due_ms)

    def fetched(self, rows: Iterable[Row], *, next_due_ms: int, caught_up: bool) -> None:
        """What `fetch` brought. `caught_up`: nothing more was due when it looked."""
        self._fetching = False
        for row in rows:
            row.state = State.READY
            self.held[row.id] = row
            self._memory.used_bytes += row.size
            self.ready.append(row)
        self.due_at(next_due_ms)
        if caught_up:
            self.spilling = False
        self.serve()

    def fetch_failed(self, fault: Exception) -> None:
        """Whoever waits is told. The next lease tries again."""
        self._fetching = False
        self.next_due_ms = 0
        self.refuse(fault)

    def serve(self) -> None:
        """Give what is ready to those who wait, and see to it that more comes."""
        while self._waiters and self.ready:
            waiter = self._waiters.pop(0)
            if not waiter.future.done():
                waiter.future.set_result(self._take(waiter.limit))
        if self._waiters:
            self._stir()

    # --- rows go

    async def lease(self, limit: int) -> Sequence[Lease]:
        """See `spool.Spool.lease`."""
        if self.ready and not self._waiters:
            leases = self._take(limit)
            self._stir()
            return leases
        waiter = _Waiter(asyncio.get_running_loop().create_future(), limit)
        self._waiters.append(waiter)
        self._stir()
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
            waiter = self._waiters.pop(0)
            if not waiter.future.done():
                waiter.future.set_exception(fault)

    def drop_ready(self) -> list[int]:
        """Forget what lies ready: it is read again from the store when it is wanted. Returns the ids."""
        dropped = [row.id for row in self.ready]
        for row in self.ready:
            self._discard(row)
        self.ready.clear()
        self.spilling = True
        self.next_due_ms = 0
        return dropped

    def drop(self, rows: Iterable[Row]) -> None:
        """Forget these rows, which lie ready."""
        for row in rows:
            self._discard(row)
        self.ready = deque(row for row in self.ready if row.state is State.READY)

    def close(self) -> None:
        """No alarm will ring any more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _discard(self, row: Row) -> None:
        row.state = State.GONE
        self._memory.used_bytes -= row.size
        del self.held[row.id]

    def _take(self, limit: int) -> Sequence[Lease]:
        ready, leased, size = self.ready, State.LEASED, 0
        rows = [ready.popleft() for _ in range(min(limit, len(ready)))]
        for row in rows:
            row.state = leased
            size += row.size
        self._memory.used_bytes -= size
        if len(ready) > PLENTY:
            self._plenty_until = self._memory.plenty_until = self._clock() + PLENTY_S
        return rows

    def _give_back(self, leases: Sequence[Lease]) -> None:
        """The one who waited was cancelled in the very moment: the next one gets them."""
        for row in reversed(leases):
            assert isinstance(row, Row)
            row.state = State.READY
            self._memory.used_bytes += row.size
            self.ready.appendleft(row)
        self.serve()

    # --- more is due

    def _stir(self) -> None:
        """Fetch what is due, or set the alarm for when something is."""
        if self._fetching:
            return
        wait_ms = self.next_due_ms - int(self._clock() * 1000)
        if wait_ms > 0:
            if self._waiters and self.next_due_ms < self._alarm_ms:
                self._set_alarm(wait_ms)
        elif len(self.ready) <= self.fetch_size:
            self._fetching = True
            self.next_due_ms = NEVER_MS  # what becomes due while the store is read lowers it again
            self._fetch(self)
        else:
            self.spilling = True  # what is put now waits behind what is due already

    def _set_alarm(self, wait_ms: int) -> None:
        self.close()
        self._alarm_ms = self.next_due_ms
        nap_s = min(wait_ms / 1000 + 0.001, LONGEST_NAP_S)
        self._alarm = asyncio.get_running_loop().call_later(nap_s, self._wake)

    def _wake(self) -> None:
        self._alarm = None
        self._alarm_ms = NEVER_MS
        if self._waiters:
            self._stir()


def counted(rows: Sequence[Row]) -> Mapping[tuple[Lane, int], int]:
    """How many there are of each lane and time."""
    counts: dict[tuple[Lane, int], int] = {}
    for row in rows:
        key = row.lane, row.accepted_ms
        counts[key] = counts.get(key, 0) + 1
    return counts
