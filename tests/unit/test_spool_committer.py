"""committer: what arrives during a commit shares the next one, and one that fails takes nobody with it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from pushgate.errors import SpoolFull, SpoolUnavailable
from pushgate.spool import committer
from pushgate.spool.committer import GROUP_BYTES, Committer, Job
from pushgate.spool.store import Store


class Journal:
    """A store that writes down what the thread does with it. `commit` waits while the gate is shut."""

    def __init__(self) -> None:
        self.transactions: list[list[str]] = []
        self.rolled_back: list[list[str]] = []
        self.tidied = threading.Event()
        self.more_to_tidy = 0
        self.tidy_fault: sqlite3.Error | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.refuse: Callable[[list[str]], bool] = lambda _: False
        self.checkpoint_makes_room = False
        self.lost = False
        self.database = SimpleNamespace(path=Path("spool.db"), check_files=self._check_files, close=self._close)
        self._current: list[str] = []

    def begin(self) -> None:
        self._current = []

    def write(self, what: str) -> str:
        self._current.append(what)
        return what.upper()

    def commit(self) -> None:
        self.entered.set()
        assert self.gate.wait(5)
        if self.refuse(self._current):
            raise sqlite3.OperationalError("database or disk is full")
        self.transactions.append(self._current)

    def rollback(self) -> None:
        self.rolled_back.append(self._current)

    def checkpoint(self) -> None:
        if not self.checkpoint_makes_room:
            raise sqlite3.OperationalError("no room for that either")
        self.refuse = lambda _: False

    def tidy(self) -> bool:
        self.more_to_tidy -= 1
        if self.more_to_tidy <= 0:
            self.tidied.set()
        if self.tidy_fault is not None:
            raise self.tidy_fault
        return self.more_to_tidy > 0

    def _check_files(self) -> None:
        if self.lost:
            raise SpoolUnavailable("spool.db was removed")

    def _close(self) -> None:
        raise sqlite3.OperationalError("a fault at the very end")


class Bench:
    """A committer with its journal."""

    def __init__(self, *, idle_s: float = 60, tidy_every_s: float = 60, is_behind: bool = False) -> None:
        self.journal = Journal()
        self.committer = Committer(
            cast(Store, self.journal), idle_s=idle_s, tidy_every_s=tidy_every_s, is_behind=lambda: is_behind
        )

    def write(self, what: str, **more: Any) -> asyncio.Future[str]:
        return self.committer.perform(lambda store: cast(Journal, store).write(what), **more)

    async def until(self, event: threading.Event) -> None:
        assert await asyncio.to_thread(event.wait, 5)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.journal.gate.set()
    await bench.committer.close()


async def test_what_arrives_during_a_commit_shares_the_next_one(bench: Bench) -> None:
    bench.journal.gate.clear()
    first = bench.write("a")
    await bench.until(bench.journal.entered)
    rest = [bench.write(each) for each in "bcde"]
    bench.journal.gate.set()
    assert await asyncio.gather(first, *rest) == list("ABCDE")
    assert bench.journal.transactions == [["a"], ["b", "c", "d", "e"]]
    assert bench.committer.commits == 2


@pytest.mark.parametrize(
    ("is_behind", "transactions"), [(True, [["a"], ["b", "c"]]), (False, [["a"], ["b"], ["c"]])], ids=str
)
async def test_where_plenty_waits_to_be_sent_a_commit_waits_for_more(
    is_behind: bool, transactions: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "GATHER_BEHIND_S", 5.0)
    monkeypatch.setattr(committer, "LULL_BEHIND_S", 0.5)
    bench = Bench(is_behind=is_behind)
    await bench.write("a")
    before = bench.write("b")
    await asyncio.sleep(0.1)
    assert before.done() is not is_behind
    await asyncio.gather(before, bench.write("c"))
    assert bench.journal.transactions == transactions
    await bench.committer.close()


async def test_a_job_that_is_refused_takes_nobody_with_it(bench: Bench) -> None:
    bench.journal.gate.clear()
    first = bench.write("a")
    await bench.until(bench.journal.entered)
    full, told = SpoolFull("no room"), list[Exception]()
    before, after = bench.write("b"), bench.write("c")
    refused: asyncio.Future[str] = bench.committer.perform(lambda _: full, failed=told.append)
    bench.journal.gate.set()
    assert [await first, await before, await after] == ["A", "B", "C"]
    with pytest.raises(SpoolFull):
        await refused
    assert told == [full]
    assert bench.journal.transactions == [["a"], ["b", "c"]]
    assert bench.journal.rolled_back == []


async def test_nobody_is_told_before_the_commit_is_through(bench: Bench) -> None:
    bench.journal.gate.clear()
    told: list[str] = []
    first = bench.write("a", done=told.append)
    await bench.until(bench.journal.entered)
    assert not first.done()
    assert told == []
    bench.journal.gate.set()
    assert await first == "A"
    assert told == ["A"]


async def test_a_group_is_bounded(bench: Bench) -> None:
    bench.journal.gate.clear()
    futures = [bench.write("a")]
    await bench.until(bench.journal.entered)
    futures += [bench.write(each, size=GROUP_BYTES // 2) for each in "bcde"]
    bench.journal.gate.set()
    await asyncio.gather(*futures)
    assert bench.journal.transactions == [["a"], ["b", "c"], ["d", "e"]]


async def test_one_that_fails_does_not_take_the_others_with_it(bench: Bench) -> None:
    bench.journal.refuse = lambda group: "c" in group
    bench.journal.gate.clear()
    futures = [bench.write("a")]
    await bench.until(bench.journal.entered)
    faults: list[Exception] = []
    futures += [bench.write(each, failed=faults.append) for each in "bcd"]
    bench.journal.gate.set()
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [results[0], results[1], results[3]] == ["A", "B", "D"]
    assert isinstance(results[2], SpoolUnavailable)
    assert faults == [results[2]]
    assert bench.journal.transactions == [["a"], ["b"], ["d"]]
    assert bench.journal.rolled_back == [["b", "c", "d"], ["c"]]


async def test_where_a_checkpoint_makes_room_nobody_notices(bench: Bench) -> None:
    bench.journal.refuse = lambda _: True
    bench.journal.checkpoint_makes_room = True
    assert list(await asyncio.gather(bench.write("a"), bench.write("b"))) == ["A", "B"]


async def test_a_bug_reaches_the_one_who_asked_and_nobody_else(bench: Bench) -> None:
    def bug(_: Store) -> None:
        raise ZeroDivisionError

    async with asyncio.timeout(5):
        results = await asyncio.gather(bench.write("a"), bench.committer.perform(bug), return_exceptions=True)
    assert results[0] == "A"
    assert isinstance(results[1], ZeroDivisionError)


async def test_who_was_cancelled_is_settled_all_the_same(bench: Bench) -> None:
    bench.journal.refuse = lambda group: "b" in group
    settled: list[object] = []
    futures = [bench.write("a", done=settled.append), bench.write("b", failed=settled.append)]
    for future in futures:
        future.cancel()
    await bench.write("c")
    assert settled[0] == "A"
    assert isinstance(settled[1], SpoolUnavailable)


async def test_a_bug_in_the_bookkeeping_of_one_keeps_nobody_waiting(bench: Bench) -> None:
    def bug(_: object) -> None:
        raise ZeroDivisionError

    bench.journal.refuse = lambda group: "b" in group
    bench.journal.gate.clear()
    futures = [bench.write("x")]
    await bench.until(bench.journal.entered)
    futures += [bench.write("a", done=bug), bench.write("b", failed=bug), bench.write("c")]
    bench.journal.gate.set()
    with capture_logs() as logs:
        async with asyncio.timeout(5):
            results = await asyncio.gather(*futures, return_exceptions=True)
    assert [results[0], results[1], results[3]] == ["X", "A", "C"]
    assert isinstance(results[2], SpoolUnavailable)
    assert logs == [{"event": "spool lost count", "fault": "ZeroDivisionError", "log_level": "error"}] * 2


async def test_after_the_file_is_lost_nothing_is_written_any_more(bench: Bench) -> None:
    bench.journal.lost = True
    for each in "ab":
        with pytest.raises(SpoolUnavailable, match="removed"):
            await bench.write(each)
    assert bench.journal.transactions == [["a"]]


async def test_a_job_may_have_nobody_waiting(bench: Bench) -> None:
    bench.journal.refuse = lambda group: "b" in group
    for each in "ab":
        bench.committer.submit(Job(lambda store, each=each: cast(Journal, store).write(each)))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    assert await bench.write("c") == "C"


async def test_closing_finishes_what_was_begun_and_refuses_the_rest(bench: Bench) -> None:
    futures = [bench.write(each) for each in "abc"]
    await bench.committer.close()
    assert [future.result() for future in futures] == ["A", "B", "C"]
    with pytest.raises(SpoolUnavailable, match="closed"):
        bench.write("d")
    await bench.committer.close()


async def test_it_tidies_when_idle_until_there_is_nothing_left_to_do() -> None:
    bench = Bench(idle_s=0.001)
    bench.journal.more_to_tidy = 3
    await bench.write("a")
    await bench.until(bench.journal.tidied)
    assert bench.journal.more_to_tidy == 0
    await bench.committer.close()


async def test_under_load_it_tidies_at_an_interval_and_a_fault_of_that_stops_nothing() -> None:
    bench = Bench(idle_s=60, tidy_every_s=0)
    bench.journal.tidy_fault = sqlite3.OperationalError("disk I/O error")
    for each in "ab":
        bench.journal.tidied.clear()
        assert await bench.write(each) == each.upper()
        await bench.until(bench.journal.tidied)
    await bench.committer.close()


def test_a_thread_whose_event_loop_is_gone_ends_quietly() -> None:
    async def abandon() -> Bench:
        bench = Bench()
        await bench.write("a")
        return bench

    bench = asyncio.run(abandon())
    bench.committer._inbox.put(None)
    bench.committer._thread.join(5)
    assert not bench.committer._thread.is_alive()
