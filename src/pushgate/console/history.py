"""What the console remembers of the metrics: the last hour in steps, the last minutes of each lane, the last alarms.

Bounded: an hour of totals, a few readings, fifty alarms.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from msgspec import Struct

from pushgate.console.reading import LaneReading, Reading

STEP_S = 10.0
HOUR_STEPS = 360
LATELY_S = 60.0
"""What "per second now" is counted over."""
MINUTES = 5
"""What latencies are counted over, and a little more."""
MINUTE_S = 60.0
MOST_ALARMS = 50
BROKEN = ("500", "503")


class Point(Struct, frozen=True):
    """Totals since the start, at one moment."""

    at: float
    notifications: float
    accepted: float
    rejected: float
    undeliverable: float
    expired: float
    broken: float
    waiting: float


class Span(Struct, frozen=True):
    """The last hour in steps, the newest last: rates by the second in each step, and what waited at its end."""

    step_s: float
    notifications: Sequence[float]
    accepted: Sequence[float]
    lost: Sequence[float]
    """Undeliverable and expired. A pushkey that is dead is no loss."""
    waiting: Sequence[int]


class Alarm(Struct):
    """One alarm of a lane, and what the provider said while it stood. `until` is 0 while it does."""

    lane: str
    kind: str
    since: float
    until: float
    at_first: Mapping[str, float]
    reasons: Mapping[str, float]


class History:
    """What was, as far as it is needed."""

    def __init__(self) -> None:
        self._points: deque[Point] = deque(maxlen=HOUR_STEPS + 1)
        self._recent: deque[Reading] = deque()
        self._older: deque[Reading] = deque(maxlen=MINUTES)
        self._standing: dict[tuple[str, str], Alarm] = {}
        self._over: deque[Alarm] = deque(maxlen=MOST_ALARMS)
        self._deferrals: Mapping[str, Mapping[str, float]] = {}
        """Of each lane, by reason, when it was looked at last."""
        self._failing: dict[str, tuple[Mapping[str, float], Mapping[str, float]]] = {}
        """Of each lane whose attempts fail, the same: when they began to, and now."""
        self._span: Span | None = None

    def add(self, reading: Reading) -> None:
        """It is so now. More often than in steps it may come too."""
        self._watch_alarms(reading)
        if not self._points or reading.at - self._points[-1].at >= STEP_S - 0.5:
            self._points.append(point(reading))
            self._span = None
            self._recent.append(reading)
            while reading.at - self._recent[0].at > LATELY_S + STEP_S / 2:
                left = self._recent.popleft()
                if not self._older or left.at - self._older[-1].at >= MINUTE_S:
                    self._older.append(left)

    @property
    def lately(self) -> Reading | None:
        """How it was a minute ago, or as long ago as is known."""
        return self._recent[0] if self._recent else None

    @property
    def minutes_ago(self) -> Reading | None:
        """How it was some minutes ago, or as long ago as is known."""
        return self._older[0] if self._older else self.lately

    def an_hour_ago(self) -> Point | None:
        """Totals of an hour ago, or of when watching began."""
        return self._points[0] if self._points else None

    def alarms(self) -> list[Alarm]:
        """Those that stand, then those that are over, the newest first."""
        standing = sorted(self._standing.values(), key=lambda each: -each.since)
        return [*standing, *reversed(self._over)]

    def said_since_failing(self, lane: str) -> list[tuple[str, int]]:
        """Why attempts of a lane were deferred since they began to fail, the most frequent first."""
        return said(*self._failing.get(lane, ({}, {})))

    def span(self) -> Span:
        """The last hour."""
        if self._span is None:
            pairs = list(zip(self._points, list(self._points)[1:], strict=False))
            self._span = Span(
                STEP_S,
                [rate(now.notifications - then.notifications, now.at - then.at) for then, now in pairs],
                [rate(now.accepted - then.accepted, now.at - then.at) for then, now in pairs],
                [rate(_lost(now) - _lost(then), now.at - then.at) for then, now in pairs],
                [int(now.waiting) for _, now in pairs],
            )
        return self._span

    def _watch_alarms(self, reading: Reading) -> None:
        stands = {(lane, kind) for lane, each in reading.lanes.items() for kind in each.alarms}
        for key in stands - self._standing.keys():
            lane = reading.lanes[key[0]]
            at_first = self._deferrals.get(key[0], {})
            self._standing[key] = Alarm(*key, reading.at, 0.0, at_first, _deferrals(lane))
        for key, alarm in list(self._standing.items()):
            if key[0] in reading.lanes:
                alarm.reasons = _deferrals(reading.lanes[key[0]])
            if key not in stands:
                alarm.until = reading.at
                self._over.append(self._standing.pop(key))
        self._failing = {
            name: (self._failing[name][0] if name in self._failing else self._deferrals.get(name, {}), _deferrals(lane))
            for name, lane in reading.lanes.items()
            if lane.failures
        }
        self._deferrals = {name: _deferrals(lane) for name, lane in reading.lanes.items() if lane.reasons}


def point(reading: Reading) -> Point:
    """Its totals."""
    endings = [lane.endings for lane in reading.lanes.values()]

    def ended(how: str) -> float:
        return sum(each.get(how, 0.0) for each in endings)

    return Point(
        reading.at,
        sum(sum(caller.notifications.values()) for caller in reading.callers.values()),
        ended("accepted"),
        ended("rejected"),
        ended("undeliverable"),
        ended("expired"),
        sum(caller.statuses.get(status, 0.0) for caller in reading.callers.values() for status in BROKEN),
        sum(lane.waiting for lane in reading.lanes.values()),
    )


def said(at_first: Mapping[str, float], now: Mapping[str, float]) -> list[tuple[str, int]]:
    """What the provider said between two counts of it, the most frequent first."""
    counts = {reason: int(count - at_first.get(reason, 0.0)) for reason, count in now.items()}
    return sorted(((reason, count) for reason, count in counts.items() if count > 0), key=lambda each: -each[1])


def _deferrals(lane: LaneReading) -> dict[str, float]:
    return {reason: count for (outcome, reason), count in lane.reasons.items() if outcome == "deferred"}


def _lost(at: Point) -> float:
    return at.undeliverable + at.expired


def rate(more: float, seconds: float) -> float:
    """By the second. A process that began anew counts from 0: what it lost is no negative rate."""
    return round(max(more, 0.0) / seconds, 2) if seconds > 0 else 0.0
