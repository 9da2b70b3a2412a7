"""The pool among owners, over scripted connections and a clock that jumps: what one does costs the others little."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hyperframe.frame import GoAwayFrame, RstStreamFrame, SettingsFrame

from pushgate.errors import NotSent, Unanswered
from pushgate.http2.limits import Limits
from pushgate.http2.shares import ALPHA

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Make = Callable[..., Any]
PATIENT = Limits(quiet_s=10_000)


async def turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def opened(make: Make, settings: dict[int, int], *owners: str, **options: Any) -> Any:
    """A pool with these owners and one connection that has proved itself."""
    desk = make(settings, limits=PATIENT, **options)
    for owner in owners:
        desk.pool.join(owner)
    (request,) = desk.ask(owner=owners[0])
    await turn()
    desk.network.wires[0].answer(1)
    await request
    desk.network.wires[0].sent()
    return desk


async def over(*requests: list[asyncio.Task[Any]]) -> None:
    """Whatever comes of these, it has come."""
    await asyncio.gather(*(request for some in requests for request in some), return_exceptions=True)


@pytest.mark.parametrize("hogs", [1, 5])
def test_owners_whose_requests_hang_delay_no_other(run: Run, make: Make, hogs: int) -> None:
    async def main() -> None:
        names = [f"hog {number}" for number in range(hogs)]
        desk = await opened(make, {3: 100}, "well", *names, max_connections=1)
        hanging = [desk.ask(200, owner=name) for name in names]
        await turn()
        wire = desk.network.wires[0]
        assert abs(len(wire.requests()) - 100 * hogs / (hogs + 1 / ALPHA)) <= 2 * hogs
        for _ in range(50):
            (request,) = desk.ask(owner="well", timeout_s=0.1)
            await turn()
            (stream_id,) = wire.requests()
            wire.answer(stream_id)
            assert (await request).status == 200
        await over(*hanging)
        assert desk.pool._shares.held == 0
        await desk.pool.close()

    run(main())


def test_lone_owner_has_all_streams_and_less_when_another_one_comes(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = await opened(make, {3: 10}, "one", max_connections=1)
        wire = desk.network.wires[0]
        requests = desk.ask(30, owner="one")
        await turn()
        ids = wire.requests()
        assert len(ids) == 10
        other = desk.ask(10, owner="other")
        await turn()
        assert wire.requests() == []
        wire.answer(*ids[:6])
        await turn()
        assert [share.held for share in desk.pool._shares.by_owner.values()] == [6, 2]
        desk.pool.leave("other")
        assert desk.pool.in_flight == 10
        await desk.pool.close()
        await over(requests, other)

    run(main())


def test_what_is_free_is_known_when_an_owner_comes_and_when_the_limit_changes(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = await opened(make, {3: 10}, "one", max_connections=1)
        wire = desk.network.wires[0]
        requests = desk.ask(5, owner="one")
        await turn()
        desk.pool.join("other")
        requests += desk.ask(1, owner="one")
        await turn()
        assert len(wire.requests()) == 6
        wire.receive(SettingsFrame(settings={3: 100}))
        requests += desk.ask(50, owner="one")
        await turn()
        assert (len(wire.requests()), desk.pool.waiting) == (50, 0)
        await desk.pool.close()
        await over(requests)

    run(main())


@pytest.mark.parametrize("streams", [1, 2])
def test_owners_who_all_have_much_to_send_take_turns(run: Run, make: Make, streams: int) -> None:
    async def main() -> None:
        desk = await opened(make, {3: streams}, "a", "b", "c", max_connections=1)
        wire = desk.network.wires[0]
        requests = [desk.ask(count, owner=name, body=name.encode()) for name, count in (("a", 30), ("b", 5), ("c", 5))]
        order: list[bytes] = []
        for _ in range(40):
            await turn()
            bodies = wire.bodies()
            order += bodies.values()
            wire.answer(*bodies)
        assert Counter(order) == {b"a": 30, b"b": 5, b"c": 5}
        assert max(Counter(order[:12]).values()) <= 5
        await over(*requests)
        await desk.pool.close()

    run(main())


def test_what_others_may_take_is_open_already_and_not_still_to_be_connected(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = await opened(make, {3: 10}, "hog", "well", max_connections=3)
        hanging = desk.ask(100, owner="hog")
        await turn()
        assert [len(wire.requests()) for wire in desk.network.wires] == [10, 3]
        desk.network.delay_s = 1000
        requests = desk.ask(4, owner="well")
        await turn()
        ids = desk.network.wires[1].requests()
        desk.network.wires[1].answer(*ids)
        assert [(await request).status for request in requests] == [200] * 4
        await desk.pool.close()
        await over(hanging)

    run(main())


def test_one_stream_before_the_first_answer_goes_from_owner_to_owner(run: Run, make: Make) -> None:
    """As APNs does: one stream until the first valid token."""

    async def main() -> None:
        desk = make({3: 1}, limits=PATIENT)
        desk.pool.join("well")
        hanging = desk.ask(20, owner="hog", timeout_s=5)
        (request,) = desk.ask(owner="well")
        await turn()
        (wire,) = desk.network.wires
        assert wire.requests() == [1]
        wire.receive(RstStreamFrame(1, 2))
        await turn()
        (stream_id,) = wire.requests()
        wire.receive(SettingsFrame(settings={3: 1000}))
        wire.answer(stream_id)
        assert (await request).status == 200
        await turn()
        ids = wire.requests()
        assert len(ids) == 19
        wire.answer(*ids)
        await over(hanging)
        await desk.pool.close()

    run(main())


def test_no_stream_at_all_lets_everybody_wait_and_the_limit_may_rise_and_fall(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = await opened(make, {3: 12}, "a", "b", max_connections=1)
        wire = desk.network.wires[0]
        a = desk.ask(20, owner="a")
        await turn()
        ids = wire.requests()
        assert len(ids) == 8
        wire.receive(SettingsFrame(settings={3: 0}))
        b = desk.ask(20, owner="b")
        wire.answer(*ids)
        await turn()
        assert (wire.requests(), desk.pool.waiting) == ([], 32)
        wire.receive(SettingsFrame(settings={3: 1}))
        await turn()
        assert len(wire.requests()) == 1
        wire.receive(SettingsFrame(settings={3: 100}))
        await turn()
        assert (desk.pool.waiting, len(wire.requests())) == (0, 31)
        await desk.pool.close()
        await over(a, b)

    run(main())


def test_limit_that_falls_on_one_connection_takes_nothing_from_another(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = await opened(make, {3: 12}, "a", "b", max_connections=2)
        a = desk.ask(14, owner="a")
        await turn()
        first, second = desk.network.wires
        assert (len(first.requests()), len(second.requests())) == (12, 2)
        first.receive(SettingsFrame(settings={3: 1}))
        b = desk.ask(6, owner="b")
        await turn()
        assert (first.requests(), len(second.requests())) == ([], 6)
        await desk.pool.close()
        await over(a, b)

    run(main())


def test_what_flies_on_a_connection_that_is_left_takes_no_stream_from_the_new_one(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = await opened(make, {3: 12}, "a", "b", max_connections=1)
        hanging = desk.ask(5, owner="a")
        await turn()
        desk.pool.renew()
        requests = desk.ask(12, owner="b")
        await turn()
        new = desk.network.wires[1]
        assert len(new.requests()) == 8
        assert (desk.pool.in_flight, desk.pool.waiting) == (13, 4)
        await desk.pool.close()
        await over(hanging, requests)

    run(main())


def test_what_a_goaway_gives_back_goes_before_its_owners_own_and_in_turn_with_others(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = await opened(make, {3: 3}, "a", "b", max_connections=1)
        old = desk.network.wires[0]
        first = desk.ask(2, owner="a", body=b"a first")
        await turn()
        second = desk.ask(2, owner="a", body=b"a second")
        others = desk.ask(3, owner="b", body=b"b")
        await turn()
        assert list(old.bodies().values()) == [b"a first", b"a first", b"b"]
        old.receive(GoAwayFrame(0, 1, 0))
        order: list[bytes] = []
        for _ in range(8):
            await turn()
            bodies = desk.network.wires[1].bodies()
            order += bodies.values()
            desk.network.wires[1].answer(*bodies)
        assert sorted(order) == [b"a first"] * 2 + [b"a second"] * 2 + [b"b"] * 3
        assert order.index(b"a second") > max(at for at, body in enumerate(order) if body == b"a first")
        assert order.index(b"b") < 2
        assert desk.pool.repeats == 3
        await over(first, second, others)
        await desk.pool.close()

    run(main())


def test_bound_of_those_who_wait_is_each_owners_own(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = await opened(make, {3: 1}, "a", "b", max_connections=1, max_waiting=3)
        a, b = desk.ask(10, owner="a"), desk.ask(3, owner="b")
        await turn()
        assert [request.done() for request in a] == [False] * 4 + [True] * 6
        assert {type(request.exception()) for request in a[4:]} == {NotSent}
        assert not any(request.done() for request in b)
        await desk.pool.close()
        await over(a, b)

    run(main())


def test_streams_of_cancelled_and_of_late_requests_are_given_back(run: Run, make: Make) -> None:
    async def main() -> None:
        desk = await opened(make, {3: 6}, "a", "b", max_connections=1)
        cancelled, late = desk.ask(2, owner="a"), desk.ask(1, owner="a", timeout_s=2)
        waiting = desk.ask(3, owner="a", timeout_s=5)
        (other,) = desk.ask(owner="b", timeout_s=30)
        await turn()
        wire = desk.network.wires[0]
        assert len(wire.requests()) == 5
        waiting[-1].cancel()
        for request in cancelled:
            request.cancel()
        await turn()
        assert len(wire.requests()) == 1
        with pytest.raises(Unanswered):
            await late[0]
        assert desk.pool._shares.by_owner["a"].held == 2
        other.cancel()
        await over(waiting, [other])
        assert desk.pool._shares.held == 0
        await desk.pool.close()

    run(main())
