"""How many requests each caller may make: token buckets. Arithmetic: the time comes in as an argument.

A bucket holds `burst` requests and is filled at `rate_per_s`. Whoever finds it empty is told when the next is there.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

ROUNDING = 1e-9


class Limit(Struct, frozen=True):
    """How many requests a second, and how many at once after a pause."""

    rate_per_s: float
    burst: float


class Allowances:
    """What each caller has left. Callers that are not named have no limit."""

    def __init__(self, limits: Mapping[str, Limit] | None = None) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self.change(limits or {})

    def change(self, limits: Mapping[str, Limit]) -> None:
        """Go on with other limits. What callers have used up stays used up."""
        self._buckets = {name: _Bucket(limit, self._buckets.get(name)) for name, limit in limits.items()}

    def wait_s(self, caller: str, now: float) -> float:
        """Take one request of this caller: 0 where there was one, else how long it takes until there is one.

        `now` is in seconds of a clock that is never set back.
        """
        bucket = self._buckets.get(caller)
        return 0.0 if bucket is None else bucket.wait_s(now)


class _Bucket:
    __slots__ = ("_at", "_left", "_limit")

    def __init__(self, limit: Limit, before: _Bucket | None) -> None:
        self._limit = limit
        self._left: float = limit.burst if before is None else min(before._left, limit.burst)
        self._at: float | None = None if before is None else before._at

    def wait_s(self, now: float) -> float:
        rate, burst = self._limit.rate_per_s, self._limit.burst
        at = now if self._at is None else self._at
        self._at = max(now, at)
        self._left = min(self._left + (self._at - at) * rate, burst)
        if self._left < 1.0 - ROUNDING:
            return (1.0 - self._left) / rate
        self._left -= 1.0
        return 0.0
