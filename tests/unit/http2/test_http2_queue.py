"""The queue: order, deadlines, and that nobody is told twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from pushgate.errors import NotSent
from pushgate.http2.queue import Call, Queue

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def call(after_s: float = 10.0) -> Call:
    loop = asyncio.get_running_loop()
    return Call(b"", b"", timeout_s=after_s, deadline=loop.time() + after_s, answer=loop.create_future())


def drain(queue: Queue) -> list[Call]:
    calls = []
    while (first := queue.first()) is not None:
        queue.take()
        calls.append(first)
    return calls


def test_calls_that_are_placed_again_come_first_and_both_kinds_keep_their_order(run: Run) -> None:
    async def main() -> None:
        queue = Queue()
        fresh, again = [call() for _ in range(3)], [call() for _ in range(3)]
        for waiting in fresh:
            queue.append(waiting)
        for waiting in again:
            queue.append_again(waiting)
        assert len(queue) == 6
        queue.remove(again[1])
        queue.remove(fresh[1])
        queue.remove(call())
        again[2].answer.cancel()
        assert drain(queue) == [again[0], fresh[0], fresh[2]]
        assert len(queue) == 0

    run(main())


def test_each_call_waits_as_long_as_it_may(run: Run) -> None:
    async def main() -> None:
        queue = Queue()
        start = asyncio.get_running_loop().time()
        calls = [call(after_s) for after_s in (5, 3, 3.001, 9, 4)]
        for number, waiting in enumerate(calls):
            (queue.append_again if number == 4 else queue.append)(waiting)
        calls[3].answer.cancel()
        ends: list[float] = []
        for number in (1, 2, 4, 0):
            await asyncio.wait([calls[number].answer])
            assert isinstance(calls[number].answer.exception(), NotSent)
            ends.append(round(asyncio.get_running_loop().time() - start, 1))
        assert ends == [3, 3, 4, 5]
        await asyncio.sleep(5)
        assert len(queue) == 0

    run(main())


def test_refusing_all_tells_each_once_and_leaves_nobody(run: Run) -> None:
    async def main() -> None:
        queue = Queue()
        calls = [call(), call(), call()]
        queue.append_again(calls[0])
        queue.append(calls[1])
        queue.append(calls[2])
        calls[1].answer.cancel()
        queue.refuse_all("the pool is closed")
        assert [type(waiting.answer.exception()) for waiting in (calls[0], calls[2])] == [NotSent, NotSent]
        assert queue.first() is None
        await asyncio.sleep(11)

    run(main())
