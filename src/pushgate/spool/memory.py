"""The spool in memory: for tests and trials. Everything a spool promises, until the process ends."""

from __future__ import annotations

import heapq
import math
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from pushgate.errors import SpoolFull, SpoolUnavailable
from pushgate.model import Delivery, Device
from pushgate.outcome import Rejected
from pushgate.spool import Backlog, KnownRejection, Lease, envelope
from pushgate.spool.census import Census
from pushgate.spool.keyed import KEY_BYTES, REJECTION, REPEAT, KeyedHash
from pushgate.spool.lane import NEVER_MS, Lane, Memory, Row, State
from pushgate.spool.limits import NO_LIMITS, SMALLEST_BYTES, Limits
from pushgate.spool.rejections import Rejection, Span
from pushgate.spool.repeats import Repeats

SWEEP_EVERY_S = 30.0


class MemorySpool:
    """See `spool.Spool`."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        due_clock: Callable[[], float] | None = None,
        dedup_window_s: float = 0,
        remember_s: float = 30 * 86400,
        on_expired: Callable[[str, int], None] | None = None,
        limits: Limits = NO_LIMITS,
    ) -> None:
        key = secrets.token_bytes(KEY_BYTES)
        self._repeat_of = KeyedHash(key, REPEAT)
        self._name_of = KeyedHash(key, REJECTION)
        self._clock = clock
        self._due_clock = due_clock or clock
        self._remember_s = remember_s
        self._on_expired = on_expired
        self._repeats = Repeats(dedup_window_s)
        self._rejections: dict[bytes, Rejection] = {}
        self._census = Census()
        self._lanes: dict[str, Lane] = {}
        self._deferred: dict[str, list[tuple[int, int, Row]]] = {}
        self._next_id = 1
        self._limits = limits
        self._used_bytes = 0
        self._memory = Memory(sys.maxsize)
        self._sweep_at = clock() + SWEEP_EVERY_S
        self._closed = False

    async def put(self, deliveries: Sequence[Delivery]) -> int:
        """See `spool.Spool.put`."""
        self._check_open()
        now_ms = int(self._clock() * 1000)
        self._repeats.forget_lapsed(now_ms, 10 * len(deliveries))
        repeats = {n for n, each in enumerate(deliveries) if not self._repeats.claim(each.fingerprint, now_ms)}
        new = [(each, len(envelope.encode(each))) for n, each in enumerate(deliveries) if n not in repeats]
        if new and (full := self._refusal([size for _, size in new])) is not None:
            self._repeats.drop()
            raise full
        self._repeats.keep()
        lanes = {}
        for delivery, size in new:
            lane = lanes[delivery.lane] = self._lane(delivery.lane)
            accepted_ms = int(delivery.accepted_at * 1000)
            row = Row(lane, self._next_id, delivery, accepted_ms=accepted_ms, attempt=1, size=size)
            self._next_id += 1
            self._census.add(lane.name, accepted_ms)
            self._used_bytes += size
            lane.promise(row)
            lane.redeem(row, kept=True)
        for lane in lanes.values():
            lane.serve()
        return len(repeats)

    async def rejected_among(self, devices: Sequence[Device]) -> frozenset[int]:
        """See `spool.Spool.rejected_among`."""
        self._check_open()
        dead = []
        for position, device in enumerate(devices):
            name = self._name_of(device.app_id, device.pushkey)
            if (rejection := self._rejections.get(name)) is None:
                continue
            if rejection.lapsed(int(self._clock() * 1000), self._remember_s) or rejection.undone_by(device):
                del self._rejections[name]
            else:
                dead.append(position)
        return frozenset(dead)

    async def lease(self, lane: str, limit: int) -> Sequence[Lease]:
        """See `spool.Spool.lease`."""
        self._check_open()
        return await self._lane(lane).lease(limit)

    async def ack(self, leases: Sequence[Lease]) -> None:
        """See `spool.Spool.ack`."""
        self._erase(leases)

    async def nack(self, leases: Sequence[Lease], *, delay_s: float) -> None:
        """See `spool.Spool.nack`."""
        due_ms = math.ceil((self._due_clock() + max(delay_s, 0)) * 1000)
        lanes = {}
        for row in self._ended(leases):
            lane = lanes[row.lane.name] = row.lane
            again = Row(lane, row.id, row.delivery, accepted_ms=row.accepted_ms, attempt=row.attempt + 1, size=row.size)
            heapq.heappush(self._deferred[lane.name], (due_ms, again.id, again))
            lane.due_at(due_ms)
        for lane in lanes.values():
            lane.serve()

    async def reject(self, lease: Lease, rejected: Rejected) -> None:
        """See `spool.Spool.reject`."""
        device = lease.delivery.device
        if self._erase((lease,)):
            name = self._name_of(device.app_id, device.pushkey)
            self._rejections[name] = Rejection.of(device.app_id, rejected, int(self._clock() * 1000))
            self._repeats.release(lease.delivery.fingerprint)
            self._repeats.keep()

    async def forget_rejections(self, lane: str, *, since: float = 0, prefix: str = "") -> int:
        """See `spool.Spool.forget_rejections`."""
        since_ms = int(since * 1000)
        found = [
            name for name, each in self._remembered(Span.of(prefix)) if each.app_id == lane and each.at_ms >= since_ms
        ]
        for name in found:
            del self._rejections[name]
        return len(found)

    async def rejections(
        self, *, app_id: str = "", prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[KnownRejection]:
        """See `spool.Spool.rejections`."""
        found = (name for name, each in self._remembered(Span.of(prefix, after)) if app_id in ("", each.app_id))
        return [self._rejections[name].known_as(name) for name in heapq.nsmallest(limit, found)]

    async def count_rejections(self) -> Mapping[tuple[str, str], int]:
        """See `spool.Spool.count_rejections`."""
        return Counter((each.app_id, each.reason) for _, each in self._remembered(Span.of("")))

    async def hasten(self, lane: str) -> int:
        """See `spool.Spool.hasten`."""
        self._check_open()
        now_ms = int(self._due_clock() * 1000)
        deferred = self._deferred.get(lane, [])
        later = sum(due_ms > now_ms for due_ms, _, _ in deferred)
        deferred[:] = [(min(due_ms, now_ms), number, row) for due_ms, number, row in deferred]
        heapq.heapify(deferred)
        if later:
            self._lanes[lane].due_at(now_ms)
            self._lanes[lane].serve()
        return later

    async def bury(self, leases: Sequence[Lease]) -> None:
        """See `spool.Spool.bury`."""
        self._erase(leases)

    def is_crowded(self, lane: str) -> bool:
        """See `spool.Spool.is_crowded`."""
        return self._limits.is_crowded(self._census.waiting(lane))

    async def backlog(self) -> Mapping[str, Backlog]:
        """See `spool.Spool.backlog`."""
        self._check_open()
        if self._clock() >= self._sweep_at:
            await self.sweep()
        return self._census.backlog()

    async def probe(self) -> None:
        """See `spool.Spool.probe`."""
        self._check_open()
        if (full := self._refusal([SMALLEST_BYTES])) is not None:
            raise full

    async def sweep(self) -> int:
        """Erase what is out of time and not leased, and rejections that lapsed. Returns how many deliveries.

        `backlog` does it now and then: it is what a running gateway calls.
        """
        self._check_open()
        now = self._clock()
        self._sweep_at = now + SWEEP_EVERY_S
        for name in [n for n, each in self._rejections.items() if each.lapsed(int(now * 1000), self._remember_s)]:
            del self._rejections[name]
        swept = 0
        for lane in self._lanes.values():
            deferred = self._deferred[lane.name]
            late = [row for row in lane.ready if row.delivery.expires_at <= now]
            lane.drop(late)
            asleep = [row for _, _, row in deferred if row.delivery.expires_at <= now]
            if asleep:
                deferred[:] = [each for each in deferred if each[2].delivery.expires_at > now]
                heapq.heapify(deferred)
            for row in (*late, *asleep):
                self._forget(row)
            count = len(late) + len(asleep)
            swept += count
            if count and self._on_expired is not None:
                self._on_expired(lane.name, count)
        return swept

    def fingerprint(self, *parts: str) -> bytes:
        """See `spool.Spool.fingerprint`."""
        return self._repeat_of(*parts)

    async def close(self) -> None:
        """See `spool.Spool.close`."""
        self._closed = True
        for lane in self._lanes.values():
            lane.close()
            lane.refuse(SpoolUnavailable("the spool is closed"))

    def _remembered(self, span: Span | None) -> Iterator[tuple[bytes, Rejection]]:
        """Those in the span that have not lapsed."""
        self._check_open()
        now_ms = int(self._clock() * 1000)
        if span is not None:
            for name, each in self._rejections.items():
                if name in span and not each.lapsed(now_ms, self._remember_s):
                    yield name, each

    def _erase(self, leases: Sequence[Lease]) -> int:
        ended = self._ended(leases)
        for row in ended:
            self._forget(row)
        return len(ended)

    def _forget(self, row: Row) -> None:
        self._census.remove(row.lane.name, row.accepted_ms)
        self._used_bytes -= row.size

    def _refusal(self, sizes: Sequence[int]) -> SpoolFull | None:
        """Why there is no room for payloads of these sizes, or None when there is."""
        return self._limits.refusal(waiting=self._census.total + len(sizes), taken_bytes=self._used_bytes + sum(sizes))

    def _ended(self, leases: Sequence[Lease]) -> list[Row]:
        """The rows of those leases that had not ended before."""
        self._check_open()
        rows = []
        for row in leases:
            assert isinstance(row, Row)
            if row.state is State.LEASED:
                row.state = State.GONE
                del row.lane.held[row.id]
                rows.append(row)
        return rows

    def _lane(self, name: str) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            lane = Lane(
                name, clock=self._due_clock, fetch=self._wake_deferred, memory=self._memory, most_ready=sys.maxsize
            )
            self._lanes[name] = lane
            self._deferred[name] = []
        return lane

    def _wake_deferred(self, lane: Lane) -> None:
        deferred = self._deferred[lane.name]
        now_ms = int(self._due_clock() * 1000)
        rows = []
        while deferred and deferred[0][0] <= now_ms:
            rows.append(heapq.heappop(deferred)[2])
        lane.fetched(rows, next_due_ms=deferred[0][0] if deferred else NEVER_MS, caught_up=True)

    def _check_open(self) -> None:
        if self._closed:
            raise SpoolUnavailable("the spool is closed")
