"""How fast one lane goes: when it pauses, how it feels its way back, which alarms stand. Arithmetic: no clock, no I/O.

Four things pause a whole lane: a fault of our credentials, a quota, so many dead pushkeys that the fault must be ours,
and an outage (many failures in a row without one proper answer, or few of them over some minutes: where little is sent
there are never many). A quota means "too fast": the lane goes on with half of what it dared and rises slowly. After any
other pause it starts with one attempt and doubles what it dares with each proper answer; with each one more, while its
rejections are not believed. Times are those of a clock that is never set back.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected, Undeliverable
from pushgate.retry import Backoff, Policy

OUTAGE = "outage"
OUTAGE_AFTER_FAILURES = 20
SILENCE_AFTER_FAILURES = 3
SILENCE_S = 240.0
"""Or so many, where the first was so long ago. A lane with one notification fails eight times in its first four minutes
and for the ninth time soon after (`retry`: at 255 s, or up to a quarter later)."""
OUTAGE_OVER_AFTER = 3
"""So many proper answers in a row end an outage: one among failures does not. Where there were few failures, it does:
nothing more may be there to send."""
OUTAGE_PAUSE = Backoff(1, 60)
LONGEST_PAUSE_S = 3600.0
"""However long a provider asks to wait: once an hour somebody looks whether it still wants that."""
RISES = 32
"""In so many steps, each of one at least, a lane that a quota has slowed down rises from nothing to all."""
RISE_S = 60.0
"""That takes it at least so long, for quotas are counted by the minute. With a step for each round trip of 0.1 s it
would be back at full speed in three seconds and run into the same quota with all that flies (simulated, a lane that
could go a hundred times as fast as its quota: 10 % of the answers are 429, this way 3 %)."""
QUOTA_QUIET_S = 300.0
"""So long after its last pause without another word of a quota, the alarm is over."""


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

    def __init__(self, policy: Policy, *, most: int, scale: float, begins: int | None = None) -> None:
        """`most` attempts at once, `begins` to begin with (all, unless given); `scale` multiplies every pause."""
        self._policy = policy
        self._most = most
        self._scale = scale
        self.dares = most if begins is None else min(begins, most)
        """How many attempts at once it dares just now."""
        self.paused_until = 0.0
        self._gate = most
        """Up to here it doubles what it dares, from here on it rises slowly: a quota has struck at twice as many."""
        self._answers = 0
        """Proper answers since the last slow rise."""
        self._rises_from = 0.0
        self._quota_until = 0.0
        self._failures_in_a_row = 0
        self._failing_since = 0.0
        self._proper_in_a_row = 0
        self._pauses_in_a_row = 0
        self._alarms: set[str] = set()
        self._outage_over_after = OUTAGE_OVER_AFTER

    @property
    def failures_in_a_row(self) -> int:
        """Attempts that failed (no connection, no answer, the provider's own trouble) since its last proper answer."""
        return self._failures_in_a_row

    def failing_s(self, now: float) -> float:
        """How long the first of them is ago; 0 where there are none."""
        return now - self._failing_since if self._failures_in_a_row else 0.0

    @property
    def is_at_ease(self) -> bool:
        """Whether the provider's answers have been proper for so long that one more says nothing new."""
        return self.dares == self._most and not (self._alarms or self._failures_in_a_row or self._pauses_in_a_row)

    def learn(self, outcome: Outcome, now: float, *, disbelieves: bool = False, began: float | None = None) -> Change:
        """What an outcome says about the whole lane. `disbelieves`: its rejections are still held back.

        `began` is when the attempt did (`now`, where nobody says). What began before the last pause has ended, or
        before something was mended, says nothing: one quota is one signal however many were in flight, and a late
        answer ends no outage.
        """
        if (now if began is None else began) < self.paused_until:
            return None
        match outcome:
            case Deferred(
                cause=Cause.CREDENTIALS | Cause.QUOTA | Cause.MASS_REJECTION as cause,
                reason=reason,
                retry_after_s=asked_s,
            ):
                return self._pause(cause.value, reason, self._policy[cause], asked_s, now)
            case Deferred(cause=Cause.CONNECTION | Cause.PROVIDER, reason=reason):
                return self._fail(reason, now)
            case Deferred():
                return None  # about one device: says nothing of the lane
            case Accepted() | Rejected() | Undeliverable():
                return self._recover(now, disbelieves=disbelieves)
            case _:
                assert_never(outcome)

    def mended(self, now: float, *, policy: Policy | None = None, most: int | None = None) -> None:
        """The provider's settings or key were mended: try at once, with one attempt, as if nothing had been.

        The alarms stand until the provider's answers end them. `policy` and `most` are those of the new settings, where
        they are others.
        """
        self._policy = policy or self._policy
        self._most = most or self._most
        self.paused_until = now
        self.dares = 1
        self._gate = self._most
        self._failures_in_a_row = self._proper_in_a_row = self._pauses_in_a_row = 0

    def _fail(self, reason: str, now: float) -> Paused | None:
        if not self._failures_in_a_row:
            self._failing_since = now
        self._failures_in_a_row += 1
        self._proper_in_a_row = 0
        if OUTAGE not in self._alarms:
            are_many = self._failures_in_a_row >= OUTAGE_AFTER_FAILURES
            is_silence = self._failures_in_a_row >= SILENCE_AFTER_FAILURES and (
                now - self._failing_since >= SILENCE_S * self._scale
            )
            if not (are_many or is_silence):
                return None
            self._outage_over_after = OUTAGE_OVER_AFTER if are_many else 1
        return self._pause(OUTAGE, reason, OUTAGE_PAUSE, None, now)

    def _pause(self, alarm: str, reason: str, backoff: Backoff, asked_s: float | None, now: float) -> Paused:
        self._pauses_in_a_row += 1
        self._proper_in_a_row = 0
        wait_s = backoff.wait_s(self._pauses_in_a_row) if asked_s is None else min(max(asked_s, 1.0), LONGEST_PAUSE_S)
        self.paused_until = now + wait_s * self._scale
        if alarm == Cause.QUOTA:
            self.dares = self._gate = max(self.dares // 2, 1)
            self._rises_from = self._quota_until = self.paused_until
            self._answers = 0
        else:
            self.dares = 1
        if alarm != OUTAGE:
            self._failures_in_a_row = 0  # the provider is there, and says something else
        self._alarms.add(alarm)
        return Paused(alarm, reason, wait_s * self._scale)

    def _recover(self, now: float, *, disbelieves: bool) -> Resumed | None:
        """The provider answers properly: dare more, and end the alarms that this ends."""
        self._failures_in_a_row = 0
        self._proper_in_a_row += 1
        over = {alarm for alarm in self._alarms if self._is_over(alarm, now, disbelieves=disbelieves)}
        self._alarms -= over
        if OUTAGE not in self._alarms:
            self._pauses_in_a_row = 0
        self._dare_more(now, disbelieves=disbelieves)
        return Resumed(frozenset(over)) if over else None

    def _is_over(self, alarm: str, now: float, *, disbelieves: bool) -> bool:
        """Whether a proper answer ends the alarm.

        That of a quota stands on while the lane goes slower, until all has been quiet for a while. Did it end with the
        first proper answer, it would come and go each minute where a quota binds; and did it wait until the lane dares
        all again, it would stand for days where little is sent, though nothing is held up there.
        """
        match alarm:
            case Cause.MASS_REJECTION:
                return not disbelieves
            case Cause.QUOTA:
                return now >= self._quota_until + QUOTA_QUIET_S * self._scale
            case _:
                return alarm != OUTAGE or self._proper_in_a_row >= self._outage_over_after

    def _dare_more(self, now: float, *, disbelieves: bool) -> None:
        if disbelieves:
            self.dares = min(self.dares + 1, self._most)
        elif self.dares < self._gate:
            self.dares = min(self.dares * 2, self._gate)
        elif self.dares < self._most:
            self._rise(now)
        if self.dares == self._most:
            self._gate = self._most

    def _rise(self, now: float) -> None:
        """One step after a round trip's worth of proper answers, if enough time has passed."""
        self._answers += 1
        step = max(self._most // RISES, 1)
        if self._answers >= self.dares and now - self._rises_from >= RISE_S * self._scale * step / self._most:
            self.dares = min(self.dares + step, self._most)
            self._rises_from = now
            self._answers = 0
