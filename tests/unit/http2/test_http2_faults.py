"""Every rule that a peer may break costs the connection: the peer is told why, and every request ends (RFC 9113)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from pushgate.http2.limits import Limits

Desks = Callable[..., Any]
SMALL = Limits(answer_bytes=1000, header_block_bytes=2000, receive_window_bytes=100_000, patience_frames=20)


def head(stream_id: int, data: bytes = b"\x88", *flags: str) -> HeadersFrame:
    return HeadersFrame(stream_id, data, flags=["END_HEADERS", *flags])


def raw(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def ready(desk: Desks, limits: Limits | None = None, **settings: int) -> Any:
    made = desk(limits)
    made.settle(**settings)
    return made


SETTINGS_ACK = SettingsFrame(flags=["ACK"])
FAULTS: dict[str, tuple[int, list[Frame | bytes]]] = {
    "push": (1, [PushPromiseFrame(1, 2, b"\x82", flags=["END_HEADERS"])]),
    "answer-on-even-stream": (1, [head(2)]),
    "answer-on-idle-stream": (1, [head(99)]),
    "answer-on-connection": (1, [raw(1, 4, 0, b"\x88")]),
    "data-on-connection": (1, [raw(0, 0, 0, b"x")]),
    "data-on-idle-stream": (1, [DataFrame(99, b"x")]),
    "reset-on-idle-stream": (1, [RstStreamFrame(99, 0)]),
    "reset-on-connection": (1, [raw(3, 0, 0, bytes(4))]),
    "reset-of-3-bytes": (6, [raw(3, 0, 1, bytes(3))]),
    "window-on-idle-stream": (1, [WindowUpdateFrame(99, 1)]),
    "window-of-0-on-connection": (1, [raw(8, 0, 0, bytes(4))]),
    "window-of-5-bytes": (6, [raw(8, 0, 0, bytes(5))]),
    "window-too-large": (3, [WindowUpdateFrame(0, 2**31 - 1)]),
    "stream-windows-too-large": (3, [WindowUpdateFrame(1, 2**31 - 1 - 65_535), SettingsFrame(settings={4: 70_000})]),
    "settings-on-stream": (1, [raw(4, 0, 1, b"")]),
    "settings-of-5-bytes": (6, [raw(4, 0, 0, bytes(5))]),
    "settings-ack-with-payload": (6, [raw(4, 1, 0, bytes(6))]),
    "settings-push": (1, [SettingsFrame(settings={2: 1})]),
    "settings-window": (3, [raw(4, 0, 0, b"\0\x04\x80\0\0\0")]),
    "settings-frame": (1, [raw(4, 0, 0, b"\0\x05\0\0\0\0")]),
    "ping-on-stream": (1, [raw(6, 0, 1, bytes(8))]),
    "ping-of-7-bytes": (6, [raw(6, 0, 0, bytes(7))]),
    "goaway-on-stream": (1, [raw(7, 0, 1, bytes(8))]),
    "goaway-of-7-bytes": (6, [raw(7, 0, 0, bytes(7))]),
    "priority-on-connection": (1, [raw(2, 0, 0, bytes(5))]),
    "priority-of-4-bytes": (1, [raw(2, 0, 1, bytes(4))]),
    "continuation-of-nothing": (1, [ContinuationFrame(1, b"\x88")]),
    "continuation-missing": (1, [HeadersFrame(1, b"\x88"), PingFrame(0, bytes(8))]),
    "continuation-of-another": (1, [HeadersFrame(1, b"\x88"), ContinuationFrame(3, b"")]),
    "padding-too-long": (1, [raw(0, 8, 1, b"\x05abc")]),
    "frame-too-large": (6, [raw(0, 0, 1, bytes(16_385))]),
    "status-undecodable": (9, [head(1, b"\xbe")]),
    "fields-undecodable": (9, [head(1, b"\x8d\xbe")]),
    "table-too-large": (9, [head(1, b"\x3f\xe1\x1f\x88")]),
    "answer-after-answer": (5, [head(1, b"\x88", "END_STREAM"), head(1, b"\x88", "END_STREAM")]),
    "data-after-answer": (5, [head(1, b"\x88", "END_STREAM"), DataFrame(1, b"x")]),
    "header-block-too-large": (11, [HeadersFrame(1, bytes(1500)), ContinuationFrame(1, bytes(600))]),
    "flood-of-pings": (11, [PingFrame(0, bytes(8))] * 100),
    "flood-of-settings": (11, [SettingsFrame()] * 100),
    "flood-of-acks": (11, [SETTINGS_ACK] * 100),
    "flood-of-empty-data": (11, [head(1), *[DataFrame(1, b"")] * 100]),
    "flood-of-padding": (11, [head(1), *[DataFrame(1, b"", pad_length=1, flags=["PADDED"])] * 100]),
    "flood-of-empty-continuations": (11, [HeadersFrame(1, b""), *[ContinuationFrame(1, b"")] * 100]),
    "flood-of-interim-answers": (11, [head(1, b"\x08\x03100")] * 100),
    "flood-of-resets": (11, [RstStreamFrame(1, 0)] * 100),
    "flood-of-windows": (11, [WindowUpdateFrame(0, 1)] * 100),
    "flood-of-priorities": (11, [PriorityFrame(1)] * 100),
    "flood-of-goaways": (11, [GoAwayFrame(0, 3, 0)] * 100),
    "flood-of-unknown-frames": (11, [raw(0xFA, 0, 0, b"")] * 100),
}


@pytest.mark.parametrize("name", FAULTS)
def test_peer_that_breaks_the_protocol_costs_the_connection_and_is_told_why(desk: Desks, name: str) -> None:
    made = ready(desk, SMALL)
    (_, first), (_, second) = made.start(), made.start()
    made.sent()
    code, frames = FAULTS[name]
    goaway = made.receive(*frames)[-1]
    assert isinstance(goaway, GoAwayFrame)
    assert (goaway.error_code, goaway.last_stream_id) == (code, 0)
    assert made.session.is_over
    assert "the peer broke the protocol" in made.session.end
    assert first.kind in {"Unanswered", "200"}
    assert second.kind == "Unanswered"
    assert made.receive(head(3, b"\x88", "END_STREAM")) == []


@pytest.mark.parametrize("first", [PingFrame(0, bytes(8)), SETTINGS_ACK, b"HTTP/1.1 400 Bad Request\r\n\r\n", head(1)])
def test_peer_that_does_not_begin_with_settings_is_left(desk: Desks, first: Frame | bytes) -> None:
    made = desk()
    (goaway,) = made.receive(first)
    assert isinstance(goaway, GoAwayFrame)
    assert made.session.is_over
    assert not made.session.is_ready


def test_patience_comes_back_with_time_and_with_progress(desk: Desks) -> None:
    made = ready(desk, SMALL)
    for _ in range(10):
        made.receive(*[PingFrame(0, bytes(8))] * 15)
        made.now += 10
    assert not made.session.is_over
    for _ in range(100):
        stream_id, outcome = made.start()
        made.receive(*[WindowUpdateFrame(0, 5)] * 20, head(stream_id, b"\x88", "END_STREAM"))
        assert outcome.kind == "200"
    assert not made.session.is_over


def test_what_did_not_leave_before_a_fault_never_leaves(desk: Desks) -> None:
    made = ready(desk)
    made.start()
    made.sent()
    _, stayed = made.start()
    (goaway,) = made.receive(raw(0, 0, 0, b"x"))
    assert isinstance(goaway, GoAwayFrame)
    assert stayed.kind == "NotSent"
