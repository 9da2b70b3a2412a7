"""The pool when it leaves connections that still stand: half-dead ones, and those that its owner wants no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest
from hyperframe.frame import HeadersFrame, PingFrame

from pushgate.errors import NotSent, Unanswered
from pushgate.http2.limits import Limits

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Make = Callable[..., Any]
PATIENT = Limits(quiet_s=10_000)
ANSWER_ALL = 1_000_000


async def turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def now() -> float:
    return asyncio.get_running_loop().time()


def serve(wire: Any, requests: int) -> int:
    """Let the peer acknowledge each PING, but answer only so many requests; how many it answered."""
    if wire.is_closed:
        return 0
    frames = wire.sent()
    for frame in frames:
        if isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            wire.receive(PingFrame(0, frame.opaque_data, flags=["ACK"]))
    ids = [frame.stream_id for frame in frames if isinstance(frame, HeadersFrame)][:requests]
    wire.answer(*ids)
    return len(ids)


async def keep_serving(network: Any, answers: Callable[[int], int], answered: dict[int, int]) -> None:
    """The peer's connections, by number: each answers so many requests, then it only acknowledges PING."""
    while True:
        for number, wire in enumerate(network.wires):
            left = answers(number) - answered.get(number, 0)
            answered[number] = answered.get(number, 0) + serve(wire, max(0, left))
        await asyncio.sleep(0.05)


def test_connection_that_only_acknowledges_pings_is_replaced_after_the_first_request_it_leaves_unanswered(
    run: Run, make: Make
) -> None:
    async def main() -> None:
        desk = make()
        answered: dict[int, int] = {}
        peer = asyncio.create_task(keep_serving(desk.network, lambda number: ANSWER_ALL if number else 1, answered))
        assert (await desk.ask()[0]).status == 200
        with pytest.raises(Unanswered, match="no answer in time"):
            await desk.ask()[0]
        for _ in range(30):
            assert (await desk.ask()[0]).status == 200
        assert answered == {0: 1, 1: 30}
        assert desk.network.wires[0].is_closed
        pool = desk.pool
        assert (pool.connections_opened, pool.connections_mute, pool.connections_lost) == (2, 1, 0)
        peer.cancel()
        await pool.close()

    run(main())


