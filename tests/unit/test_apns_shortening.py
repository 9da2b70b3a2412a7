"""Shortening: as much as fits and no more, whole characters only, the same for every provider."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushgate.provider.shortening import cut_entries, cut_text, json_cost, json_entry_cost, utf8_cost


@pytest.mark.parametrize("cost", [json_cost, utf8_cost])
@given(text=st.text(st.characters(codec="utf-8"), max_size=30), room=st.integers(-3, 60))
def test_text_is_cut_to_the_longest_beginning_that_fits(cost: Callable[[str], int], text: str, room: int) -> None:
    fitting = [text[:length] + "…" for length in range(1, len(text) + 1) if cost(text[:length] + "…") <= room]
    expected = text if cost(text) <= room else (fitting or [""])[-1]
    assert cut_text(text, room, cost=cost) == expected


def test_entries_keep_their_order_small_ones_stay_and_the_smallest_text_that_is_too_large_is_cut() -> None:
    entries = {"long": "l" * 100, "list": [1] * 30, "a": 1, "middle": "m" * 50, "b": "x"}
    assert cut_entries(entries, 60, cost=json_entry_cost) == {"a": 1, "middle": "m" * 31 + "…", "b": "x"}
    assert cut_entries(entries, 1000, cost=json_entry_cost) == entries
    assert cut_entries(entries, 5, cost=json_entry_cost) == {}
