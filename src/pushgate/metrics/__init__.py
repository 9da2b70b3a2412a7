"""Every metric and its label values, one list. No decision reads it.

Label values are few and known at start (lanes and callers come from the configuration), and every series exists at
zero from then on, but for the reasons of a lane: those appear when they are met. One `Metrics` belongs to one gateway
process; what several of them count is added up as plain data (`families.summed`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from pushgate import __version__
from pushgate.metrics.exposition import text
from pushgate.metrics.families import Family, Merge
from pushgate.metrics.instruments import Count, Level, M, Metric, Spread
from pushgate.metrics.lanes import ALARMS, CREDENTIALS, ENDINGS, OUTCOMES, LaneCounts
from pushgate.metrics.lanes import families as families_of_lanes

__all__ = [
    "ALARMS",
    "ANSWERS",
    "APIS",
    "CONNECTIONS",
    "CREDENTIALS",
    "ENDINGS",
    "FAULTS",
    "LINES",
    "NOBODY",
    "OTHER",
    "OUTCOMES",
    "STATUSES",
    "LaneCounts",
    "Metrics",
]

APIS = ("notify", "notify/batch", "notifyEncrypted/batch")
STATUSES = ("success", "partial", "failed")
FAULTS = ("unknown_app", "app_not_allowed", "refused", "no_devices", "bad_month", "crowded")
ANSWERS = (200, 400, 401, 404, 405, 413, 415, 429, 500, 503)
CONNECTIONS = (
    "accepted",
    "handshake",
    "resumption",
    "handshake_failed",
    "certificate_refused",
    "too_slow",
    "too_many",
)
LINES = ("opened", "failed", "lost", "mute", "goaway")
"""What becomes of connections to a provider."""
OTHER = "other"
"""The reason of whatever has a reason that is not on the list of its provider."""
NOBODY = "(nobody)"
"""The caller of requests by nobody we know. No name in a configuration looks so."""

COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
MB = 1 << 20
COMMIT_BYTES = tuple(float(1 << power) for power in range(10, 24))


class Metrics:
    """The metrics of one gateway, created at zero for these lanes."""

    def __init__(
        self,
        lanes: Iterable[str],
        *,
        provider_of: Callable[[str], str] = lambda lane: "",
        reasons: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """`provider_of` a lane, and the `reasons` that a provider can give: any other one counts as `OTHER`."""
        self._all: list[Metric[Any]] = []
        self._provider_of = provider_of
        self._known = reasons or {}
        self.looks: list[Callable[[], None]] = []
        """Called before each collection: whoever has numbers only when somebody looks sets them there."""
        self._of_callers()
        self._of_lanes()
        self._of_the_rest()
        self.add(lanes)
        self.add_callers([NOBODY])

    def _of_callers(self) -> None:
        notified = self._counters(
            "pushgate_notifications_total", "Notifications by what was answered.", "api", "caller", "status"
        )
        self._notified = notified
        self.notifications: dict[tuple[str, str, str], Count] = {}
        """By api, caller and status."""
        self.faults = self._zeroed("pushgate_faults_total", "Devices not taken, by fault.", {"fault": FAULTS})
        self.answers = self._zeroed(
            "pushgate_http_requests_total", "HTTP requests by status.", {"status": tuple(map(str, ANSWERS))}
        )
        self._requests = self._counters(
            "pushgate_caller_requests_total", "HTTP requests by caller and status.", "caller", "status"
        )
        self.requests: dict[tuple[str, int], Count] = {}
        self._connections = self._zeroed(
            "pushgate_connections_total", "Connections of callers, by what became of them.", {"event": CONNECTIONS}
        )
        self.lists_end_at = self._levels(
            "pushgate_client_crl_end_timestamp_seconds",
            "When the first of the callers' revocation lists ends; 0 without one.",
            merge=Merge.EARLIEST,
        ).child()
        self.repeats = self._counters("pushgate_repeats_total", "Deliveries left out as repeats.").child()

    def _of_lanes(self) -> None:
        self.lanes: dict[str, LaneCounts] = {}
        """Each that there ever was: none ever goes, for a counter must not vanish."""
        self._backlog: Mapping[str, tuple[int, float]] = {}
        self._lane_reasons = self._counters(
            "pushgate_lane_reasons_total",
            "Attempts that were not accepted, by outcome and reason, from the first of its kind on.",
            *("lane", "outcome", "reason"),
        )
        self._reasons = self._counters(
            "pushgate_reasons_total", "Attempts that were not accepted, by reason.", "provider", "reason"
        )
        for provider, known in self._known.items():
            for reason in sorted({*known, OTHER}):
                self._reasons.child(provider, reason)

    def _of_the_rest(self) -> None:
        self.certificate_ends_at = self._levels(
            "pushgate_server_certificate_end_timestamp_seconds",
            "When the certificate of the API port ends; 0 without one.",
            merge=Merge.EARLIEST,
        ).child()
        self.lines = self._levels("pushgate_provider_connections_open", "Connections that take requests.", "peer")
        self.streams = self._levels("pushgate_provider_streams", "Requests without an answer yet.", "peer")
        self.queued = self._levels("pushgate_provider_queue", "Requests that wait for a stream.", "peer")
        self.line_events = self._counters(
            "pushgate_provider_connections_total", "Connections by what became of them.", "peer", "event"
        )
        self.commit_seconds = self._spreads(
            "pushgate_spool_commit_seconds", "Time that a transaction of the spool takes.", bounds=COMMIT_SECONDS
        ).child()
        self.commit_bytes = self._spreads(
            "pushgate_spool_commit_bytes", "Size of what a transaction of the spool handles.", bounds=COMMIT_BYTES
        ).child()
        self.spool_bytes = self._levels("pushgate_spool_bytes", "Size of the files of the spool.").child()
        self.spool_limit_bytes = self._levels(
            "pushgate_spool_limit_bytes", "How large the spool may grow; 0: as large as there is space for."
        ).child()
        self.spool_limit_waiting = self._levels(
            "pushgate_spool_limit_waiting", "How many deliveries may wait; 0: any number."
        ).child()
        self.spool_limit_per_app = self._levels(
            "pushgate_spool_limit_waiting_per_app", "How many of them may be those of one app; 0: any number."
        ).child()
        self.ready = self._levels(
            "pushgate_ready", "1 while notifications are taken, as /health/ready says.", merge=Merge.MAX
        ).child()
        self.spans_dropped = self._counters(
            "pushgate_spans_dropped_total", "Spans of traces that did not get to their collector."
        ).child()
        self.refused = self._levels(
            "pushgate_configuration_refused",
            "1 while the configuration on disk has faults and the one before it goes on.",
            merge=Merge.MAX,
        ).child()
        self.started_at = self._levels(
            "process_start_time_seconds", "When the process started, in unix seconds.", merge=Merge.EARLIEST
        ).child()
        self.cpu_seconds = self._counters("process_cpu_seconds_total", "CPU time, user and system.").child()
        self.memory_bytes = self._levels("process_resident_memory_bytes", "Resident memory.").child()
        self.open_files = self._levels("process_open_fds", "Open file descriptors.").child()
        self._levels("pushgate_build_info", "Always 1.", "version", merge=Merge.MAX).child(__version__).set(1)

    def add(self, lanes: Iterable[str]) -> None:
        """Create the series of these lanes at zero, where they are new."""
        for lane in lanes:
            self.lanes.setdefault(lane, LaneCounts()).provider = self._provider_of(lane)

    def add_callers(self, names: Iterable[str]) -> None:
        """Create the series of these callers at zero, where they are new: names from the configuration, no others."""
        for name in names:
            if (name, 200) in self.requests:
                continue
            self.requests |= {(name, status): self._requests.child(name, str(status)) for status in ANSWERS}
            self.notifications |= {
                (api, name, status): self._notified.child(api, name, status) for api, status in product(APIS, STATUSES)
            }

    def add_peers(self, peers: Iterable[str]) -> None:
        """Create the series of these peers at zero, where they are new."""
        for peer in peers:
            for level in (self.lines, self.streams, self.queued):
                level.child(peer)
            for event in LINES:
                self.line_events.child(peer, event)

    def count_request(self, caller: str, status: int) -> None:
        """Count one answer on the API port."""
        self.answers[(str(status),)].inc()
        if (caller, status) not in self.requests:
            self.add_callers([caller])
        self.requests[(caller, status)].inc()

    def count_notifications(self, api: str, caller: str, statuses: Sequence[str]) -> None:
        """Count what was answered to the notifications of one request."""
        if (api, caller, STATUSES[0]) not in self.notifications:
            self.add_callers([caller])
        if len(statuses) == 1:
            self.notifications[(api, caller, statuses[0])].value += 1
            return
        for status in {*statuses}:
            self.notifications[(api, caller, status)].value += statuses.count(status)

    def count_taken(self, lanes: Sequence[str]) -> None:
        """Count deliveries that were taken in, each by its lane."""
        if len(lanes) == 1 or lanes.count(lanes[0]) == len(lanes):
            self.lanes[lanes[0]].taken += len(lanes)
        else:
            for lane in lanes:
                self.lanes[lane].taken += 1

    def count_reason(self, lane: str, outcome: str, reason: str) -> None:
        """Count one attempt that was not accepted."""
        provider = self.lanes[lane].provider if lane in self.lanes else ""
        if reason not in self._known.get(provider, ()):
            reason = OTHER
        self._reasons.child(provider, reason).value += 1
        self._lane_reasons.child(lane, outcome, reason).value += 1

    def count_connection(self, event: str) -> None:
        """Count what became of a connection."""
        self._connections[(event,)].inc()

    def count_commit(self, seconds: float, size: int) -> None:
        """Count one transaction of the spool. Called by its thread, and by no other."""
        self.commit_seconds.observe(seconds)
        self.commit_bytes.observe(size)

    def backlog(self, waiting: Mapping[str, tuple[int, float]]) -> None:
        """Set what waits: lane to (deliveries, age of the oldest in seconds). Lanes not named hold nothing."""
        self._backlog = waiting

    def limit_spool(self, waiting: int, *, share_of_app: float, mb: int) -> None:
        """Set how much the spool takes; 0 is no limit."""
        self.spool_limit_waiting.set(waiting)
        self.spool_limit_per_app.set(waiting * share_of_app)
        self.spool_limit_bytes.set(mb * MB)

    def families(self) -> list[Family]:
        """All of them as plain data, as they are now."""
        return [*self.each_family()]

    def each_family(self) -> Iterator[Family]:
        """The same, one after the other, each as it is when it is its turn: of many lanes all are several megabytes."""
        for look in self.looks:
            look()
        yield from (metric.family() for metric in self._all)
        yield from families_of_lanes(self.lanes, self._backlog)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return text(self.families())

    # --- how they are made

    def _register(self, metric: Metric[M]) -> Metric[M]:
        self._all.append(metric)
        return metric

    def _counters(self, name: str, told: str, *labels: str) -> Metric[Count]:
        return self._register(Metric(name, told, labels, make=Count))

    def _levels(self, name: str, told: str, *labels: str, merge: Merge = Merge.SUM) -> Metric[Level]:
        return self._register(Metric(name, told, labels, make=Level, merge=merge))

    def _spreads(self, name: str, told: str, *labels: str, bounds: tuple[float, ...]) -> Metric[Spread]:
        return self._register(Metric(name, told, labels, make=partial(Spread, bounds)))

    def _zeroed(self, name: str, told: str, labels: Mapping[str, tuple[str, ...]]) -> dict[tuple[str, ...], Count]:
        """One counter for each combination of label values, all at zero."""
        metric = self._counters(name, told, *labels)
        return {values: metric.child(*values) for values in product(*labels.values())}
