"""What is counted of one lane: one object with all its numbers, for a process may have a thousand lanes.

Their series are made when somebody looks, and kept by nobody: forty for each lane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter

from msgspec import Struct

from pushgate.metrics.families import Family, Kind, Labels, Merge, Sample
from pushgate.metrics.instruments import Spread

OUTCOMES = ("accepted", "rejected", "deferred", "undeliverable")
ENDINGS = ("accepted", "rejected", "undeliverable", "expired")
ALARMS = ("credentials", "mass_rejection", "outage", "quota")
CREDENTIALS = ("certificate", "token")

ATTEMPT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_NO_ALARM: frozenset[str] = frozenset()
_NO_ENDS: Sequence[float] = (0.0,) * len(CREDENTIALS)


class LaneCounts:
    """The numbers of one lane. One thread writes them; any may read them."""

    __slots__ = (
        "alarms",
        "breaker_is_open",
        "credentials_end_at",
        "endings",
        "failing_s",
        "failures_in_a_row",
        "in_flight",
        "most_in_flight",
        "outcomes",
        "pause_s",
        "provider",
        "seconds",
        "taken",
    )

    def __init__(self, provider: str = "") -> None:
        self.provider = provider
        self.taken = 0
        """Deliveries taken in, repeats included."""
        self.outcomes = [0] * len(OUTCOMES)
        """Attempts, in the order of `OUTCOMES`."""
        self.endings = [0] * len(ENDINGS)
        """Deliveries that have ended, in the order of `ENDINGS`."""
        self.seconds = Spread(ATTEMPT_SECONDS)
        """Of attempts, until the provider's answer."""
        self.retire()

    def retire(self) -> None:
        """The lane does not run any more: nothing flies, nobody is to be alarmed, no credential of it can end."""
        self.in_flight = self.most_in_flight = self.failures_in_a_row = 0
        self.pause_s = self.failing_s = 0.0
        self.breaker_is_open = False
        self.alarms = _NO_ALARM
        self.credentials_end_at = _NO_ENDS
        """In unix seconds, in the order of `CREDENTIALS`; 0 where one does not, or is not there yet."""

    def count_outcome(self, outcome: str, count: int = 1) -> None:
        """So many attempts more came to this outcome."""
        self.outcomes[OUTCOMES.index(outcome)] += count

    def count_ending(self, ending: str, count: int = 1) -> None:
        """So many deliveries more ended like this."""
        self.endings[ENDINGS.index(ending)] += count

    def alarm(self, kind: str, *, stands: bool) -> None:
        """The lane is paused for this reason now, or not any more."""
        self.alarms = self.alarms | {kind} if stands else (self.alarms - {kind} or _NO_ALARM)

    def credential_ends(self, kind: str, at: float) -> None:
        """The lane's credential is of this kind and ends then. It has no other one, whatever it had before."""
        self.credentials_end_at = tuple(at if each == kind else 0.0 for each in CREDENTIALS)


Rows = Sequence[tuple[Labels, LaneCounts]]
"""The label of each lane, and its numbers."""


class _Number(Struct, frozen=True):
    """A metric that is one number of each lane."""

    name: str
    kind: Kind
    help: str
    attribute: str
    merge: Merge = Merge.SUM

    def family(self, lanes: Rows) -> Family:
        name, of = self.name, attrgetter(self.attribute)
        samples = [(name, label, float(of(counts))) for label, counts in lanes]
        return Family(name, self.kind, self.help, samples, self.merge)


class _Numbers(Struct, frozen=True):
    """A metric that is several numbers of each lane: one for each value of a second label."""

    name: str
    kind: Kind
    help: str
    of: Callable[[LaneCounts], Iterable[float]]
    label: str
    values: Sequence[str]
    merge: Merge = Merge.SUM

    def family(self, lanes: Rows) -> Family:
        name, of, keys = self.name, self.of, [(self.label, value) for value in self.values]
        if self.label < "lane":  # labels stand in the order of their names
            samples = [
                (name, (key, label[0]), float(number))
                for label, counts in lanes
                for key, number in zip(keys, of(counts), strict=True)
            ]
        else:
            samples = [
                (name, (label[0], key), float(number))
                for label, counts in lanes
                for key, number in zip(keys, of(counts), strict=True)
            ]
        return Family(name, self.kind, self.help, samples, self.merge)


