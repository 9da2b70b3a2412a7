"""retry: how long a delivery waits, and when its time is up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushgate import retry
from pushgate.outcome import Cause, Deferred

DAY_S = 86_400.0


def wait(
    cause: Cause,
    *,
    policy: retry.Policy = retry.APNS,
    attempt: int = 1,
    jitter: float = 0.0,
    remaining_s: float = DAY_S,
    asked_s: float | None = None,
    scale: float = 1.0,
) -> float | None:
    deferred = Deferred(cause, "reason", asked_s)
    return retry.next_wait_s(
        deferred, policy=policy, attempt=attempt, jitter=jitter, remaining_s=remaining_s, scale=scale
    )


@pytest.mark.parametrize(
    ("policy", "cause", "first_s"),
    [
        (retry.APNS, Cause.PROVIDER, 900),
        (retry.FCM, Cause.PROVIDER, 10),
        (retry.APNS, Cause.DEVICE, 60),
        (retry.FCM, Cause.QUOTA, 60),
        (retry.APNS, Cause.CONNECTION, 1),
        (retry.FCM, Cause.CREDENTIALS, 30),
    ],
)
def test_the_first_wait_is_what_the_provider_asks_for(policy: retry.Policy, cause: Cause, first_s: float) -> None:
    assert wait(cause, policy=policy) == first_s
    assert wait(cause, policy=policy, jitter=0.999) == pytest.approx(first_s * 1.25, rel=0.001)


@pytest.mark.parametrize("policy", [retry.APNS, retry.FCM])
def test_every_cause_has_a_backoff(policy: retry.Policy) -> None:
    assert set(policy) == set(Cause)


def test_waits_double_up_to_the_longest() -> None:
    waits = [wait(Cause.PROVIDER, policy=retry.FCM, attempt=n) for n in (1, 2, 3, 9, 10, 1_000_000)]
    assert waits == [10, 20, 40, 2560, 3600, 3600]


def test_retry_after_wins_over_backoff_and_is_bounded() -> None:
    assert wait(Cause.QUOTA, attempt=9, asked_s=7) == 7
    assert wait(Cause.QUOTA, asked_s=0) == 1
    assert wait(Cause.QUOTA, asked_s=1e9, remaining_s=1e9) == DAY_S


def test_a_wait_that_would_outlast_the_delivery_becomes_a_last_attempt() -> None:
    assert wait(Cause.PROVIDER, remaining_s=900.1) == 900
    assert wait(Cause.PROVIDER, remaining_s=900) == 840
    assert wait(Cause.QUOTA, asked_s=DAY_S, remaining_s=DAY_S - 1) == DAY_S - 61
    assert wait(Cause.PROVIDER, remaining_s=121) == 61
    assert wait(Cause.PROVIDER, remaining_s=120) is None
    assert wait(Cause.PROVIDER, remaining_s=60) is None
    assert wait(Cause.CONNECTION, remaining_s=60) == 1
    assert wait(Cause.CONNECTION, remaining_s=-5) is None


def test_scale_multiplies_every_wait() -> None:
    assert wait(Cause.PROVIDER, scale=0.01) == 9
    assert wait(Cause.PROVIDER, scale=0.01, asked_s=100) == 1


@given(
    cause=st.sampled_from(Cause),
    attempt=st.integers(1, 10_000),
    jitter=st.floats(0, 1, exclude_max=True),
    asked_s=st.none() | st.floats(0, 1e12),
    remaining_s=st.floats(-10, DAY_S),
)
def test_a_wait_is_never_shorter_than_asked_and_never_past_the_end(
    cause: Cause, attempt: int, jitter: float, asked_s: float | None, remaining_s: float
) -> None:
    for policy in (retry.APNS, retry.FCM):
        waited = wait(cause, policy=policy, attempt=attempt, jitter=jitter, asked_s=asked_s, remaining_s=remaining_s)
        if waited is not None:
            assert waited < remaining_s
            asked = policy[cause].first_s if asked_s is None else min(asked_s, DAY_S)
            assert waited >= asked or waited == remaining_s - retry.LAST_CHANCE_S


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("99999999999999999999", DAY_S),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
        ("Sun, 22 Nov 2026 12:00:30", 30.0),
        ("Sun, 22 Nov 2099 12:00:30 GMT", DAY_S),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("Sun, 99 Nov 2026 12:00:30 GMT", None),
        ("٣", None),
    ],
)
def test_retry_after_is_read_in_both_forms(value: str, seconds: float | None) -> None:
    noon = 1795348800.0  # Sun, 22 Nov 2026 12:00:00 GMT
    assert retry.retry_after_s(value, now=noon) == seconds


@given(st.text())
def test_any_retry_after_is_a_wait_or_nothing(value: str) -> None:
    seconds = retry.retry_after_s(value, now=0.0)
    assert seconds is None or 0 <= seconds <= DAY_S
