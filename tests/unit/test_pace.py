"""pace: what pauses a lane, how it feels its way back, and what a quota of the minute makes of it."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from pushgate import pace, retry
from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected, Undeliverable
from pushgate.pace import (
    OUTAGE_AFTER_FAILURES,
    OUTAGE_OVER_AFTER,
    QUOTA_QUIET_S,
    RISE_S,
    RISES,
    SILENCE_AFTER_FAILURES,
    SILENCE_S,
    Pace,
    Paused,
    Resumed,
)

QUOTA = Deferred(Cause.QUOTA, "QUOTA_EXCEEDED")
DOWN = Deferred(Cause.CONNECTION, "connect")
CREDENTIALS = Deferred(Cause.CREDENTIALS, "InvalidProviderToken")
DISBELIEVED = Deferred(Cause.MASS_REJECTION, "BadDeviceToken")


def lane(*, most: int = 100, scale: float = 1.0) -> Pace:
    return Pace(retry.FCM, most=most, scale=scale)


def in_an_outage(*, most: int = 100) -> Pace:
    going = lane(most=most)
    for _ in range(OUTAGE_AFTER_FAILURES):
        going.learn(DOWN, 0.0)
    assert going.paused_until == 1
    return going


def pause_of(change: pace.Change) -> float:
    assert isinstance(change, Paused)
    return change.pause_s


# --- what pauses a lane ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "alarm", "pause_s", "dares", "needs_somebody"),
    [
        (CREDENTIALS, "credentials", 30, 1, True),
        (DISBELIEVED, "mass_rejection", 60, 1, True),
        (QUOTA, "quota", 60, 50, False),
        (Deferred(Cause.QUOTA, "QUOTA_EXCEEDED", 7.0), "quota", 7, 50, False),
        (Deferred(Cause.QUOTA, "QUOTA_EXCEEDED", 0.0), "quota", 1, 50, False),
        (Deferred(Cause.QUOTA, "QUOTA_EXCEEDED", 86_400.0), "quota", 3600, 50, False),
    ],
)
def test_what_concerns_the_whole_lane_pauses_it(
    outcome: Deferred, alarm: str, pause_s: float, dares: int, needs_somebody: bool
) -> None:
    going = lane()
    change = going.learn(outcome, 1000.0)
    assert change == Paused(alarm, outcome.reason, pause_s)
    assert isinstance(change, Paused)
    assert change.needs_somebody is needs_somebody
    assert (going.paused_until, going.dares) == (1000 + pause_s, dares)


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
    assert going.dares == 1


@pytest.mark.parametrize("proper", [Accepted(), Rejected("Unregistered"), Undeliverable("PayloadTooLarge")])
def test_one_proper_answer_between_them_is_none(proper: Outcome) -> None:
    going = lane()
    for _ in range(5):
        assert [going.learn(DOWN, 0.0) for _ in range(OUTAGE_AFTER_FAILURES - 1)][-1] is None
        assert going.learn(proper, 0.0) is None


def alone(going: Pace, *, policy: retry.Policy, cause: Cause, scale: float = 1.0) -> tuple[float, pace.Change]:
    """One notification whose attempts all fail, until the lane pauses: when that is, and what is said."""
    now, down = 0.0, Deferred(cause, "connect")
    for attempt in range(1, 100):
        if (change := going.learn(down, now)) is not None:
            return now, change
        now += policy[cause].wait_s(attempt) * scale
    return now, None


@pytest.mark.parametrize(
    ("policy", "cause", "most_s"),
    [
        (retry.APNS, Cause.CONNECTION, 300),
        (retry.FCM, Cause.CONNECTION, 300),
        (retry.FCM, Cause.PROVIDER, 320),
        (retry.APNS, Cause.PROVIDER, 900 + 1800),  # Apple wants 15 minutes between two attempts
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_few_failures_over_some_minutes_are_an_outage_where_little_is_sent(
    policy: retry.Policy, cause: Cause, most_s: float, scale: float
) -> None:
    going = lane(scale=scale)
    after_s, change = alone(going, policy=policy, cause=cause, scale=scale)
    assert SILENCE_S * scale <= after_s <= most_s * scale
    assert change == Paused(pace.OUTAGE, "connect", scale)
    assert SILENCE_AFTER_FAILURES <= going.failures_in_a_row < OUTAGE_AFTER_FAILURES
    assert going.failing_s(after_s) == after_s


def test_a_reset_now_and_then_is_no_outage() -> None:
    going, now = lane(), 0.0
    for _ in range(50):
        assert [going.learn(DOWN, now + second) for second in (0.0, 1.0, 3.0)] == [None] * 3
        assert going.learn(Accepted(), now + 4) is None
        assert (going.failures_in_a_row, going.failing_s(now + 5)) == (0, 0)
        now += SILENCE_S * 2
    assert going.learn(DOWN, now) is None
    assert going.learn(DOWN, now + SILENCE_S * 2) is None, "two in ten minutes"
    assert going.learn(Deferred(Cause.DEVICE, "x"), now + SILENCE_S * 3) is None, "and what is about one device"
    assert going.failures_in_a_row == 2


def test_another_word_of_the_provider_ends_the_row_of_failures() -> None:
    going = lane()
    for _ in range(2):
        going.learn(DOWN, 0.0)
    going.learn(CREDENTIALS, 1.0)
    assert going.failures_in_a_row == 0
    assert going.learn(DOWN, 31.0 + SILENCE_S) is None


def test_an_outage_of_a_lane_that_sends_little_ends_with_the_first_proper_answer() -> None:
    going = lane()
    now, _ = alone(going, policy=retry.FCM, cause=Cause.CONNECTION)
    assert pause_of(going.learn(DOWN, now + 1)) == 2
    assert going.learn(Accepted(), now + 3) == Resumed(frozenset({"outage"}))
    assert going.failures_in_a_row == 0
    for _ in range(OUTAGE_AFTER_FAILURES):
        going.learn(DOWN, now + 4)
    assert going.learn(Accepted(), now + 5) is None, "where there were many, one success says little"


@pytest.mark.parametrize(
    ("outcome", "pauses_s"),
    [
        (QUOTA, [60, 120, 240, 480, 960, 1920, 3600, 3600]),
        (CREDENTIALS, [30, 60, 120, 240, 480, 960, 1800, 1800]),
        (DISBELIEVED, [60, 120, 240, 480, 960, 1800, 1800]),
    ],
)
def test_pauses_grow_until_there_is_a_proper_answer(outcome: Outcome, pauses_s: list[float]) -> None:
    going, now = lane(), 0.0
    for pause_s in pauses_s:
        assert pause_of(going.learn(outcome, now)) == pause_s
        now = going.paused_until
    going.learn(Accepted(), now)
    assert pause_of(going.learn(outcome, now)) == pauses_s[0]


def test_scale_multiplies_every_pause() -> None:
    going = lane(scale=0.01)
    going.learn(QUOTA, 0.0)
    assert going.paused_until == 0.6
    assert going.learn(Accepted(), 0.6 + QUOTA_QUIET_S / 100) == Resumed(frozenset({"quota"}))


# --- what was in flight ------------------------------------------------------------------------------------------


def test_answers_that_were_in_flight_neither_prolong_nor_end_a_pause() -> None:
    going = lane()
    going.learn(QUOTA, 0.0)
    assert [going.learn(outcome, 1.0) for outcome in (QUOTA, Accepted(), Accepted(), QUOTA)] == [None] * 4
    assert (going.paused_until, going.dares) == (60, 50)
    assert going.learn(QUOTA, 60.0) == Paused("quota", "QUOTA_EXCEEDED", 120)
    assert going.dares == 25


@pytest.mark.parametrize("outcome", [QUOTA, DOWN, CREDENTIALS, Accepted()])
def test_an_answer_to_what_began_before_the_pause_says_nothing_after_it(outcome: Outcome) -> None:
    going = in_an_outage()
    assert [going.learn(outcome, 50.0, began=0.5) for _ in range(100)] == [None] * 100
    assert (going.paused_until, going.dares) == (1, 1)
    assert pause_of(going.learn(DOWN, 50.0, began=1.0)) == 2


# --- credentials and outages: one probe, longer and longer pauses ------------------------------------------------


@pytest.mark.parametrize("fault", [CREDENTIALS, DOWN])
def test_after_a_pause_one_probe_decides(fault: Outcome) -> None:
    going = in_an_outage() if fault is DOWN else lane()
    if fault is CREDENTIALS:
        going.learn(fault, 0.0)
    before = 0.0
    for _ in range(4):
        assert going.dares == 1
        now = going.paused_until
        assert pause_of(going.learn(fault, now)) > before
        before = now


def test_after_a_pause_it_dares_twice_as_much_with_each_proper_answer() -> None:
    going = lane(most=10)
    going.learn(CREDENTIALS, 0.0)
    dared = []
    for _ in range(5):
        dared.append(going.dares)
        going.learn(Accepted(), 60.0)
    assert dared == [1, 2, 4, 8, 10]


def test_credentials_that_work_end_their_alarm_at_once() -> None:
    going = lane()
    going.learn(CREDENTIALS, 0.0)
    assert going.learn(Accepted(), 30.0) == Resumed(frozenset({"credentials"}))


def test_a_single_success_among_failures_ends_no_outage() -> None:
    going, now, pauses_s = in_an_outage(), 1.0, list[float]()
    for _ in range(7):
        for _ in range(OUTAGE_OVER_AFTER - 1):
            assert going.learn(Accepted(), now) is None
        pauses_s.append(pause_of(going.learn(DOWN, now)))
        assert going.dares == 1
        now = going.paused_until
    assert pauses_s == [2, 4, 8, 16, 32, 60, 60]


def test_proper_answers_in_a_row_end_an_outage() -> None:
    going = in_an_outage()
    changes = [going.learn(Accepted(), 1.0) for _ in range(OUTAGE_OVER_AFTER)]
    assert changes == [None] * (OUTAGE_OVER_AFTER - 1) + [Resumed(frozenset({"outage"}))]
    assert going.dares == 8
    assert [going.learn(DOWN, 2.0) for _ in range(OUTAGE_AFTER_FAILURES)][-2:] == [None, Paused("outage", "connect", 1)]


# --- mass rejection ----------------------------------------------------------------------------------------------


def test_the_alarm_of_disbelief_stands_until_rejections_are_believed_again() -> None:
    going = lane()
    going.learn(DISBELIEVED, 0.0, disbelieves=True)
    assert going.learn(Accepted(), 60.0, disbelieves=True) is None
    assert going.learn(Accepted(), 61.0) == Resumed(frozenset({"mass_rejection"}))


def test_it_rises_one_by_one_while_rejections_are_not_believed_and_doubles_afterwards() -> None:
    going = lane(most=40)
    going.learn(DISBELIEVED, 0.0, disbelieves=True)
    dared = [going.dares]
    for _ in range(4):
        going.learn(Accepted(), 60.0, disbelieves=True)
        dared.append(going.dares)
    for _ in range(4):
        going.learn(Accepted(), 60.0)
        dared.append(going.dares)
    assert dared == [1, 2, 3, 4, 5, 10, 20, 40, 40]
    going.learn(DISBELIEVED, 61.0, disbelieves=True)
    assert going.dares == 1


# --- what was mended ---------------------------------------------------------------------------------------------


def test_what_was_mended_is_tried_at_once_with_one_attempt() -> None:
    going = lane()
    for now in (0.0, 30.0, 90.0):
        going.learn(CREDENTIALS, now)
    going.mended(100.0)
    assert (going.paused_until, going.dares) == (100, 1)
    assert going.learn(CREDENTIALS, 101.0, began=99.0) is None, "that was the old key"
    assert pause_of(going.learn(CREDENTIALS, 101.0, began=100.5)) == 30
    going.mended(110.0)
    assert going.learn(Accepted(), 111.0, began=110.5) == Resumed(frozenset({"credentials"}))
    assert [going.learn(Accepted(), 112.0) for _ in range(6)] == [None] * 6
    assert going.dares == 100


def test_mending_forgets_the_failures_and_how_slow_a_quota_has_made_it() -> None:
    going = lane()
    going.learn(QUOTA, 0.0)
    for _ in range(OUTAGE_AFTER_FAILURES - 1):
        assert going.learn(DOWN, 60.0) is None
    going.mended(61.0)
    assert going.learn(DOWN, 62.0) is None
    for _ in range(7):
        going.learn(Accepted(), 63.0)
    assert going.dares == 100


def test_mending_can_change_how_much_it_may_dare_and_how_long_it_waits() -> None:
    going = lane(most=10)
    going.mended(0.0, policy={**retry.FCM, Cause.CREDENTIALS: retry.Backoff(7, 7)}, most=20)
    for _ in range(6):
        going.learn(Accepted(), 1.0)
    assert going.dares == 20
    assert pause_of(going.learn(CREDENTIALS, 2.0)) == 7


# --- a quota -----------------------------------------------------------------------------------------------------


def test_each_word_of_a_quota_halves_what_it_dares_and_one_is_the_least() -> None:
    going, dared = lane(most=10), list[int]()
    for _ in range(5):
        going.learn(QUOTA, going.paused_until)
        dared.append(going.dares)
    assert dared == [5, 2, 1, 1, 1]


def test_after_a_quota_it_rises_a_step_for_each_round_trip_and_not_faster_than_the_clock() -> None:
    going, now, step_s = lane(most=320), 60.0, RISE_S / RISES
    going.learn(QUOTA, 0.0)
    for _ in range(10_000):
        going.learn(Accepted(), now)
    assert going.dares == 160, "many round trips in no time"
    going.learn(Accepted(), now + step_s)
    assert going.dares == 170
    for _ in range(169):
        going.learn(Accepted(), now + 100)
    assert going.dares == 170, "much time, but not a whole round trip"
    going.learn(Accepted(), now + 100)
    assert going.dares == 180
    for number in range(RISES):
        for _ in range(320):
            going.learn(Accepted(), now + 200 + step_s * number)
    assert going.dares == 320


def test_a_small_lane_rises_by_one_as_slowly() -> None:
    going = lane(most=6)
    going.learn(QUOTA, 0.0)
    dared = []
    for second in range(0, 40, 2):
        for _ in range(6):
            going.learn(Accepted(), 60.0 + second)
        dared.append(going.dares)
    assert dared == [3] * 5 + [4] * 5 + [5] * 5 + [6] * 5


def test_an_outage_after_a_quota_is_climbed_out_of_quickly_only_up_to_what_went_well() -> None:
    going = lane(most=100)
    going.learn(QUOTA, 0.0)
    for _ in range(OUTAGE_AFTER_FAILURES):
        going.learn(DOWN, 60.0)
    dared = []
    for _ in range(8):
        going.learn(Accepted(), 62.0)
        dared.append(going.dares)
    assert dared[:6] == [2, 4, 8, 16, 32, 50]
    assert dared[6:] == [50, 50]


def test_when_it_dares_all_again_a_quota_is_forgotten() -> None:
    going, now = lane(most=4), 60.0
    going.learn(QUOTA, 0.0)
    while going.dares < 4:
        going.learn(Accepted(), now)
        now += 1
    going.learn(CREDENTIALS, now)
    for _ in range(2):
        going.learn(Accepted(), now + 100)
    assert going.dares == 4


def test_the_alarm_of_a_quota_stands_until_all_has_been_quiet_for_a_while() -> None:
    going = lane()
    going.learn(QUOTA, 0.0)
    for second in range(0, int(QUOTA_QUIET_S), 10):
        assert going.learn(Accepted(), 60.0 + second) is None
    assert going.learn(Accepted(), 60 + QUOTA_QUIET_S) == Resumed(frozenset({"quota"}))
    assert going.learn(Accepted(), 61 + QUOTA_QUIET_S) is None


class Minute(Struct):
    """A provider's quota: so many a minute, refilled bit by bit or all at once; asks to wait, or says nothing."""

    each: int
    at_once: bool
    asks_s: float | None
    left: float = 0.0
    filled_at: float = -60.0

    def answer(self, now: float) -> Outcome:
        if not self.at_once:
            self.left = min(self.left + (now - self.filled_at) * self.each / 60, self.each)
            self.filled_at = now
        elif now // 60 > self.filled_at // 60:
            self.left, self.filled_at = self.each, now
        if self.left < 1:
            return Deferred(Cause.QUOTA, "QUOTA_EXCEEDED", self.asks_s)
        self.left -= 1
        return Accepted()


