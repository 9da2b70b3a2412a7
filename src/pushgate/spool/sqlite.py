"""The spool in one SQLite file: durable by group commit, handed over from memory, read again only when it must be.

One process uses a file at a time and holds its lock; the kernel lets go of it whatever ends the process. So nothing
on disk says who holds a row: a successor finds every row, and memory alone knows what is leased.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import structlog

from pushgate.errors import SpoolUnavailable
from pushgate.model import Delivery, Device
from pushgate.outcome import Rejected
from pushgate.spool import Backlog, Lease, envelope
from pushgate.spool.committer import Committer, Job
from pushgate.spool.contents import Contents
from pushgate.spool.database import explained, open_database
from pushgate.spool.keyed import KEY_BYTES, REJECTION, REPEAT, KeyedHash
from pushgate.spool.lane import Lane, Memory, Row, State
from pushgate.spool.rejections import Rejection
from pushgate.spool.store import Due, Store, Values
from pushgate.spool.sweeper import Sweeper

log = structlog.get_logger(__name__)

ROW_BYTES = 1000
"""What a row in memory takes beside its payload, about."""
USUAL_BYTES = 3000
"""What a row in memory takes as a rule."""
FEW_ROWS = 16
"""As many are read at once where memory is full: who waits is served, and no more."""


class SqliteSpool:
    """See `spool.Spool`. Made by `open`."""

    def __init__(
        self,
        contents: Contents,
        committer: Committer,
        *,
        clock: Callable[[], float],
        on_expired: Callable[[str, int], None] | None,
        memory: Memory,
        memory_rows: int,
    ) -> None:
        self._repeat_of = KeyedHash(contents.secret, REPEAT)
        self._name_of = KeyedHash(contents.secret, REJECTION)
        self._presence = contents.presence
        self._census = contents.census
        self._next_id = contents.last_id + 1
        self._committer = committer
        self._clock = clock
        self._memory = memory
        self._memory_rows = memory_rows
        self._lanes: dict[str, Lane] = {}
        for name in contents.census.backlog():
            self._lane(name).due_at(0)
        self._sweeper = Sweeper(committer, lane=self._lane, census=self._census, on_expired=on_expired)
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        dedup_window_s: float = 0,
        remember_s: float = 30 * 86400,
        on_expired: Callable[[str, int], None] | None = None,
        sweep_every_s: float = 30,
        tidy_idle_s: float = 0.25,
        tidy_every_s: float = 5,
        memory_bytes: int = 64 << 20,
        memory_rows: int = 1024,
        max_bytes: int = 0,
    ) -> Self:
        """Open the spool at `path` or make a new one there. Raises `SpoolUnusable`, which says how to mend it.

        `on_expired` is told of rows that were erased because their time was up while nobody leased them: lane, count.
        At most `memory_rows` of a lane and `memory_bytes` of all lie ready in memory; more waits on disk alone. What
        was erased is gone from the write-ahead log after `tidy_idle_s` without work, or every `tidy_every_s`. With
        `max_bytes` the file grows no further, as if the disk were full.
        """

        def load() -> tuple[Store, Contents]:
            database = open_database(path, entropy=partial(secrets.token_bytes, KEY_BYTES), max_bytes=max_bytes)
            store = Store(database, clock=clock, dedup_window_s=dedup_window_s, remember_s=remember_s)
            try:
                with explained(path):
                    store.load_repeats()
                    return store, Contents(database)
            except BaseException:
                database.close()
                raise

        store, contents = await asyncio.to_thread(load)
        spool = cls(
            contents,
            Committer(store, idle_s=tidy_idle_s, tidy_every_s=tidy_every_s),
            clock=clock,
            on_expired=on_expired,
            memory=Memory(memory_bytes),
            memory_rows=memory_rows,
        )
        spool._sweeper.start(sweep_every_s)
        return spool

    @property
    def commits(self) -> int:
        """How many transactions there were."""
        return self._committer.commits

    # --- the verbs, in the order of a delivery's life

    async def put(self, deliveries: Sequence[Delivery]) -> int:
        """See `spool.Spool.put`."""
        self._check_open()
        if not deliveries:
            return 0
        now_ms = int(self._clock() * 1000)
        if self._memory.full:
            self._make_room()
        payloads = [envelope.encode(delivery) for delivery in deliveries]
        rows: list[Row] = []
        values: list[Values] = []
        for delivery, payload in zip(deliveries, payloads, strict=True):
            lane = self._lane(delivery.lane)
            lane.spill_if_full()
            accepted_ms = int(delivery.accepted_at * 1000)
            size = len(payload) + ROW_BYTES
            row = Row(lane, self._next_id, delivery, accepted_ms=accepted_ms, attempt=1, size=size)
            self._next_id += 1
            if not lane.spilling:
                lane.promise(row)
            rows.append(row)
            values.append(
                (row.id, lane.name, now_ms, accepted_ms, math.ceil(delivery.expires_at * 1000), 1, payload),
            )
        fingerprints = [delivery.fingerprint for delivery in deliveries]
        repeats = await self._committer.perform(
            lambda store: store.put(values, fingerprints),
            size=sum([row.size for row in rows]),
            done=partial(self._stored, rows),
            failed=partial(self._not_stored, rows),
        )
        return len(repeats)

    async def rejected_among(self, devices: Sequence[Device]) -> frozenset[int]:
        """See `spool.Spool.rejected_among`."""
        self._check_open()
        if not self._presence:
            return frozenset()
        names = [self._name_of(device.app_id, device.pushkey) for device in devices]
        known = [(position, name, devices[position]) for position, name in enumerate(names) if name in self._presence]
        if not known:
            return frozenset()
        return await self._committer.perform(lambda store: store.dead_among(known))

    async def lease(self, lane: str, limit: int) -> Sequence[Lease]:
        """See `spool.Spool.lease`."""
        self._check_open()
        return await self._lane(lane).lease(limit)

    async def ack(self, leases: Sequence[Lease]) -> None:
        """See `spool.Spool.ack`."""
        await self._erase(leases)

    async def nack(self, leases: Sequence[Lease], *, delay_s: float) -> None:
        """See `spool.Spool.nack`."""
        if rows := self._ending(leases):
            due_ms = math.ceil((self._clock() + max(delay_s, 0)) * 1000)
            await self._committer.perform(
                lambda store: store.postpone([row.id for row in rows], due_ms),
                size=sum([row.size for row in rows]),
                done=partial(self._postponed, rows, due_ms),
                failed=partial(self._not_ended, rows),
            )

    async def reject(self, lease: Lease, rejected: Rejected) -> None:
        """See `spool.Spool.reject`."""
        device = lease.delivery.device
        name = self._name_of(device.app_id, device.pushkey)
        rejection = Rejection.of(device.app_id, rejected, int(self._clock() * 1000))
        self._presence.add(name)
        fingerprint = lease.delivery.fingerprint
        await self._erase((lease,), also=lambda store: store.remember(name, rejection, fingerprint=fingerprint))

    async def forget_rejections(self, lane: str, *, since: float) -> int:
        """See `spool.Spool.forget_rejections`."""
        self._check_open()
        return await self._committer.perform(lambda store: store.forget_rejections(lane, int(since * 1000)))

    async def bury(self, leases: Sequence[Lease]) -> None:
        """See `spool.Spool.bury`."""
        await self._erase(leases)

    async def backlog(self) -> Mapping[str, Backlog]:
        """See `spool.Spool.backlog`."""
        self._check_open()
        return self._census.backlog()

    async def probe(self) -> None:
        """See `spool.Spool.probe`."""
        self._check_open()
        await self._committer.perform(Store.probe)

    async def sweep(self) -> int:
        """Erase what is out of time and not leased, forget what is to be forgotten. Returns how many deliveries."""
        self._check_open()
        return await self._sweeper.sweep()

    def fingerprint(self, *parts: str) -> bytes:
        """See `spool.Spool.fingerprint`."""
        return self._repeat_of(*parts)

    async def close(self) -> None:
        """See `spool.Spool.close`."""
        self._closed = True
        for lane in self._lanes.values():
            lane.close()
            lane.refuse(SpoolUnavailable("the spool is closed"))
        try:
            await self._sweeper.close()
        finally:
            await self._committer.close()

    # --- what becomes of rows, on the event loop, as soon as a commit is through

    def _stored(self, rows: Sequence[Row], repeats: Collection[int]) -> None:
        lanes = {}
        for position, row in enumerate(rows):
            lane, kept = row.lane, position not in repeats
            if row.id in lane.held:
                lane.redeem(row, kept=kept)
            elif kept:
                lane.due_at(0)
            if kept:
                self._census.add(lane.name, row.accepted_ms)
                lanes[lane.name] = lane
        for lane in lanes.values():
            lane.serve()

    def _not_stored(self, rows: Sequence[Row], _: Exception) -> None:
        for row in rows:
            if row.id in row.lane.held:
                row.lane.redeem(row, kept=False)

    def _ending(self, leases: Sequence[Lease]) -> list[Row]:
        """The rows of those leases that had not ended before."""
        self._check_open()
        rows = []
        for lease in leases:
            row = lease.token
            assert isinstance(row, Row)
            if row.state is State.LEASED:
                row.state = State.ENDING
                rows.append(row)
        return rows

    async def _erase(self, leases: Sequence[Lease], *, also: Callable[[Store], None] | None = None) -> None:
        if rows := self._ending(leases):
            await self._committer.perform(
                partial(_erase, rows, also),
                size=sum([row.size for row in rows]),
                done=partial(self._erased, rows),
                failed=partial(self._not_ended, rows),
            )

    def _erased(self, rows: Sequence[Row], _: None) -> None:
        for row in rows:
            row.state = State.GONE
            del row.lane.held[row.id]
            self._census.remove(row.lane.name, row.accepted_ms)

    def _postponed(self, rows: Sequence[Row], due_ms: int, _: None) -> None:
        lanes = {}
        for row in rows:
            row.state = State.GONE
            del row.lane.held[row.id]
            row.lane.due_at(due_ms)
            lanes[row.lane.name] = row.lane
        for lane in lanes.values():
            lane.serve()

    def _not_ended(self, rows: Sequence[Row], _: Exception) -> None:
        """They are still leased: whoever holds them may try again."""
        for row in rows:
            row.state = State.LEASED

    # --- lanes

    def _lane(self, name: str) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(
                name, clock=self._clock, fetch=self._fetch, memory=self._memory, most_ready=self._memory_rows
            )
        return lane

    def _make_room(self) -> None:
        """The lane with the most rows in memory leaves them to the disk: likely nobody takes from it just now."""
        fullest = max(self._lanes.values(), key=lambda lane: len(lane.ready), default=None)
        if fullest is not None and fullest.ready:
            fullest.drop_ready()

    def _fetch(self, lane: Lane) -> None:
        """Have due rows of a lane read. Room is taken for them beforehand: many lanes may fetch at the same time."""
        limit = min(lane.fetch_size, FEW_ROWS) if self._memory.full else lane.fetch_size
        room_bytes = limit * USUAL_BYTES
        self._memory.used_bytes += room_bytes
        self._committer.submit(
            Job(
                lambda store: store.due(lane.name, lane.held, limit),
                done=partial(self._fetched, lane, room_bytes),
                failed=partial(self._not_fetched, lane, room_bytes),
            )
        )

    def _not_fetched(self, lane: Lane, room_bytes: int, fault: Exception) -> None:
        self._memory.used_bytes -= room_bytes
        lane.fetch_failed(fault)

    def _fetched(self, lane: Lane, room_bytes: int, due: Due) -> None:
        self._memory.used_bytes -= room_bytes
        for number in due.unreadable:
            lane.held[number] = None
            log.error("spool row cannot be read, kept until its time is up", lane=lane.name, row=number)
        rows = [
            Row(
                lane,
                found.id,
                found.delivery,
                accepted_ms=found.accepted_ms,
                attempt=found.attempt,
                size=found.size + ROW_BYTES,
            )
            for found in due.found
            if found.id not in lane.held  # about to be swept
        ]
        lane.fetched(rows, next_due_ms=due.next_due_ms, caught_up=due.caught_up)

    def _check_open(self) -> None:
        if self._closed:
            raise SpoolUnavailable("the spool is closed")


def _erase(rows: Sequence[Row], also: Callable[[Store], None] | None, store: Store) -> None:
    store.erase([row.id for row in rows])
    if also is not None:
        also(store)
