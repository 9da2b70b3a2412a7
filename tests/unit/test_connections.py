"""connections: how many there may be, and who has to go when there are too many."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushgate.connections import FILES_FOR_OTHERS, LOOKED_AT, MOST, Connections, most_connections


class Guests:
    """Those who came, and whom it was asked of to go."""

    def __init__(self, most: int) -> None:
        self.resting: set[object] = set()
        self.connections = Connections(most, rests=self.resting.__contains__)
        self.ended: list[int] = []

    def enter(self, who: int) -> bool:
        return self.connections.enter(who, lambda: self.ended.append(who))


def test_newcomers_have_a_part_of_the_room_and_the_oldest_makes_way() -> None:
    guests = Guests(40)
    assert [guests.enter(who) for who in range(10)] == [False] * 10
    assert (len(guests.connections), guests.ended) == (10, [])
    assert guests.enter(10)
    assert guests.ended == [0]
    guests.connections.leave(0)  # says it when its socket is closed
    assert guests.enter(11)
    assert (guests.ended, len(guests.connections)) == ([0, 1], 10)


def test_who_has_settled_is_never_asked_to_go() -> None:
    guests = Guests(8)
    for who in range(6):
        guests.enter(who)
        guests.connections.settle(who)
    for who in range(6, 20):
        guests.enter(who)
    assert guests.ended == list(range(6, 18))
    assert len(guests.connections) == 8


def test_where_all_have_settled_nobody_is_let_in_until_one_leaves() -> None:
    guests = Guests(3)
    full = []
    for who in range(3):
        full.append(guests.connections.is_full)
        guests.enter(who)
        guests.connections.settle(who)
    assert [*full, guests.connections.is_full] == [False, False, False, True]
    guests.connections.leave(1)
    assert not guests.enter(3)
    assert guests.enter(4)
    assert guests.ended == [3]


def test_where_all_have_settled_one_that_rests_makes_way() -> None:
    guests = Guests(3)
    for who in range(3):
        guests.enter(who)
        guests.connections.settle(who)
    assert not guests.connections.end_one_that_rests()
    guests.resting |= {1, 2}
    assert guests.connections.end_one_that_rests()
    assert (guests.ended, len(guests.connections), guests.connections.is_full) == ([1], 2, False)
    guests.connections.leave(1)  # says it when its socket is closed
    guests.connections.settle(1)
    assert len(guests.connections) == 2
    assert not guests.enter(3)


def test_it_is_not_looked_for_among_all_of_very_many_at_once() -> None:
    guests = Guests(3 * LOOKED_AT)
    for who in range(3 * LOOKED_AT):
        guests.enter(who)
        guests.connections.settle(who)
    guests.resting.add(2 * LOOKED_AT)
    assert [guests.connections.end_one_that_rests() for _ in range(3)] == [False, False, True]
    assert guests.ended == [2 * LOOKED_AT]


def test_who_was_asked_to_go_cannot_settle_any_more() -> None:
    guests = Guests(4)
    guests.enter(0)
    guests.enter(1)
    assert guests.ended == [0]
    guests.connections.settle(0)
    assert len(guests.connections) == 1


@given(
    most=st.integers(1, 40),
    doings=st.lists(st.tuples(st.sampled_from(["enter", "settle", "leave"]), st.integers(0, 30)), max_size=200),
)
def test_there_are_never_more_than_may_be(most: int, doings: list[tuple[str, int]]) -> None:
    guests, inside, next_one = Guests(most), list[int](), 0
    for doing, position in doings:
        if doing == "enter" and not guests.connections.is_full:
            guests.enter(next_one)
            inside.append(next_one)
            next_one += 1
        elif doing != "enter" and inside:
            who = inside[position % len(inside)]
            act: Callable[[object], None] = getattr(guests.connections, doing)
            act(who)
            if doing == "leave":
                inside.remove(who)
        inside = [who for who in inside if who not in guests.ended]
        assert len(guests.connections) == len(inside) <= most


@pytest.mark.parametrize(("files", "most"), [(1024, 1024 - FILES_FOR_OTHERS), (1_048_576, MOST), (64, 16)])
def test_there_are_as_many_as_may_open_files(monkeypatch: pytest.MonkeyPatch, files: int, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (files, files) if kind == resource.RLIMIT_NOFILE else None)
    assert most_connections() == most
