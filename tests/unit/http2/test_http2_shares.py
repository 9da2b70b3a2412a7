"""The rule of sharing: how much an owner may hold, whose turn it is, and what a turn costs among many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushgate.http2.queue import AwaitedCall, Call, Queue
from pushgate.http2.shares import ALPHA, Share, Shares

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def hog(shares: Shares, owners: list[Share]) -> list[int]:
    """Let these owners take what they may, in turn, and end nothing; what each holds then."""
    while starting := [share for share in owners if shares.held < shares.streams and shares.may_start(share)]:
        for share in starting:
            if shares.held < shares.streams and shares.may_start(share):
                share.begin()
    return [share.held for share in owners]


@pytest.mark.parametrize("streams", [2, 100, 4000])
def test_lone_owner_may_take_everything_until_another_one_is_known(streams: int) -> None:
    shares = Shares()
    shares.streams = streams
    alone = shares.add("alone")
    assert hog(shares, [alone]) == [streams]
    other = shares.add("other")
    alone.end()
    assert not shares.may_start(alone)
    assert shares.may_start(other)
    shares.forget("other")
    assert shares.may_start(alone)
    shares.forget("nobody")


@pytest.mark.parametrize("streams", [100, 400, 1000, 4000])
@pytest.mark.parametrize("hogs", [1, 2, 5, 25])
def test_owners_whose_requests_hang_hold_equal_parts_and_leave_something_free(streams: int, hogs: int) -> None:
    shares = Shares()
    shares.streams = streams
    well = shares.add("well")
    held = hog(shares, [shares.add(number) for number in range(hogs)])
    assert all(abs(one - streams / (hogs + 1 / ALPHA)) <= 2 for one in held)
    assert streams - shares.held >= max(1, streams / (ALPHA * hogs + 1) - 2)
    assert shares.may_start(well)


@pytest.mark.parametrize(("streams", "held"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (6, 4)])
def test_of_few_streams_the_last_is_for_one_who_has_none(streams: int, held: int) -> None:
    shares = Shares()
    shares.streams = streams
    shares.add("other")
    assert hog(shares, [shares.add("hog")]) == [held]


def test_limit_that_falls_below_what_is_held_stops_those_who_hold_some() -> None:
    shares = Shares()
    shares.streams = 100
    first, second = shares.add(1), shares.add(2)
    hog(shares, [first])
    shares.streams = first.held
    assert not shares.may_start(first)
    assert shares.may_start(second)
    while first.held > 1:
        first.end()
        shares.streams = max(10, shares.held)
        assert shares.may_start(first) == (first.held < ALPHA * (10 - first.held - 1))


class Bench:
    """Shares with a queue, calls and books of who waits."""

    def __init__(self, owners: int, streams: int) -> None:
        self.shares = Shares()
        self.shares.streams = streams
        self.owners = [self.shares.add(number) for number in range(owners)]
        self.queue = Queue(self.shares, max_waiting=1000)
        self.flying: list[Call] = []

    def wait(self, owner: int, *, is_again: bool = False) -> None:
        loop = asyncio.get_running_loop()
        share = self.owners[owner % len(self.owners)]
        call = AwaitedCall(b"", b"", timeout_s=9, answer=loop.create_future())
        call.share, call.deadline = share, loop.time() + 9
        (self.queue.append_again if is_again else self.queue.append)(call)

    def start(self) -> Call | None:
        call = self.queue.first()
        if call is not None and self.shares.held < self.shares.streams:
            self.queue.take(call)
            call.share.begin()
            self.flying.append(call)
        return call

    def end(self, number: int) -> None:
        if self.flying:
            self.flying.pop(number % len(self.flying)).share.end()

    def drop(self, owner: int, *, is_cancelled: bool) -> None:
        share = self.owners[owner % len(self.owners)]
        calls = [*share.calls]
        if calls:
            calls[0].is_over = True
            if not is_cancelled:
                self.queue.remove(calls[0])

    def check(self) -> None:
        shares = self.shares
        assert shares.waiting == sum(len(share.calls) for share in self.owners)
        assert shares.held == sum(share.held for share in self.owners) == len(self.flying)
        alive = [share for share in self.owners if any(not call.is_over for call in share.calls)]
        may = [share for share in alive if shares.may_start(share)]
        call = self.queue.first()
        assert (call is not None) == bool(may)
        assert call is None or (call.share in may and not call.is_over)
        for share in self.owners:
            assert share.parked_at in (0, share.held)
            assert not (share.parked_at and share.is_in_turn)
            assert share.parked_at or share.is_in_turn or not len(share.calls)


OWNER = st.integers(0, 4)
EVENTS = st.one_of(
    st.tuples(st.just("wait"), OWNER),
    st.tuples(st.just("wait"), OWNER),
    st.tuples(st.just("again"), OWNER),
    st.tuples(st.just("start"), st.just(0)),
    st.tuples(st.just("start"), st.just(0)),
    st.tuples(st.just("end"), st.integers(0, 20)),
    st.tuples(st.just("remove"), OWNER),
    st.tuples(st.just("cancel"), OWNER),
    st.tuples(st.just("streams"), st.integers(0, 12)),
    st.tuples(st.just("forget"), OWNER),
)


@settings(max_examples=300, deadline=None)
@given(owners=st.integers(1, 5), events=st.lists(EVENTS, max_size=60))
def test_somebody_has_the_turn_exactly_when_somebody_who_waits_may_start(
    run: Run, owners: int, events: list[tuple[str, int]]
) -> None:
    async def main() -> None:
        bench = Bench(owners, 6)
        for name, number in events:
            match name:
                case "wait" | "again":
                    bench.wait(number, is_again=name == "again")
                case "start":
                    bench.start()
                case "end":
                    bench.end(number)
                case "remove" | "cancel":
                    bench.drop(number, is_cancelled=name == "cancel")
                case "streams":
                    bench.shares.streams = max(number, bench.shares.held)
                case _:
                    bench.shares.forget(number)
            bench.check()
        bench.queue.refuse_all("over")
        bench.check()
        assert bench.shares.waiting == 0

    run(main())


def test_among_many_owners_who_hold_too_much_a_turn_looks_at_few(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        bench = Bench(1001, 2000)
        for owner in range(1000):
            bench.wait(owner)
            bench.owners[owner].begin()
            bench.owners[owner].begin()
        bench.shares.streams = bench.shares.held + 2
        assert bench.start() is None
        looks = 0
        rule = Shares.may_start

        def counted(shares: Shares, share: Share) -> bool:
            nonlocal looks
            looks += 1
            return rule(shares, share)

        monkeypatch.setattr(Shares, "may_start", counted)
        for _ in range(100):
            bench.wait(1000)
            call = bench.start()
            assert call is not None
            assert call.share is bench.owners[1000]
            bench.end(0)
            assert bench.start() is None
        assert looks <= 400

    run(main())


def test_of_those_set_aside_the_one_that_holds_least_comes_back_first_and_one_of_whose_streams_ended_too(
    run: Run,
) -> None:
    async def main() -> None:
        bench = Bench(3, 0)
        for owner, held in enumerate((4, 2, 3)):
            bench.wait(owner)
            for _ in range(held):
                bench.owners[owner].begin()
        bench.shares.streams = bench.shares.held + 1
        assert bench.start() is None
        bench.shares.streams += 2
        call = bench.start()
        assert call is not None
        assert call.share is bench.owners[1]
        bench.shares.streams = bench.shares.held + 2
        assert bench.start() is None
        for _ in range(3):
            bench.owners[0].end()
        call = bench.start()
        assert call is not None
        assert call.share is bench.owners[0]

    run(main())
