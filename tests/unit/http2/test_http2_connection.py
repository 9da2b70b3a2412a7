"""A connection on a wire that remembers and a clock that jumps: deadlines, silence, back-pressure, ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hyperframe.frame import (
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from pushgate.errors import NotSent, Unanswered
from pushgate.http2.connection import HELD_CHUNKS, Connection, State
from pushgate.http2.limits import Limits

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Lines = Callable[..., Any]


async def turn() -> None:
    """Let the loop turn a few times without time passing."""
    for _ in range(5):
        await asyncio.sleep(0)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_requests_of_one_turn_leave_in_one_piece(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line()
        one.wire.sent()
        requests = [one.request(b"x" * 1900) for _ in range(20)]
        await turn()
        assert len(one.wire.pieces) == 1
        ids = one.wire.requests()
        assert ids == list(range(1, 41, 2))
        assert one.connection.in_flight == 20
        one.wire.answer(*ids)
        assert [(await request).status for request in requests] == [200] * 20
        assert one.connection.answered == one.connection.started == 20
        assert one.connection.in_flight == 0

    run(main())


def test_free_streams_are_what_the_peer_announced_less_what_is_in_flight(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line(max_concurrent_streams=2)
        assert (one.connection.free_streams, one.connection.has_room) == (2, True)
        requests = [one.request(), one.request()]
        await turn()
        assert (one.connection.free_streams, one.connection.has_room) == (0, False)
        with pytest.raises(NotSent, match="no free stream"):
            await one.request()
        one.wire.receive(SettingsFrame(settings={3: 0}))
        assert one.connection.free_streams == 0
        one.wire.answer(1, 3)
        await asyncio.gather(*requests)
        assert (one.connection.free_streams, one.connection.is_usable) == (0, True)

    run(main())


def test_each_request_ends_at_its_own_deadline_with_one_timer_for_all(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line(Limits(quiet_s=1000))
        start = now()
        ends: dict[float, float] = {}

        async def ask(timeout_s: float) -> None:
            with pytest.raises(Unanswered, match="no answer in time"):
                await one.connection.request(b"\x83", b"x", timeout_s=timeout_s)
            ends[timeout_s] = now() - start

        waits = [7.0, 3.0, 5.0, 3.0001, 20.0]
        await asyncio.gather(*(ask(timeout_s) for timeout_s in waits))
        for timeout_s, after_s in ends.items():
            assert timeout_s <= after_s < timeout_s + 0.05
        resets = [frame for frame in one.wire.sent() if isinstance(frame, RstStreamFrame)]
        assert sorted((reset.stream_id, reset.error_code) for reset in resets) == [(id_, 8) for id_ in (1, 3, 5, 7, 9)]
        assert (one.connection.is_mute, one.connection.is_usable, one.connection.in_flight) == (True, False, 0)

    run(main())


def test_request_without_time_is_not_sent(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line()
        with pytest.raises(NotSent, match="no time"):
            await one.request(timeout_s=0)
        assert one.connection.started == 0

    run(main())


def test_cancelled_request_is_cancelled_at_the_peer_and_frees_its_place(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line(max_concurrent_streams=1)
        request = one.request()
        await turn()
        one.wire.sent()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        (reset,) = one.wire.sent()
        assert (type(reset), reset.stream_id) == (RstStreamFrame, 1)
        assert one.connection.has_room

    run(main())


def test_request_cancelled_in_the_turn_its_answer_comes_harms_nobody(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line()
        request = one.request()
        await turn()
        request.cancel()
        one.wire.answer(1)
        with pytest.raises(asyncio.CancelledError):
            await request
        assert one.connection.in_flight == 0
        assert one.connection.is_usable

    run(main())


def test_silent_peer_with_answers_due_is_asked_and_then_given_up(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line(Limits(quiet_s=5, ack_s=3))
        start = now()
        with pytest.raises(Unanswered, match="silent"):
            await one.request(timeout_s=60)
        assert now() - start == pytest.approx(8, abs=0.05)
        assert [type(frame) for frame in one.wire.sent()][-1] is PingFrame
        assert one.wire.was_aborted
        assert State.PING in one.states

    run(main())


def test_peer_that_acknowledges_is_slow_and_not_dead(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line(Limits(quiet_s=5, ack_s=3))
        request = one.request(timeout_s=30)
        for _ in range(3):
            await asyncio.sleep(6)
            ping = one.wire.sent()[-1]
            assert isinstance(ping, PingFrame)
            one.wire.receive(PingFrame(0, ping.opaque_data, flags=["ACK"]))
        one.wire.answer(1)
        assert (await request).status == 200
        assert one.states.count(State.PING) == 3

    run(main())


def test_silence_counts_from_the_first_request_and_not_from_the_idle_time_before(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line(Limits(quiet_s=5, ack_s=3))
        await asyncio.sleep(1000)
        short, long = one.request(timeout_s=1), one.request(timeout_s=10)
        await asyncio.sleep(4.9)
        with pytest.raises(Unanswered, match="in time"):
            await short
        assert State.PING not in one.states
        await asyncio.sleep(0.2)
        assert State.PING in one.states
        one.wire.answer(3)
        await long

    run(main())


def test_connection_that_was_never_used_is_pinged_too(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line(Limits(idle_ping_s=3600))
        await asyncio.sleep(3599)
        assert State.PING not in one.states
        await asyncio.sleep(2)
        assert State.PING in one.states

    run(main())


def test_idle_connection_is_pinged_once_an_hour_and_left_when_it_is_dead(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line(Limits(idle_ping_s=3600, ack_s=5))
        request = one.request()
        await turn()
        one.wire.answer(1)
        await request
        one.wire.sent()
        for _ in range(2):
            await asyncio.sleep(3590)
            assert one.wire.sent() == []
            await asyncio.sleep(12)
            (ping,) = one.wire.sent()
            one.wire.receive(PingFrame(0, ping.opaque_data, flags=["ACK"]))
        await asyncio.sleep(3610)
        assert one.wire.was_aborted
        assert one.connection.is_closed
        assert not one.connection.is_usable

    run(main())


def test_transport_that_is_full_holds_requests_back_until_it_is_not(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line()
        one.wire.sent()
        one.connection.pause_writing()
        assert not one.connection.has_room
        request = one.request()
        await turn()
        assert one.wire.pieces == []
        one.connection.resume_writing()
        assert one.connection.has_room
        assert one.wire.requests() == [1]
        assert one.states[-1] is State.ROOM
        one.wire.answer(1)
        await request

    run(main())


def test_peer_that_makes_us_answer_and_reads_nothing_is_left(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line(Limits(patience_frames=10**9))
        one.connection.pause_writing()
        one.wire.receive(*[PingFrame(0, bytes(8)).serialize()] * (HELD_CHUNKS + 10))
        await turn()
        assert one.wire.was_aborted

    run(main())


def test_request_that_never_left_is_not_sent_when_the_network_goes(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line()
        left = one.request()
        await turn()
        one.connection.pause_writing()
        stayed = one.request()
        await turn()
        one.wire.lose(ConnectionResetError("reset"))
        with pytest.raises(Unanswered, match="connection lost, ConnectionResetError"):
            await left
        with pytest.raises(NotSent, match="before the request left"):
            await stayed
        with pytest.raises(NotSent):
            await one.request()
        assert one.states[-1] is State.CLOSED

    run(main())


def test_goaway_closes_after_the_last_answer(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line()
        requests = [one.request(), one.request()]
        await turn()
        one.wire.receive(GoAwayFrame(0, 1, 0, b'{"reason":"Shutdown"}'))
        with pytest.raises(NotSent, match="going away"):
            await requests[1]
        assert one.states.count(State.GOAWAY) == 1
        assert not one.connection.is_usable
        assert not one.wire.is_closed
        one.wire.sent()
        one.wire.answer(1)
        assert (await requests[0]).status == 200
        assert [type(frame) for frame in one.wire.sent()] == [GoAwayFrame]
        assert one.wire.is_closed
        assert one.connection.goaway.reason == "Shutdown"

    run(main())


def test_goaway_on_an_idle_connection_closes_it(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line()
        one.wire.receive(GoAwayFrame(0, 0, 0))
        assert one.wire.is_closed
        await turn()
        assert one.connection.is_closed

    run(main())


def test_close_waits_for_answers_as_long_as_it_may(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line()
        quick, slow = one.request(), one.request()
        await turn()
        closing = asyncio.create_task(one.connection.close(5))
        await asyncio.sleep(1)
        one.wire.answer(1)
        assert (await quick).status == 200
        start = now()
        with pytest.raises(Unanswered, match="closed"):
            await slow
        await closing
        assert now() - start == pytest.approx(4, abs=0.05)
        assert isinstance(one.wire.sent()[-1], GoAwayFrame)
        assert one.connection.is_closed
        await one.connection.close()

    run(main())


def test_drained_connection_closes_by_itself(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line()
        request = one.request()
        await turn()
        one.connection.drain()
        assert not one.connection.is_usable
        with pytest.raises(NotSent):
            await one.request()
        one.wire.answer(1)
        await request
        assert one.wire.is_closed

    run(main())


def test_close_gives_up_on_a_transport_that_does_not_end(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line()
        one.wire.close = lambda: None
        start = now()
        await one.connection.close()
        assert now() - start == pytest.approx(Limits().linger_s, abs=0.05)
        assert one.wire.was_aborted

    run(main())


@pytest.mark.parametrize("alpn", [None, "http/1.1"])
def test_peer_without_http2_is_refused_by_name(run: Run, line: Lines, alpn: str | None) -> None:
    async def main() -> None:
        one = line(alpn=alpn)
        await turn()
        with pytest.raises(NotSent, match=f"ALPN: {alpn}"):
            await one.connection.ready()
        assert one.connection.is_closed

    run(main())


def test_settings_that_come_before_the_transport_are_not_lost(run: Run, line: Lines) -> None:
    """After TLS the peer's first bytes may be here before the loop tells of the transport."""

    async def main() -> None:
        early = Connection(Limits())
        early.data_received(SettingsFrame(settings={3: 7}).serialize())
        await early.ready()
        wire = type(line().wire)(early)
        assert [type(frame) for frame in wire.sent()] == [SettingsFrame, WindowUpdateFrame, SettingsFrame]
        assert early.free_streams == 7

    run(main())


def test_end_that_comes_before_the_transport_is_the_end(run: Run, line: Lines) -> None:
    async def main() -> None:
        early = Connection(Limits())
        early.connection_lost(None)
        wire = type(line().wire)(early)
        assert wire.pieces == []
        with pytest.raises(NotSent, match="connection lost"):
            await early.ready()

    run(main())


def test_peer_that_breaks_the_protocol_is_told_and_left_and_its_requests_end(run: Run, line: Lines) -> None:
    async def main() -> None:
        one = line()
        request = one.request()
        await turn()
        one.wire.receive(DataFrame(99, b"x"))
        with pytest.raises(Unanswered, match="PROTOCOL_ERROR"):
            await request
        assert isinstance(one.wire.sent()[-1], GoAwayFrame)
        assert one.wire.is_closed
        assert one.states[-1] is State.CLOSED
        one.wire.receive(HeadersFrame(1, b"\x88", flags=["END_HEADERS", "END_STREAM"]))
        assert one.wire.sent() == []

    run(main())
