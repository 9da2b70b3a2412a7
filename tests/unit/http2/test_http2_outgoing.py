"""Flow control of what we send, against a peer that keeps its own books (RFC 9113 §5.2, §6.9)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushgate.http2.frames import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, FrameReader, PeerFault
from pushgate.http2.outgoing import FIRST_WINDOW, Outgoing, Upload


class Books:
    """The peer: counts what it granted and what it got, per stream and for the connection."""

    def __init__(self) -> None:
        self.out = Outgoing()
        self.window = self.initial = FIRST_WINDOW
        self.frame_bytes = 16_384
        self.windows: dict[int, int] = {}
        self.bodies: dict[int, bytes] = {}
        self.uploads: dict[int, Upload] = {}
        self.ended: set[int] = set()

    def start(self, size: int) -> None:
        stream_id = 2 * len(self.uploads) + 1
        upload = self.uploads[stream_id] = Upload(stream_id)
        self.windows[stream_id] = self.initial
        self.bodies[stream_id] = b""
        self.out.request(upload, b"\x83", bytes([stream_id % 256]) * size)
        self.take()

    def grant(self, increment: int) -> None:
        self.window += increment
        self.out.widen(increment)
        self.take()

    def grant_stream(self, nth: int, increment: int) -> None:
        if self.uploads:
            stream_id = list(self.uploads)[nth % len(self.uploads)]
            self.windows[stream_id] += increment
            assert self.out.widen_stream(self.uploads[stream_id], increment)
            self.take()

    def resize(self, initial: int) -> None:
        for stream_id in self.windows:
            self.windows[stream_id] += initial - self.initial
        self.initial = initial
        self.out.change_initial_window(initial, self.uploads.values())
        self.take()

    def resize_frames(self, size: int) -> None:
        self.frame_bytes = self.out.frame_bytes = size

    def take(self) -> None:
        """Everything that was sent fits into what was granted."""
        reader = FrameReader()
        data = b"".join(self.out.chunks)
        self.out.chunks.clear()
        for kind, flags, stream_id, payload in reader.feed(data):
            if kind == DATA:
                assert 0 < len(payload) <= self.frame_bytes
                assert stream_id not in self.ended
                self.window -= len(payload)
                self.windows[stream_id] -= len(payload)
                assert self.window >= 0
                assert self.windows[stream_id] >= 0
                self.bodies[stream_id] += payload
            if flags & END_STREAM:
                assert stream_id not in self.ended
                self.ended.add(stream_id)
        assert not reader.is_oversized


STEPS = st.one_of(
    st.tuples(st.just("start"), st.sampled_from([0, 1, 1900, 16_384, 16_385, 40_000, 100_000])),
    st.tuples(st.just("grant"), st.integers(1, 50_000)),
    st.tuples(st.just("grant_stream"), st.integers(0, 10), st.integers(1, 50_000)),
    st.tuples(st.just("resize"), st.sampled_from([0, 1, 100, 16_384, 65_535, 200_000])),
)


@given(st.lists(STEPS, max_size=30))
def test_windows_are_never_overdrawn_and_every_body_arrives_when_they_open(steps: list[tuple[str, int]]) -> None:
    books = Books()
    for name, *arguments in steps:
        getattr(books, name)(*arguments)
    books.resize(200_000)
    books.grant(10_000_000)
    for nth, stream_id in enumerate(books.uploads):
        books.grant_stream(nth, 1_000_000)
        assert stream_id in books.ended
    assert all(set(body) <= {stream_id % 256} for stream_id, body in books.bodies.items())
    sizes = [arguments[0] for name, *arguments in steps if name == "start"]
    assert [len(body) for body in books.bodies.values()] == sizes
    assert books.out.body_bytes == sum(sizes)


def test_window_that_was_lowered_below_what_is_out_is_negative_until_it_is_paid_back() -> None:
    books = Books()
    books.start(65_535 + 100)
    books.grant(1_000_000)
    books.resize(0)
    assert books.uploads[1].window == -65_535
    books.grant_stream(0, 65_535)
    assert len(books.bodies[1]) == 65_535
    books.grant_stream(0, 100)
    assert books.ended == {1}


@pytest.mark.parametrize("missing", [0, 1])
def test_window_that_is_one_byte_short_holds_back_one_byte(missing: int) -> None:
    books = Books()
    books.start(0)
    books.start(65_535 - 1900 + missing)
    books.start(1900)
    assert [len(body) for body in books.bodies.values()] == [0, 63_635 + missing, 1900 - missing]
    books.resize(1900 - missing)
    books.grant(10_000)
    books.start(1900)
    assert len(books.bodies[7]) == 1900 - missing


def test_window_of_a_request_that_went_out_whole_is_counted_too() -> None:
    out = Outgoing()
    out.request(Upload(1), b"\x83", b"")
    upload = Upload(3)
    out.request(upload, b"\x83", b"x" * 1900)
    assert upload.window == FIRST_WINDOW - 1900


def test_the_oldest_request_gets_the_window_first() -> None:
    books = Books()
    books.start(65_535)
    books.start(300)
    books.start(300)
    books.grant(400)
    assert [len(body) for body in books.bodies.values()] == [65_535, 300, 100]


def test_frames_are_as_large_as_the_peer_allows_and_no_larger() -> None:
    books = Books()
    books.resize_frames(20_000)
    books.resize(100_000)
    books.out.request(Upload(1), b"\x83", bytes(50_000))
    headers = b"".join(books.out.chunks[:1])
    assert headers[3] == HEADERS
    assert [len(chunk) for chunk in books.out.chunks if len(chunk) > 9] == [11, 20_000, 20_000, 10_000]


def test_large_header_block_goes_on_in_continuations() -> None:
    out = Outgoing()
    block = bytes(range(256)) * 150
    out.request(Upload(1), block, b"")
    frames = FrameReader().feed(b"".join(out.chunks))
    assert [(kind, flags) for kind, flags, _, _ in frames] == [
        (HEADERS, END_STREAM),
        (CONTINUATION, 0),
        (CONTINUATION, END_HEADERS),
    ]
    assert b"".join(payload for *_, payload in frames) == b"\x20" + block


def test_only_the_first_block_empties_the_dynamic_table() -> None:
    out = Outgoing()
    for stream_id in (1, 3):
        out.request(Upload(stream_id), b"\x83", b"x")
    blocks = [payload for kind, _, _, payload in FrameReader().feed(b"".join(out.chunks)) if kind == HEADERS]
    assert blocks == [b"\x20\x83", b"\x83"]


def test_nothing_more_is_sent_of_a_request_that_was_dropped() -> None:
    books = Books()
    books.start(70_000)
    books.out.drop(books.uploads[1])
    books.grant(100_000)
    assert len(books.bodies[1]) == 65_535
    assert books.ended == set()


def test_window_beyond_its_maximum_is_a_fault_of_the_connection_or_of_the_stream() -> None:
    out = Outgoing()
    upload = Upload(1)
    out.request(upload, b"\x83", b"")
    assert out.widen_stream(upload, 2**31 - 1 - FIRST_WINDOW)
    assert not out.widen_stream(upload, 1)
    with pytest.raises(PeerFault, match="FLOW_CONTROL_ERROR"):
        out.change_initial_window(FIRST_WINDOW + 1, [upload])
    out.widen(2**31 - 1 - FIRST_WINDOW)
    with pytest.raises(PeerFault, match="FLOW_CONTROL_ERROR"):
        out.widen(1)
