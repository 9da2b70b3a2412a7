"""Bundles: what one transaction puts, as one value, sealed together by a key of its own.

Most deliveries end within moments, and a row of its own for each is dear: three pages of tables and indexes when it
comes, and again when it goes. So a transaction writes all that it puts as one bundle. Beside it stands which of its
deliveries have ended, and when all of them have, it is deleted and its seed overwritten. What stays longer gets a row
of its own in the table of deliveries (`Store.settle`), as does everything that a start finds in bundles (`unpack`).

To the event loop a delivery in a bundle is a row like every other.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from itertools import islice
from sqlite3 import Cursor

import msgspec
import structlog

from pushgate.model import Delivery
from pushgate.spool import envelope
from pushgate.spool.cipher import SEED_BYTES, Cipher
from pushgate.spool.database import Database
from pushgate.spool.lane import Row
from pushgate.spool.portions import marks, portions, run
from pushgate.spool.rows import INSERT_ROW, values_of
from pushgate.spool.seeds import Seeds

log = structlog.get_logger(__name__)

UNPACK_AT_ONCE = 1000
"""In one transaction, where no bundle has more."""
_LANE = ""
"""No app_id: a bundle may hold deliveries of many."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[int, bytes]]).decode


class Bundle:
    """A bundle on disk, and the rows in it that have not ended."""

    __slots__ = ("due_ms", "ended", "first", "number", "rows", "size")

    def __init__(self, number: int, rows: Sequence[Row], *, due_ms: int, size: int) -> None:
        self.number = number
        self.rows = {row.id: row for row in rows}
        self.first = rows[0].id
        self.ended = bytearray(rows[-1].id - self.first + 1)
        """For each id from `first` on: 1 where it has ended, or has a row of its own."""
        self.due_ms = due_ms
        self.size = size
        """Bytes on disk."""

    def marked(self, ended: Iterable[int]) -> bytearray:
        """Which will have ended, with these."""
        marked = bytearray(self.ended)
        for number in ended:
            marked[number - self.first] = 1
        return marked

    def end(self, ended: Collection[int], marked: bytearray) -> None:
        """These have; `marked` as they make it, where some are left."""
        if len(ended) == len(self.rows):
            self.rows.clear()
            return
        self.ended = marked
        for number in ended:
            del self.rows[number]


class Bundles:
    """All bundles, as the writing thread sees them. Changes are in memory until `write`."""

    def __init__(
        self,
        execute: Callable[..., Cursor],
        *,
        cipher: Cipher,
        entropy: Callable[[int], bytes],
        clock_ms: Callable[[], int],
    ) -> None:
        """After `unpack`. `entropy` gives random bytes, `clock_ms` says when what is put now is due."""
        self._execute = execute
        self._cipher = cipher
        self._entropy = entropy
        self._clock_ms = clock_ms
        self._seeds = seeds_of_bundles(execute)
        self._next = execute("SELECT ifnull(max(id), 0) FROM bundles").fetchone()[0] + 1
        self._of: dict[int, Bundle] = {}
        """By row id: the rows that are in a bundle."""
        self.bytes = 0
        """Of all of them, on disk."""
        self._rows: list[Row] = []
        self._payloads: list[bytes] = []
        self._written: Bundle | None = None
        self._ended: dict[int, None] = {}
        """The ids of rows that this transaction takes out of their bundles."""
        self._ending: dict[Bundle, list[int]] = {}
        self._marked: dict[Bundle, bytearray] = {}
        """The same by bundle, when it is written: ids, and which have ended with these, where some are left."""

    def __len__(self) -> int:
        """How many rows are in bundles."""
        return len(self._of)

    def __contains__(self, number: int) -> bool:
        """Whether the row of this id is in a bundle."""
        return self._bundle_of(number) is not None

    def _bundle_of(self, number: int) -> Bundle | None:
        return None if number in self._ended else self._of.get(number)

    def put(self, rows: Sequence[Row], payloads: Sequence[bytes]) -> None:
        """Rows that are new, with their envelopes, in the order of their ids."""
        self._rows += rows
        self._payloads += payloads

    def end(self, ids: Collection[int]) -> Collection[int]:
        """Rows end. Returns the ids of those that are in no bundle."""
        of, ended = self._of, self._ended
        bundled = [number for number in ids if number in of and number not in ended]
        rest = () if len(bundled) == len(ids) else [number for number in ids if number not in of or number in ended]
        ended.update(dict.fromkeys(bundled))
        return rest

    def take_out(self, ids: Iterable[int]) -> list[tuple[Row, int]]:
        """Rows that are to stand by themselves, each with when it was due. Those that are in no bundle are left out."""
        taken = [
            (bundle.rows[number], bundle.due_ms) for number in ids if (bundle := self._bundle_of(number)) is not None
        ]
        self._ended.update((row.id, None) for row, _ in taken)
        return taken

    def take_out_oldest(self, limit: int) -> list[tuple[Row, int]]:
        """So many rows that are in bundles, at most, in the order in which they came."""
        return self.take_out([*islice((number for number in self._of if number not in self._ended), limit)])

    def write(self) -> None:
        """Write what was changed: what is gone first, for its pages are used again by what is new."""
        if not (self._rows or self._ended):
            return
        of, ending = self._of, defaultdict[Bundle, list[int]](list)
        for number in self._ended:
            ending[of[number]].append(number)
        self._ending = ending
        self._marked = {each: each.marked(ended) for each, ended in ending.items() if len(ended) < len(each.rows)}
        self._delete([bundle.number for bundle in ending if bundle not in self._marked])
        run(self._execute, _write_ends, [(bundle.number, marked) for bundle, marked in self._marked.items()])
        self._write_new()
        self._seeds.write()

    def _delete(self, numbers: Sequence[int]) -> None:
        for some in portions(numbers):
            self._execute(_delete_bundles(len(some)), some)
            self._execute(_delete_ends(len(some)), some)
        self._seeds.erase(numbers)

    def _write_new(self) -> None:
        if not self._rows:
            return
        seed = self._entropy(SEED_BYTES)
        content = _encode([(row.id, payload) for row, payload in zip(self._rows, self._payloads, strict=True)])
        expires_ms = math.ceil(max([row.delivery.expires_at for row in self._rows]) * 1000)
        sealed = self._cipher.seal(_LANE, content, seed)
        self._seeds.put(self._next, seed)
        self._execute("INSERT INTO bundles VALUES (?,?,?)", (self._next, expires_ms, sealed))
        self._written = Bundle(self._next, self._rows, due_ms=self._clock_ms(), size=len(sealed))

    def keep(self) -> None:
        """What was written is durable."""
        for number in self._ended:
            del self._of[number]
        for bundle, ended in self._ending.items():
            bundle.end(ended, self._marked.get(bundle, bundle.ended))
            if not bundle.rows:
                self.bytes -= bundle.size
        if self._written is not None:
            self._of.update(dict.fromkeys(self._written.rows, self._written))
            self.bytes += self._written.size
            self._next += 1
        self._seeds.keep()
        self._clear()

    def drop(self) -> None:
        """What was changed is undone."""
        self._seeds.drop()
        self._clear()

    def _clear(self) -> None:
        self._rows, self._payloads, self._ended, self._ending, self._marked = [], [], {}, {}, {}
        self._written = None


