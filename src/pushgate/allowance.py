"""How many requests each caller may make: token buckets. Arithmetic: the time comes in as an argument.

A bucket holds `burst` requests and is filled at `rate_per_s`. Whoever finds it empty is told when the next is there.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

ROUNDING = 1e-9
MOST_OWED = 8
"""So many times its burst a bucket may owe for what others took at the same moment."""


class Limit(Struct, frozen=True):
    """How many requests a second, and how many at once after a pause."""

    rate_per_s: float
    burst: float


class Allowances:
    """What each caller has left. Callers that are not named have no limit."""

    def __init__(self, limits: Mapping[str, Limit] | None = None) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._used: dict[str, int] = {}
        self.change(limits or {})

    def change(self, limits: Mapping[str, Limit]) -> None:
        """Go on with other limits. What callers have used up stays used up."""
        self._buckets = {name: _Bucket(limit, self._buckets.get(name)) for name, limit in limits.items()}

    def wait_s(self, caller: str, now: float) -> float:
        """Take one request of this caller: 0 where there was one, else how long it takes until there is one.

        `now` is in seconds of a clock that is never set back.
        """
        bucket = self._buckets.get(caller)
        if bucket is None:
            return 0.0
        wait_s = bucket.wait_s(now)
        if not wait_s:
            self._used[caller] = self._used.get(caller, 0) + 1
        return wait_s

    def take_used(self) -> Mapping[str, int]:
        """How many requests were taken since it was asked last, of callers that have a limit."""
        used, self._used = self._used, {}
        return used

    def use(self, caller: str, count: int) -> None:
        """So many requests of this caller were taken by another process: what is owed has to be filled up first."""
        if (bucket := self._buckets.get(caller)) is not None:
            bucket.use(count)


class _Bucket:
    __slots__ = ("_at", "_left", "_limit")

    def __init__(self, limit: Limit, before: _Bucket | None) -> None:
        self._limit = limit
        self._left: float = limit.burst if before is None else min(before._left, limit.burst)
        self._at: float | None = None if before is None else before._at

    def use(self, count: int) -> None:
        self._left = max(self._left - count, -MOST_OWED * self._limit.burst)

    def wait_s(self, now: float) -> float:
        rate, burst = self._limit.rate_per_s, self._limit.burst
        at = now if self._at is None else self._at
        self._at = max(now, at)
        self._left = min(self._left + (self._at - at) * rate, burst)
        if self._left < 1.0 - ROUNDING:
            return (1.0 - self._left) / rate
        self._left -= 1.0
        return 0.0
