"""How long to leave a peer alone that cannot be reached: arithmetic over times, without a clock."""

from __future__ import annotations

from collections.abc import Callable
from math import inf


class Backoff:
    """Doubles the pause with each failure in a row, up to `most_s`; half of each pause is left to chance.

    With `forget_s`, a failure so long after the end of the last pause is a first one again.
    """

    __slots__ = ("_failures", "_first_s", "_forget_s", "_most_s", "_random", "_until")

    def __init__(self, *, first_s: float, most_s: float, random: Callable[[], float], forget_s: float = inf) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._forget_s = forget_s
        self._random = random
        self._failures = 0
        self._until = 0.0

    def failed(self, now: float) -> None:
        """Another failure."""
        pause_s = min(self._most_s, self._first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        self._until = now + pause_s * (0.5 + self._random() / 2)

    def stumbled(self, now: float) -> None:
        """A failure that may be a coincidence: it costs a pause only if it is not the first one in a row."""
        if self._failures and now - self._until < self._forget_s:
            self.failed(now)
        else:
            self._failures = 1
            self._until = now

    def succeeded(self) -> None:
        """The peer works: the next failure is a first one."""
        self._failures = 0
        self._until = 0.0

    def pause_s(self, now: float) -> float:
        """How long to wait still, 0 if it is time to try."""
        return max(0.0, self._until - now)
