"""What opens the rows of a file: a seed for each, in a place of its own that is overwritten where it stands.

SQLite moves rows between pages and does not overwrite each place where one stood, `secure_delete` or not. So what has
ended cannot be erased by deleting its row alone. Its seed can: the seeds of 511 rows are one value, and that value lies
in a page of its own, an overflow page, which SQLite writes anew in its place and fills with zeros when it is freed.

File format (sqlite.org/fileformat2.html, "B-tree Cell Format", with U = 8192): of a record that does not fit, the leaf
page keeps at least M bytes, and exactly M where the rest fills its overflow pages. Leaf pages are what SQLite rebuilds,
so those bytes of the value are unused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache, partial
from sqlite3 import Cursor

from pushgate.spool.cipher import SEED_BYTES
from pushgate.spool.database import PAGE_BYTES
from pushgate.spool.portions import marks, portions, run

RECORD_HEADER_BYTES = 5
"""Its own length (1), the type of the chunk's number, which is the row id (1), and the type of the value (3)."""
IN_LEAF_BYTES = (PAGE_BYTES - 12) * 32 // 255 - 23 - RECORD_HEADER_BYTES
OVERFLOW_BYTES = PAGE_BYTES - 4
VALUE_BYTES = IN_LEAF_BYTES + OVERFLOW_BYTES
CHUNK_ROWS = OVERFLOW_BYTES // SEED_BYTES
FIRST_AT = VALUE_BYTES - CHUNK_ROWS * SEED_BYTES
CHUNKS_KEPT = 64
"""In memory, from one transaction to the next: 600 KB."""

_NO_SEED = bytes(SEED_BYTES)
_NO_SEEDS = bytes(VALUE_BYTES)


class Seeds:
    """By row id. Changes are in memory until `write`."""

    def __init__(self, execute: Callable[..., Cursor], *, table: str = "seeds", of: str = "deliveries") -> None:
        """Finds how far the ids of rows go, and erases what is beyond: ids begin there.

        `table` is where seeds stand, `of` is the table of what they open.
        """
        self._execute = execute
        self._table = table
        self._chunks: dict[int, bytearray] = {}
        self._changed: set[int] = set()
        self._runs: list[_Run] = []
        last_id = execute(f"SELECT ifnull(max(id), 0) FROM {of}").fetchone()[0]  # noqa: S608 - no input
        self._newest = _chunk_of(last_id)
        execute(f"DELETE FROM {table} WHERE chunk > ?", (self._newest,))  # noqa: S608 - no input

    def put(self, first: int, seeds: bytes) -> None:
        """The seeds of new rows, joined, whose ids follow one another from `first` on. Zeros where there is no row."""
        if self._runs and self._runs[-1].end == first:
            self._runs[-1].seeds += seeds
        else:
            self._runs.append(_Run(first, bytearray(seeds)))

    def erase(self, ids: Collection[int]) -> None:
        """Overwrite the seeds of rows that end."""
        self._place_runs()
        chunks = self._to_change({_chunk_of(number) for number in ids})
        for number in ids:
            start = _place_of(number)
            chunks[_chunk_of(number)][start : start + SEED_BYTES] = _NO_SEED

    def read(self, ids: Collection[int]) -> list[bytes]:
        """The seeds of rows. Zeros for one that has none."""
        self._place_runs()
        self._load({_chunk_of(number) for number in ids})
        places = ((self._chunks[_chunk_of(number)], _place_of(number)) for number in ids)
        return [bytes(chunk[start : start + SEED_BYTES]) for chunk, start in places]

    def write(self) -> None:
        """Write what was changed. A chunk without a seed goes, but for the newest."""
        self._place_runs()
        newest = self._newest_now()
        if newest > self._newest:
            self._to_change([self._newest])
        gone = [chunk for chunk in self._changed if chunk < newest and self._chunks[chunk] == _NO_SEEDS]
        kept = self._changed.difference(gone)
        run(self._execute, partial(_write, self._table), [(chunk, self._chunks[chunk]) for chunk in kept])
        run(self._execute, partial(_erase, self._table), [(chunk,) for chunk in gone])
        for chunk in gone:
            del self._chunks[chunk]

    def keep(self) -> None:
        """What was written is durable."""
        self._newest = self._newest_now()
        self._changed.clear()
        if len(self._chunks) > CHUNKS_KEPT:
            self._chunks.clear()

    def drop(self) -> None:
        """What was changed is undone."""
        self._runs.clear()
        self._changed.clear()
        self._chunks.clear()

    def _place_runs(self) -> None:
        """Each is put where it belongs, chunk by chunk."""
        for each in self._runs:
            number, seeds = each.first, memoryview(each.seeds)
            while seeds:
                chunk, start = _chunk_of(number), _place_of(number)
                some, seeds = seeds[: VALUE_BYTES - start], seeds[VALUE_BYTES - start :]
                self._to_change((chunk,))[chunk][start : start + len(some)] = some
                number += len(some) // SEED_BYTES
        self._runs.clear()

    def _newest_now(self) -> int:
        return max([self._newest, *self._changed])

    def _to_change(self, numbers: Collection[int]) -> dict[int, bytearray]:
        self._load(numbers)
        self._changed.update(numbers)
        return self._chunks

    def _load(self, numbers: Collection[int]) -> None:
        missing = [number for number in numbers if number not in self._chunks]
        for some in portions(missing):
            self._chunks.update((number, bytearray(VALUE_BYTES)) for number in some)
            self._chunks.update(
                (number, bytearray(value)) for number, value in self._execute(_read(self._table, len(some)), some)
            )


class _Run:
    """Seeds of rows whose ids follow one another."""

    def __init__(self, first: int, seeds: bytearray) -> None:
        self.first = first
        self.seeds = seeds

    @property
    def end(self) -> int:
        """The id behind the last."""
        return self.first + len(self.seeds) // SEED_BYTES


def without(seeds: bytes, positions: Collection[int]) -> bytes:
    """Zeros in place of those at these positions."""
    if not positions:
        return seeds
    return b"".join(
        _NO_SEED if start // SEED_BYTES in positions else seeds[start : start + SEED_BYTES]
        for start in range(0, len(seeds), SEED_BYTES)
    )


def _chunk_of(number: int) -> int:
    return number // CHUNK_ROWS


def _place_of(number: int) -> int:
    return FIRST_AT + number % CHUNK_ROWS * SEED_BYTES


@cache
def _write(table: str, rows: int) -> str:
    """In its place where there is one: the size stays the same."""
    values = ",".join(["(?,?)"] * rows)
    return f"INSERT INTO {table} VALUES {values} ON CONFLICT (chunk) DO UPDATE SET value = excluded.value"  # noqa: S608 - no input


@cache
def _erase(table: str, rows: int) -> str:
    return f"DELETE FROM {table} WHERE chunk IN ({marks(rows)})"  # noqa: S608 - no input


@cache
def _read(table: str, rows: int) -> str:
    return f"SELECT chunk, value FROM {table} WHERE chunk IN ({marks(rows)})"  # noqa: S608 - no input
