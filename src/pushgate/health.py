"""Health: whether notifications are taken just now, and how much waits and flies. Asked every few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from pushgate.errors import SpoolError
from pushgate.lane import Lane
from pushgate.metrics import Metrics
from pushgate.spool import Backlog

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 5.0
PROBE_WITHIN_S = 10.0


class Probed(Protocol):
    """The part of a spool that is asked."""

    async def probe(self) -> None:
        """See `spool.Spool.probe`."""
        ...

    async def backlog(self) -> Mapping[str, Backlog]:
        """See `spool.Spool.backlog`."""
        ...


class Health:
    """What readiness and the metrics of what waits are made of."""

    def __init__(self, metrics: Metrics, *, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._spool_fault: str | None = None
        self.stage: str | None = "starting"
        """What keeps a gateway that is well from taking notifications, or None."""

    def unready(self) -> str | None:
        """Why no notifications are taken, or None."""
        return self.stage or self._spool_fault

    def look(self) -> None:
        """Set the metric of readiness as it is now."""
        self._metrics.ready.set(self.unready() is None)

    async def watch(self, spool: Probed, lanes: Mapping[str, Lane]) -> None:
        """Keep readiness and the metrics of what waits and flies up to date, for ever."""
        while True:
            await self._look(spool)
            for lane in lanes.values():
                self._metrics.lanes[lane.name].in_flight = lane.in_flight
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self, spool: Probed) -> None:
        try:
            async with asyncio.timeout(PROBE_WITHIN_S):
                backlog = await spool.backlog()  # known even where nothing more can be put
                now = self._clock()
                self._metrics.backlog(
                    {lane: (each.waiting, max(now - each.oldest_at, 0.0)) for lane, each in backlog.items()}
                )
                await spool.probe()
        except (SpoolError, TimeoutError) as fault:
            told = str(fault) or "no answer in time"
            log.error("spool takes nothing", fault=told)
            self._spool_fault = f"the spool takes nothing: {told}"
        else:
            self._spool_fault = None
