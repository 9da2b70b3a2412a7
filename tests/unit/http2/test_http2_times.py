"""Times: when a peer is asked for a sign of life, when it is given up, how long an unreachable one is left alone."""

from __future__ import annotations

import pytest

from pushgate.http2.backoff import Backoff
from pushgate.http2.limits import Limits
from pushgate.http2.liveness import Silence, Verdict, judge

LIMITS = Limits(quiet_s=5, ack_s=3, idle_ping_s=3600)


@pytest.mark.parametrize(
    ("heard_at", "busy_since", "asked_at", "now", "expected"),
    [
        (100, None, None, 100, (Verdict.WAIT, 3700)),
        (100, None, None, 3700, (Verdict.PING, 3703)),
        (100, 50, None, 104, (Verdict.WAIT, 105)),
        (100, 50, None, 105, (Verdict.PING, 108)),
        (0, 100, None, 104, (Verdict.WAIT, 105)),
        (0, 100, None, 105, (Verdict.PING, 108)),
        (100, 50, 105, 107, (Verdict.WAIT, 108)),
        (100, 50, 105, 108, (Verdict.DEAD, 108)),
        (107, 50, 105, 108, (Verdict.WAIT, 110)),
        (107, 50, 105, 110, (Verdict.DEAD, 110)),
        (100, None, 3700, 3703, (Verdict.DEAD, 3703)),
    ],
)
def test_silence_is_asked_about_and_then_ends_the_connection(
    heard_at: float, busy_since: float | None, asked_at: float | None, now: float, expected: tuple[Verdict, float]
) -> None:
    assert judge(Silence(heard_at=heard_at, busy_since=busy_since, asked_at=asked_at), LIMITS, now=now) == expected


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.5), (1.0, 1.0)])
def test_backoff_doubles_up_to_its_most_and_half_of_it_is_chance(chance: float, share: float) -> None:
    backoff = Backoff(first_s=0.5, most_s=60, random=lambda: chance)
    assert backoff.pause_s(10) == 0
    pauses = []
    for _ in range(2000):
        backoff.failed(10)
        pauses.append(backoff.pause_s(10) / share)
    assert pauses[:8] == [0.5, 1, 2, 4, 8, 16, 32, 60]
    assert set(pauses[8:]) == {60}
    assert backoff.pause_s(10 + 60) == 0


def test_backoff_forgets_with_the_first_success() -> None:
    backoff = Backoff(first_s=0.5, most_s=60, random=lambda: 1.0)
    for _ in range(5):
        backoff.failed(0)
    backoff.succeeded()
    assert backoff.pause_s(0) == 0
    backoff.failed(0)
    assert backoff.pause_s(0.2) == pytest.approx(0.3)


def test_backoff_forgets_what_lies_long_enough_after_its_last_pause() -> None:
    backoff = Backoff(first_s=1, most_s=60, random=lambda: 1.0, forget_s=60)
    backoff.stumbled(0)
    backoff.stumbled(59)
    assert backoff.pause_s(59) == 2
    backoff.stumbled(61 + 59)
    assert backoff.pause_s(120) == 4
    backoff.stumbled(124 + 60)
    assert backoff.pause_s(184) == 0
    backoff.stumbled(185)
    assert backoff.pause_s(185) == 2


def test_one_stumble_costs_no_pause_and_the_next_one_does() -> None:
    backoff = Backoff(first_s=0.5, most_s=60, random=lambda: 1.0)
    backoff.stumbled(0)
    assert backoff.pause_s(0) == 0
    backoff.stumbled(0)
    assert backoff.pause_s(0) == 1.0
