"""What the status page needs of the metrics, taken out of the families in one pass. Pure.

Whatever is not there (another version, a process that has just started) is 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import sub
from typing import TypeVar

from msgspec import Struct

from pushgate.metrics.families import Family, Labels, Sample


class LaneReading(Struct):
    """One lane. Counts that are 0 are left out: of a thousand lanes most do nothing, and readings are kept a while."""

    provider: str = ""
    waiting: float = 0
    oldest_s: float = 0
    in_flight: float = 0
    limit: float = 0
    pause_s: float = 0
    breaker: float = 0
    failures: float = 0
    """Attempts that failed since the provider's last proper answer."""
    failing_s: float = 0
    """How long the first of them is ago."""
    taken: float = 0
    alarms: Sequence[str] = ()
    attempts: dict[str, float] = {}
    endings: dict[str, float] = {}
    reasons: dict[tuple[str, str], float] = {}
    """By outcome and reason."""
    buckets: list[float] = []
    """Attempts by how long they took, up to each of `Reading.bounds`, not added up; empty where there were none."""
    ends_at: dict[str, float] = {}
    """When a credential of it ends, by its kind, in unix seconds."""


class CallerReading(Struct):
    """One caller: its requests by the class of the answer, its notifications by what was answered."""

    statuses: dict[str, float] = {}
    notifications: dict[str, float] = {}


class PeerReading(Struct):
    """The connections to one peer."""

    connections: float = 0
    streams: float = 0
    queue: float = 0
    events: dict[str, float] = {}


class Reading(Struct):
    """All of it, at one moment (unix seconds)."""

    at: float
    lanes: dict[str, LaneReading]
    callers: dict[str, CallerReading]
    peers: dict[str, PeerReading]
    numbers: dict[str, float]
    """Metrics without labels, by name."""
    bounds: list[float]
    """Of the histogram of attempts, in seconds."""
    commits: list[tuple[float, float]]
    """Transactions of the spool, by how many took at most so long (seconds), added up."""
    version: str = ""


def read(families: Iterable[Family], *, at: float) -> Reading:
    """What the families say."""
    lanes: dict[str, LaneReading] = defaultdict(LaneReading)
    callers: dict[str, CallerReading] = defaultdict(CallerReading)
    peers: dict[str, PeerReading] = defaultdict(PeerReading)
    reading = Reading(at, lanes, callers, peers, {}, [], [])
    readers = _readers(reading)
    for family in families:
        if (reader := readers.get(family.name)) is not None:
            reader(family.samples)
        elif len(family.samples) == 1:
            name, labels, value = family.samples[0]
            if not labels:
                reading.numbers[name] = value
            elif family.name == "pushgate_build_info":
                reading.version = labels[0][1]
    return reading


def share(reading: Reading, before: Reading) -> None:
    """Lanes that are as they were before are the same objects: what does nothing is kept once."""
    for name, lane in reading.lanes.items():
        if (was := before.lanes.get(name)) == lane and was is not None:
            reading.lanes[name] = was


def _readers(reading: Reading) -> Mapping[str, Callable[[Sequence[Sample]], None]]:
    lane, peer = partial(_values, reading.lanes), partial(_values, reading.peers)
    by = partial(_by_label, reading.lanes, "lane")
    return {
        "pushgate_waiting": partial(lane, "waiting"),
        "pushgate_oldest_waiting_seconds": partial(lane, "oldest_s"),
        "pushgate_in_flight": partial(lane, "in_flight"),
        "pushgate_in_flight_limit": partial(lane, "limit"),
        "pushgate_lane_pause_seconds": partial(lane, "pause_s"),
        "pushgate_lane_breaker_open": partial(lane, "breaker"),
        "pushgate_lane_failures_in_a_row": partial(lane, "failures"),
        "pushgate_lane_failing_seconds": partial(lane, "failing_s"),
        "pushgate_taken_total": partial(lane, "taken"),
        "pushgate_attempts_total": partial(by, "attempts", "outcome"),
        "pushgate_deliveries_total": partial(by, "endings", "ending"),
        "pushgate_credential_end_timestamp_seconds": partial(by, "ends_at", "kind"),
        "pushgate_lane_info": partial(_infos, reading),
        "pushgate_lane_alarm": partial(_alarms, reading),
        "pushgate_lane_reasons_total": partial(_reasons, reading),
        "pushgate_attempt_seconds": partial(_seconds, reading),
        "pushgate_caller_requests_total": partial(_by_label, reading.callers, "caller", "statuses", "status"),
        "pushgate_notifications_total": partial(_by_label, reading.callers, "caller", "notifications", "status"),
        "pushgate_provider_connections_open": partial(peer, "connections"),
        "pushgate_provider_streams": partial(peer, "streams"),
        "pushgate_provider_queue": partial(peer, "queue"),
        "pushgate_provider_connections_total": partial(_by_label, reading.peers, "peer", "events", "event"),
        "pushgate_spool_commit_seconds": partial(_commits, reading),
    }


T = TypeVar("T", LaneReading, CallerReading, PeerReading)


def _values(into: dict[str, T], field: str, samples: Sequence[Sample]) -> None:
    """One number for each value of the only label."""
    for _, labels, value in samples:
        setattr(into[labels[0][1]], field, value)


def _by_label(into: dict[str, T], owner: str, field: str, label: str, samples: Sequence[Sample]) -> None:
    """Numbers by one label, for each value of another; those that other labels tell apart are added up."""
    if samples:
        first, second = _places(samples[0][1], owner, label)
        before, found = "", dict[str, float]()
        for _, labels, value in samples:
            name, key = labels[first][1], labels[second][1]
            if name is not before:  # those of one stand together mostly
                before, found = name, getattr(into[name], field)
            if value:
                found[key] = found.get(key, 0.0) + value


def _infos(reading: Reading, samples: Sequence[Sample]) -> None:
    for _, labels, _value in samples:
        reading.lanes[labels[0][1]].provider = labels[1][1]


def _alarms(reading: Reading, samples: Sequence[Sample]) -> None:
    for _, labels, value in samples:
        if value:
            lane = reading.lanes[labels[1][1]]
            lane.alarms = (*lane.alarms, labels[0][1])


def _reasons(reading: Reading, samples: Sequence[Sample]) -> None:
    for _, labels, value in samples:  # lane, outcome, reason
        reading.lanes[labels[0][1]].reasons[(labels[1][1], labels[2][1])] = value


def _seconds(reading: Reading, samples: Sequence[Sample]) -> None:
    """Of each lane its buckets in their order, then their number and sum."""
    buckets = next((at for at, (name, _, _) in enumerate(samples) if not name.endswith("_bucket")), 0)
    reading.bounds = [float(labels[-1][1]) for _, labels, _ in samples[:buckets]]
    for at in range(0, len(samples), buckets + 2):
        counts = [value for _, _, value in samples[at : at + buckets]]
        if counts[-1]:
            reading.lanes[samples[at][1][0][1]].buckets = [*map(sub, counts, [0.0, *counts])]


def _commits(reading: Reading, samples: Sequence[Sample]) -> None:
    reading.commits = [(float(labels[-1][1]), value) for name, labels, value in samples if name.endswith("_bucket")]


def _places(labels: Labels, *names: str) -> list[int]:
    order = [name for name, _ in labels]
    return [order.index(name) for name in names]
