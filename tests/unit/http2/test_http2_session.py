"""The session against a peer made of frames: every answer it may give, every rule it may break (RFC 9113)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from pushgate.errors import NotSent
from pushgate.http2.limits import Limits

Desks = Callable[..., Any]
SMALL = Limits(answer_bytes=1000, header_block_bytes=2000, receive_window_bytes=100_000, patience_frames=20)


def block(*fields: tuple[str, str]) -> bytes:
    encoder = Encoder()
    encoder.header_table_size = 0
    return encoder.encode(list(fields))


def head(stream_id: int, data: bytes = b"\x88", *flags: str) -> HeadersFrame:
    return HeadersFrame(stream_id, data, flags=["END_HEADERS", *flags])


def raw(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def ready(desk: Desks, limits: Limits | None = None, **settings: int) -> Any:
    made = desk(limits)
    made.settle(**settings)
    return made


# What we say first


def test_greeting_turns_pushes_and_the_dynamic_table_off_and_opens_the_windows(desk: Desks) -> None:
    settings, window = desk(SMALL).greeting
    assert settings.settings == {1: 0, 2: 0, 4: 2000, 6: 2000}
    assert (window.stream_id, window.window_increment) == (0, 100_000 - 65_535)


def test_no_request_before_the_peers_settings(desk: Desks) -> None:
    fresh = desk()
    with pytest.raises(NotSent):
        fresh.start()
    fresh.settle(max_concurrent_streams=1)
    fresh.start()
    with pytest.raises(NotSent, match="no free stream"):
        fresh.start()


# Answers


def test_answer_in_one_frame_and_in_many_is_the_same(desk: Desks) -> None:
    made = ready(desk)
    whole, outcome_of_whole = made.start()
    pieces, outcome_of_pieces = made.start()
    fields = block((":status", "503"), ("apns-id", "x"))
    made.receive(head(whole, fields), DataFrame(whole, b"0123456789", flags=["END_STREAM"]))
    made.receive(
        HeadersFrame(pieces, fields[:1]),
        ContinuationFrame(pieces, fields[1:3]),
        ContinuationFrame(pieces, fields[3:], flags=["END_HEADERS"]),
        *(DataFrame(pieces, bytes([48 + digit])) for digit in range(10)),
        DataFrame(pieces, b"", flags=["END_STREAM"]),
    )
    assert outcome_of_whole.response == outcome_of_pieces.response
    assert outcome_of_whole.response.status == 503
    assert outcome_of_whole.response.body == b"0123456789"
    assert type(outcome_of_pieces.response.body) is bytes
    assert outcome_of_whole.response.headers == {"apns-id": "x"}


def test_answers_come_in_any_order_and_each_reaches_its_request(desk: Desks) -> None:
    made = ready(desk)
    outcomes = dict(made.start() for _ in range(10))
    for stream_id in reversed(outcomes):
        made.receive(head(stream_id), DataFrame(stream_id, str(stream_id).encode(), flags=["END_STREAM"]))
    assert {stream_id: int(outcome.response.body) for stream_id, outcome in outcomes.items()} == {
        stream_id: stream_id for stream_id in outcomes
    }


def test_interim_answers_padding_priority_and_trailers_change_nothing(desk: Desks) -> None:
    made = ready(desk)
    stream_id, outcome = made.start()
    final = HeadersFrame(stream_id, b"\x88", flags=["END_HEADERS", "PADDED", "PRIORITY"], pad_length=7)
    made.receive(
        head(stream_id, block((":status", "103"), ("link", "x"))),
        head(stream_id, block((":status", "100"))),
        final,
        DataFrame(stream_id, b"body", pad_length=100, flags=["PADDED"]),
        DataFrame(stream_id, b"", pad_length=10, flags=["PADDED"]),
        head(stream_id, block(("grpc-status", "0")), "END_STREAM"),
    )
    assert outcome.response.status == 200
    assert outcome.response.body == b"body"


def test_undefined_flags_of_data_are_ignored(desk: Desks) -> None:
    made = ready(desk)
    stream_id, outcome = made.start()
    made.receive(head(stream_id), raw(0, 0xF7, stream_id, b"body"))
    assert outcome.response.body == b"body"


def test_answer_beyond_the_cap_keeps_its_status_and_is_cut(desk: Desks) -> None:
    made = ready(desk, SMALL)
    stream_id, outcome = made.start()
    made.sent()
    sent = made.receive(head(stream_id, b"\x8e"), DataFrame(stream_id, b"a" * 700), DataFrame(stream_id, b"b" * 700))
    assert outcome.response.status == 500
    assert outcome.response.body == b"a" * 700 + b"b" * 300
    assert [(type(frame), frame.stream_id, frame.error_code) for frame in sent] == [(RstStreamFrame, stream_id, 8)]
    assert made.receive(DataFrame(stream_id, b"c" * 700, flags=["END_STREAM"])) == []


def test_answer_beyond_the_cap_in_its_last_frame_is_cut_without_a_reset(desk: Desks) -> None:
    made = ready(desk, SMALL)
    stream_id, outcome = made.start()
    made.sent()
    assert made.receive(head(stream_id), DataFrame(stream_id, b"a" * 1001, flags=["END_STREAM"])) == []
    assert len(outcome.response.body) == 1000


def test_padding_counts_for_the_cap_so_no_stream_stalls(desk: Desks) -> None:
    made = ready(desk, SMALL)
    stream_id, outcome = made.start()
    made.receive(head(stream_id))
    for _ in range(4):
        made.receive(DataFrame(stream_id, b"a", pad_length=255, flags=["PADDED"]))
    assert outcome.response.body == b"aaaa"


def test_connection_window_is_given_back_when_half_of_it_is_used(desk: Desks) -> None:
    made = ready(desk, Limits(answer_bytes=100_000, receive_window_bytes=100_000))
    first, _ = made.start()
    second, _ = made.start()
    made.sent()
    assert made.receive(head(first), head(second), *[DataFrame(first, bytes(10_000))] * 5) == []
    (update,) = made.receive(DataFrame(second, bytes(1000)))
    assert (update.stream_id, update.window_increment) == (0, 51_000)


def test_data_of_a_stream_that_was_given_up_is_still_paid_for(desk: Desks) -> None:
    made = ready(desk, Limits(receive_window_bytes=100_000))
    stream_id, _ = made.start()
    made.session.abandon(made.session.streams.open[stream_id], "test")
    made.sent()
    (update,) = made.receive(head(stream_id), *[DataFrame(stream_id, bytes(15_000))] * 4)
    assert update.window_increment == 60_000


def test_answer_before_the_request_is_sent_counts_and_cuts_the_request(desk: Desks) -> None:
    made = ready(desk)
    stream_id, outcome = made.start(b"x" * 100_000)
    made.sent()
    (reset,) = made.receive(head(stream_id, b"\x8c", "END_STREAM"))
    assert outcome.response.status == 400
    assert (reset.stream_id, reset.error_code) == (stream_id, 8)
    assert made.receive(RstStreamFrame(stream_id, 0), WindowUpdateFrame(0, 100_000)) == []


def test_reset_without_error_after_the_answer_changes_nothing(desk: Desks) -> None:
    made = ready(desk)
    stream_id, outcome = made.start()
    made.receive(head(stream_id, b"\x88", "END_STREAM"), RstStreamFrame(stream_id, 0))
    assert outcome.kind == "200"
    assert not made.session.is_over


@pytest.mark.parametrize(("code", "kind"), [(7, "NotSent"), (0, "Unanswered"), (2, "Unanswered"), (99, "Unanswered")])
def test_reset_says_whether_the_peer_may_have_acted(desk: Desks, code: int, kind: str) -> None:
    made = ready(desk)
    stream_id, outcome = made.start(b"x" * 100_000)
    made.sent()
    assert made.receive(head(stream_id), RstStreamFrame(stream_id, code), WindowUpdateFrame(0, 100_000)) == []
    assert outcome.kind == kind


@pytest.mark.parametrize(
    "frames",
    [
        [DataFrame(1, b"x")],
        [head(1, b"\x08\x03100", "END_STREAM")],
        [head(1, b"\x08\x03101")],
        [head(1), head(1, b"\x88")],
        [head(1, b"\x40\x01a\x01b")],
        [head(1, b"\x8d\x00\x01A\x01b")],
        [head(1), WindowUpdateFrame(1, 1).serialize()[:-4] + bytes(4)],
    ],
    ids=["data-first", "interim-last", "101", "two-answers", "no-status", "upper-case", "window-of-0"],
)
def test_malformed_answer_costs_only_its_stream(desk: Desks, frames: list[Frame]) -> None:
    made = ready(desk)
    (_, outcome), (other, other_outcome) = made.start(), made.start()
    made.sent()
    (reset,) = made.receive(*frames)
    assert (reset.stream_id, reset.error_code) == (1, 1)
    assert outcome.kind == "Unanswered"
    made.receive(head(other, b"\x88", "END_STREAM"))
    assert other_outcome.kind == "200"


def test_stream_window_too_large_costs_only_its_stream(desk: Desks) -> None:
    made = ready(desk)
    stream_id, outcome = made.start()
    made.sent()
    (reset,) = made.receive(WindowUpdateFrame(stream_id, 2**31 - 1))
    assert (reset.stream_id, reset.error_code) == (stream_id, 3)
    assert outcome.kind == "Unanswered"


# Limits that move


def test_limit_of_streams_moves_with_every_settings(desk: Desks) -> None:
    made = ready(desk, max_concurrent_streams=1)
    made.start()
    made.receive(SettingsFrame(settings={3: 3}))
    made.start()
    made.start()
    made.receive(SettingsFrame(settings={3: 0}))
    with pytest.raises(NotSent):
        made.start()
    made.receive(head(1, b"\x88", "END_STREAM"), head(3, b"\x88", "END_STREAM"), head(5, b"\x88", "END_STREAM"))
    with pytest.raises(NotSent):
        made.start()
    made.receive(SettingsFrame(settings={3: 2**32 - 1}))
    assert made.session.streams.max_streams == Limits().max_streams


def test_limit_stays_when_settings_do_not_name_it(desk: Desks) -> None:
    made = ready(desk, max_concurrent_streams=2)
    made.receive(SettingsFrame(settings={4: 100}))
    assert made.session.streams.max_streams == 2


def test_settings_take_effect_in_their_order_and_are_acknowledged(desk: Desks) -> None:
    made = ready(desk)
    payload = (
        b"\0\x04\0\0\0\x05" + b"\0\x03\0\0\0\x09" + b"\0\x04\0\0\0\x07" + b"\0\x05\0\x01\0\0" + b"\x99\x99" + bytes(4)
    )
    (acknowledgement,) = made.receive(raw(4, 0, 0, payload))
    assert "ACK" in acknowledgement.flags
    assert made.session.out.initial_window == 7
    assert made.session.out.frame_bytes == 65_536
    assert made.session.streams.max_streams == 9


def test_window_that_opens_lets_held_bodies_go(desk: Desks) -> None:
    made = ready(desk, initial_window_size=10)
    stream_id, _ = made.start(b"0123456789abcdef")
    assert [frame.data for frame in made.sent()] == [b"\x20\x83", b"0123456789"]
    (rest,) = made.receive(WindowUpdateFrame(stream_id, 3))
    assert (rest.data, rest.flags) == (b"abc", set())
    (rest, acknowledgement) = made.receive(SettingsFrame(settings={4: 20}))
    assert rest.data == b"def"
    assert "END_STREAM" in rest.flags
    assert isinstance(acknowledgement, SettingsFrame)


# PING, GOAWAY, the ends


def test_ping_is_answered_and_ours_is_recognized(desk: Desks) -> None:
    made = ready(desk)
    (answer,) = made.receive(PingFrame(0, b"opaque!!"))
    assert answer.opaque_data == b"opaque!!"
    assert "ACK" in answer.flags
    made.session.ping()
    (ours,) = made.sent()
    made.receive(PingFrame(0, b"opaque!!", flags=["ACK"]))
    assert made.session.awaited_ping is not None
    made.receive(PingFrame(0, ours.opaque_data, flags=["ACK"]))
    assert made.session.awaited_ping is None


def test_goaway_frees_what_the_peer_will_not_act_on_and_awaits_the_rest(desk: Desks) -> None:
    made = ready(desk)
    outcomes = dict(made.start(b"x" * 20_000) for _ in range(5))
    made.sent()
    made.receive(GoAwayFrame(0, 2**31 - 1, 0, b'{"reason":"Shutdown"}'))
    assert {outcome.kind for outcome in outcomes.values()} == {"open"}
    assert made.session.goaway.reason == "Shutdown"
    with pytest.raises(NotSent):
        made.start()
    made.receive(GoAwayFrame(0, 5, 0))
    assert [outcome.kind for outcome in outcomes.values()] == ["open", "open", "open", "NotSent", "NotSent"]
    made.receive(GoAwayFrame(0, 9, 11), WindowUpdateFrame(0, 1_000_000))
    made.receive(*(head(stream_id, b"\x88", "END_STREAM") for stream_id in (1, 3, 5)))
    assert [outcome.kind for outcome in outcomes.values()] == ["200", "200", "200", "NotSent", "NotSent"]
    assert not made.session.is_over


def test_abandoned_request_is_cancelled_and_frees_its_place(desk: Desks) -> None:
    made = ready(desk, max_concurrent_streams=1)
    stream_id, outcome = made.start()
    made.sent()
    stream = made.session.streams.open[stream_id]
    made.session.abandon(stream, "no answer in time")
    made.session.abandon(stream, "no answer in time")
    (reset,) = made.sent()
    assert (reset.stream_id, reset.error_code) == (stream_id, 8)
    assert outcome.kind == "Unanswered"
    made.start()
    late = [head(stream_id), DataFrame(stream_id, b"late", flags=["END_STREAM"]), RstStreamFrame(stream_id, 0)]
    assert [type(frame) for frame in made.receive(*late)] == [HeadersFrame, DataFrame]
    assert not made.session.is_over


def test_transport_that_goes_tells_requests_that_left_from_those_that_did_not(desk: Desks) -> None:
    made = ready(desk)
    _, left = made.start()
    made.sent()
    _, stayed = made.start()
    made.session.lose("connection lost")
    made.session.lose("again")
    assert (left.kind, stayed.kind) == ("Unanswered", "NotSent")
    assert made.session.end == "connection lost"
    assert made.sent() == []


def test_stream_ids_that_run_out_retire_the_connection(desk: Desks) -> None:
    made = desk(first_stream_id=2**31 - 3)
    made.settle()
    (first, one), (second, two) = made.start(), made.start()
    assert (first, second) == (2**31 - 3, 2**31 - 1)
    with pytest.raises(NotSent):
        made.start()
    made.receive(head(first, b"\x88", "END_STREAM"), head(second, b"\x88", "END_STREAM"))
    assert (one.kind, two.kind) == ("200", "200")


def test_only_so_many_resets_are_remembered_and_older_streams_are_not_held_against_the_peer(desk: Desks) -> None:
    made = ready(desk)
    answered, _ = made.start()
    made.receive(head(answered, b"\x88", "END_STREAM"))
    for _ in range(1500):
        stream_id, _ = made.start()
        made.session.abandon(made.session.streams.open[stream_id], "test")
    made.sent()
    made.receive(head(3), head(answered), head(stream_id))
    assert not made.session.is_over
    assert len(made.session.streams._reset) == 1024
