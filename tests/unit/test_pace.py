"""pace: what pauses a lane, and how it feels its way back."""

from __future__ import annotations

import pytest

from pushgate import pace, retry
from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected, Undeliverable
from pushgate.pace import OUTAGE_AFTER_FAILURES, Pace, Paused, Resumed

QUOTA = Deferred(Cause.QUOTA, "QUOTA_EXCEEDED")
DOWN = Deferred(Cause.CONNECTION, "connect")


def lane(*, most: int = 100, scale: float = 1.0) -> Pace:
    return Pace(retry.FCM, most=most, scale=scale)


@pytest.mark.parametrize(
    ("outcome", "alarm", "pause_s", "needs_somebody"),
    [
        (Deferred(Cause.CREDENTIALS, "InvalidProviderToken"), "credentials", 30, True),
        (Deferred(Cause.MASS_REJECTION, "BadDeviceToken"), "mass_rejection", 60, True),
        (QUOTA, "quota", 60, False),
        (Deferred(Cause.QUOTA, "QUOTA_EXCEEDED", 7.0), "quota", 7, False),
        (Deferred(Cause.QUOTA, "QUOTA_EXCEEDED", 0.0), "quota", 1, False),
        (Deferred(Cause.QUOTA, "QUOTA_EXCEEDED", 86_400.0), "quota", 3600, False),
    ],
)
def test_what_concerns_the_whole_lane_pauses_it(
    outcome: Deferred, alarm: str, pause_s: float, needs_somebody: bool
) -> None:
    going = lane()
    change = going.learn(outcome, 1000.0)
    assert change == Paused(alarm, outcome.reason, pause_s)
    assert isinstance(change, Paused)
    assert change.needs_somebody is needs_somebody
    assert (going.paused_until, going.dares) == (1000 + pause_s, 1)


@pytest.mark.parametrize("outcome", [Deferred(Cause.DEVICE, "x"), DOWN, Deferred(Cause.PROVIDER, "INTERNAL")])
def test_what_concerns_one_delivery_does_not(outcome: Outcome) -> None:
    going = lane()
    assert going.learn(outcome, 0.0) is None
    assert (going.paused_until, going.dares) == (0, 100)


def test_many_failures_in_a_row_are_an_outage() -> None:
    going = lane()
    changes = [going.learn(DOWN, 0.0) for _ in range(OUTAGE_AFTER_FAILURES)]
    assert changes[:-1] == [None] * (OUTAGE_AFTER_FAILURES - 1)
    assert changes[-1] == Paused(pace.OUTAGE, "connect", 1)


@pytest.mark.parametrize("proper", [Accepted(), Rejected("Unregistered"), Undeliverable("PayloadTooLarge")])
def test_one_proper_answer_between_them_is_none(proper: Outcome) -> None:
    going = lane()
    for _ in range(5):
        assert [going.learn(DOWN, 0.0) for _ in range(OUTAGE_AFTER_FAILURES - 1)][-1] is None
        assert going.learn(proper, 0.0) is None


def test_pauses_grow_until_there_is_a_proper_answer() -> None:
    going, now, pauses = lane(), 0.0, list[float]()
    for _ in range(9):
        change = going.learn(QUOTA, now)
        assert isinstance(change, Paused)
        pauses.append(change.pause_s)
        now = going.paused_until
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert going.learn(Accepted(), now) == Resumed(frozenset({"quota"}))
    assert going.learn(QUOTA, now) == Paused("quota", "QUOTA_EXCEEDED", 60)


def test_answers_that_were_in_flight_neither_prolong_nor_end_a_pause() -> None:
    going = lane()
    going.learn(QUOTA, 0.0)
    assert [going.learn(outcome, 1.0) for outcome in (QUOTA, Accepted(), Accepted(), QUOTA)] == [None] * 4
    assert (going.paused_until, going.dares) == (60, 1)
    assert going.learn(QUOTA, 60.0) == Paused("quota", "QUOTA_EXCEEDED", 120)


def test_after_a_pause_it_dares_twice_as_much_with_each_proper_answer() -> None:
    going = lane(most=10)
    going.learn(QUOTA, 0.0)
    dared = []
    for _ in range(5):
        dared.append(going.dares)
        going.learn(Accepted(), 60.0)
    assert dared == [1, 2, 4, 8, 10]


def test_the_alarm_of_disbelief_stands_until_rejections_are_believed_again() -> None:
    going = lane()
    going.learn(Deferred(Cause.MASS_REJECTION, "BadDeviceToken"), 0.0, disbelieves=True)
    assert going.learn(Accepted(), 60.0, disbelieves=True) is None
    assert going.learn(Accepted(), 61.0) == Resumed(frozenset({"mass_rejection"}))


def test_scale_multiplies_every_pause() -> None:
    going = lane(scale=0.01)
    going.learn(QUOTA, 0.0)
    assert going.paused_until == 0.6
