"""breaker: a few dead pushkeys are believed, a mass of them is our fault."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pushgate.breaker import EVIDENCE, Breaker, BreakerLimits

LIMITS = BreakerLimits(share=0.2, count=50, window_s=300)


def test_a_wrong_environment_is_believed_for_no_more_than_the_limit() -> None:
    breaker = Breaker(LIMITS)
    believed = [breaker.dead(0, f"key-{n}") for n in range(1000)]
    assert believed == [True] * 50 + [False] * 950


def test_many_dead_among_very_many_alive_are_believed() -> None:
    breaker = Breaker(LIMITS)
    for n in range(400):
        for _ in range(5):
            breaker.alive(n / 10)
        assert breaker.dead(n / 10, f"key-{n}")


def test_one_pushkey_counts_once_however_often_it_is_called_dead() -> None:
    breaker = Breaker(LIMITS)
    assert all(breaker.dead(n / 100, "the same") for n in range(1000))


def test_what_is_older_than_the_window_does_not_count() -> None:
    breaker = Breaker(LIMITS)
    assert all(breaker.dead(n * 6.1, f"key-{n}") for n in range(1000))
    breaker = Breaker(LIMITS)
    for _ in range(10_000):
        breaker.alive(0)
    assert not all(breaker.dead(301, f"key-{n}") for n in range(51))


def opened() -> Breaker:
    breaker = Breaker(LIMITS)
    for n in range(LIMITS.count + 1):
        breaker.dead(0, f"key-{n}")
    return breaker


def test_it_closes_when_answers_look_sane_again() -> None:
    breaker = opened()
    states = [breaker.dead(1, "another")]
    for n in range(EVIDENCE - 1):
        states.append(not breaker.is_open)
        breaker.alive(2 + n)
    assert not any(states)
    assert breaker.dead(21, "a real one")


def test_it_stays_open_while_the_share_is_high() -> None:
    breaker = opened()
    for n in range(100):
        breaker.alive(1)
        assert not breaker.dead(1, f"other-{n}")
    assert breaker.is_open


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans(), st.integers(0, 200)), max_size=300))
def test_its_sums_are_those_of_the_window(answers: list[tuple[float, bool, int]]) -> None:
    """Against a plain reading of the rule, for as long as it is closed."""
    limits = BreakerLimits(share=0.5, count=3, window_s=10)
    breaker, now, seen = Breaker(limits), 0.0, list[tuple[float, int | None]]()
    for pause, alive, key in answers:
        now += round(pause)
        if alive:
            breaker.alive(now)
            seen.append((now, None))
            continue
        believed = breaker.dead(now, f"key-{key}")
        seen.append((now, key))
        window = [name for at, name in seen if at > now - limits.window_s]
        dead, living = len({name for name in window if name is not None}), window.count(None)
        assert believed == (dead <= limits.count or dead <= limits.share * (dead + living))
        if not believed:
            return
