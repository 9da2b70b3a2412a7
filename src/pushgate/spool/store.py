"""The tables of the SQLite spool, as the writing thread sees them: what to do inside one transaction.

Inserts, postponements and deletes of a whole transaction are collected and run as few statements of many rows: each
statement lets go of the interpreter once, and a busy event loop may keep it for milliseconds each time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from itertools import chain
from typing import TypeVar

from msgspec import Struct

from pushgate.model import Delivery, Device
from pushgate.spool import envelope
from pushgate.spool.database import FORMAT, PAGE_BYTES, Database
from pushgate.spool.keyed import HASH_BYTES
from pushgate.spool.lane import NEVER_MS
from pushgate.spool.rejections import Rejection
from pushgate.spool.repeats import Repeats

STATEMENT_ROWS = 128
"""Rows of one statement at most; a power of two, and so are all smaller ones, so that few statements are prepared."""
LOOK_AT_ONCE = 200
FORGET_AT_ONCE = 2000
KEEP_FREE_PAGES = 2048
"""Free pages (16 MB) that stay in the file for what comes next."""
SHRINK_PAGES = 500
FEW_PAGES = 16
RELEASED = b"-"
"""Stands before fingerprints in the log of repeats that are taken back by this row."""

T = TypeVar("T")
Values = tuple[int, str, int, int, int, int, bytes]
"""A row of `deliveries`, in the order of its columns."""


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

    def __init__(self, database: Database, *, clock: Callable[[], float], dedup_window_s: float, remember_s: float):
        self.database = database
        self._execute = database.execute
        self._clock = clock
        self._dedup_window_s = dedup_window_s
        self._remember_s = remember_s
        self._repeats = Repeats(dedup_window_s)
        self._inserts: list[Values] = []
        self._postponements: list[tuple[int, int]] = []
        self._erasures: list[int] = []

    # --- the transaction

    def begin(self) -> None:
        """Start a transaction."""
        self._execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make everything since `begin` durable."""
        self.flush()
        released, claimed = self._repeats.released, self._repeats.claimed
        for joined in (RELEASED + released if released else b"", claimed):
            if joined:
                self._execute("INSERT INTO repeats (at_ms, fingerprints) VALUES (?, ?)", (self._now_ms(), joined))
        self._execute("COMMIT")
        self._repeats.keep()

    def rollback(self) -> None:
        """As if nothing had been since `begin`."""
        self._inserts.clear()
        self._postponements.clear()
        self._erasures.clear()
        self._repeats.drop()
        if self.database.connection.in_transaction:
            self._execute("ROLLBACK")

    def flush(self) -> None:
        """Run what was collected."""
        self._run(_insert, self._inserts)
        self._run(_postpone, self._postponements)
        self._run(_erase, [(number,) for number in self._erasures])
        self._inserts.clear()
        self._postponements.clear()
        self._erasures.clear()

    def _run(self, statement: Callable[[int], str], rows: Sequence[tuple[object, ...]]) -> None:
        for some in _portions(rows):
            self._execute(statement(len(some)), tuple(chain.from_iterable(some)))

    # --- deliveries

    def put(self, rows: Sequence[Values], fingerprints: Sequence[bytes]) -> Collection[int]:
        """Insert the rows that are no repeats. Returns the positions of those that are."""
        now_ms = self._now_ms()
        claim = self._repeats.claim
        repeats = {n for n, fingerprint in enumerate(fingerprints) if not claim(fingerprint, now_ms)}
        self._inserts.extend([row for n, row in enumerate(rows) if n not in repeats] if repeats else rows)
        return repeats

    def erase(self, ids: Iterable[int]) -> None:
        """Delete rows."""
        self._erasures.extend(ids)

    def postpone(self, ids: Iterable[int], due_ms: int) -> None:
        """Rows are due then, and their attempt counts one more."""
        self._postponements.extend((number, due_ms) for number in ids)

    def due(self, lane: str, held: Collection[int], limit: int) -> Due:
        """At most so many rows of a lane that are due and not held, the first due first."""
        self.flush()
        now_ms = self._now_ms()
        near = self._execute(
            "SELECT id FROM deliveries WHERE lane = ? AND due_ms <= ? ORDER BY due_ms, accepted_ms, id LIMIT ?",
            (lane, now_ms, limit + len(held)),
        ).fetchall()
        wanted = [number for (number,) in near if number not in held][:limit]
        found, unreadable = [], []
        for number, row in self._rows(wanted):
            try:
                found.append(Found(number, row[1], row[2], len(row[3]), envelope.decode(row[3])))
            except envelope.Unreadable:
                unreadable.append(number)
        caught_up = len(wanted) < limit
        return Due(found, unreadable, self._next_due_ms(lane, now_ms) if caught_up else now_ms, caught_up)

    def _rows(self, ids: Sequence[int]) -> Iterable[tuple[int, tuple[int, int, int, bytes]]]:
        for some in _portions(ids):
            rows = {row[0]: row for row in self._execute(_read(len(some)), some)}
            yield from ((number, rows[number]) for number in some)

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

    # --- rejections

    def remember(self, name: bytes, rejection: Rejection, *, fingerprint: bytes) -> None:
        """Remember that a pushkey is dead, and forget the fingerprint of the delivery that told."""
        self._repeats.release(fingerprint)
        self._execute(
            "INSERT OR REPLACE INTO rejections VALUES (?, ?, ?, ?, ?)",
            (name, rejection.app_id, rejection.reason, rejection.since_ms, rejection.at_ms),
        )

    def forget_rejections(self, app_id: str, since_ms: int) -> int:
        """Forget what was remembered of an app's pushkeys from a moment on. Returns how many."""
        return self._execute("DELETE FROM rejections WHERE at_ms >= ? AND app_id = ?", (since_ms, app_id)).rowcount

    def dead_among(self, devices: Sequence[tuple[int, bytes, Device]]) -> frozenset[int]:
        """Positions of the devices (position, name, device) that are known to be dead. Forgets what is undone."""
        now_ms = self._now_ms()
        dead = []
        for position, name, device in devices:
            row = self._execute(
                "SELECT app_id, reason, since_ms, at_ms FROM rejections WHERE name = ?", (name,)
            ).fetchone()
            if row is None:
                continue
            rejection = Rejection(*row)
            if rejection.lapsed(now_ms, self._remember_s) or rejection.undone_by(device):
                self._execute("DELETE FROM rejections WHERE name = ?", (name,))
            else:
                dead.append(position)
        return frozenset(dead)

    # --- upkeep

    def probe(self) -> None:
        """Fail where a put would: where the file may not grow, or where its log cannot be written.

        One page is written, as it is. Only where few are left is another one asked for and given back.
        """
        most, taken, free = (
            self._execute(f"PRAGMA {count}").fetchone()[0]
            for count in ("max_page_count", "page_count", "freelist_count")
        )
        if most - taken + free <= FEW_PAGES:
            self._execute("SAVEPOINT room")
            self._execute("INSERT INTO repeats (at_ms, fingerprints) VALUES (0, zeroblob(?))", (PAGE_BYTES,))
            self._execute("ROLLBACK TO room")
            self._execute("RELEASE room")
        self._execute(f"PRAGMA user_version = {FORMAT}")

    def forget_lapsed(self) -> bool:
        """Forget some repeats and rejections whose time is up. Returns whether there may be more."""
        now_ms = self._now_ms()
        more = self._repeats.forget_lapsed(now_ms, FORGET_AT_ONCE * 10)
        oldest = self._execute("SELECT id, at_ms FROM repeats ORDER BY id LIMIT ?", (FORGET_AT_ONCE,)).fetchall()
        lapsed = [number for number, at_ms in oldest if at_ms <= now_ms - int(self._dedup_window_s * 1000)]
        if lapsed:
            self._execute("DELETE FROM repeats WHERE id <= ?", (max(lapsed),))
        gone = self._execute(
            "DELETE FROM rejections WHERE name IN (SELECT name FROM rejections WHERE at_ms <= ? LIMIT ?)",
            (now_ms - int(self._remember_s * 1000), FORGET_AT_ONCE),
        ).rowcount
        return more or FORGET_AT_ONCE in (len(lapsed), gone)

    def tidy(self) -> bool:
        """Outside a transaction: empty the write-ahead log, and give back disk space that is not needed.

        With that nothing of a deleted row is left in any file. Returns whether there is more space to give back.
        """
        free = self._execute("PRAGMA freelist_count").fetchone()[0]
        if free > KEEP_FREE_PAGES:
            self.database.connection.executescript(f"PRAGMA incremental_vacuum({SHRINK_PAGES})")
        self.checkpoint()
        return bool(free - SHRINK_PAGES > KEEP_FREE_PAGES)

    def checkpoint(self) -> None:
        """Empty the write-ahead log."""
        self._execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # --- at the start

    def load_repeats(self) -> None:
        """Read the fingerprints of the window."""
        since_ms = self._now_ms() - int(self._dedup_window_s * 1000)
        for at_ms, joined in self._execute("SELECT at_ms, fingerprints FROM repeats ORDER BY id"):
            released = len(joined) % HASH_BYTES == len(RELEASED)
            for start in range(len(RELEASED) if released else 0, len(joined), HASH_BYTES):
                fingerprint = joined[start : start + HASH_BYTES]
                if released:
                    self._repeats.unload(fingerprint)
                elif at_ms > since_ms:
                    self._repeats.load(fingerprint, at_ms)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _portions(rows: Sequence[T]) -> Iterable[Sequence[T]]:
    """The rows in pieces whose sizes are powers of two, the largest first."""
    start = 0
    while left := len(rows) - start:
        count = min(1 << (left.bit_length() - 1), STATEMENT_ROWS)
        yield rows[start : start + count]
        start += count


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
    return f"DELETE FROM deliveries WHERE id IN ({','.join('?' * rows)})"  # noqa: S608 - no input


@cache
def _read(rows: int) -> str:
    return f"SELECT id, attempt, accepted_ms, payload FROM deliveries WHERE id IN ({','.join('?' * rows)})"  # noqa: S608 - no input
