"""The dispatcher: runs one lane for each app_id, side by side. Lanes come, change and go while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from pushgate.flights import Landing, Room
from pushgate.journal import OFF, Journal
from pushgate.lane import Lane
from pushgate.lane_settings import LaneSettings
from pushgate.metrics import Metrics
from pushgate.settling import Source, Timing
from pushgate.tracing import Tracing


class Dispatcher:
    """Runs the lanes until it is drained."""

    def __init__(
        self,
        source: Source,
        *,
        lanes: Mapping[str, LaneSettings],
        timing: Timing,
        metrics: Metrics,
        journal: Journal = OFF,
        tracing: Tracing | None = None,
    ) -> None:
        self._source = source
        self._timing = timing
        self._metrics = metrics
        self._journal = journal
        self._tracing = tracing
        self._room = Room()
        self.lanes: dict[str, Lane] = {}
        self._retired: set[Lane] = set()
        """Lanes that take no more and still have attempts in flight."""
        self._running: asyncio.TaskGroup | None = None
        self._draining = asyncio.Event()
        for name, how in lanes.items():
            self._add(name, how)

    async def run(self) -> None:
        """Run every lane. Returns when all of them were drained."""
        async with asyncio.TaskGroup() as self._running:
            for lane in self.lanes.values():
                self._start(lane)
            await self._draining.wait()

    async def change(self, lanes: Mapping[str, LaneSettings]) -> Sequence[Landing]:
        """The lanes are these from now on. Returns what still flies under settings that were replaced.

        A lane whose settings are equal to those it has does not notice. What is in flight is awaited by nobody here.
        """
        old: list[Landing] = []
        for name in self.lanes.keys() - lanes.keys():
            lane = self.lanes.pop(name)
            lane.retire()
            self._retired.add(lane)
            old.append(lane.landing())
        for name, how in lanes.items():
            if (known := self.lanes.get(name)) is None:
                self._metrics.lanes[name].retire()  # of one of its name that has not landed yet
                self._start(self._add(name, how))
            elif known.how != how:
                old.append(known.landing())
                await known.change(how)
        return old

    async def retry_now(self) -> None:
        """Have every lane that waits for somebody to mend something try again at once."""
        for lane in list(self.lanes.values()):
            await lane.retry_now()

    async def drain(self, timeout_s: float) -> int:
        """Stop leasing, wait until what flies has landed, at most so long. Returns how many attempts were cut off.

        What is cut off stays in the spool and is sent again by a successor.
        """
        self._draining.set()
        lanes = (*self.lanes.values(), *self._retired)
        counts = await asyncio.gather(*(lane.drain(timeout_s) for lane in lanes))
        return sum(counts)

    def _add(self, name: str, how: LaneSettings) -> Lane:
        lane = self.lanes[name] = Lane(
            name,
            self._source,
            how,
            timing=self._timing,
            metrics=self._metrics,
            room=self._room,
            journal=self._journal,
            tracing=self._tracing,
        )
        return lane

    def _start(self, lane: Lane) -> None:
        if self._running is not None and not self._draining.is_set():
            self._running.create_task(self._run(lane), name=f"lane {lane.name}")

    async def _run(self, lane: Lane) -> None:
        await lane.run()
        await lane.landing().wait()
        if lane in self._retired:
            self._retired.discard(lane)
            if lane.name not in self.lanes:
                self._metrics.lanes[lane.name].retire()
