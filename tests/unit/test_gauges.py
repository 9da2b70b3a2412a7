"""gauges: what is set when somebody looks, and left alone where it cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pushgate.gauges import Gauges, certificate_ends_at
from pushgate.http2 import Pool
from pushgate.http2.target import Target
from pushgate.lane_settings import Standing
from pushgate.metrics import Metrics

LANE, PEER = "org.example.a.apns", "api.push.example.org:443"


class Apps:
    def __init__(self) -> None:
        self.pools: dict[str, list[Pool]] = {}

    def credentials_end_at(self) -> Mapping[tuple[str, str], float]:
        return {(LANE, "certificate"): 1_900_000_000.0}

    def lines(self) -> Mapping[str, Sequence[Pool]]:
        return self.pools


def numbers(metrics: Metrics) -> dict[str, float]:
    return {
        name + "".join(f" {value}" for _, value in labels): number
        for family in metrics.families()
        for name, labels, number in family.samples
    }


@pytest.fixture
def apps() -> Apps:
    return Apps()


@pytest.fixture
def metrics(apps: Apps) -> Metrics:
    made = Metrics([LANE])
    lane: Any = SimpleNamespace(name=LANE, standing=lambda: Standing(7, 16, 2.5, True, 9, 80.0))
    stand_in: Any = apps
    gauges = Gauges(made, lanes={LANE: lane}, apps=stand_in, spool_file=Path("/nowhere/spool.db"))
    made.looks.append(gauges.look)
    return made


def test_each_look_shows_lanes_credentials_and_the_process(metrics: Metrics) -> None:
    seen = numbers(metrics)
    assert seen[f"pushgate_in_flight {LANE}"] == 7
    assert seen[f"pushgate_in_flight_limit {LANE}"] == 16
    assert seen[f"pushgate_lane_pause_seconds {LANE}"] == 2.5
    assert seen[f"pushgate_lane_breaker_open {LANE}"] == 1
    assert seen[f"pushgate_lane_failures_in_a_row {LANE}"] == 9
    assert seen[f"pushgate_lane_failing_seconds {LANE}"] == 80
    assert seen[f"pushgate_credential_end_timestamp_seconds certificate {LANE}"] == 1_900_000_000
    assert seen[f"pushgate_credential_end_timestamp_seconds token {LANE}"] == 0
    assert seen["pushgate_spool_bytes"] == 0, "a file that is not there"
    assert seen["process_cpu_seconds_total"] > 0
    assert seen["process_resident_memory_bytes"] > 1_000_000
    assert seen["process_start_time_seconds"] > 1_600_000_000


async def test_lines_of_one_peer_are_told_together_and_their_counts_never_fall(metrics: Metrics, apps: Apps) -> None:
    target: Any = Target("api.push.example.org", 443, None)  # type: ignore[arg-type]  # nobody connects
    one, two = Pool(target), Pool(target)
    apps.pools = {PEER: [one, two]}
    one.connections_opened, two.connections_opened, two.goaways = 3, 4, 1
    name = "pushgate_provider_connections_total"
    seen = numbers(metrics)
    assert (seen[f"{name} opened {PEER}"], seen[f"{name} goaway {PEER}"], seen[f"{name} lost {PEER}"]) == (7, 1, 0)
    apps.pools = {PEER: [two]}
    two.connections_opened += 1
    assert numbers(metrics)[f"{name} opened {PEER}"] == 8
    metrics.streams.child(PEER).set(5)
    apps.pools = {}
    seen = numbers(metrics)
    assert (seen[f"{name} opened {PEER}"], seen[f"pushgate_provider_streams {PEER}"]) == (8, 0)
    await asyncio.gather(one.close(), two.close())


def test_a_certificate_that_cannot_be_read_has_no_end() -> None:
    assert certificate_ends_at(None) == 0
    assert certificate_ends_at(Path("/nowhere/server.pem")) == 0