_METRICS = (
    _Number("pushgate_taken_total", Kind.COUNTER, "Deliveries taken in, repeats included.", "taken"),
    _Numbers(
        "pushgate_attempts_total",
        Kind.COUNTER,
        "Attempts by outcome.",
        attrgetter("outcomes"),
        "outcome",
        OUTCOMES,
    ),
    _Numbers(
        "pushgate_deliveries_total",
        Kind.COUNTER,
        "Deliveries by how they ended.",
        attrgetter("endings"),
        "ending",
        ENDINGS,
    ),
    _Numbers(
        "pushgate_lane_alarm",
        Kind.GAUGE,
        "1 while a lane is paused for this reason.",
        lambda counts: [kind in counts.alarms for kind in ALARMS],
        "alarm",
        ALARMS,
        Merge.MAX,
    ),
    _Number("pushgate_in_flight", Kind.GAUGE, "Attempts without an answer yet.", "in_flight"),
    _Number("pushgate_in_flight_limit", Kind.GAUGE, "Attempts that the lane dares at once just now.", "most_in_flight"),
    _Number("pushgate_lane_pause_seconds", Kind.GAUGE, "How long the lane still pauses.", "pause_s", Merge.MAX),
    _Number(
        "pushgate_lane_breaker_open",
        Kind.GAUGE,
        "1 while rejections are not believed.",
        "breaker_is_open",
        Merge.MAX,
    ),
    _Number(
        "pushgate_lane_failures_in_a_row",
        Kind.GAUGE,
        "Attempts that failed since the last proper answer of the provider.",
        "failures_in_a_row",
        Merge.MAX,
    ),
    _Number(
        "pushgate_lane_failing_seconds",
        Kind.GAUGE,
        "How long the first of them is ago; 0 where there are none.",
        "failing_s",
        Merge.MAX,
    ),
    _Numbers(
        "pushgate_credential_end_timestamp_seconds",
        Kind.GAUGE,
        "When what proves us to the provider ends; 0 where it does not, or is not there yet.",
        attrgetter("credentials_end_at"),
        "kind",
        CREDENTIALS,
        Merge.EARLIEST,
    ),
)


def families(lanes: Mapping[str, LaneCounts], backlog: Mapping[str, tuple[int, float]]) -> Iterator[Family]:
    """What is counted of these lanes, each family as it is when it is its turn. A lane that comes meanwhile is in none.

    `backlog` is what waits, as lane to (deliveries, age of the oldest in seconds); one that is not among the lanes
    counts too.
    """
    rows = [((("lane", lane),), counts) for lane, counts in lanes.items()]
    yield _infos(rows)
    yield from (each.family(rows) for each in _METRICS)
    yield _seconds(rows)
    yield from _backlog(rows, backlog)


def _infos(lanes: Rows) -> Family:
    name = "pushgate_lane_info"
    samples = [(name, (*label, ("provider", counts.provider)), 1.0) for label, counts in lanes]
    return Family(name, Kind.GAUGE, "Always 1.", samples, Merge.MAX)


def _seconds(lanes: Rows) -> Family:
    name = "pushgate_attempt_seconds"
    samples: list[Sample] = []
    for label, counts in lanes:
        counts.seconds.tell(name, label, samples)
    return Family(name, Kind.HISTOGRAM, "Time until the provider's answer.", samples)


def _backlog(lanes: Rows, backlog: Mapping[str, tuple[int, float]]) -> Iterator[Family]:
    all_of_them = {**{label[0][1]: (0, 0.0) for label, _ in lanes}, **backlog}
    for at, (name, told, merge) in enumerate(
        (
            ("pushgate_waiting", "Deliveries on disk.", Merge.SUM),
            ("pushgate_oldest_waiting_seconds", "Age of the oldest delivery.", Merge.MAX),
        )
    ):
        samples = [(name, (("lane", lane),), float(each[at])) for lane, each in all_of_them.items()]
        yield Family(name, Kind.GAUGE, told, samples, merge)
