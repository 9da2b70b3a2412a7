"""What a spool keeps in memory beside its rows: the census, the window of repeats, the filter of the dead."""

from __future__ import annotations

import secrets
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pushgate.spool import Backlog
from pushgate.spool.census import MINUTE_MS, Census
from pushgate.spool.keyed import REJECTION, REPEAT, KeyedHash
from pushgate.spool.rejections import Presence
from pushgate.spool.repeats import Repeats

NOW_MS = 1_760_000_000_000
WINDOW_S = 600
WINDOW_MS = WINDOW_S * 1000


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5 * MINUTE_MS), st.booleans()), max_size=60),
)
def test_a_census_counts_exactly_and_knows_the_oldest_to_the_minute(events: list[tuple[str, int, bool]]) -> None:
    census, rows = Census(), list[tuple[str, int]]()
    for lane, at_ms, comes in events:
        if comes or not rows:
            rows.append((lane, at_ms))
            census.add(lane, at_ms)
        else:
            lane, at_ms = rows.pop(at_ms % len(rows))
            census.remove(lane, at_ms)
    backlog = census.backlog()
    assert {lane: each.waiting for lane, each in backlog.items()} == Counter(lane for lane, _ in rows)
    for lane, each in backlog.items():
        oldest_ms = min(at_ms for name, at_ms in rows if name == lane)
        told_ms = round(each.oldest_at * 1000)
        assert told_ms <= oldest_ms
        assert told_ms // MINUTE_MS == oldest_ms // MINUTE_MS


def test_a_census_takes_many_at_once() -> None:
    census = Census()
    census.add("a", 90_000, 3)
    census.add("a", 60_500)
    census.add("a", 600_000)
    assert census.backlog()["a"].waiting == Backlog(5, 60.5).waiting
    assert census.backlog()["a"].oldest_at == 60.5


def test_a_claim_that_is_dropped_leaves_no_trace() -> None:
    repeats = Repeats(WINDOW_S)
    assert repeats.claim(b"a", NOW_MS)
    assert not repeats.claim(b"a", NOW_MS)
    repeats.drop()
    assert repeats.claimed == b""
    assert repeats.claim(b"a", NOW_MS)
    repeats.keep()
    assert not repeats.claim(b"a", NOW_MS + WINDOW_MS - 1)
    assert repeats.claim(b"a", NOW_MS + WINDOW_MS)


def test_lapsed_fingerprints_are_forgotten_in_steps_and_others_are_not() -> None:
    repeats = Repeats(WINDOW_S)
    for number in range(10):
        repeats.load(bytes([number]), NOW_MS + number)
    assert repeats.claim(b"\x00", NOW_MS + WINDOW_MS)
    repeats.keep()  # the oldest again: its place is now the last
    assert repeats.forget_lapsed(NOW_MS + WINDOW_MS + 4, limit=3)
    assert len(repeats) == 7
    assert not repeats.forget_lapsed(NOW_MS + WINDOW_MS + 4, limit=3)
    assert len(repeats) == 6
    assert not repeats.claim(b"\x00", NOW_MS + WINDOW_MS + 4)
    assert not repeats.claim(b"\x05", NOW_MS + WINDOW_MS + 4)


def test_what_is_released_can_be_claimed_again_and_only_once() -> None:
    repeats = Repeats(WINDOW_S)
    repeats.load(b"a", NOW_MS)
    repeats.release(b"a")
    repeats.release(b"never heard of")
    assert repeats.released == b"a"
    assert repeats.claim(b"a", NOW_MS + 1)
    assert not repeats.claim(b"a", NOW_MS + 1)
    repeats.keep()
    assert repeats.released == b""
    assert not repeats.claim(b"a", NOW_MS + WINDOW_MS)
    assert repeats.claim(b"a", NOW_MS + WINDOW_MS + 1)


def test_a_release_that_is_dropped_leaves_no_trace() -> None:
    repeats = Repeats(WINDOW_S)
    repeats.load(b"a", NOW_MS)
    repeats.release(b"a")
    repeats.drop()
    assert repeats.released == b""
    assert not repeats.claim(b"a", NOW_MS + 1)


def test_what_is_claimed_and_released_at_once_is_not_kept() -> None:
    repeats = Repeats(WINDOW_S)
    assert repeats.claim(b"a", NOW_MS)
    repeats.release(b"a")
    assert repeats.claimed == b""
    repeats.keep()
    assert repeats.claim(b"a", NOW_MS)


def test_nothing_is_claimed_without_a_window_or_a_fingerprint() -> None:
    off, on = Repeats(0), Repeats(WINDOW_S)
    for _ in range(2):
        assert off.claim(b"a", NOW_MS)
        assert on.claim(b"", NOW_MS)
    assert off.claimed == on.claimed == b""


def test_the_filter_never_denies_what_was_added_and_seldom_claims_what_was_not() -> None:
    presence = Presence()
    assert not presence
    added = [secrets.token_bytes(16) for _ in range(20_000)]
    for name in added:
        presence.add(name)
    assert presence
    assert all(name in presence for name in added)
    assert sum(secrets.token_bytes(16) in presence for _ in range(20_000)) < 20


def test_one_key_hashes_differently_for_each_purpose() -> None:
    key = b"k" * 32
    assert KeyedHash(key, REPEAT)("a") != KeyedHash(key, REJECTION)("a") != KeyedHash(b"l" * 32, REJECTION)("a")
    assert KeyedHash(key, REPEAT)("ä") == KeyedHash(key, REPEAT)("ä")
