"""Every metric and its label values, one list. No decision reads it.

Label values are few and known at start (lanes come from the configuration), and every series exists at zero from then
on. One registry belongs to one gateway, so that two in one process do not mix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from pushgate import __version__

APIS = ("notify", "notify/batch", "notifyEncrypted/batch")
STATUSES = ("success", "partial", "failed")
FAULTS = ("unknown_app", "app_not_allowed", "refused", "no_devices", "bad_month", "crowded")
OUTCOMES = ("accepted", "rejected", "deferred", "undeliverable")
ENDINGS = ("accepted", "rejected", "undeliverable", "expired")
ANSWERS = (200, 400, 401, 404, 405, 413, 415, 429, 500, 503)
ALARMS = ("credentials", "mass_rejection", "outage", "quota")
CONNECTIONS = (
    "accepted",
    "handshake",
    "resumption",
    "handshake_failed",
    "certificate_refused",
    "too_slow",
    "too_many",
)
NOBODY = "(nobody)"
"""The caller of requests by nobody we know. No name in a configuration looks so."""


M = TypeVar("M", Counter, Gauge, Histogram)


class Metrics:
    """The metrics of one gateway, created at zero for these lanes."""

    def __init__(self, lanes: Iterable[str]) -> None:
        # a switch of the process: without it most series would only tell when others began
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library gives it no types
        self.registry = CollectorRegistry()
        self.notifications = self._counters(
            "pushgate_notifications_total",
            "Notifications by what was answered.",
            {"api": APIS, "status": STATUSES},
        )
        self.faults = self._counters("pushgate_faults_total", "Devices not taken, by fault.", {"fault": FAULTS})
        self.answers = self._counters(
            "pushgate_http_requests_total", "HTTP requests by status.", {"status": tuple(map(str, ANSWERS))}
        )
        self._requests = Counter(
            "pushgate_caller_requests_total",
            "HTTP requests by caller and status.",
            ["caller", "status"],
            registry=self.registry,
        )
        self.requests: dict[tuple[str, int], Counter] = {}
        self.add_callers([NOBODY])
        self._connections = self._counters(
            "pushgate_connections_total", "Connections of callers, by what became of them.", {"event": CONNECTIONS}
        )
        self.lists_end_at = Gauge(
            "pushgate_client_crl_end_timestamp_seconds",
            "When the first of the callers' revocation lists ends; 0 without one.",
            registry=self.registry,
        )
        self.repeats = Counter("pushgate_repeats_total", "Deliveries left out as repeats.", registry=self.registry)
        self._lanes: set[str] = set()
        self._attempts = self._metric(Counter, "pushgate_attempts_total", "Attempts by outcome.", "outcome")
        self.attempts: dict[tuple[str, str], Counter] = {}
        self._endings = self._metric(Counter, "pushgate_deliveries_total", "Deliveries by how they ended.", "ending")
        self.endings: dict[tuple[str, str], Counter] = {}
        self._seconds = self._metric(Histogram, "pushgate_attempt_seconds", "Time until the provider's answer.")
        self.attempt_seconds: dict[str, Histogram] = {}
        self._alarm = self._metric(Gauge, "pushgate_lane_alarm", "1 while a lane is paused for this reason.", "alarm")
        self.alarms: dict[tuple[str, str], Gauge] = {}
        self._flying = self._metric(Gauge, "pushgate_in_flight", "Attempts without an answer yet.")
        self.in_flight: dict[str, Gauge] = {}
        self.refused = Gauge(
            "pushgate_configuration_refused",
            "1 while the configuration on disk has faults and the one before it goes on.",
            registry=self.registry,
        )
        self._waiting = Gauge("pushgate_waiting", "Deliveries on disk.", ["lane"], registry=self.registry)
        self._oldest = Gauge(
            "pushgate_oldest_waiting_seconds", "Age of the oldest delivery.", ["lane"], registry=self.registry
        )
        self.add(lanes)
        build = Gauge("pushgate_build_info", "Always 1.", ["version"], registry=self.registry)
        build.labels(__version__).set(1)

    def add(self, lanes: Iterable[str]) -> None:
        """Create the series of these lanes at zero, where they are new. None ever goes: a counter must not vanish."""
        for lane in lanes:
            if lane in self._lanes:
                continue
            self._lanes.add(lane)
            self.attempts |= {(lane, outcome): self._attempts.labels(lane, outcome) for outcome in OUTCOMES}
            self.endings |= {(lane, ending): self._endings.labels(lane, ending) for ending in ENDINGS}
            self.attempt_seconds[lane] = self._seconds.labels(lane)
            self.alarms |= {(lane, kind): self._alarm.labels(lane, kind) for kind in ALARMS}
            self.in_flight[lane] = self._flying.labels(lane)
            self._waiting.labels(lane)
            self._oldest.labels(lane)

    def add_callers(self, names: Iterable[str]) -> None:
        """Create the series of these callers at zero, where they are new: names from the configuration, no others."""
        for key in product(names, ANSWERS):
            self.requests.setdefault(key, self._requests.labels(*key))

    def count_request(self, caller: str, status: int) -> None:
        """Count one answer on the API port."""
        self.answers[(str(status),)].inc()
        if (caller, status) not in self.requests:
            self.add_callers([caller])
        self.requests[(caller, status)].inc()

    def count_connection(self, event: str) -> None:
        """Count what became of a connection."""
        self._connections[(event,)].inc()

    def retire(self, lane: str) -> None:
        """The lane does not run any more: nothing flies, and nobody is to be alarmed."""
        self.in_flight[lane].set(0)
        for kind in ALARMS:
            self.alarms[(lane, kind)].set(0)

    def _metric(self, kind: type[M], name: str, text: str, *labels: str) -> M:
        return kind(name, text, ["lane", *labels], registry=self.registry)

    def _counters(self, name: str, text: str, labels: Mapping[str, tuple[str, ...]]) -> dict[tuple[str, ...], Counter]:
        """One counter for each combination of label values, all at zero."""
        counter = Counter(name, text, list(labels), registry=self.registry)
        return {values: counter.labels(*values) for values in product(*labels.values())}

    def backlog(self, waiting: Mapping[str, tuple[int, float]]) -> None:
        """Set what waits: lane to (deliveries, age of the oldest in seconds). Lanes not named hold nothing."""
        self._waiting.clear()
        self._oldest.clear()
        lanes = {*self.in_flight, *waiting}
        for lane in lanes:
            count, age_s = waiting.get(lane, (0, 0.0))
            self._waiting.labels(lane).set(count)
            self._oldest.labels(lane).set(age_s)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
