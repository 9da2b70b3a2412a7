"""Frames: cut out of any chunking, written as another library reads them, refused when they are of no legal shape."""

from __future__ import annotations

import pytest
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given
from hypothesis import strategies as st

from pushgate.http2 import frames
from pushgate.http2.frames import ErrorCode, FrameReader, PeerFault, Setting

IDS = st.integers(1, 2**31 - 1)
FRAMES = st.one_of(
    st.builds(DataFrame, IDS, st.binary(max_size=200), flags=st.sampled_from([[], ["END_STREAM"]])),
    st.builds(HeadersFrame, IDS, st.binary(max_size=50), flags=st.just(["END_HEADERS"])),
    st.builds(PingFrame, st.just(0), st.binary(min_size=8, max_size=8)),
    st.builds(WindowUpdateFrame, IDS, st.integers(1, 2**31 - 1)),
    st.builds(RstStreamFrame, IDS, st.integers(0, 2**32 - 1)),
)


@given(st.lists(FRAMES, max_size=10), st.lists(st.integers(1, 40), min_size=1))
def test_frames_come_out_whole_and_in_order_whatever_the_chunks(sent: list[Frame], sizes: list[int]) -> None:
    data = b"".join(frame.serialize() for frame in sent)
    reader, found, at, turn = FrameReader(), [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        found += reader.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    rebuilt = b"".join(frames.frame(kind, flags, stream_id, payload) for kind, flags, stream_id, payload in found)
    assert rebuilt == data
    assert len(found) == len(sent)


def test_frame_beyond_the_limit_ends_the_reading_before_its_payload_came() -> None:
    reader = FrameReader()
    assert len(reader.feed(PingFrame(0, b"12345678").serialize() + b"\x00\x40\x00" + bytes(6))) == 1
    assert reader.feed(bytes(16_384)) == [(0, 0, 0, bytes(16_384))]
    states = [reader.is_oversized]
    assert reader.feed(b"\x00\x40\x01" + bytes(6)) == []
    assert [*states, reader.is_oversized] == [False, True]
    assert reader.feed(PingFrame(0, b"12345678").serialize()) == []


def test_reserved_bit_of_a_stream_id_is_ignored() -> None:
    assert FrameReader().feed(b"\0\0\0\x06\0\x80\0\0\x01") == [(6, 0, 1, b"")]


def test_what_we_write_is_what_another_library_reads() -> None:
    written = (
        frames.settings({Setting.HEADER_TABLE_SIZE: 0, Setting.ENABLE_PUSH: 0}),
        frames.window_update(3, 2**31 - 1),
        frames.rst_stream(5, ErrorCode.CANCEL),
        frames.goaway(ErrorCode.ENHANCE_YOUR_CALM),
    )
    expected = (
        SettingsFrame(settings={1: 0, 2: 0}),
        WindowUpdateFrame(3, 2**31 - 1),
        RstStreamFrame(5, 8),
        GoAwayFrame(0, 0, 11),
    )
    assert written == tuple(frame.serialize() for frame in expected)


@pytest.mark.parametrize(
    ("flags", "payload", "content"),
    [
        (0, b"abc", b"abc"),
        (frames.PADDED, b"\x02abc\0\0", b"abc"),
        (frames.PADDED, b"\0abc", b"abc"),
        (frames.PADDED, b"\x03\0\0\0", b""),
        (frames.PRIORITIZED, b"\0\0\0\0\x10abc", b"abc"),
        (frames.PADDED | frames.PRIORITIZED, b"\x01\0\0\0\0\x10abc\0", b"abc"),
    ],
)
def test_padding_and_priority_are_taken_off(flags: int, payload: bytes, content: bytes) -> None:
    assert frames.unpad(flags, payload) == content


@pytest.mark.parametrize(
    ("flags", "payload", "code"),
    [
        (frames.PADDED, b"", ErrorCode.FRAME_SIZE_ERROR),
        (frames.PADDED, b"\x03\0\0", ErrorCode.PROTOCOL_ERROR),
        (frames.PRIORITIZED, b"\0\0\0\0", ErrorCode.PROTOCOL_ERROR),
        (frames.PADDED | frames.PRIORITIZED, b"\x01\0\0\0\0\x10", ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_more_padding_than_payload_is_a_fault(flags: int, payload: bytes, code: ErrorCode) -> None:
    with pytest.raises(PeerFault) as caught:
        frames.unpad(flags, payload)
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        (2, 1, ErrorCode.PROTOCOL_ERROR),
        (4, 2**31, ErrorCode.FLOW_CONTROL_ERROR),
        (5, 16_383, ErrorCode.PROTOCOL_ERROR),
        (5, 2**24, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_settings_out_of_range_are_a_fault(key: int, value: int, code: ErrorCode) -> None:
    with pytest.raises(PeerFault) as caught:
        frames.parse_settings(b"\0\x03\0\0\0\x01" + key.to_bytes(2, "big") + value.to_bytes(4, "big"))
    assert caught.value.code is code


def test_settings_at_the_edge_of_their_range_are_taken() -> None:
    edges = {2: 0, 4: 2**31 - 1, 5: 2**24 - 1, 999: 2**32 - 1}
    payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in edges.items())
    assert frames.parse_settings(payload) == list(edges.items())


@pytest.mark.parametrize(
    ("debug", "reason"),
    [
        (b'{"reason":"Shutdown"}', "Shutdown"),
        (b'{"reason":"x","timestamp":1}', "x"),
        (b"", ""),
        (b"max_age", ""),
        (b"\xff\xfe", ""),
        (b'{"reason":"\xff"}', ""),
        (b"[1]", ""),
        (b'{"reason":5}', ""),
        (b'{"reason":"' + b"y" * 5000 + b'"}', ""),
    ],
)
def test_goaway_has_a_reason_where_the_peer_gives_one_that_can_be_read(debug: bytes, reason: str) -> None:
    goaway = frames.parse_goaway(b"\x80\0\0\x07\0\0\0\x0b" + debug)
    assert (goaway.last_stream_id, goaway.code, goaway.reason) == (7, 11, reason)


def test_codes_have_names_and_unknown_ones_do_not_fail() -> None:
    assert (frames.code_name(7), frames.code_name(77)) == ("REFUSED_STREAM", "code 77")
