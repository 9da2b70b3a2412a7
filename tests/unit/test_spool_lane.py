"""lane: who waits gets each row once, whatever is cancelled, and nothing is fetched or timed without need."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from pushgate.errors import SpoolUnavailable
from pushgate.model import Delivery
from pushgate.spool import Lease
from pushgate.spool.lane import LONGEST_NAP_S, NEVER_MS, Lane, Memory, Row, State

NOW_S = 1_760_000_000
NOW_MS = NOW_S * 1000


class Bench:
    """A lane whose fetches are written down, and whose time a test moves."""

    def __init__(self, *, limit_bytes: int = 1000, most_ready: int = 4) -> None:
        self.now_s = float(NOW_S)
        self.fetches = 0
        self.memory = Memory(limit_bytes)
        self.lane = Lane("lane", clock=lambda: self.now_s, fetch=self._fetch, memory=self.memory, most_ready=most_ready)
        self._numbers = iter(range(1000))

    def row(self, size: int = 1) -> Row:
        return Row(self.lane, next(self._numbers), cast(Delivery, None), accepted_ms=NOW_MS, attempt=1, size=size)

    def put(self, count: int = 1) -> list[Row]:
        rows = [self.row() for _ in range(count)]
        assert all(self.promise(row) for row in rows), "there is room for them"
        self.lane.redeem_all(rows)
        self.lane.serve()
        return rows

    def promise(self, row: Row) -> bool:
        """Whether the lane holds it."""
        self.lane.promise(row)
        return row.id in self.lane.held

    def spills(self) -> bool:
        return self.lane.spilling

    async def wait(self, limit: int = 10) -> asyncio.Task[list[Row]]:
        """A task that waits for a lease."""

        async def lease() -> list[Row]:
            return rows_of(await self.lane.lease(limit))

        task = asyncio.create_task(lease())
        await asyncio.sleep(0)
        return task

    def _fetch(self, _: Lane) -> None:
        self.fetches += 1


def rows_of(leases: Sequence[Lease]) -> list[Row]:
    return [cast(Row, lease) for lease in leases]


async def test_a_lease_cancelled_after_it_was_given_goes_back_to_the_front_and_to_the_next() -> None:
    bench = Bench()
    first, second = await bench.wait(2), await bench.wait(10)
    rows = bench.put(2)
    assert {row.state for row in rows} == {State.LEASED}
    bench.put(1)  # for the second
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(await second) == 1
    assert rows_of(await bench.lane.lease(10)) == rows
    assert bench.memory.used_bytes == 0


async def test_what_a_cancelled_one_gives_back_wakes_who_waits() -> None:
    bench = Bench()
    first, second = await bench.wait(), await bench.wait()
    rows = bench.put(2)
    first.cancel()
    await asyncio.wait([first])
    assert await second == rows


async def test_who_was_cancelled_before_is_passed_over() -> None:
    bench = Bench()
    first, second = await bench.wait(), await bench.wait()
    first.cancel()
    rows = bench.put(1)  # before the first has noticed
    assert await second == rows
    assert first.cancelled()


async def test_a_refusal_is_told_to_all_and_does_not_hurt_who_was_cancelled() -> None:
    bench = Bench()
    first, second, third = [await bench.wait() for _ in range(3)]
    first.cancel()
    bench.lane.refuse(SpoolUnavailable("closed"))
    third.cancel()
    results = await asyncio.gather(first, second, third, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, SpoolUnavailable, asyncio.CancelledError]


async def test_nothing_is_fetched_while_a_fetch_is_under_way_or_nothing_is_due() -> None:
    bench = Bench()
    bench.lane.due_at(NOW_MS + 1)
    waiting = await bench.wait()
    assert bench.fetches == 0
    bench.now_s += 0.001
    more = [await bench.wait() for _ in range(3)]
    assert bench.fetches == 1
    bench.lane.fetched([], next_due_ms=NEVER_MS, caught_up=True)
    assert bench.fetches == 1
    bench.lane.due_at(0)
    bench.lane.serve()
    assert bench.fetches == 2
    for task in (waiting, *more):
        task.cancel()


async def test_what_becomes_due_during_a_fetch_is_not_forgotten() -> None:
    bench = Bench()
    bench.lane.due_at(0)
    waiting = await bench.wait()
    bench.lane.due_at(NOW_MS - 5)
    bench.lane.fetched([], next_due_ms=NEVER_MS, caught_up=True)
    assert bench.fetches == 2
    waiting.cancel()


async def test_a_fetch_that_failed_is_told_and_tried_again_by_the_next_lease() -> None:
    bench = Bench()
    bench.lane.due_at(0)
    waiting = await bench.wait()
    bench.lane.fetch_failed(SpoolUnavailable("disk"))
    with pytest.raises(SpoolUnavailable):
        await waiting
    again = await bench.wait()
    assert bench.fetches == 2
    row = bench.row()
    bench.lane.fetched([row], next_due_ms=NEVER_MS, caught_up=True)
    assert await again == [row]


async def test_a_full_lane_spills_until_it_has_caught_up() -> None:
    bench = Bench(most_ready=4)
    bench.put(4)
    assert not bench.spills()
    assert not bench.promise(bench.row())
    assert bench.spills()
    bench.lane.due_at(0)
    assert len(await bench.lane.lease(1)) == 1
    assert bench.fetches == 0, "there is enough in memory"
    assert len(await bench.lane.lease(1)) == 1
    assert bench.fetches == 1
    bench.lane.fetched([bench.row()], next_due_ms=0, caught_up=False)
    assert bench.spills()
    assert not bench.promise(bench.row()), "older ones wait in the store"
    bench.lane.fetched([], next_due_ms=NEVER_MS, caught_up=True)
    assert not bench.spills()
    assert bench.promise(bench.row())


async def test_of_many_those_are_held_that_there_is_room_for() -> None:
    bench = Bench(most_ready=4)
    few, many, none = ([bench.row() for _ in range(count)] for count in (2, 3, 1))
    assert bench.lane.promise_all(few)
    assert not bench.lane.promise_all(many)
    assert [row.id in bench.lane.held for row in (*few, *many)] == [True] * 4 + [False]
    assert bench.lane.spilling
    assert not bench.lane.promise_all(none), "older ones wait in the store"


async def test_due_rows_make_a_lane_with_enough_in_memory_spill_so_that_they_get_their_turn() -> None:
    bench = Bench(most_ready=10)
    bench.put(9)
    bench.lane.due_at(0)
    await bench.lane.lease(1)
    assert (bench.fetches, bench.lane.spilling) == (0, True)
    await bench.lane.lease(3)
    assert bench.fetches == 1


async def test_memory_is_counted_over_everything_that_can_happen_to_a_row() -> None:
    bench = Bench(limit_bytes=100, most_ready=100)
    promised, refused = bench.row(30), bench.row(80)
    assert bench.promise(promised)
    assert bench.promise(refused)
    assert bench.memory.full
    assert not bench.promise(bench.row())
    assert bench.lane.spilling
    bench.lane.redeem(promised, kept=True)
    bench.lane.redeem(refused, kept=False)
    assert (bench.memory.used_bytes, refused.state, list(bench.lane.held)) == (30, State.GONE, [promised.id])
    bench.lane.fetched([bench.row(20)], next_due_ms=NEVER_MS, caught_up=True)
    assert bench.memory.used_bytes == 50
    bench.lane.drop([promised])
    assert bench.memory.used_bytes == 20
    bench.lane.drop_ready()
    assert (bench.memory.used_bytes, bench.lane.held, bench.lane.spilling, bench.lane.next_due_ms) == (0, {}, True, 0)


async def test_an_alarm_rings_when_the_first_row_is_due_and_no_later_than_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alarms: list[tuple[float, asyncio.TimerHandle]] = []
    loop = asyncio.get_running_loop()
    real = loop.call_later
    bench = Bench()

    def call_later(delay: float, callback: object, *args: object) -> asyncio.TimerHandle:
        handle = real(3600, callback, *args)  # type: ignore[arg-type]  # passed on as it came
        alarms.append((delay, handle))
        return handle

    monkeypatch.setattr(loop, "call_later", call_later)
    bench.lane.due_at(NOW_MS + 3_600_000)
    waiting = await bench.wait()
    bench.lane.serve()
    assert [delay for delay, _ in alarms] == [LONGEST_NAP_S], "one alarm, whatever happens meanwhile"
    bench.lane.due_at(NOW_MS + 5000)
    bench.lane.serve()
    assert alarms[0][1].cancelled()
    assert alarms[1][0] == pytest.approx(5.001)
    bench.now_s += 4
    bench.lane._wake()  # too early: the clock and the alarm do not agree
    assert alarms[2][0] == pytest.approx(1.001)
    assert bench.fetches == 0
    bench.now_s += 1
    bench.lane._wake()
    assert bench.fetches == 1
    waiting.cancel()
    await asyncio.wait([waiting])
    bench.lane.fetched([], next_due_ms=NOW_MS + 60_000, caught_up=True)
    bench.lane._wake()
    assert len(alarms) == 3, "nobody waits: no alarm"
    bench.lane.close()
