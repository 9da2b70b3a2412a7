"""Whether there is room: counted before anything is written, through transactions that are kept and that are undone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushgate.errors import SpoolFull
from pushgate.spool.database import PAGE_BYTES
from pushgate.spool.limits import MB, NO_LIMITS, SMALLEST_BYTES, Limits
from pushgate.spool.room import Room, row_bytes


class File:
    """Pages in use, and how often they were asked for."""

    def __init__(self, used_bytes: int = 0) -> None:
        self.bytes = used_bytes
        self.asked = 0

    def used_bytes(self) -> int:
        self.asked += 1
        return self.bytes


def test_up_to_the_limit_there_is_room_and_past_it_none() -> None:
    room = Room(Limits(max_waiting=10), waiting=7, used_bytes=File().used_bytes)
    assert room.take([1]) is None
    assert isinstance(room.take([1, 1, 1]), SpoolFull)
    assert room.take([1, 1]) is None
    assert isinstance(room.take([1]), SpoolFull)
    assert isinstance(room.probe(), SpoolFull)
    room.remove(1)
    assert room.probe() is None
    assert room.take([1]) is None


def test_what_is_undone_did_not_take_room() -> None:
    room = Room(Limits(max_waiting=2), waiting=0, used_bytes=File().used_bytes)
    assert room.take([1, 1]) is None
    room.begin()
    assert room.take([1, 1]) is None
    room.commit()
    assert room.take([1]) is not None
    room.remove(2)
    room.begin()
    assert room.take([1]) is not None
    room.remove(2)
    room.commit()
    assert room.take([1, 1]) is None


def test_bytes_are_asked_for_once_a_transaction_and_counted_on() -> None:
    file = File(used_bytes=MB - 10 * row_bytes(1700))
    room = Room(Limits(max_bytes=MB), waiting=0, used_bytes=file.used_bytes)
    for _ in range(5):
        assert room.take([row_bytes(1700), row_bytes(1700)]) is None
    assert room.take([row_bytes(1700)]) is not None
    assert room.probe() is not None
    assert file.asked == 1
    file.bytes -= MB // 2
    room.begin()
    assert room.probe() is None
    assert room.take([row_bytes(1700)]) is None
    assert file.asked == 2
    room.commit()
    file.bytes = MB - row_bytes(SMALLEST_BYTES)
    assert room.probe() is None
    assert room.take([row_bytes(1700)]) is not None
    file.bytes += 1
    room.begin()
    assert room.probe() is not None


def test_without_limits_nothing_is_asked_and_nothing_refused() -> None:
    file = File()
    room = Room(NO_LIMITS, waiting=1 << 40, used_bytes=file.used_bytes)
    assert room.take([1 << 40]) is None
    assert room.probe() is None
    assert file.asked == 0


@given(st.integers(1, 200_000))
def test_a_row_takes_at_least_what_it_is_and_less_than_a_page_more_than_twice_that(size: int) -> None:
    assert size < row_bytes(size) <= 2 * size + PAGE_BYTES


@pytest.mark.parametrize(("size", "a_page"), [(1700, 4), (900, 8), (4100, 1), (3900, 2), (8100, 1)])
def test_small_rows_share_a_page(size: int, a_page: int) -> None:
    assert PAGE_BYTES // row_bytes(size) in (a_page, a_page - 1)
    assert row_bytes(size) - 80 == PAGE_BYTES // a_page


@given(limit=st.integers(1, 20), waiting=st.integers(0, 40))
def test_a_refusal_names_the_key_and_how_to_mend_it(limit: int, waiting: int) -> None:
    for limits, key in ((Limits(max_waiting=limit), "spool.max_waiting"), (Limits(max_bytes=limit), "spool.max_mb")):
        full = limits.refusal(waiting=waiting, taken_bytes=waiting)
        assert (full is None) == (waiting <= limit)
        if full is not None:
            what, mend = str(full).split(" -> ")
            assert what.startswith(f"the spool is full: {key} is ")
            assert "raise it" in mend
            assert "by itself" in mend
