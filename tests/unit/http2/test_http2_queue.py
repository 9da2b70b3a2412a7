"""The queue: order, deadlines, bounds, and that nobody is told twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from pushgate.errors import NotSent
from pushgate.http2.queue import OWNERS_FULL, AwaitedCall, Queue
from pushgate.http2.shares import Shares

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Room:
    """A queue of owners by their names."""

    def __init__(self, max_waiting: int = 100) -> None:
        self.shares = Shares()
        self.queue = Queue(self.shares, max_waiting=max_waiting)

    def call(self, after_s: float = 10.0, *, owner: str = "a") -> AwaitedCall:
        loop = asyncio.get_running_loop()
        share = self.shares.add(owner)
        call = AwaitedCall(b"", b"", timeout_s=after_s, answer=loop.create_future())
        call.share, call.deadline = share, loop.time() + after_s
        return call

    def calls(self, count: int, *, owner: str = "a") -> list[AwaitedCall]:
        """So many that wait."""
        calls = [self.call(owner=owner) for _ in range(count)]
        for call in calls:
            self.queue.append(call)
        return calls

    def drain(self) -> list[AwaitedCall]:
        calls: list[AwaitedCall] = []
        while (first := self.queue.first()) is not None:
            assert isinstance(first, AwaitedCall)
            self.queue.take(first)
            calls.append(first)
        return calls


def test_calls_that_are_placed_again_come_first_and_both_kinds_keep_their_order(run: Run) -> None:
    async def main() -> None:
        room = Room()
        queue = room.queue
        fresh, again = room.calls(3), [room.call() for _ in range(3)]
        for waiting in again:
            queue.append_again(waiting)
        assert len(queue) == 6
        queue.remove(again[1])
        queue.remove(fresh[1])
        queue.remove(room.call())
        assert len(queue) == 4
        again[2].is_over = True
        assert room.drain() == [again[0], fresh[0], fresh[2]]
        assert len(queue) == 0

    run(main())


def test_owners_take_turns_and_what_is_placed_again_goes_before_calls_of_its_own_owner_only(run: Run) -> None:
    async def main() -> None:
        room = Room()
        (a1, a2, a3), (b1, b2), (c1,) = (
            room.calls(count, owner=name) for count, name in ((3, "a"), (2, "b"), (1, "c"))
        )
        again = room.call(owner="b")
        room.queue.append_again(again)
        assert room.drain() == [a1, again, c1, a2, b1, a3, b2]

    run(main())


def test_each_call_waits_as_long_as_it_may(run: Run) -> None:
    async def main() -> None:
        room = Room()
        start = asyncio.get_running_loop().time()
        calls = [room.call(after_s, owner=owner) for after_s, owner in zip((5, 3, 3.001, 9, 4), "aabcc", strict=True)]
        for number, waiting in enumerate(calls):
            (room.queue.append_again if number == 4 else room.queue.append)(waiting)
        calls[3].is_over = True
        ends: list[float] = []
        for number in (1, 2, 4, 0):
            await asyncio.wait([calls[number].answer])
            assert isinstance(calls[number].answer.exception(), NotSent)
            ends.append(round(asyncio.get_running_loop().time() - start, 1))
        assert ends == [3, 3, 4, 5]
        await asyncio.sleep(5)
        assert len(room.queue) == 0

    run(main())


@pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.new_event_loop])
@pytest.mark.parametrize("after_s", [0.0003, 0.0])
def test_deadline_that_is_all_but_over_disturbs_nobody_who_comes_after_it(
    factory: Callable[[], asyncio.AbstractEventLoop], after_s: float
) -> None:
    """uvloop calls such a thing soon, and what it returns cannot be asked when."""

    async def main() -> None:
        room = Room()
        short, other, shorter = room.call(after_s), room.call(10), room.call(after_s / 2)
        for call in (short, other, shorter):
            room.queue.append(call)
        await asyncio.wait([short.answer, shorter.answer])
        assert [type(call.answer.exception()) for call in (short, shorter)] == [NotSent, NotSent]
        assert room.drain() == [other]
        room.queue.refuse_all("over")

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_refusing_all_tells_each_once_and_leaves_nobody(run: Run) -> None:
    async def main() -> None:
        room = Room()
        calls = [room.call(), *room.calls(2), *room.calls(1, owner="b")]
        room.queue.append_again(calls[0])
        calls[1].is_over = True
        room.queue.refuse_all("the pool is closed")
        assert [type(calls[number].answer.exception()) for number in (0, 2, 3)] == [NotSent] * 3
        assert (room.queue.first(), len(room.queue)) == (None, 0)
        await asyncio.sleep(11)

    run(main())


@pytest.mark.parametrize("way", ["remove", "refuse", "late", "cancel"])
def test_owner_who_was_set_aside_and_waits_no_more_is_like_any_other(run: Run, way: str) -> None:
    async def main() -> None:
        room = Room()
        room.shares.streams = 6
        (call,), (other,) = room.calls(1), room.calls(1, owner="b")
        for _ in range(4):
            call.share.begin()
        assert room.queue.first() is other
        assert call.share.parked_at == 4
        match way:
            case "remove":
                room.queue.remove(call)
            case "refuse":
                room.queue.refuse_all("over")
            case "late":
                await asyncio.wait([call.answer])
            case _:
                call.is_over = True
                room.queue.remove(other)
                assert room.queue.first() is None
        assert call.share.parked_at == 0
        for _ in range(4):
            call.share.end()
        (next_one,) = room.calls(1)
        assert room.drain()[-1] is next_one
        assert room.shares.held == 0

    run(main())


def test_bound_is_each_owners_own_and_in_a_full_queue_each_may_have_its_equal_part(run: Run) -> None:
    async def main() -> None:
        room = Room(max_waiting=4)
        for number in range(OWNERS_FULL):
            calls = room.calls(4, owner=f"{number}")
            assert room.queue.is_full_for(calls[0].share)
        late = room.call(owner="late")
        for _ in range(3):
            assert not room.queue.is_full_for(late.share)
            room.queue.append(late)
        assert room.queue.is_full_for(late.share)
        room.queue.remove(late)
        assert not room.queue.is_full_for(late.share)

    run(main())
