"""breaker: a few dead pushkeys are believed, a mass of them is our fault (contract: "What the gateway remembers")."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushgate.breaker import EVIDENCE, MOST_NAMES, Breaker, BreakerLimits, Lately

LIMITS = BreakerLimits(share=0.2, count=50, window_s=300)


def opened(limits: BreakerLimits = LIMITS) -> Breaker:
    breaker = Breaker(limits)
    for n in range(limits.count + 1):
        breaker.dead(0, f"key-{n}")
    assert breaker.is_open
    return breaker


# --- when it opens -----------------------------------------------------------------------------------------------


def test_a_wrong_environment_is_believed_for_no_more_than_the_limit() -> None:
    breaker = Breaker(LIMITS)
    believed = [breaker.dead(0, f"key-{n}") for n in range(1000)]
    assert believed == [True] * 50 + [False] * 950


@pytest.mark.parametrize(("alive", "believed"), [(203, 50), (204, 51), (207, 51), (208, 52)])
def test_it_opens_with_the_first_rejection_past_both_limits(alive: int, believed: int) -> None:
    """More than 20 % and more than 50: 51 of 254 are, 51 of 255 are not."""
    breaker = Breaker(LIMITS)
    for n in range(alive):
        breaker.alive(0, f"alive-{n}")
    assert [breaker.dead(1, f"dead-{n}") for n in range(60)] == [True] * believed + [False] * (60 - believed)


def test_many_dead_among_very_many_alive_are_believed() -> None:
    breaker = Breaker(LIMITS)
    for n in range(400):
        for _ in range(5):
            breaker.alive(n / 10)
        assert breaker.dead(n / 10, f"key-{n}")


def test_one_pushkey_counts_once_however_often_it_is_called_dead() -> None:
    breaker = Breaker(LIMITS)
    assert all(breaker.dead(n / 100, "the same") for n in range(1000))


def test_one_pushkey_counts_once_however_often_it_is_alive() -> None:
    """A few busy phones do not outvote the many that are called dead."""
    breaker = Breaker(LIMITS)
    for n in range(100_000):
        breaker.alive(0, f"busy-{n % 100}")
    assert not all(breaker.dead(1, f"key-{n}") for n in range(51))


def test_who_was_called_dead_is_not_alive_within_the_window() -> None:
    breaker = Breaker(LIMITS)
    for n in range(50):
        assert breaker.dead(0, f"key-{n}")
        breaker.alive(1, f"key-{n}")
    assert not breaker.dead(2, "one more")
    breaker = Breaker(LIMITS)
    for n in range(50):
        assert breaker.dead(0, f"key-{n}")
    for n in range(210):
        breaker.alive(300, f"key-{n}")
    assert all(breaker.dead(301, f"other-{n}") for n in range(51))


def test_what_is_older_than_the_window_does_not_count() -> None:
    breaker = Breaker(LIMITS)
    assert all(breaker.dead(n * 6.1, f"key-{n}") for n in range(1000))
    breaker = Breaker(LIMITS)
    for _ in range(10_000):
        breaker.alive(0)
    assert not all(breaker.dead(301, f"key-{n}") for n in range(51))


_ANSWERS = st.lists(
    st.tuples(st.sampled_from((0, 0, 0, 1, 4)), st.booleans(), st.integers(0, 60) | st.none()), max_size=300
)
_LIMITS = st.builds(
    BreakerLimits, share=st.sampled_from((0.01, 0.2, 0.5, 1.0)), count=st.integers(1, 20), window_s=st.just(10)
)


@given(_LIMITS, _ANSWERS)
def test_it_is_the_rule_of_the_contract_to_the_pushkey(
    limits: BreakerLimits, answers: list[tuple[int, bool, int | None]]
) -> None:
    """Against a plain reading of it, until it opens: never below either limit, and never later than past both."""
    breaker, now = Breaker(limits), 0.0
    said: dict[object, tuple[float, bool]] = {}
    for number, (pause, is_alive, key) in enumerate(answers):
        now += pause
        pushkey: object = f"key-{key}" if key is not None else number
        said = {name: told for name, told in said.items() if told[0] > now - limits.window_s}
        if is_alive:
            breaker.alive(now, None if key is None else f"key-{key}")
            if not said.get(pushkey, (now, False))[1]:
                said[pushkey] = (now, False)
            continue
        believed = breaker.dead(now, str(pushkey))
        said[str(pushkey)] = (now, True)
        dead = sum(is_dead for _, is_dead in said.values())
        assert believed == (not (dead > limits.count and dead > limits.share * len(said)))
        if not believed:
            return


# --- while it is open, and how it ends ---------------------------------------------------------------------------


def test_it_closes_when_the_last_answers_look_sane() -> None:
    breaker = opened()
    believed = [breaker.dead(1, f"late-{n}") for n in range(100)]
    for n in range(16):
        assert breaker.is_open
        breaker.alive(2, f"alive-{n}")
    assert not any(believed)
    assert not breaker.is_open, "4 of the last 20 are dead: no more than 20 %"
    assert breaker.dead(21, "a real one")


def test_it_closes_at_night_too() -> None:
    """However far apart the answers are."""
    breaker = opened()
    for n in range(EVIDENCE):
        assert breaker.is_open
        breaker.alive(3600 * n, f"key-{n}")
    assert not breaker.is_open


def test_it_stays_open_while_the_share_is_high() -> None:
    breaker = opened()
    for n in range(100):
        breaker.alive(1, f"alive-{n}")
        breaker.alive(1, f"as-alive-{n}")
        assert not breaker.dead(1, f"other-{n}")
    assert breaker.is_open


def test_one_busy_phone_does_not_close_it() -> None:
    breaker = opened()
    for n in range(1000):
        breaker.alive(n, "busy")
    assert breaker.is_open


def test_it_counts_anew_once_it_is_closed() -> None:
    breaker = opened()
    for n in range(EVIDENCE):
        breaker.alive(1, f"alive-{n}")
    assert [breaker.dead(2, f"again-{n}") for n in range(51)] == [True] * 50 + [False]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=200), st.sampled_from((0.04, 0.2, 1.0)))
def test_open_it_believes_nothing_and_only_sane_answers_close_it(answers: list[tuple[bool, int]], share: float) -> None:
    """Against a plain reading: the last answer of each of the last twenty pushkeys."""
    breaker = opened(BreakerLimits(share=0.9, count=5, window_s=300))
    breaker._limits = BreakerLimits(share=share, count=5, window_s=300)  # a lane that 100 % dead opens nothing in
    last: list[tuple[str, bool]] = []
    for is_alive, key in answers:
        name = f"key-{key}"
        last = [*(each for each in last if each[0] != name), (name, not is_alive)][-EVIDENCE:]
        if is_alive:
            breaker.alive(1, name)
            sane = len(last) == EVIDENCE and sum(is_dead for _, is_dead in last) <= share * EVIDENCE
            assert breaker.is_open is not sane
            if sane:
                return
        else:
            assert not breaker.dead(1, name)
            assert breaker.is_open


# --- memory ------------------------------------------------------------------------------------------------------


def spread(number: int) -> int:
    """A name as a hash would give it, the same each time."""
    return number * 0x9E3779B97F4A7C15 % 2**64 >> 8


def test_a_million_dead_pushkeys_take_no_more_memory_than_some() -> None:
    lately = Lately(300)
    for n in range(1_000_000):
        lately.add(spread(n), n / 10_000)
    assert len(lately) <= MOST_NAMES
    assert lately.count == pytest.approx(1_000_000, rel=0.05)
    breaker = Breaker(BreakerLimits(share=1, count=50, window_s=300))
    assert all(breaker.dead(0, f"key-{n}") for n in range(100_000))
    assert len(breaker._dead) <= MOST_NAMES


@pytest.mark.parametrize(("dead", "opens"), [(19_000, False), (31_000, True)])
def test_a_storm_of_pushkeys_is_judged_by_a_sample(dead: int, opens: bool) -> None:
    """16 % and 24 % of them."""
    breaker = Breaker(LIMITS)
    for n in range(100_000):
        breaker.alive(n / 1000, f"alive-{n}")
    believed = [breaker.dead(100 + n / 1000, f"dead-{n}") for n in range(dead)]
    assert (not all(believed)) is opens
    assert len(breaker._alive) + len(breaker._dead) <= 2 * MOST_NAMES


def test_after_a_storm_it_counts_one_by_one_again() -> None:
    lately = Lately(10, most=64)
    for n in range(10_000):
        lately.add(spread(n), 0)
        assert len(lately) <= 64
    assert lately.count == pytest.approx(10_000, rel=0.6)
    for n in range(40):
        lately.add(spread(20_000 + n), 11 + n / 10)
    lately.forget(15)
    assert lately.count == 40 == len(lately)
    lately.forget(100)
    assert (lately.count, len(lately)) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10_000), st.booleans()), max_size=400))
def test_its_count_is_the_sum_of_what_it_holds(told: list[tuple[int, int, bool]]) -> None:
    lately, now = Lately(20, most=16), 0.0
    for pause, name, stays in told:
        now += pause
        if stays:
            lately.add(name, now)
        else:
            lately.discard(name)
        lately.forget(now)
        assert len(lately) <= 16
        assert lately.count == sum(weight for _, weight in lately._told.values())
        assert all(at > now - 20 for at, _ in lately._told.values())