def played(going: Pace, minute: Minute, *, latency_s: float, minutes: int) -> tuple[int, int]:
    """A lane that always has something to send, for so long. Returns how many were accepted and how many were not."""
    now, accepted, refused, flying = 0.0, 0, 0, list[tuple[float, float]]()
    while now < 60 * minutes:
        while now >= going.paused_until and len(flying) < going.dares:
            heapq.heappush(flying, (now + latency_s, now))
        if not flying:
            now = going.paused_until
            continue
        now, began = heapq.heappop(flying)
        outcome = minute.answer(now)
        going.learn(outcome, now, began=began)
        accepted += isinstance(outcome, Accepted)
        refused += isinstance(outcome, Deferred)
    return accepted, refused


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("asks_s", [None, 5.0])
@pytest.mark.parametrize(
    ("each", "latency_s", "most", "most_refused"),
    [
        (3000, 0.1, 500, 0.10),  # could go 100 times as fast
        (3000, 0.1, 50, 0.02),  # 10 times
        (3000, 1.0, 500, 0.15),  # 10 times, slow answers: all that flies is refused
        (300, 0.1, 500, 0.33),  # 1000 times
    ],
)
def test_a_quota_of_the_minute_is_used_well_and_few_ask_in_vain(
    each: int, latency_s: float, most: int, most_refused: float, asks_s: float | None, at_once: bool
) -> None:
    """FCM, "Scale FCM": tokens of a minute, refilled at its end; Retry-After, else a minute's wait."""
    minute = Minute(each=each, at_once=at_once, asks_s=asks_s, left=each)
    accepted, refused = played(lane(most=most), minute, latency_s=latency_s, minutes=12)
    assert accepted >= 0.8 * 12 * each
    assert refused <= most_refused * (accepted + refused)


