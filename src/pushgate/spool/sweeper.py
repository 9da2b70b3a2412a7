"""Erase what nobody came for in time, and forget what is to be forgotten, now and then and in small steps."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial

import structlog

from pushgate.errors import SpoolUnavailable
from pushgate.spool.census import Census
from pushgate.spool.committer import Committer
from pushgate.spool.lane import Lane, Row, State
from pushgate.spool.store import Late, Store

log = structlog.get_logger(__name__)


class Sweeper:
    """Leaves alone what is leased: whoever holds it will end it."""

    def __init__(
        self,
        committer: Committer,
        *,
        lane: Callable[[str], Lane],
        census: Census,
        on_expired: Callable[[str, int], None] | None,
    ) -> None:
        self._committer = committer
        self._lane = lane
        self._census = census
        self._on_expired = on_expired
        self._one_at_a_time = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self, every_s: float) -> None:
        """Sweep at this interval until `close`."""
        self._task = asyncio.create_task(self._sweep_for_ever(every_s), name="spool sweep")

    async def sweep(self) -> int:
        """Erase what is out of time. Returns how many deliveries."""
        async with self._one_at_a_time:
            while await self._committer.perform(Store.forget_lapsed):
                pass
            fault = await self._settle()
            swept, seen = 0, 0
            while True:
                doomed: list[Late] = []
                late, seen = await self._committer.perform(
                    partial(Store.late_after, number=seen), done=partial(self._doom, doomed)
                )
                if doomed:
                    await self._committer.perform(
                        partial(_erase, doomed), done=partial(self._swept, doomed), failed=partial(self._spared, doomed)
                    )
                    swept += len(doomed)
                if not late or not seen:
                    break
            if fault is not None and (fault := await self._settle()) is not None:  # with the room that this has made
                raise fault
            return swept

    async def _settle(self) -> SpoolUnavailable | None:
        """Give rows to what is in bundles. Returns what stands in the way: other rows can be swept all the same."""
        try:
            while await self._committer.perform(Store.settle_oldest):
                pass
        except SpoolUnavailable as fault:
            return fault
        return None

    async def close(self) -> None:
        """Stop sweeping."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _sweep_for_ever(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.sweep()
            except SpoolUnavailable as fault:
                log.error("spool cannot be swept", fault=str(fault))

    def _doom(self, doomed: list[Late], look: tuple[Collection[Late], int]) -> None:
        """Take what is late out of everybody's reach, except what is leased or about to be ready."""
        ready: dict[str, list[Row]] = {}
        for each in look[0]:
            held = self._lane(each.lane).held
            row = held.get(each.id)
            if row is None:
                held[each.id] = None
            elif row.state is State.READY:
                ready.setdefault(each.lane, []).append(row)
            else:
                continue
            doomed.append(each)
        for name, rows in ready.items():
            lane = self._lane(name)
            lane.drop(rows)
            lane.held.update(dict.fromkeys(row.id for row in rows))

    def _swept(self, doomed: Sequence[Late], _: None) -> None:
        for each in doomed:
            del self._lane(each.lane).held[each.id]
            self._census.remove(each.lane, each.accepted_ms)
        if self._on_expired is not None:
            for lane, count in Counter(each.lane for each in doomed).items():
                self._on_expired(lane, count)

    def _spared(self, doomed: Sequence[Late], _: Exception) -> None:
        """They could not be erased: they are leased again, and swept another time."""
        for each in doomed:
            lane = self._lane(each.lane)
            del lane.held[each.id]
            lane.due_at(0)
        for name in {each.lane for each in doomed}:
            self._lane(name).serve()  # who has asked meanwhile found nothing


def _erase(doomed: Sequence[Late], store: Store) -> None:
    store.erase([each.id for each in doomed])
