"""health: readiness, and what waits and flies."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from pushgate.errors import SpoolFull
from pushgate.health import Health
from pushgate.metrics import Metrics
from pushgate.spool import Backlog

APP = "de.example.app.apns"
FULL = SpoolFull("the spool is full -> raise it")


class Spool:
    def __init__(self, *faults: Exception | None) -> None:
        self.faults = list(faults)

    async def probe(self) -> None:
        if (fault := self.faults.pop(0)) is not None:
            raise fault

    async def backlog(self) -> Mapping[str, Backlog]:
        return {APP: Backlog(7, 1000.0)}


class Lane:
    name = APP
    in_flight = 3


async def test_a_full_spool_is_unready_and_still_tells_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics([APP])
    health = Health(metrics, clock=lambda: 2000.0)
    said: list[str | None] = []

    async def sleep(_: float) -> None:
        said.append(health.unready())
        if len(said) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr("pushgate.health.asyncio.sleep", sleep)
    assert health.unready() == "starting"
    health.stage = None
    lanes: Any = {APP: Lane()}
    with pytest.raises(asyncio.CancelledError):
        await health.watch(Spool(FULL, None, TimeoutError()), lanes)
    assert said == ["the spool takes nothing: " + str(FULL), None, "the spool takes nothing: no answer in time"]
    for line in ("waiting", "7.0"), ("oldest_waiting_seconds", "1000.0"), ("in_flight", "3.0"):
        assert f'pushgate_{line[0]}{{lane="{APP}"}} {line[1]}\n' in metrics.text().decode()
    health.stage = "draining"
    assert health.unready() == "draining"


def test_readiness_is_a_metric_too() -> None:
    metrics = Metrics([])
    health = Health(metrics, clock=lambda: 0.0)
    said = []
    for stage in ("starting", None, "draining"):
        health.stage = stage
        health.look()
        said.append(metrics.ready.value)
    assert said == [0, 1, 0]
