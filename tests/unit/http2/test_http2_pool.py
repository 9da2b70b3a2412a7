"""The pool over scripted connections and a clock that jumps: growing, waiting, repeating, replacing, closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hyperframe.frame import GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame

from pushgate.errors import NotSent, Unanswered
from pushgate.http2.limits import Limits
from pushgate.http2.pool import ATTEMPTS

Run = Callable[[Coroutine[Any, Any, Any]], Any]


async def turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def now() -> float:
    return asyncio.get_running_loop().time()


Make = Callable[..., Any]


def test_first_request_opens_the_connection_and_the_others_share_it(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make()
        requests = desk.ask(20)
        await turn()
        (wire,) = desk.network.wires
        ids = wire.requests()
        assert len(ids) == 20
        assert desk.pool.in_flight == 20
        wire.answer(*ids)
        assert [response.status for response in await asyncio.gather(*requests)] == [200] * 20
        assert (desk.pool.connections_opened, desk.pool.connections, desk.pool.in_flight) == (1, 1, 0)
        await desk.pool.close()

    run(main())


def test_limit_of_one_stream_before_the_first_answer_opens_no_second_connection(run: Run, make: Make) -> None:
    """As APNs does: one stream until the first valid token, then more."""

    async def main() -> None:
        desk = make({3: 1})
        requests = desk.ask(50)
        await turn()
        (wire,) = desk.network.wires
        assert wire.requests() == [1]
        assert desk.pool.waiting == 49
        wire.receive(HeadersFrame(1, b"\x88", flags=["END_STREAM", "END_HEADERS"]), SettingsFrame(settings={3: 1000}))
        await turn()
        ids = wire.requests()
        assert len(ids) == 49
        wire.answer(*ids)
        await asyncio.gather(*requests)
        assert desk.pool.connections_opened <= 2
        await desk.pool.close()

    run(main())


def test_connections_are_added_one_by_one_only_while_streams_run_out(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make({3: 2}, max_connections=3)
        await desk.warm()
        requests = desk.ask(20, timeout_s=1000)
        await turn()
        assert desk.pool.connections == 2
        for _ in range(30):
            for wire in desk.network.wires:
                ids = wire.requests()
                assert len(ids) <= 2
                wire.answer(*ids)
            await turn()
        assert len(await asyncio.gather(*requests)) == 20
        assert desk.pool.connections_opened == 3
        await desk.pool.close()

    run(main())


def test_waiting_requests_go_out_in_their_order(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make({3: 1}, max_connections=1)
        done: list[int] = []

        async def ask(number: int) -> None:
            await desk.pool.request(b"\x83", b"%d" % number, timeout_s=10)
            done.append(number)

        requests = [asyncio.create_task(ask(number)) for number in range(6)]
        await turn()
        requests[2].cancel()
        for _ in range(5):
            (wire,) = desk.network.wires
            wire.answer(*wire.requests())
            await turn()
        assert done == [0, 1, 3, 4, 5]
        await desk.pool.close()

    run(main())


def test_deadline_covers_the_waiting(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make({3: 1}, max_connections=1, limits=Limits(quiet_s=1000))
        start = now()
        (first,) = desk.ask(timeout_s=50)
        late, later = desk.ask(timeout_s=3), desk.ask(timeout_s=2)
        with pytest.raises(NotSent, match="no free stream in time"):
            await later[0]
        assert now() - start == pytest.approx(2, abs=0.05)
        with pytest.raises(NotSent, match="no free stream in time"):
            await late[0]
        assert now() - start == pytest.approx(3, abs=0.05)
        desk.network.wires[0].answer(1)
        assert (await first).status == 200
        await desk.pool.close()

    run(main())


def test_request_without_time_is_not_sent(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make()
        with pytest.raises(NotSent, match="no time"):
            await desk.pool.request(b"\x83", b"", timeout_s=0)
        assert desk.network.wires == []

    run(main())


def test_queue_is_bounded(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make({3: 1}, max_waiting=3)
        requests = desk.ask(5)
        await turn()
        refused = [request for request in requests if request.done()]
        assert len(refused) == 2
        for request in refused:
            assert isinstance(request.exception(), NotSent)
        await desk.pool.close()
        await asyncio.gather(*requests, return_exceptions=True)

    run(main())


def test_refused_stream_is_repeated_and_then_given_up(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make()
        (request,) = desk.ask()
        for attempt in range(ATTEMPTS):
            await turn()
            (wire,) = desk.network.wires
            assert wire.requests() == [2 * attempt + 1]
            wire.receive(RstStreamFrame(2 * attempt + 1, 7))
        with pytest.raises(NotSent, match="refused"):
            await request
        assert desk.pool.repeats == ATTEMPTS - 1
        await desk.pool.close()

    run(main())


def test_request_that_may_have_been_acted_on_is_never_repeated(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make()
        reset, lost = desk.ask(2)
        await turn()
        (wire,) = desk.network.wires
        wire.receive(RstStreamFrame(1, 2))
        with pytest.raises(Unanswered):
            await reset
        wire.lose()
        with pytest.raises(Unanswered):
            await lost
        assert (desk.pool.repeats, desk.pool.connections_lost, desk.pool.connections) == (0, 1, 0)
        await desk.pool.close()

    run(main())


def test_refused_request_prefers_another_connection(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make({3: 1})
        await desk.warm()
        first, second = desk.ask(2, timeout_s=100)
        await turn()
        one, two = desk.network.wires
        assert one.requests() == [3]
        assert two.requests() == [1]
        two.answer(1)
        await second
        one.receive(RstStreamFrame(3, 7))
        await turn()
        assert one.requests() == []
        assert two.requests() == [3]
        two.answer(3)
        assert (await first).status == 200
        await desk.pool.close()

    run(main())


def test_repeated_requests_go_before_those_that_came_later(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make({3: 2}, max_connections=1)
        requests = desk.ask(4)
        await turn()
        old = desk.network.wires[0]
        old.sent()
        old.receive(GoAwayFrame(0, 0, 0))
        await turn()
        new = desk.network.wires[1]
        assert new.requests() == [1, 3]
        new.answer(1, 3)
        await turn()
        assert [request.done() for request in requests] == [True, True, False, False]
        new.answer(*new.requests())
        await asyncio.gather(*requests)
        await desk.pool.close()

    run(main())


def test_cancelled_request_frees_its_stream_for_the_next(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make({3: 1}, max_connections=1)
        first, second = desk.ask(2)
        await turn()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await turn()
        (wire,) = desk.network.wires
        assert wire.requests() == [1, 3]
        wire.answer(3)
        assert (await second).status == 200
        await desk.pool.close()

    run(main())


def test_request_cancelled_while_it_waits_is_never_sent(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make({3: 1}, max_connections=1)
        first, second = desk.ask(2)
        await turn()
        wire = desk.network.wires[0]
        wire.sent()
        second.cancel()
        await asyncio.sleep(0)
        wire.answer(1)
        await asyncio.gather(first, second, return_exceptions=True)
        assert wire.requests() == []
        assert (desk.pool.waiting, desk.pool.in_flight) == (0, 0)
        await desk.pool.close()

    run(main())
