"""The pool over scripted connections and a clock that jumps: growing, waiting, repeating, replacing, closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame

from pushgate.errors import NotSent, Unanswered
from pushgate.http2.headers import Response
from pushgate.http2.limits import Limits
from pushgate.http2.pool import ATTEMPTS, Pool
from pushgate.http2.target import Target

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Networks = Callable[..., Any]


async def turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def now() -> float:
    return asyncio.get_running_loop().time()


class Desk:
    """A pool on a scripted network."""

    def __init__(self, network: Any, target: Target, **options: Any) -> None:
        self.network = network
        self.pool = Pool(target, opener=network.open, rng=lambda: 1.0, **options)

    def ask(self, count: int = 1, timeout_s: float = 10.0) -> list[asyncio.Task[Response]]:
        loop = asyncio.get_running_loop()
        return [loop.create_task(self.pool.request(b"\x83", b"body", timeout_s=timeout_s)) for _ in range(count)]

    async def warm(self) -> None:
        """One answered request: the first connection has proved itself."""
        (request,) = self.ask()
        await turn()
        self.network.wires[0].answer(1)
        await request
        self.network.wires[0].sent()


@pytest.fixture
def make(network: Networks, target: Target) -> Callable[..., Desk]:
    def made(settings: dict[int, int] | None = None, **options: Any) -> Desk:
        return Desk(network(settings), target, **options)

    return made


Make = Callable[..., Desk]


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


def test_goaway_moves_what_the_peer_will_not_act_on_and_awaits_the_rest(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make()
        requests = desk.ask(4)
        await turn()
        (old,) = desk.network.wires
        old.sent()
        old.receive(GoAwayFrame(0, 3, 0))
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
        wire.answer(1)
        await asyncio.gather(first, second, return_exceptions=True)
        assert wire.requests() == []
        assert (desk.pool.waiting, desk.pool.in_flight) == (0, 0)
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
