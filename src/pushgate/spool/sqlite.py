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

from pushgate.drawn_ahead import DrawnAhead
from pushgate.errors import SpoolFull, SpoolUnavailable
from pushgate.model import Delivery, Device
from pushgate.outcome import Rejected
from pushgate.spool import Backlog, KnownRejection, Lease
from pushgate.spool.cipher import NO_KEYS, SEED_BYTES, Cipher, Keys
from pushgate.spool.committer import Committer
from pushgate.spool.contents import Contents
from pushgate.spool.database import LOCK_WAIT_S
from pushgate.spool.envelope import encode
from pushgate.spool.keyed import REJECTION, REPEAT, KeyedHash
from pushgate.spool.lane import Memory, Row, State, counted
from pushgate.spool.lanes import CATCH_UP_ROWS, ROW_BYTES, Lanes
from pushgate.spool.limits import NO_LIMITS, Limits
from pushgate.spool.loading import load, on_loop
from pushgate.spool.rejection_book import RejectionBook
from pushgate.spool.rejections import Rejection
from pushgate.spool.rows import values_of_all
from pushgate.spool.sharing import Sharing
from pushgate.spool.sibling_book import SiblingBook
from pushgate.spool.store import HASTEN_AT_ONCE, Store
from pushgate.spool.sweeper import Sweeper

Put = Collection[int] | SpoolFull
"""Positions of what were repeats, or why there was no room."""


