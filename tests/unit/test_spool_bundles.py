"""Bundles through transactions that are kept, undone or cut off, held against a set of what waits."""

from __future__ import annotations

import random
import secrets
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pushgate.model import Delivery, Device, PlainNotification
from pushgate.spool import envelope
from pushgate.spool.bundles import Bundles, unpack
from pushgate.spool.cipher import NO_KEYS, SEED_BYTES, Cipher
from pushgate.spool.database import _TABLES, Database
from pushgate.spool.lane import Lane, Row

CIPHER = Cipher(NO_KEYS)
LANE = cast(Lane, SimpleNamespace(name="lane"))
NOW_MS = 1_000_000
KEPT_MS = 60_000


class Marked:
    """Seeds that can be found in a database."""

    def __init__(self) -> None:
        self.given: list[bytes] = []

    def __call__(self, size: int) -> bytes:
        self.given.append(b"SEED" + secrets.token_bytes(size - 4))
        return self.given[-1]


class Bench:
    """Bundles over a database in memory, and the ids that wait."""

    def __init__(self) -> None:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        for table in _TABLES:
            connection.execute(table)
        self.database = Database(Path("memory"), connection)
        self.seeds = Marked()
        self.waiting: set[int] = set()
        self.next_id = 1
        self.start()

    def start(self, now_ms: int = NOW_MS) -> None:
        """As a new process would."""
        unpack(self.database, CIPHER, now_ms=now_ms, due_ms=7, entropy=self.seeds)
        self.bundles = Bundles(self.database.execute, cipher=CIPHER, entropy=self.seeds, clock_ms=lambda: 5)

    def put(self, count: int) -> None:
        rows = [self.row(self.next_id + n) for n in range(count)]
        self.next_id += count + 1  # one that was a repeat
        self.bundles.put(rows, [envelope.encode(row.delivery) for row in rows])
        self.waiting |= {row.id for row in rows}

    def row(self, number: int) -> Row:
        device = Device("lane", f"KEY-{number}")
        delivery = Delivery(
            id=str(number),
            device=device,
            notification=PlainNotification(devices=(device,)),
            accepted_at=NOW_MS / 1000,
            expires_at=(NOW_MS + KEPT_MS) / 1000,
        )
        return Row(LANE, number, delivery, accepted_ms=NOW_MS, attempt=1, size=1)

    def end(self, ids: list[int]) -> None:
        assert not self.bundles.end(ids)
        self.waiting -= {*ids}

    def commit(self) -> None:
        self.database.execute("BEGIN")
        self.bundles.write()
        self.database.execute("COMMIT")
        self.bundles.keep()

    def count(self, table: str) -> int:
        return int(self.database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def seeds_left(self) -> int:
        values = self.database.execute("SELECT value FROM bundle_seeds UNION ALL SELECT value FROM seeds")
        return sum(value.count(b"SEED") for (value,) in values)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_bundle_goes_when_the_last_of_it_has_ended(bench: Bench) -> None:
    bench.put(3)
    bench.commit()
    assert (bench.count("bundles"), bench.count("deliveries"), bench.seeds_left(), len(bench.bundles)) == (1, 0, 1, 3)
    bench.end([1, 3])
    bench.commit()
    assert (bench.count("bundles"), bench.count("ends"), bench.seeds_left()) == (1, 1, 1)
    assert [number in bench.bundles for number in (1, 2, 3)] == [False, True, False]
    bench.end([2])
    bench.commit()
    assert (bench.count("bundles"), bench.count("ends"), bench.seeds_left(), len(bench.bundles)) == (0, 0, 0, 0)


def test_what_is_taken_out_is_ended_elsewhere_in_the_same_transaction(bench: Bench) -> None:
    bench.put(2)
    bench.commit()
    assert [(row.id, due_ms) for row, due_ms in bench.bundles.take_out([1, 99])] == [(1, 5)]
    assert bench.bundles.end([1, 2, 99]) == [1, 99], "neither stands in a bundle any more"
    assert bench.bundles.take_out_oldest(9) == []
    bench.commit()
    assert bench.count("bundles") == 0


def test_what_a_start_finds_gets_rows_of_its_own(bench: Bench) -> None:
    bench.put(3)
    bench.put(2)
    bench.commit()
    bench.end([2])
    bench.commit()
    bench.start()
    rows = bench.database.execute("SELECT id, lane, due_ms, attempt FROM deliveries").fetchall()
    assert rows == [(number, "lane", 7, 1) for number in sorted(bench.waiting)]
    assert (bench.count("bundles"), bench.count("ends"), bench.seeds_left()) == (0, 0, len(bench.waiting))
    bench.start()
    assert bench.count("deliveries") == len(bench.waiting), "a second start finds nothing more"


@pytest.mark.parametrize("damage", ["UPDATE bundles SET payload = zeroblob(40)", "DELETE FROM bundle_seeds"])
def test_one_that_cannot_be_read_is_kept_until_its_time_is_up(bench: Bench, damage: str) -> None:
    bench.put(2)
    bench.commit()
    bench.database.execute(damage)
    with capture_logs() as logs:
        bench.start()
    assert logs == [{"event": "spool bundle cannot be read, kept until its time is up", "row": 1, "log_level": "error"}]
    assert (bench.count("bundles"), bench.count("deliveries")) == (1, 0)
    bench.put(1)
    bench.commit()
    assert bench.count("bundles") == 2, "its number is not given again"
    bench.start(NOW_MS + KEPT_MS)
    assert (bench.count("bundles"), bench.count("deliveries"), bench.seeds_left()) == (0, 1, 1), "the second is fine"


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "end", "take out", "undo", "crash"]), st.integers(1, 40)), max_size=25
)


@settings(deadline=None, max_examples=150)
@given(steps=STEPS, chance=st.randoms(use_true_random=False))
def test_nothing_is_lost_and_nothing_comes_back(steps: list[tuple[str, int]], chance: random.Random) -> None:
    bench = Bench()
    for kind, count in steps:
        bundled = [number for number in sorted(bench.waiting) if number in bench.bundles]
        some = chance.sample(bundled, min(count, len(bundled)))
        match kind:
            case "put":
                bench.put(count)
                bench.commit()
            case "end":
                bench.end(some)
                bench.commit()
            case "take out":
                bench.waiting -= {row.id for row, _ in bench.bundles.take_out(some)}
                bench.commit()
            case "undo":
                before = set(bench.waiting)
                bench.end(some)
                bench.put(count)
                bench.database.execute("BEGIN")
                bench.bundles.write()
                bench.database.execute("ROLLBACK")
                bench.bundles.drop()
                bench.waiting = before
            case _:
                rows = {number for (number,) in bench.database.execute("SELECT id FROM deliveries")}
                bench.start()
                found = {number for (number,) in bench.database.execute("SELECT id FROM deliveries")} - rows
                assert found == bench.waiting
                bench.waiting = set()
        assert len(bench.bundles) == len(bench.waiting)
        seeds = bench.count("bundles") + bench.count("deliveries")
        assert (bench.seeds_left(), len(bench.seeds.given[0]) if bench.seeds.given else SEED_BYTES) == (
            seeds,
            SEED_BYTES,
        )
