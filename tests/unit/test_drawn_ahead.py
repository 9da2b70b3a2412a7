"""Random bytes that are drawn ahead are given once, and seldom drawn."""

from __future__ import annotations

import secrets

from hypothesis import given
from hypothesis import strategies as st

from pushgate.drawn_ahead import AHEAD_BYTES, DrawnAhead


@given(st.lists(st.integers(1, AHEAD_BYTES * 2), max_size=40))
def test_what_is_drawn_ahead_is_given_once(sizes: list[int]) -> None:
    drawn: list[bytes] = []

    def draw(size: int) -> bytes:
        drawn.append(secrets.token_bytes(size))
        return drawn[-1]

    ahead, everything, at = DrawnAhead(draw), b"", 0
    for size in sizes:
        given = ahead(size)
        assert len(given) == size
        everything = b"".join(drawn)
        at = everything.index(given, at) + size
    assert len(drawn) <= 1 + 2 * sum(sizes) // AHEAD_BYTES