class SqliteSpool:
    """See `spool.Spool`. Made by `open`."""

    def __init__(
        self,
        contents: Contents,
        committer: Committer,
        *,
        lanes: Lanes,
        cipher: Cipher,
        entropy: Callable[[int], bytes],
        limits: Limits,
        clock: Callable[[], float],
        due_clock: Callable[[], float],
        on_expired: Callable[[str, int], None] | None,
        known_ms: int,
    ) -> None:
        self.siblings = SiblingBook(committer, presence=contents.presence, known_ms=known_ms)
        """Other spools of this machine, where there are any."""
        self.fingerprint = KeyedHash(contents.secret, REPEAT)
        """See `spool.Spool.fingerprint`."""
        self._dead = RejectionBook(committer, name_of=KeyedHash(contents.secret, REJECTION), presence=contents.presence)
        self._census = contents.census
        self._next_id = contents.last_id + 1
        self._committer = committer
        self._lanes = lanes
        self._cipher = cipher
        self._entropy = entropy
        self._limits = limits
        self._clock = clock
        self._due_clock = due_clock
        for name in contents.census.backlog():
            lanes.lane(name).due_at(0)
        self._sweeper = Sweeper(committer, lane=lanes.lane, census=self._census, on_expired=on_expired)
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        due_clock: Callable[[], float] | None = None,
        dedup_window_s: float = 0,
        remember_s: float = 30 * 86400,
        on_expired: Callable[[str, int], None] | None = None,
        sweep_every_s: float = 30,
        tidy_idle_s: float = 0.25,
        tidy_every_s: float = 5,
        memory_bytes: int = 64 << 20,
        memory_rows: int = 4096,
        limits: Limits = NO_LIMITS,
        keys: Keys = NO_KEYS,
        entropy: Callable[[int], bytes] | None = None,
        sharing: Sharing | None = None,
        lock_wait_s: float = LOCK_WAIT_S,
        on_commit: Callable[[float, int], None] | None = None,
    ) -> Self:
        """Open the spool at `path` or make a new one there. Raises `SpoolUnusable`, which says how to mend it.

        `due_clock` says when what was deferred is due: one that nobody sets, so that a step of `clock` delays nothing.
        `on_expired` is told of rows that were erased because their time was up while nobody leased them: lane, count.
        At most `memory_rows` of a lane and `memory_bytes` of all lie ready in memory; more waits on disk alone. What
        was erased is gone from the write-ahead log after `tidy_idle_s` without work, or every `tidy_every_s`. What is
        put has to fit into `limits`. With `keys` nobody can read payloads who has none of them.
        `entropy` gives random bytes, by default those of the system. `sharing` are the siblings: they are told what
        is remembered, and what they tell is to be given to `siblings`. Another process may take `lock_wait_s` seconds
        to let go of the file. `on_commit`: see `Committer`.
        """
        cipher = Cipher(keys)
        tell = None if sharing is None else partial(on_loop, asyncio.get_running_loop(), sharing.tell)
        store, contents, known = await asyncio.to_thread(
            load,
            path,
            cipher=cipher,
            entropy=entropy or secrets.token_bytes,
            limits=limits,
            clock=clock,
            due_clock=due_clock or clock,
            dedup_window_s=dedup_window_s,
            remember_s=remember_s,
            sharing=sharing,
            tell=tell,
            lock_wait_s=lock_wait_s,
        )
        memory, lane_clock = Memory(memory_bytes), due_clock or clock
        committer = Committer(
            store,
            idle_s=tidy_idle_s,
            tidy_every_s=tidy_every_s,
            is_behind=lambda: memory.plenty_until > lane_clock(),
            on_commit=on_commit,
        )
        lanes = Lanes(committer, clock=lane_clock, memory=memory, memory_rows=memory_rows)
        spool = cls(
            contents,
            committer,
            lanes=lanes,
            cipher=cipher,
            entropy=entropy or DrawnAhead(secrets.token_bytes),
            limits=limits,
            clock=clock,
            due_clock=due_clock or clock,
            on_expired=on_expired,
            known_ms=known,
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
        if len(deliveries) >= CATCH_UP_ROWS:
            await self._lanes.let_catch_up([each.device.app_id for each in deliveries])
        self._lanes.make_room()
        rows: list[Row] = []
        payloads: list[bytes] = []
        number, size = self._next_id, 0
        first = lane = self._lanes.lane(deliveries[0].device.app_id)
        is_mixed = False
        for delivery in deliveries:
            payload = encode(delivery)
            if delivery.device.app_id != lane.name:
                lane, is_mixed = self._lanes.lane(delivery.device.app_id), True
            row = Row(
                lane,
                number,
                delivery,
                accepted_ms=int(delivery.accepted_at * 1000),
                attempt=1,
                size=len(payload) + ROW_BYTES,
            )
            number += 1
            size += row.size
            rows.append(row)
            payloads.append(payload)
        self._next_id = number
        if is_mixed:
            is_held = len([row for row in rows if row.lane.promise(row)]) == len(rows)
        else:
            is_held = first.promise_all(rows)
        repeats = await self._committer.perform(
            self._put_together(rows, payloads) if is_held else self._put_apart(rows, payloads),
            size=size,
            done=partial(self._stored if is_mixed or not is_held else self._stored_together, rows),
            failed=partial(self._not_stored, rows),
        )
        return len(repeats)

    def _put_together(self, rows: Sequence[Row], payloads: Sequence[bytes]) -> Callable[[Store], Put]:
        """All of them are in memory: they need no rows of their own on disk as long as they end soon."""
        fingerprints = [row.delivery.fingerprint for row in rows]
        return lambda store: store.put_together(rows, payloads, fingerprints)

    def _put_apart(self, rows: Sequence[Row], payloads: Sequence[bytes]) -> Callable[[Store], Put]:
        """Some will have to be read back from the disk."""
        now_ms = int(self._due_clock() * 1000)
        seeds = self._entropy(len(rows) * SEED_BYTES)
        fingerprints = [row.delivery.fingerprint for row in rows]
        values = values_of_all(rows, payloads, self._cipher, seeds, due_ms=now_ms)
        return lambda store: store.put(values, seeds, fingerprints)

    async def rejected_among(self, devices: Sequence[Device]) -> frozenset[int]:
        """See `spool.Spool.rejected_among`."""
        self._check_open()
        return await self._dead.among(devices)

    async def lease(self, lane: str, limit: int) -> Sequence[Lease]:
        """See `spool.Spool.lease`."""
        self._check_open()
        return await self._lanes.lane(lane).lease(limit)

    async def ack(self, leases: Sequence[Lease]) -> None:
        """See `spool.Spool.ack`."""
        await self._erase(leases)

    async def nack(self, leases: Sequence[Lease], *, delay_s: float) -> None:
        """See `spool.Spool.nack`."""
        if rows := self._ending(leases):
            due_ms = math.ceil((self._due_clock() + max(delay_s, 0)) * 1000)
            await self._committer.perform(
                lambda store: store.postpone([row.id for row in rows], due_ms),
                size=sum([row.size for row in rows]),
                done=partial(self._postponed, rows, due_ms),
                failed=partial(self._not_ended, rows),
            )

    async def reject(self, lease: Lease, rejected: Rejected) -> None:
        """See `spool.Spool.reject`."""
        device, fingerprint = lease.delivery.device, lease.delivery.fingerprint
        rejection = Rejection.of(device.app_id, rejected, int(self._clock() * 1000))
        await self._erase((lease,), also=self._dead.entry(device, rejection, fingerprint=fingerprint))

    async def forget_rejections(self, lane: str, *, since: float = 0, prefix: str = "") -> int:
        """See `spool.Spool.forget_rejections`."""
        self._check_open()
        return await self._dead.forget(lane, since=since, prefix=prefix)

    async def rejections(
        self, *, app_id: str = "", prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[KnownRejection]:
        """See `spool.Spool.rejections`."""
        self._check_open()
        return await self._dead.page(app_id=app_id, prefix=prefix, after=after, limit=limit)

    async def count_rejections(self) -> Mapping[tuple[str, str], int]:
        """See `spool.Spool.count_rejections`."""
        self._check_open()
        return await self._dead.count()

    async def hasten(self, lane: str) -> int:
        """See `spool.Spool.hasten`."""
        self._check_open()
        hastened = 0
        for _ in range(0, self._census.waiting(lane), HASTEN_AT_ONCE):  # what is deferred meanwhile cannot prolong it
            hastened += (
                count := await self._committer.perform(partial(_hasten, lane), done=lambda _: self._lanes.due_now(lane))
            )
            if count < HASTEN_AT_ONCE:
                break
        return hastened

    async def bury(self, leases: Sequence[Lease]) -> None:
        """See `spool.Spool.bury`."""
        await self._erase(leases)

    def is_crowded(self, lane: str) -> bool:
        """See `spool.Spool.is_crowded`."""
        return self._limits.is_crowded(self._census.waiting(lane))

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

    async def close(self) -> None:
        """See `spool.Spool.close`."""
        self._closed = True
        self._lanes.close(SpoolUnavailable("the spool is closed"))
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

    def _stored_together(self, rows: Sequence[Row], repeats: Collection[int]) -> None:
        """The usual case, quickly: all of one lane, which holds them."""
        if repeats:
            self._stored(rows, repeats)
            return
        lane = rows[0].lane
        lane.redeem_all(rows)
        for (_, accepted_ms), count in counted(rows).items():
            self._census.add(lane.name, accepted_ms, count)
        lane.serve()

    def _not_stored(self, rows: Sequence[Row], _: Exception) -> None:
        for row in rows:
            if row.id in row.lane.held:
                row.lane.redeem(row, kept=False)

    def _ending(self, leases: Sequence[Lease]) -> list[Row]:
        """The rows of those leases that had not ended before."""
        self._check_open()
        rows, leased, ending = [], State.LEASED, State.ENDING
        for row in leases:
            assert isinstance(row, Row)
            if row.state is leased:
                row.state = ending
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
        gone = State.GONE
        for row in rows:
            row.state = gone
            del row.lane.held[row.id]
        for (lane, accepted_ms), count in counted(rows).items():
            self._census.remove(lane.name, accepted_ms, count)

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

    def _check_open(self) -> None:
        if self._closed:
            raise SpoolUnavailable("the spool is closed")


def _erase(rows: Sequence[Row], also: Callable[[Store], None] | None, store: Store) -> None:
    store.erase([row.id for row in rows])
    if also is not None:
        also(store)


def _hasten(lane: str, store: Store) -> int:
    return store.hasten(lane)
