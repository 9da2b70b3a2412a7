"""When so many pushkeys of one lane turn dead that the fault must be ours. Arithmetic only: no clock, no I/O.

A key of the wrong environment or a wrong topic makes a provider call every pushkey dead; believing it would unsubscribe
all users of an app (contract: "What the gateway remembers"). So a lane's rejections are believed only while they are
few: at most `share` of the pushkeys that were answered for, or at most `count` of them, within `window_s`.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct

EVIDENCE = 10
"""So many answers that look sane end it."""


class BreakerLimits(Struct, frozen=True):
    """Past both of `share` and `count` within `window_s` seconds, rejections are our fault."""

    share: float = 0.2
    count: int = 50
    window_s: float = 300


class Breaker:
    """The breaker of one lane. Closed: rejections are believed. Open: they are held back until answers look sane."""

    def __init__(self, limits: BreakerLimits) -> None:
        self._limits = limits
        self._alive: deque[tuple[float, int]] = deque()
        """Second and how many answers in it did not call a pushkey dead."""
        self._alive_sum = 0
        self._dead: dict[int, float] = {}
        """Hash of a pushkey and when it was last called dead, the oldest first: one pushkey counts once."""
        self.is_open = False

    def alive(self, now: float) -> None:
        """A pushkey was answered for and not called dead."""
        if self._alive and now - self._alive[-1][0] < 1:
            at, count = self._alive[-1]
            self._alive[-1] = (at, count + 1)
        else:
            self._forget(now)
            self._alive.append((now, 1))
        self._alive_sum += 1
        if self.is_open:
            self._forget(now)
            answers = self._alive_sum + len(self._dead)
            if answers >= EVIDENCE and len(self._dead) <= self._limits.share * answers:
                self.is_open = False

    def dead(self, now: float, pushkey: str) -> bool:
        """A pushkey was called dead. Returns whether to believe it."""
        name = hash(pushkey)
        self._dead.pop(name, None)
        self._dead[name] = now
        self._forget(now)
        if not self.is_open and self._is_past_limits():
            self.is_open = True
            self._start_over()
        return not self.is_open

    def _is_past_limits(self) -> bool:
        dead = len(self._dead)
        return dead > self._limits.count and dead > self._limits.share * (dead + self._alive_sum)

    def _start_over(self) -> None:
        """What ends it must have come after it began."""
        self._alive.clear()
        self._alive_sum = 0
        self._dead.clear()

    def _forget(self, now: float) -> None:
        """Leave out what is older than the window."""
        before = now - self._limits.window_s
        while self._alive and self._alive[0][0] <= before:
            self._alive_sum -= self._alive.popleft()[1]
        while self._dead and self._dead[name := next(iter(self._dead))] <= before:
            del self._dead[name]
