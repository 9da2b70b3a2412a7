"""Whatever a peer sends, in whatever pieces: nothing raises, nothing hangs, every request ends exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushgate.http2.limits import Limits

Desks = Callable[..., Any]
SMALL = Limits(answer_bytes=300, header_block_bytes=500, receive_window_bytes=70_000, patience_frames=15)

STREAM_IDS = st.sampled_from([0, 1, 1, 3, 3, 5, 5, 7, 2, 99, 2**31 - 1])
BLOCKS = st.sampled_from(
    [
        b"\x88",
        b"\x8d",
        b"\x08\x03100",
        b"\x20\x88",
        b"\x88\x5c\x011",
        b"\x8e\x00\x01a\x01b",
        b"\xbe",
        b"",
        b"\x48\x82\x64\x02",
    ]
)
PAYLOADS = st.one_of(st.binary(max_size=40), st.integers(0, 400).map(bytes))
LONGS = st.one_of(st.integers(0, 100_000), st.just(2**31 - 1), st.integers(0, 2**32 - 1)).map(
    lambda number: number.to_bytes(4, "big")
)
SETTING = st.tuples(st.sampled_from([1, 2, 3, 4, 4, 5, 6, 9]), LONGS).map(
    lambda setting: setting[0].to_bytes(2, "big") + setting[1]
)


def raw(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def frames_of(kind: int, flags: list[int], payloads: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(raw, st.just(kind), st.sampled_from(flags), STREAM_IDS, payloads)


PLAUSIBLE = st.one_of(
    frames_of(0, [0, 1, 8, 9], PAYLOADS),
    frames_of(1, [0, 4, 5, 5, 5, 13, 45], BLOCKS),
    frames_of(2, [0], st.binary(min_size=5, max_size=5)),
    frames_of(3, [0], LONGS),
    st.lists(SETTING, max_size=3).map(lambda parts: raw(4, 0, 0, b"".join(parts))),
    st.builds(raw, st.just(6), st.sampled_from([0, 1]), st.just(0), st.binary(min_size=8, max_size=8)),
    st.tuples(LONGS, LONGS, st.binary(max_size=20)).map(lambda parts: raw(7, 0, 0, b"".join(parts))),
    frames_of(8, [0], LONGS),
    frames_of(9, [0, 4], BLOCKS),
    st.builds(raw, st.integers(0, 255), st.integers(0, 255), STREAM_IDS, PAYLOADS),
)


def play(desk: Any, data: bytes, sizes: list[int]) -> None:
    """Five requests, one of them too large for the windows, then the peer's bytes, then the end of the transport."""
    desk.settle()
    outcomes = [desk.start(bytes(size))[1] for size in (0, 1, 1900, 100_000)]
    desk.sent()
    outcomes.append(desk.start()[1])
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        desk.session.receive(data[at : at + size])
        assert len(b"".join(desk.session.out.chunks)) < 200_000
        desk.sent()
        at, turn = at + size, turn + 1
    open_ids = set(desk.session.streams.open)
    assert sum(not outcome.done() for outcome in outcomes) == len(open_ids)
    if desk.session.is_over:
        assert not open_ids
    desk.session.lose("the end")
    assert all(outcome.done() for outcome in outcomes)


SIZES = st.lists(st.sampled_from([1, 2, 7, 9, 50, 1000, 100_000]), min_size=1, max_size=4)


@given(data=st.binary(max_size=400), sizes=SIZES)
def test_any_bytes_end_every_request(desk: Desks, data: bytes, sizes: list[int]) -> None:
    play(desk(SMALL), data, sizes)


@settings(max_examples=400)
@given(frames=st.lists(PLAUSIBLE, max_size=40), sizes=SIZES)
def test_any_plausible_frames_end_every_request(desk: Desks, frames: list[bytes], sizes: list[int]) -> None:
    play(desk(SMALL), b"".join(frames), sizes)


GOOD = b"".join(
    [
        raw(1, 4, 1, b"\x88\x5c\x012"),
        raw(0, 9, 1, b"\x03ok\0\0\0"),
        raw(8, 0, 0, (100_000).to_bytes(4, "big")),
        raw(1, 0, 3, b"\x8d"),
        raw(9, 4, 3, b"\x00\x01a\x01b"),
        raw(0, 1, 3, b"reason"),
        raw(4, 0, 0, b"\0\x04\0\x02\0\0\0\x03\0\0\0\x0a"),
        raw(6, 0, 0, b"12345678"),
        raw(3, 0, 5, b"\0\0\0\x07"),
        raw(1, 37, 7, b"\0\0\0\0\x10\x88"),
        raw(7, 0, 0, b"\0\0\0\x07\0\0\0\0" + b'{"reason":"Shutdown"}'),
        raw(1, 5, 9, b"\x88"),
    ]
)


@settings(max_examples=400)
@given(
    edits=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, 2)), max_size=6),
    sizes=SIZES,
)
def test_any_mutation_of_good_frames_ends_every_request(
    desk: Desks, edits: list[tuple[int, int, int]], sizes: list[int]
) -> None:
    data = bytearray(GOOD)
    for at, byte, edit in edits:
        if edit == 0 and at < len(data):
            data[at] = byte
        elif edit == 1:
            data[at:at] = bytes([byte])
        else:
            del data[at : at + 1]
    play(desk(SMALL), bytes(data), sizes)


def test_the_good_frames_are_good(desk: Desks) -> None:
    made = desk()
    made.settle()
    outcomes = [made.start()[1] for _ in range(5)]
    made.sent()
    made.receive(GOOD)
    assert [outcome.kind for outcome in outcomes] == ["200", "404", "NotSent", "200", "NotSent"]
    assert not made.session.is_over


@pytest.mark.parametrize("kind", range(11))
@pytest.mark.parametrize("flags", [0, 0xFF])
def test_empty_frames_of_every_kind_end_every_request(desk: Desks, kind: int, flags: int) -> None:
    for stream_id in (0, 1, 2, 3, 99):
        play(desk(SMALL), raw(kind, flags, stream_id, b"") * 3, [1000])