@pytest.mark.parametrize(("at_once", "asks_s", "share"), [(False, None, 0.9), (True, 5.0, 0.8), (True, None, 0.5)])
def test_who_is_hardly_faster_than_the_quota_is_hardly_refused(
    at_once: bool, asks_s: float | None, share: float
) -> None:
    """1.2 times as fast. Where all comes back at once and nobody says when, the minute's wait costs every other one."""
    minute = Minute(each=3000, at_once=at_once, asks_s=asks_s, left=3000)
    accepted, refused = played(lane(most=6), minute, latency_s=0.1, minutes=12)
    assert accepted >= share * 12 * 3000
    assert refused <= 0.01 * accepted


# --- whatever happens --------------------------------------------------------------------------------------------

_OUTCOMES = (QUOTA, DOWN, CREDENTIALS, DISBELIEVED, Accepted(), Accepted(), Accepted(), Deferred(Cause.DEVICE, "x"))


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.sampled_from(_OUTCOMES), st.integers(1, 60), st.floats(0, 100), st.booleans())),
)
def test_it_always_dares_something_and_each_alarm_begins_and_ends(
    most: int, story: list[tuple[Outcome, int, float, bool]]
) -> None:
    going, now, alarms = lane(most=most), 0.0, set[str]()
    for outcome, times, wait_s, disbelieves in story:
        now += wait_s
        for _ in range(times):
            paused = now < going.paused_until
            change = going.learn(outcome, now, disbelieves=disbelieves)
            assert 1 <= going.dares <= most
            match change:
                case Paused(alarm=alarm, pause_s=pause_s):
                    alarms.add(alarm)
                    assert going.paused_until == now + pause_s
                case Resumed(alarms=over):
                    assert over
                    assert over <= alarms
                    alarms -= over
            assert change is None or not paused
    now = max(now, going.paused_until) + QUOTA_QUIET_S
    for _ in range(OUTAGE_OVER_AFTER):
        match going.learn(Accepted(), now):
            case Resumed(alarms=over):
                alarms -= over
    assert alarms == set()
