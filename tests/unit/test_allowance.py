"""allowance: so many requests a second, so many at once, and nothing is forgotten when limits change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushgate.allowance import Allowances, Limit


def taken(allowances: Allowances, *times: float, caller: str = "erp") -> list[bool]:
    return [allowances.wait_s(caller, now) == 0 for now in times]


def test_a_burst_is_let_through_and_then_one_for_each_period() -> None:
    allowances = Allowances({"erp": Limit(rate_per_s=2, burst=3)})
    assert taken(allowances, 0, 0, 0, 0) == [True, True, True, False]
    assert allowances.wait_s("erp", 0.0) == pytest.approx(0.5)
    assert allowances.wait_s("erp", 0.4) == pytest.approx(0.1)
    assert taken(allowances, 0.5, 0.5, 1.0, 1.2, 1.5) == [True, False, True, False, True]
    assert taken(allowances, 1000, 1000, 1000, 1000) == [True, True, True, False], "no more than the burst is saved up"


def test_who_has_no_limit_is_never_held_up() -> None:
    allowances = Allowances({"erp": Limit(1, 1)})
    assert taken(allowances, *[0.0] * 1000, caller="chat") == [True] * 1000


def test_callers_do_not_take_from_each_other() -> None:
    allowances = Allowances({"erp": Limit(1, 1), "chat": Limit(1, 1)})
    assert taken(allowances, 0, 0) == [True, False]
    assert taken(allowances, 0, 0, caller="chat") == [True, False]


def test_what_was_used_up_stays_so_when_limits_change() -> None:
    allowances = Allowances({"erp": Limit(1, 5), "chat": Limit(1, 5)})
    assert taken(allowances, *[0.0] * 6) == [True] * 5 + [False]
    allowances.change({"erp": Limit(2, 50), "chat": Limit(1, 2)})
    assert taken(allowances, 0, 0.5, 0.5) == [False, True, False]
    assert taken(allowances, 0, 0, 0, caller="chat") == [True, True, False], "a smaller burst counts at once"
    allowances.change({})
    assert taken(allowances, 0.5, 0.5) == [True, True]


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    allowances = Allowances({"erp": Limit(1, 1)})
    assert taken(allowances, 100, 50, 0, 100.5) == [True, False, False, False]
    assert taken(allowances, 101) == [True]


@given(
    rate=st.floats(0.01, 10_000),
    burst=st.integers(1, 1000),
    pauses=st.lists(st.floats(0, 100), max_size=300),
)
def test_never_more_than_the_burst_and_the_rate_together(rate: float, burst: int, pauses: list[float]) -> None:
    allowances, now, count = Allowances({"erp": Limit(rate, burst)}), 0.0, 0
    for pause in pauses:
        now += pause
        wait_s = allowances.wait_s("erp", now)
        count += wait_s == 0
        assert 0 <= wait_s <= 1 / rate
        assert count <= burst + now * rate + 1e-6


@given(rate=st.floats(0.01, 1000), burst=st.integers(1, 10))
def test_who_waits_as_long_as_it_is_told_is_let_through(rate: float, burst: int) -> None:
    allowances, now = Allowances({"erp": Limit(rate, burst)}), 7.0
    assert taken(allowances, *[now] * burst) == [True] * burst
    for _ in range(20):
        wait_s = allowances.wait_s("erp", now)
        assert wait_s > 0
        now += wait_s
        assert taken(allowances, now) == [True]
