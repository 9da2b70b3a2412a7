"""Keyed hashes tell parts apart, long and short, and depend on key and purpose."""

from __future__ import annotations

from itertools import combinations

import pytest

from pushgate.spool import database
from pushgate.spool.jetstream import layout
from pushgate.spool.keyed import HASH_BYTES, REJECTION, REPEAT, KeyedHash

LONG = "c" * 1404


@pytest.mark.parametrize("parts", [("a",), ("a", "é" * 10), ("sealed", LONG, "app", "key"), (LONG, LONG)])
def test_it_is_the_same_each_time_and_16_bytes(parts: tuple[str, ...]) -> None:
    named = KeyedHash(b"k" * 32, REPEAT)
    assert named(*parts) == named(*parts) == KeyedHash(b"k" * 32, REPEAT)(*parts)
    assert len(named(*parts)) == HASH_BYTES


def test_whatever_differs_hashes_differently() -> None:
    named = KeyedHash(b"k" * 32, REPEAT)
    different = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        ("abc", ""),
        ("", "abc"),
        (LONG,),
        (LONG, ""),
        (LONG + "c",),
        (LONG[:-1] + "d",),
        ("d" + LONG[1:],),
        (LONG, LONG[:-1] + "d"),
        (LONG[:-1] + "d", LONG),
    ]
    hashes = [named(*parts) for parts in different]
    assert all(one != other for one, other in combinations(hashes, 2))
    assert not {*hashes} & {KeyedHash(b"k" * 32, REJECTION)(*parts) for parts in different}, "another purpose"
    assert not {*hashes} & {KeyedHash(b"l" * 32, REPEAT)(*parts) for parts in different}, "another key"


def test_what_spools_hold_is_found_by_later_releases() -> None:
    """Whoever changes this forgets every rejection and every repeat: it is another format (`FORMAT`, `HASH_KEY`)."""
    key = bytes(range(32))
    sealed = KeyedHash(key, REPEAT)("sealed", "abc", "org.example.health.apns", "ab")
    assert sealed.hex() == "2747370e4e871977dcc9780b5b3b9571"
    assert KeyedHash(key, REJECTION)("org.example.health.apns", "ab").hex() == "9dd0e3badd8d43812cb65a8f554e1304"
    assert (database.FORMAT, layout.HASH_KEY) == (5, "sha256-key")
