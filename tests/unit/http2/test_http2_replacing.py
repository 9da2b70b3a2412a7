"""The pool when connections come and go, over scripted ones and a clock that jumps: replacing, backing off, closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hyperframe.frame import DataFrame, GoAwayFrame, RstStreamFrame

from pushgate.errors import NotSent, Unanswered
from pushgate.http2.limits import Limits

Run = Callable[[Coroutine[Any, Any, Any]], Any]


async def turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def now() -> float:
    return asyncio.get_running_loop().time()


Make = Callable[..., Any]


def test_peer_that_is_down_is_left_alone_and_requests_fail_at_once(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make(backoff_first_s=1.0, backoff_most_s=8.0)
        desk.network.refusals = [NotSent("cannot connect: ConnectionRefusedError") for _ in range(5)]
        desk.network.delay_s = 0.1
        start = now()
        ends = await asyncio.gather(*desk.ask(10), return_exceptions=True)
        assert [str(end) for end in ends] == ["cannot connect: ConnectionRefusedError"] * 10
        assert now() - start < 0.2
        while desk.network.refusals:
            (request,) = desk.ask()
            with pytest.raises(NotSent):
                await request
            await asyncio.sleep(0.05)
        gaps = [later - earlier for earlier, later in zip(desk.network.times, desk.network.times[1:], strict=False)]
        assert gaps == [pytest.approx(pause + 0.1, abs=0.1) for pause in (1, 2, 4, 8)]
        assert desk.pool.connections_failed == 5
        await asyncio.sleep(8)
        (request,) = desk.ask()
        await asyncio.sleep(0.2)
        desk.network.wires[0].answer(1)
        assert (await request).status == 200
        assert desk.pool._backoff.pause_s(now()) == 0
        await desk.pool.close()

    run(main())


def test_error_nobody_foresaw_while_connecting_lets_nobody_hang(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make()
        desk.network.refusals = [ZeroDivisionError()]
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        (request,) = desk.ask()
        with pytest.raises(NotSent, match="no connection could be made"):
            await request
        await desk.pool.close()

    run(main())


def test_goaway_moves_what_the_peer_will_not_act_on_and_awaits_the_rest(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make()
        requests = desk.ask(4)
        await turn()
        (old,) = desk.network.wires
        old.sent()
        old.receive(GoAwayFrame(0, 3, 0, b'{"reason":"Shutdown"}'))
        await turn()
        new = desk.network.wires[1]
        assert new.requests() == [1, 3]
        assert (desk.pool.connections, desk.pool.in_flight, desk.pool.goaways) == (1, 4, 1)
        new.answer(1, 3)
        old.answer(1, 3)
        assert [response.status for response in await asyncio.gather(*requests)] == [200] * 4
        await turn()
        assert old.is_closed
        assert desk.pool.connections_lost == 0
        assert (desk.pool.repeats, desk.pool.connections_opened) == (2, 2)
        assert desk.pool.last_goaway is not None
        assert desk.pool.last_goaway.reason == "Shutdown"
        await desk.pool.close()

    run(main())


def test_peer_that_hangs_up_on_every_request_is_left_alone_after_the_second_time(run: Run, make: Make) -> None:
    """A peer that answers nothing is like one that is down: no storm of connections."""

    async def main() -> None:
        desk = make(backoff_first_s=5.0)
        (request,) = desk.ask()
        for number in range(2):
            await turn()
            desk.network.wires[number].receive(GoAwayFrame(0, 0, 11))
        with pytest.raises(NotSent, match=r"next try in 10\.0 s"):
            await request
        (request,) = desk.ask()
        with pytest.raises(NotSent):
            await request
        assert desk.pool.connections_opened == 2
        await asyncio.sleep(11)
        (request,) = desk.ask()
        await turn()
        desk.network.wires[2].answer(1)
        assert (await request).status == 200
        assert desk.pool._backoff.pause_s(now()) == 0
        await desk.pool.close()

    run(main())


def test_requests_that_die_with_their_connections_leave_the_peer_alone_too(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make()
        for number in range(2):
            (request,) = desk.ask()
            await turn()
            wire = desk.network.wires[number]
            wire.receive(GoAwayFrame(0, 1, 2))
            wire.lose()
            with pytest.raises(Unanswered):
                await request
        (request,) = desk.ask()
        with pytest.raises(NotSent, match="next try"):
            await request
        assert desk.pool.connections_lost == 0
        await desk.pool.close()

    run(main())


def test_peer_that_says_goaway_before_anything_else_counts_as_unreachable(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make()
        inner = desk.network.open

        async def hang_up(*args: Any, **options: Any) -> Any:
            connection = await inner(*args, **options)
            desk.network.wires[-1].receive(GoAwayFrame(0, 0, 0))
            return connection

        desk.pool._opener = hang_up
        (request,) = desk.ask()
        with pytest.raises(NotSent, match="takes no requests"):
            await request
        assert desk.pool.connections_failed == 1
        await desk.pool.close()

    run(main())


def test_peer_that_stays_silent_is_replaced(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make(limits=Limits(quiet_s=5, ack_s=5), backoff_first_s=0.1)
        await desk.warm()
        (request,) = desk.ask(timeout_s=60)
        with pytest.raises(Unanswered, match="silent"):
            await request
        await turn()
        assert (desk.pool.pings, desk.pool.connections_lost) == (1, 1)
        (request,) = desk.ask()
        await turn()
        desk.network.wires[1].answer(1)
        assert (await request).status == 200
        await desk.pool.close()

    run(main())


def test_peer_that_breaks_the_protocol_is_replaced(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make({3: 1}, max_connections=1)
        await desk.warm()
        first, second = desk.ask(2)
        await turn()
        desk.network.wires[0].receive(DataFrame(99, b"x"))
        with pytest.raises(Unanswered):
            await first
        await turn()
        desk.network.wires[1].answer(1)
        assert (await second).status == 200
        await desk.pool.close()

    run(main())


def test_connection_whose_stream_ids_ran_out_is_replaced_and_not_lost(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make()
        await desk.warm()
        desk.pool._usable[0]._streams.next_id = 2**31 - 1
        last, next_one = desk.ask(2)
        await turn()
        old, new = desk.network.wires
        assert (old.requests(), new.requests()) == ([2**31 - 1], [1])
        old.answer(2**31 - 1)
        new.answer(1)
        assert [(await request).status for request in (last, next_one)] == [200, 200]
        await turn()
        assert (old.is_closed, new.is_closed) == (True, False)
        assert (desk.pool.connections, desk.pool.connections_lost, desk.pool.goaways) == (1, 0, 0)
        await desk.pool.close()

    run(main())


def test_close_waits_for_answers_and_refuses_the_rest(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make({3: 2}, max_connections=1)
        quick, slow, waiting = desk.ask(3)
        await turn()
        wire = desk.network.wires[0]
        closing = asyncio.create_task(desk.pool.close(5))
        await turn()
        with pytest.raises(NotSent, match="pool is closed"):
            await waiting
        with pytest.raises(NotSent, match="pool is closed"):
            await desk.pool.request(b"\x83", b"", timeout_s=1)
        wire.answer(1)
        assert (await quick).status == 200
        start = now()
        with pytest.raises(Unanswered):
            await slow
        await closing
        assert now() - start == pytest.approx(5, abs=0.1)
        assert desk.pool.in_flight == 0
        assert desk.pool.connections_lost == 0
        await desk.pool.close()

    run(main())


def test_close_while_connecting_ends_the_attempt_and_who_waits_for_it(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make()
        desk.network.delay_s = 60
        requests = desk.ask(3)
        await turn()
        start = now()
        await desk.pool.close(5)
        assert now() - start < 0.1
        for end in await asyncio.gather(*requests, return_exceptions=True):
            assert isinstance(end, NotSent)
        assert desk.network.wires == []

    run(main())


def test_request_refused_while_the_pool_closes_is_not_repeated(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make()
        (request,) = desk.ask()
        await turn()
        closing = asyncio.create_task(desk.pool.close(5))
        await turn()
        desk.network.wires[0].receive(RstStreamFrame(1, 7))
        with pytest.raises(NotSent, match="refused"):
            await request
        await closing

    run(main())


def test_connection_added_in_vain_disturbs_nobody(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make({3: 1}, max_connections=2)
        await desk.warm()
        desk.network.refusals = [NotSent("cannot connect")]
        requests = desk.ask(2)
        await turn()
        wire = desk.network.wires[0]
        wire.answer(*wire.requests())
        await turn()
        wire.answer(*wire.requests())
        await asyncio.gather(*requests)
        requests = desk.ask(2)
        await turn()
        assert [len(desk.network.times), desk.pool.waiting] == [2, 1]
        wire.answer(*wire.requests())
        await turn()
        wire.answer(*wire.requests())
        await asyncio.gather(*requests)
        assert desk.pool.connections_failed == 1
        await desk.pool.close()

    run(main())
