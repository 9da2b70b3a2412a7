"""Ids of deliveries: random UUIDs in the one form that providers and people know, each given once."""

from __future__ import annotations

from uuid import RFC_4122, UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from pushgate.intake import IDS_AHEAD, new_ids


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3 * IDS_AHEAD), max_size=12))
def test_each_is_a_uuid_of_version_4_and_is_given_once(counts: list[int]) -> None:
    given = [new_ids(count) for count in counts]
    assert [len(ids) for ids in given] == counts
    ids = [each for some in given for each in some]
    assert len({*ids}) == len(ids)
    for each in ids[:200]:
        assert (str(UUID(each)), UUID(each).version, UUID(each).variant) == (each, 4, RFC_4122)
