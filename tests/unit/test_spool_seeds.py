"""Seeds by row id, through transactions that are kept and that are undone, held against a dictionary."""

from __future__ import annotations

import random
import secrets
import sqlite3
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushgate.spool.cipher import SEED_BYTES
from pushgate.spool.seeds import CHUNK_ROWS, CHUNKS_KEPT, VALUE_BYTES, Seeds, without

NO_SEED = bytes(SEED_BYTES)


class Tables:
    """Rows and their seeds, in memory, and what should be in them."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute("CREATE TABLE deliveries (id INTEGER PRIMARY KEY)")
        self.connection.execute("CREATE TABLE seeds (chunk INTEGER PRIMARY KEY, value BLOB NOT NULL)")
        self.statements: list[str] = []
        self.wanted: dict[int, bytes] = {}
        self.next_id = 1
        self.open()

    def open(self) -> None:
        self.seeds = Seeds(self._execute)
        self.next_id = max(self.wanted, default=0) + 1

    def put(self, count: int) -> None:
        new = {self.next_id + n: secrets.token_bytes(SEED_BYTES) for n in range(count)}
        self.seeds.put(self.next_id, b"".join(new.values()))
        self.connection.executemany("INSERT INTO deliveries VALUES (?)", [(number,) for number in new])
        self.wanted |= new
        self.next_id += count

    def erase(self, ids: list[int]) -> None:
        self.seeds.erase(ids)
        self.connection.executemany("DELETE FROM deliveries WHERE id = ?", [(number,) for number in ids])
        for number in ids:
            del self.wanted[number]

    def transact(self, work: Callable[[], object], *, is_kept: bool = True) -> None:
        before = dict(self.wanted)
        self.connection.execute("BEGIN")
        work()
        self.seeds.write()
        if is_kept:
            self.connection.execute("COMMIT")
            self.seeds.keep()
        else:
            self.connection.execute("ROLLBACK")
            self.seeds.drop()
            self.wanted = before

    def chunks(self) -> dict[int, bytes]:
        return dict(self.connection.execute("SELECT chunk, value FROM seeds"))

    def check(self) -> None:
        """Every row has its seed, and there is nothing else."""
        assert self.seeds.read(list(self.wanted)) == list(self.wanted.values())
        stored = b"".join(self.chunks().values())
        assert all(stored.count(seed) == 1 for seed in self.wanted.values())
        used = sum(any(self.seeds.read([number])[0]) for number in range(self.next_id + CHUNK_ROWS))
        assert used == len(self.wanted)
        assert {len(value) for value in self.chunks().values()} <= {VALUE_BYTES}

    def _execute(self, sql: str, *values: tuple[object, ...]) -> sqlite3.Cursor:
        self.statements.append(sql.split()[0])
        return self.connection.execute(sql, *values)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 700), st.floats(0, 1), st.booleans(), st.booleans()), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_every_row_keeps_its_seed_until_it_ends_whatever_is_undone(
    turns: list[tuple[int, float, bool, bool]], chance: random.Random
) -> None:
    tables = Tables()
    for count, share, is_kept, is_opened_anew in turns:
        ending = [number for number in tables.wanted if chance.random() < share]

        def work(count: int = count, ending: list[int] = ending) -> None:
            tables.put(count)
            tables.erase(ending)

        tables.transact(work, is_kept=is_kept)
        tables.check()
        if is_opened_anew:
            tables.open()
            tables.check()


def test_a_chunk_without_a_seed_goes_and_the_newest_stays() -> None:
    tables = Tables()
    tables.transact(lambda: tables.put(3 * CHUNK_ROWS))
    assert set(tables.chunks()) == {0, 1, 2, 3}
    tables.transact(lambda: tables.erase(list(range(CHUNK_ROWS, 2 * CHUNK_ROWS))))
    assert set(tables.chunks()) == {0, 2, 3}
    tables.transact(lambda: tables.erase(list(tables.wanted)))
    assert set(tables.chunks()) == {3}
    assert not any(tables.chunks()[3])
    tables.next_id = 5 * CHUNK_ROWS
    tables.transact(lambda: tables.put(1))
    assert set(tables.chunks()) == {5}, "the one that was the newest is empty, and so it goes"


def test_what_lies_beyond_the_last_row_is_erased_at_the_start_and_ids_begin_anew() -> None:
    tables = Tables()
    tables.transact(lambda: tables.put(4 * CHUNK_ROWS))
    tables.transact(lambda: tables.erase(list(range(100, 4 * CHUNK_ROWS + 1))))
    assert set(tables.chunks()) == {0, 4}
    tables.open()
    assert set(tables.chunks()) == {0}
    tables.transact(lambda: tables.put(CHUNK_ROWS))
    tables.check()


def test_few_statements_do_for_many_rows() -> None:
    tables = Tables()
    tables.transact(lambda: tables.put(50))
    tables.statements.clear()

    def one_by_one() -> None:
        for _ in range(30):
            tables.put(1)

    for _ in range(10):
        tables.transact(one_by_one)
    assert tables.statements == ["INSERT"] * 10
    tables.statements.clear()
    tables.transact(lambda: tables.erase(list(range(1, 200))))
    tables.seeds.read(range(200, 300))
    assert tables.statements == ["INSERT"]


def test_memory_holds_no_more_than_some_chunks_from_one_transaction_to_the_next() -> None:
    tables = Tables()
    tables.transact(lambda: tables.put(CHUNKS_KEPT * CHUNK_ROWS))
    assert not tables.seeds._chunks
    tables.statements.clear()
    assert tables.seeds.read([1, CHUNK_ROWS]) == [tables.wanted[1], tables.wanted[CHUNK_ROWS]]
    assert tables.statements == ["SELECT"]


@pytest.mark.parametrize("positions", [set(), {0}, {1, 3}, {0, 1, 2, 3}])
def test_those_of_repeats_are_left_out(positions: set[int]) -> None:
    seeds = [secrets.token_bytes(SEED_BYTES) for _ in range(4)]
    wanted = [NO_SEED if n in positions else seed for n, seed in enumerate(seeds)]
    assert without(b"".join(seeds), positions) == b"".join(wanted)
