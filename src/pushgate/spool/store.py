"""The tables of the SQLite spool, as the writing thread sees them: what to do inside one transaction.

Inserts, postponements and deletes of a whole transaction are collected and run as few statements of many rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache

from msgspec import Struct

from pushgate.errors import SpoolFull
from pushgate.model import Delivery
from pushgate.spool import envelope
from pushgate.spool.bundles import Bundles
from pushgate.spool.cipher import SEED_BYTES, Cipher
from pushgate.spool.database import Database
from pushgate.spool.lane import NEVER_MS, Row
from pushgate.spool.portions import marks, portions, run
from pushgate.spool.rejection_table import RejectionTable
from pushgate.spool.rejections import Rejection
from pushgate.spool.repeat_log import RepeatLog
from pushgate.spool.room import Room, row_bytes
from pushgate.spool.rows import Values, values_of
from pushgate.spool.seeds import Seeds, without
from pushgate.spool.shared_key import note_known
from pushgate.spool.sharing import Changes

LONGEST_WAIT_MS = 4_500_000
"""An hour and a quarter: the longest backoff with its jitter."""
LOOK_AT_ONCE = 200
FORGET_AT_ONCE = 2000
HASTEN_AT_ONCE = 1000
SETTLE_AT_ONCE = 1000
"""Rows of bundles: some 20 ms in which no put is written."""
KEEP_FREE_PAGES = 2048
"""Free pages (16 MB) that stay in the file for what comes next."""
SHRINK_PAGES = 500


class Found(Struct, frozen=True):
    """A row that was read."""

    id: int
    attempt: int
    accepted_ms: int
    size: int
    delivery: Delivery


class Due(Struct, frozen=True):
    """What was due in a lane."""

    found: list[Found]
    unreadable: list[int]
    next_due_ms: int
    caught_up: bool


class Late(Struct, frozen=True):
    """A row whose time is up."""

    id: int
    lane: str
    accepted_ms: int


class Store:
    """All statements. Between `begin` and `commit` or `rollback`, by one thread."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float],
        due_clock: Callable[[], float],
        dedup_window_s: float,
        remember_s: float,
        cipher: Cipher,
        entropy: Callable[[int], bytes],
        room: Room,
        tell: Callable[[Changes], None] | None = None,
    ) -> None:
        """`tell` is told, behind each commit, what it has changed of what siblings must know."""
        self.database = database
        self._tell = tell
        self._execute = database.execute
        self._clock = clock
        self._due_clock = due_clock
        self._cipher = cipher
        self._entropy = entropy
        self._room = room
        self._bundles = Bundles(database.execute, cipher=cipher, entropy=entropy, clock_ms=self._due_now_ms)
        self.rejections = RejectionTable(database.execute, clock_ms=self._now_ms, remember_s=remember_s)
        self._repeats = RepeatLog(database.execute, clock_ms=self._now_ms, window_s=dedup_window_s)
        self._repeats.load()
        self._seeds = Seeds(database.execute)
        self._inserts: list[Values] = []
        self._postponements: list[tuple[int, int]] = []
        self._erasures: list[int] = []

    # --- the transaction

    def begin(self) -> None:
        """Start a transaction."""
        self._execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make everything since `begin` durable."""
        self._bundles.write()
        self.flush()
        self._repeats.write()
        self._seeds.write()
        changes = self._changes()
        self._execute("COMMIT")
        self._repeats.keep()
        self._bundles.keep()
        self._seeds.keep()
        self._room.commit()
        if changes is not None and self._tell is not None:
            self._tell(changes)

    def rollback(self) -> None:
        """As if nothing had been since `begin`."""
        self._clear()
        self._repeats.drop()
        self._bundles.drop()
        self.rejections.take_changes()
        self._seeds.drop()
        self._room.begin()
        if self.database.connection.in_transaction:
            self._execute("ROLLBACK")

    def _changes(self) -> Changes | None:
        """What this transaction has changed of what is remembered, where somebody is to be told."""
        dead, alive = self.rejections.take_changes()
        if self._tell is None:
            return None
        changes = Changes(self._now_ms(), self._repeats.claimed, self._repeats.released, dead, alive)
        return changes if changes else None

    def flush(self) -> None:
        """Run what was collected."""
        run(self._execute, _insert, self._inserts)
        run(self._execute, _postpone, self._postponements)
        for some in portions(self._erasures):
            self._execute(_erase(len(some)), some)
        self._seeds.erase(self._erasures)
        self._clear()

    def _clear(self) -> None:
        self._inserts.clear()
        self._postponements.clear()
        self._erasures.clear()

    # --- deliveries

    def put(self, rows: Sequence[Values], seeds: bytes, fingerprints: Sequence[bytes]) -> Collection[int] | SpoolFull:
        """Insert the rows that are no repeats, of ids that follow one another, with their seeds, joined.

        Returns the positions of those that are repeats, or why there is no room.
        """
        repeats = self._repeats.claim(fingerprints)
        new = [row for n, row in enumerate(rows) if n not in repeats] if repeats else rows
        if (full := self._take([row_bytes(len(row[-1])) for row in new], fingerprints, repeats)) is not None:
            return full
        if new:
            self._inserts.extend(new)
            self._seeds.put(rows[0][0], without(seeds, repeats))
        return repeats

    def put_together(
        self, rows: Sequence[Row], payloads: Sequence[bytes], fingerprints: Sequence[bytes]
    ) -> Collection[int] | SpoolFull:
        """Put rows, which stay in memory, with their envelopes into this transaction's bundle. Returns as `put`."""
        repeats = self._repeats.claim(fingerprints)
        if repeats:
            rows = [row for n, row in enumerate(rows) if n not in repeats]
            payloads = [payload for n, payload in enumerate(payloads) if n not in repeats]
        if (full := self._take([row_bytes(len(payload)) for payload in payloads], fingerprints, repeats)) is not None:
            return full
        if self._bundles.bytes > self._room.most_in_bundles:
            self.settle_oldest()
        self._bundles.put(rows, payloads)
        return repeats

    def _take(self, needs: Sequence[int], fingerprints: Sequence[bytes], repeats: Collection[int]) -> SpoolFull | None:
        """Take the room for what is new. Or say why there is none, and claim nothing."""
        if not needs or (full := self._room.take(needs)) is None:
            return None
        self._repeats.disclaim(fingerprints, repeats=repeats)
        return full

    def erase(self, ids: Collection[int]) -> None:
        """Delete rows, and overwrite what would open a copy of them."""
        self._erasures.extend(self._bundles.end(ids))
        self._room.remove(len(ids))

    def postpone(self, ids: Sequence[int], due_ms: int) -> None:
        """Rows are due then, and their attempt counts one more."""
        self._postponements.extend((number, due_ms) for number in ids if number not in self._bundles)
        for row, _ in self._bundles.take_out(ids):
            self._insert_row(row, due_ms=due_ms, attempt=row.attempt + 1)

    def settle(self, ids: Iterable[int]) -> None:
        """Rows that memory has let go of stand by themselves."""
        for row, due_ms in self._bundles.take_out(ids):
            self._insert_row(row, due_ms=due_ms, attempt=row.attempt)

    def settle_oldest(self) -> bool:
        """Some rows, the oldest first, stand by themselves. Returns whether there may be more to be settled."""
        for row, due_ms in (oldest := self._bundles.take_out_oldest(SETTLE_AT_ONCE)):
            self._insert_row(row, due_ms=due_ms, attempt=row.attempt)
        return len(oldest) == SETTLE_AT_ONCE

    def _insert_row(self, row: Row, *, due_ms: int, attempt: int) -> None:
        seed = self._entropy(SEED_BYTES)
        self._seeds.put(row.id, seed)
        self._inserts.append(values_of(row.id, row.delivery, self._cipher, seed, due_ms=due_ms, attempt=attempt))

    def due(self, lane: str, held: Collection[int], limit: int) -> Due:
        """At most so many rows of a lane that are due and not held, the first due first."""
        self.flush()
        now_ms = self._due_now_ms()
        near = self._execute(
            "SELECT id FROM deliveries WHERE lane = ? AND due_ms <= ? ORDER BY due_ms, accepted_ms, id LIMIT ?",
            (lane, now_ms, limit + len(held)),
        ).fetchall()
        wanted = [number for (number,) in near if number not in held][:limit]
        found, unreadable = [], []
        for (number, attempt, accepted_ms, sealed), seed in zip(
            self._rows(wanted), self._seeds.read(wanted), strict=True
        ):
            try:
                delivery = envelope.decode(self._cipher.open(lane, sealed, seed))
                found.append(Found(number, attempt, accepted_ms, len(sealed), delivery))
            except envelope.Unreadable:
                unreadable.append(number)
        caught_up = len(wanted) < limit
        return Due(found, unreadable, self._next_due_ms(lane, now_ms) if caught_up else now_ms, caught_up)

    def _rows(self, ids: Sequence[int]) -> Iterable[tuple[int, int, int, bytes]]:
        for some in portions(ids):
            rows = {row[0]: row for row in self._execute(_read(len(some)), some)}
            yield from (rows[number] for number in some)

    def _next_due_ms(self, lane: str, now_ms: int) -> int:
        row = self._execute(
            "SELECT due_ms FROM deliveries WHERE lane = ? AND due_ms > ? ORDER BY due_ms LIMIT 1", (lane, now_ms)
        ).fetchone()
        return NEVER_MS if row is None else int(row[0])

    def late_after(self, number: int) -> tuple[list[Late], int]:
        """Look at the next rows behind an id, in the order of ids: those whose time is up, and the last id seen.

        Ids rise with time, and so nearly do the ends: where a look finds nothing, there is nothing behind it. The
        last id is 0 where no row is left to look at.
        """
        self.flush()
        rows = self._execute(
            "SELECT id, lane, accepted_ms, expires_ms FROM deliveries WHERE id > ? ORDER BY id LIMIT ?",
            (number, LOOK_AT_ONCE),
        ).fetchall()
        now_ms = self._now_ms()
        late = [Late(row[0], row[1], row[2]) for row in rows if row[3] <= now_ms]
        return late, rows[-1][0] if len(rows) == LOOK_AT_ONCE else 0

    def bring_forward(self, lane: str) -> None:
        """Outside a transaction: nothing is due later than the longest wait there is from now.

        A process whose clock ran ahead may have left such rows.
        """
        now_ms = self._due_now_ms()
        self._execute(
            "UPDATE deliveries SET due_ms = ? WHERE lane = ? AND due_ms > ?", (now_ms, lane, now_ms + LONGEST_WAIT_MS)
        )

    def hasten(self, lane: str) -> int:
        """Some rows of a lane that are due later, the first due first, are due now. Returns how many."""
        self.flush()
        now_ms = self._due_now_ms()
        return self._execute(
            "UPDATE deliveries SET due_ms = ? WHERE id IN "
            "(SELECT id FROM deliveries INDEXED BY due WHERE lane = ? AND due_ms > ? ORDER BY due_ms LIMIT ?)",
            (now_ms, lane, now_ms, HASTEN_AT_ONCE),
        ).rowcount

    def remember(self, name: bytes, rejection: Rejection, *, fingerprint: bytes) -> None:
        """Remember that a pushkey is dead, and forget the fingerprint of the delivery that told."""
        self._repeats.release(fingerprint)
        self.rejections.remember(name, rejection)

    # --- siblings

    def learn(self, changes: Changes) -> None:
        """What a sibling has changed of what is remembered."""
        if changes.claimed or changes.released:
            self._repeats.learn(changes.claimed, changes.released, changes.at_ms)
        if changes.dead or changes.alive:
            self.rejections.learn(changes.dead, changes.alive, at_ms=changes.at_ms)

    def repeats_after(self, number: int, since_ms: int) -> tuple[int, list[Changes]]:
        """See `RepeatLog.told_after`."""
        self._repeats.flush()
        seen, told = self._repeats.told_after(number, since_ms)
        return seen, [Changes(at_ms, claimed, released) for at_ms, claimed, released in told]

    def note_known(self) -> None:
        """Write down that everything was known that siblings have told by now."""
        self._repeats.flush()
        note_known(self.database, self._now_ms())

    # --- upkeep

    def probe(self) -> SpoolFull | None:
        """Fail where a put would: one page is written, as it is. Returns why there is no room, if there is none."""
        self.database.touch()
        return self._room.probe()

    def forget_lapsed(self) -> bool:
        """Forget some repeats and rejections whose time is up. Returns whether there may be more."""
        more = self._repeats.forget_lapsed()
        return self.rejections.forget_lapsed(FORGET_AT_ONCE) or more

    def tidy(self) -> bool:
        """Outside a transaction: empty the write-ahead log, and give back disk space that is not needed.

        With that no seed of a deleted row is left in any file. Returns whether there is more to do.
        """
        try:
            is_more = self._settle()
        except sqlite3.OperationalError:
            self.checkpoint()  # may make room
            is_more = self._settle()
        free = self._execute("PRAGMA freelist_count").fetchone()[0]
        if free > KEEP_FREE_PAGES:
            self.database.connection.executescript(f"PRAGMA incremental_vacuum({SHRINK_PAGES})")
        self.checkpoint()
        return is_more or bool(free - SHRINK_PAGES > KEEP_FREE_PAGES)

    def _settle(self) -> bool:
        """What has come since the last time and has not ended stands by itself: then what has ended is erased."""
        if not self._bundles:
            return False
        try:
            self.begin()
            is_more = self.settle_oldest()
            self.commit()
        except BaseException:
            self.rollback()
            raise
        return is_more

    def checkpoint(self) -> None:
        """Empty the write-ahead log."""
        self._execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _due_now_ms(self) -> int:
        return int(self._due_clock() * 1000)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


@cache
def _insert(rows: int) -> str:
    return "INSERT INTO deliveries VALUES " + ",".join(["(?,?,?,?,?,?,?)"] * rows)  # noqa: S608 - no input


@cache
def _postpone(rows: int) -> str:
    return (
        "UPDATE deliveries SET due_ms = later.column2, attempt = attempt + 1 FROM (VALUES "  # noqa: S608 - no input
        + ",".join(["(?,?)"] * rows)
        + ") AS later WHERE id = later.column1"
    )


@cache
def _erase(rows: int) -> str:
    return f"DELETE FROM deliveries WHERE id IN ({marks(rows)})"  # noqa: S608 - no input


@cache
def _read(rows: int) -> str:
    return f"SELECT id, attempt, accepted_ms, payload FROM deliveries WHERE id IN ({marks(rows)})"  # noqa: S608 - no input