def test_what_flies_on_a_connection_that_is_left_goes_on_until_its_own_deadline(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make(limits=PATIENT)
        await desk.warm()
        (short,), (lucky, unlucky) = desk.ask(timeout_s=3), desk.ask(2, timeout_s=10)
        start = now()
        with pytest.raises(Unanswered):
            await short
        (fresh,) = desk.ask()
        await turn()
        old, new = desk.network.wires
        old.answer(5)
        new.answer(*new.requests())
        assert [(await request).status for request in (lucky, fresh)] == [200, 200]
        assert not old.is_closed
        with pytest.raises(Unanswered):
            await unlucky
        assert now() - start == pytest.approx(10, abs=0.05)
        await turn()
        assert (old.is_closed, new.is_closed) == (True, False)
        await desk.pool.close()

    run(main())


def test_slow_peer_that_answers_others_is_kept(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make(limits=PATIENT)
        await desk.warm()
        wire = desk.network.wires[0]
        (never,) = desk.ask(timeout_s=10)
        await asyncio.sleep(2)
        (other,) = desk.ask(timeout_s=30)
        await turn()
        wire.answer(5)
        assert (await other).status == 200
        with pytest.raises(Unanswered):
            await never
        (later,) = desk.ask()
        await turn()
        wire.answer(7)
        assert (await later).status == 200
        assert (desk.pool.connections_opened, desk.pool.connections_mute) == (1, 0)
        await desk.pool.close()

    run(main())


def test_request_that_had_waited_for_a_stream_until_it_was_late_proves_nothing(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make({3: 1}, max_connections=1, limits=PATIENT)
        await desk.warm()
        wire = desk.network.wires[0]
        first, late = desk.ask(2, timeout_s=10)
        await asyncio.sleep(9.5)
        wire.answer(*wire.requests())
        assert (await first).status == 200
        with pytest.raises(Unanswered, match="no answer in time"):
            await late
        assert (desk.pool.connections, desk.pool.connections_mute) == (1, 0)
        await desk.pool.close()

    run(main())


def test_connection_on_which_every_request_is_late_is_left_too(run: Run, make: Make) -> None:
    """One stream, and a peer so slow to connect to that no request is opened with much time left."""

    async def main() -> None:
        desk = make({3: 1}, max_connections=1, limits=PATIENT)
        desk.network.delay_s = 9
        peer = asyncio.create_task(keep_serving(desk.network, lambda number: ANSWER_ALL if number else 0, {}))
        requests = []
        for _ in range(12):
            requests += desk.ask(timeout_s=10)
            await asyncio.sleep(1)
        desk.network.delay_s = 0
        requests += desk.ask(8, timeout_s=10)
        ends = await asyncio.gather(*requests, return_exceptions=True)
        assert isinstance(ends[0], Unanswered)
        assert not [end for end in ends[5:] if isinstance(end, BaseException)]
        assert (desk.pool.connections_opened, desk.pool.connections_mute) == (2, 1)
        peer.cancel()
        await desk.pool.close()

    run(main())


@pytest.mark.parametrize("answers", [0, 1])
def test_peer_whose_connections_all_fall_mute_gets_ever_longer_pauses(run: Run, make: Make, answers: int) -> None:
    async def main() -> None:
        desk = make(backoff_first_s=0.5, backoff_most_s=60.0)
        peer = asyncio.create_task(keep_serving(desk.network, lambda number: answers, {}))
        until = now() + 1800
        requests = []
        while now() < until:
            requests += desk.ask(timeout_s=10)
            await asyncio.sleep(2.5)
        await asyncio.wait(requests)
        peer.cancel()
        times = desk.network.times
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert gaps[0] < 15
        assert [gap >= 60 for gap in gaps[9:]] == [True] * len(gaps[9:])
        assert 25 <= len(times) <= 40
        await desk.pool.close()

    run(main())


def test_connections_that_fall_mute_together_are_replaced_without_a_pause(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make({3: 1}, max_connections=4, limits=PATIENT, backoff_first_s=5.0)
        answered: dict[int, int] = {}
        answers = [ANSWER_ALL, ANSWER_ALL]
        peer = asyncio.create_task(keep_serving(desk.network, lambda number: answers[min(number // 4, 1)], answered))
        await desk.warm()
        await asyncio.gather(*desk.ask(40))
        assert desk.pool.connections == 4
        answers[0] = 0
        ends = await asyncio.gather(*desk.ask(4, timeout_s=5), return_exceptions=True)
        assert [type(end) for end in ends] == [Unanswered] * 4
        assert [(await request).status for request in desk.ask(20)] == [200] * 20
        assert desk.pool.connections_mute == 4
        peer.cancel()
        await desk.pool.close()

    run(main())


# Renewing


def test_renewal_keeps_who_waits_and_awaits_what_flies(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make({3: 2}, max_connections=1)
        await desk.warm()
        requests = desk.ask(10)
        await turn()
        old = desk.network.wires[0]
        assert (old.requests(), desk.pool.waiting) == ([3, 5], 8)
        desk.pool.renew()
        await turn()
        new = desk.network.wires[1]
        assert (old.requests(), new.requests()) == ([], [1, 3])
        assert (desk.pool.in_flight, desk.pool.waiting, old.is_closed) == (4, 6, False)
        old.answer(3, 5)
        new.answer(1, 3)
        for _ in range(3):
            await turn()
            new.answer(*new.requests())
        assert [response.status for response in await asyncio.gather(*requests)] == [200] * 10
        assert (old.is_closed, new.is_closed) == (True, False)
        assert (desk.pool.connections_opened, desk.pool.connections_lost, desk.pool.repeats) == (2, 0, 0)
        await desk.pool.close()

    run(main())


def test_renewal_closes_connections_at_rest_at_once_and_opens_none_that_nobody_needs(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make()
        await desk.warm()
        desk.pool.renew()
        await turn()
        assert desk.network.wires[0].is_closed
        assert (desk.pool.connections, len(desk.network.times)) == (0, 1)
        (request,) = desk.ask()
        await turn()
        desk.network.wires[1].answer(1)
        assert (await request).status == 200
        await desk.pool.close()

    run(main())


def test_renewal_does_not_wait_for_a_pause_that_an_earlier_failure_cost(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make({3: 1}, backoff_first_s=50.0)
        await desk.warm()
        desk.network.refusals = [NotSent("cannot connect")]
        requests = desk.ask(3)
        await turn()
        assert (desk.pool.connections_failed, desk.pool.waiting) == (1, 2)
        desk.pool.renew()
        await turn()
        old, new = desk.network.wires
        old.answer(*old.requests())
        for _ in range(2):
            new.answer(*new.requests())
            await turn()
        assert [response.status for response in await asyncio.gather(*requests)] == [200] * 3
        await desk.pool.close()

    run(main())


def test_renewal_uses_the_connection_that_is_just_being_made(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = make()
        desk.network.delay_s = 1
        requests = desk.ask(3)
        await turn()
        desk.pool.renew()
        await asyncio.sleep(1.5)
        (wire,) = desk.network.wires
        wire.answer(*wire.requests())
        assert [response.status for response in await asyncio.gather(*requests)] == [200] * 3
        await desk.pool.close()

    run(main())
