"""When to try again, or that time is up. Arithmetic only: no clock, no randomness, no I/O.

Waits are in seconds. Jitter only ever lengthens a wait, so that what a provider asks for is never undercut.
Sources: Apple, "Handling notification responses from APNs" (5xx: again after 15 minutes, with backoff); Google,
"Scale FCM" (5xx: not before 10 s, exponential with jitter) and "FCM error codes" (429: Retry-After, else 60 s).
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from datetime import UTC

from msgspec import Struct

from pushgate.outcome import Cause, Deferred

JITTER = 0.25
"""A wait is lengthened by up to this share of itself."""
LAST_CHANCE_S = 60.0
"""The last attempt is made so long before the end."""
LONGEST_RETRY_AFTER_S = 86_400.0


class Backoff(Struct, frozen=True):
    """The first wait and the longest, doubling in between."""

    first_s: float
    longest_s: float

    def wait_s(self, attempt: int) -> float:
        """The wait after so many attempts (from 1)."""
        doublings = min(attempt - 1, 32)
        return min(self.first_s * 2.0**doublings, self.longest_s)


Policy = Mapping[Cause, Backoff]

_SHARED: Policy = {
    Cause.CONNECTION: Backoff(1, 300),
    Cause.QUOTA: Backoff(60, 3600),
    Cause.DEVICE: Backoff(60, 3600),
    Cause.CREDENTIALS: Backoff(30, 1800),
    Cause.MASS_REJECTION: Backoff(60, 1800),
}
APNS: Policy = {**_SHARED, Cause.PROVIDER: Backoff(900, 3600)}
FCM: Policy = {**_SHARED, Cause.PROVIDER: Backoff(10, 3600)}


def next_wait_s(
    deferred: Deferred, *, policy: Policy, attempt: int, jitter: float, remaining_s: float, scale: float = 1.0
) -> float | None:
    """How long a deferred delivery waits, or None when its time is nearly up.

    A wait that would outlast the delivery ends a little before its end instead: it gets a last attempt.

    `attempt` is the one just made (from 1), `jitter` is in [0, 1), `remaining_s` is the time left until it must be
    gone (A_27757), `scale` multiplies every wait (for drills).
    """
    backoff = policy[deferred.cause]
    wait_s = backoff.wait_s(attempt)
    if deferred.retry_after_s is not None:
        wait_s = max(min(deferred.retry_after_s, LONGEST_RETRY_AFTER_S), 1.0)
    wait_s *= (1 + JITTER * jitter) * scale
    if wait_s < remaining_s:
        return wait_s
    last_chance_s = LAST_CHANCE_S * scale
    return remaining_s - last_chance_s if remaining_s > 2 * last_chance_s else None


def retry_after_s(value: str, *, now: float) -> float | None:
    """A Retry-After header in seconds from `now` (RFC 9110 §10.2.3: delta or HTTP date), None when it says nothing."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), LONGEST_RETRY_AFTER_S)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(moment.timestamp() - now, 0.0), LONGEST_RETRY_AFTER_S)