def unpack(database: Database, cipher: Cipher, *, now_ms: int, due_ms: int, entropy: Callable[[int], bytes]) -> None:
    """At a start: give every delivery that an earlier run left in a bundle a row of its own, due then.

    A bundle that cannot be read is kept until the time of all in it is up.
    """
    execute = database.execute
    found = execute("SELECT id FROM bundles ORDER BY id").fetchall()
    left = deque(number for (number,) in found)
    seeds, row_seeds = seeds_of_bundles(execute), Seeds(execute)
    while left:
        with database.transaction():
            unpacked = 0
            while left and unpacked < UNPACK_AT_ONCE:
                number = left.popleft()
                waiting = _waiting(execute, cipher, number, seeds.read((number,))[0], now_ms=now_ms)
                if waiting is None:
                    continue
                unpacked += len(waiting) + 1
                for row, delivery in waiting:
                    seed = entropy(SEED_BYTES)
                    row_seeds.put(row, seed)
                    execute(INSERT_ROW, values_of(row, delivery, cipher, seed, due_ms=due_ms, attempt=1))
                execute("DELETE FROM bundles WHERE id = ?", (number,))
                execute("DELETE FROM ends WHERE bundle = ?", (number,))
                seeds.erase((number,))
            seeds.write()
            row_seeds.write()
        seeds.keep()
        row_seeds.keep()
    if found:
        execute("PRAGMA wal_checkpoint(TRUNCATE)")  # or the old seeds stand in the log for a while


def _waiting(
    execute: Callable[..., Cursor], cipher: Cipher, number: int, seed: bytes, *, now_ms: int
) -> list[tuple[int, Delivery]] | None:
    """What of a bundle has not ended. None where it cannot be read and is to be kept."""
    expires_ms, sealed = execute("SELECT expires_ms, payload FROM bundles WHERE id = ?", (number,)).fetchone()
    try:
        rows = _decode(cipher.open(_LANE, sealed, seed))
        found = execute("SELECT ended FROM ends WHERE bundle = ?", (number,)).fetchone()
        ended = {rows[0][0] + place for place, is_over in enumerate(found[0] if found else b"") if is_over}
        return [(row, envelope.decode(payload)) for row, payload in rows if row not in ended]
    except (envelope.Unreadable, msgspec.MsgspecError):
        if expires_ms <= now_ms:
            return []
        log.error("spool bundle cannot be read, kept until its time is up", row=number)
        return None


def seeds_of_bundles(execute: Callable[..., Cursor]) -> Seeds:
    """They stand apart from those of rows."""
    return Seeds(execute, table="bundle_seeds", of="bundles")


@cache
def _delete_bundles(count: int) -> str:
    return f"DELETE FROM bundles WHERE id IN ({marks(count)})"  # noqa: S608 - no input


@cache
def _delete_ends(count: int) -> str:
    return f"DELETE FROM ends WHERE bundle IN ({marks(count)})"  # noqa: S608 - no input


@cache
def _write_ends(count: int) -> str:
    return "INSERT OR REPLACE INTO ends VALUES " + ",".join(["(?,?)"] * count)  # noqa: S608 - no input
