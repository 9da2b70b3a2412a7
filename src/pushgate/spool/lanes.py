"""All lanes of the SQLite spool: what lies ready in memory, and the reading of due rows when more is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial

import structlog

from pushgate.errors import SpoolUnavailable
from pushgate.spool.committer import Committer, Job
from pushgate.spool.lane import Lane, Memory, Row
from pushgate.spool.store import Due

log = structlog.get_logger(__name__)

ROW_BYTES = 1000
"""What a row in memory takes beside its payload, about."""
USUAL_BYTES = 3000
"""What a row in memory takes as a rule."""
AGAIN_S = 1.0
CATCH_UP_ROWS = 5
"""A step for so many: as many as are sent meanwhile."""
CATCH_UP_STEPS = 20
CATCH_UP_STEP_S = 0.001
FEW_ROWS = 16
"""As many are read at once where memory is full: who waits is served, and no more."""


class Lanes:
    """Makes a lane when it is first spoken of."""

    def __init__(self, committer: Committer, *, clock: Callable[[], float], memory: Memory, memory_rows: int) -> None:
        self.memory = memory
        self._committer = committer
        self._clock = clock
        self._memory_rows = memory_rows
        self._lanes: dict[str, Lane] = {}

    def lane(self, name: str) -> Lane:
        """The lane of this name."""
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(
                name, clock=self._clock, fetch=self._fetch, memory=self.memory, most_ready=self._memory_rows
            )
        return lane

    async def let_catch_up(self, names: Sequence[str]) -> None:
        """Before many rows are put into these lanes: wait a little, one after the other, while one has plenty ready.

        Else what is put would soon be more than fits in memory, and reading it back costs more than it takes to send.
        A lane that nobody takes from, or that spills already, is not waited for.
        """
        steps = min(len(names) // CATCH_UP_ROWS, CATCH_UP_STEPS)
        for lane in map(self.lane, dict.fromkeys(names)):
            if not lane.is_to_catch_up:
                continue
            async with lane.catching_up:
                while steps and lane.is_to_catch_up:
                    steps -= 1
                    await asyncio.sleep(CATCH_UP_STEP_S)

    def make_room(self) -> None:
        """Where memory is full, the lane with the most rows there leaves them to the disk: likely nobody takes them."""
        if self.memory.full:
            fullest = max(self._lanes.values(), key=lambda lane: len(lane.ready), default=None)
            if fullest is not None and fullest.ready:
                self._leave_to_disk(fullest, fullest.drop_ready())

    def _leave_to_disk(self, lane: Lane, ids: Collection[int]) -> None:
        """What memory has let go of is to be found by who reads the disk. Where that fails, it is tried again."""
        self._committer.submit(
            Job(
                lambda store: store.settle(ids),
                done=lambda _: self.due_now(lane.name),
                failed=lambda _: self._leave_later(lane, ids),
            )
        )

    def _leave_later(self, lane: Lane, ids: Collection[int]) -> None:
        asyncio.get_running_loop().call_later(AGAIN_S, self._leave_again, lane, ids)

    def _leave_again(self, lane: Lane, ids: Collection[int]) -> None:
        with suppress(SpoolUnavailable):  # closed: whoever opens the file finds them
            self._leave_to_disk(lane, ids)

    def due_now(self, name: str) -> None:
        """Rows of a lane are due that were not before."""
        lane = self.lane(name)
        lane.due_at(0)
        lane.serve()

    def close(self, fault: Exception) -> None:
        """Nothing will come any more."""
        for lane in self._lanes.values():
            lane.close()
            lane.refuse(fault)

    def _fetch(self, lane: Lane) -> None:
        """Have due rows of a lane read. Room is taken for them beforehand: many lanes may fetch at the same time."""
        limit = min(lane.fetch_size, FEW_ROWS) if self.memory.full else lane.fetch_size
        room_bytes = limit * USUAL_BYTES
        self.memory.used_bytes += room_bytes
        self._committer.submit(
            Job(
                lambda store: store.due(lane.name, lane.held, limit),
                done=partial(self._fetched, lane, room_bytes),
                failed=partial(self._not_fetched, lane, room_bytes),
            )
        )

    def _not_fetched(self, lane: Lane, room_bytes: int, fault: Exception) -> None:
        self.memory.used_bytes -= room_bytes
        lane.fetch_failed(fault)

    def _fetched(self, lane: Lane, room_bytes: int, due: Due) -> None:
        self.memory.used_bytes -= room_bytes
        for number in due.unreadable:
            lane.held[number] = None
            log.error("spool row cannot be read, kept until its time is up", lane=lane.name, row=number)
        rows = [
            Row(
                lane,
                found.id,
                found.delivery,
                accepted_ms=found.accepted_ms,
                attempt=found.attempt,
                size=found.size + ROW_BYTES,
            )
            for found in due.found
            if found.id not in lane.held  # about to be swept
        ]
        lane.fetched(rows, next_due_ms=due.next_due_ms, caught_up=due.caught_up)
