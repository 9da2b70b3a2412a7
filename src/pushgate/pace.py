"""How fast one lane goes: when it pauses, how it feels its way back, which alarms stand. Arithmetic: no clock, no I/O.

Four things pause a whole lane: a fault of our credentials, a quota, so many dead pushkeys that the fault must be ours,
and an outage (many failures in a row without one proper answer). After a pause a lane starts with one attempt and
doubles what it dares with each proper answer. Times are those of a clock that is never set back.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected, Undeliverable
from pushgate.retry import Backoff, Policy

OUTAGE = "outage"
OUTAGE_AFTER_FAILURES = 20
OUTAGE_PAUSE = Backoff(1, 60)
LONGEST_PAUSE_S = 3600.0
"""However long a provider asks to wait: once an hour somebody looks whether it still wants that."""


class Paused(Struct, frozen=True):
    """The lane stops leasing for a while."""

    alarm: str
    reason: str
    pause_s: float

    @property
    def needs_somebody(self) -> bool:
        """Whether it will not pass by itself."""
        return self.alarm in (Cause.CREDENTIALS, Cause.MASS_REJECTION)


class Resumed(Struct, frozen=True):
    """These alarms are over."""

    alarms: frozenset[str]


Change = Paused | Resumed | None


class Pace:
    """The pace of one lane."""

    def __init__(self, policy: Policy, *, most: int, scale: float) -> None:
        """`most` attempts at once; `scale` multiplies every pause (for drills)."""
        self._policy = policy
        self._most = most
        self._scale = scale
        self.dares = most
        """How many attempts at once it dares just now."""
        self.paused_until = 0.0
        self._failures_in_a_row = 0
        self._pauses_in_a_row = 0
        self._alarms: set[str] = set()

    def learn(self, outcome: Outcome, now: float, *, disbelieves: bool = False) -> Change:
        """What an outcome says about the whole lane. `disbelieves`: its rejections are still held back."""
        match outcome:
            case Deferred(
                cause=Cause.CREDENTIALS | Cause.QUOTA | Cause.MASS_REJECTION as cause,
                reason=reason,
                retry_after_s=asked_s,
            ):
                return self._pause(cause.value, reason, self._policy[cause], asked_s, now)
            case Deferred(cause=Cause.CONNECTION | Cause.PROVIDER, reason=reason):
                self._failures_in_a_row += 1
                if self._failures_in_a_row >= OUTAGE_AFTER_FAILURES:
                    return self._pause(OUTAGE, reason, OUTAGE_PAUSE, None, now)
                return None
            case Deferred():
                return None  # about one device: says nothing of the lane
            case Accepted() | Rejected() | Undeliverable():
                return self._recover(now, disbelieves=disbelieves)
            case _:
                assert_never(outcome)

    def _pause(self, alarm: str, reason: str, backoff: Backoff, asked_s: float | None, now: float) -> Change:
        """Answers to what still flies change nothing: one pause at a time."""
        if now < self.paused_until:
            return None
        self._pauses_in_a_row += 1
        wait_s = backoff.wait_s(self._pauses_in_a_row) if asked_s is None else min(max(asked_s, 1.0), LONGEST_PAUSE_S)
        self.paused_until = now + wait_s * self._scale
        self.dares = 1
        self._alarms.add(alarm)
        return Paused(alarm, reason, wait_s * self._scale)

    def _recover(self, now: float, *, disbelieves: bool) -> Change:
        """The provider answers properly: dare more, and end the alarms that this ends."""
        if now < self.paused_until:
            return None
        self._failures_in_a_row = self._pauses_in_a_row = 0
        self.dares = min(self.dares * 2, self._most)
        over = self._alarms - {Cause.MASS_REJECTION.value} if disbelieves else self._alarms
        self._alarms = self._alarms - over
        return Resumed(frozenset(over)) if over else None
