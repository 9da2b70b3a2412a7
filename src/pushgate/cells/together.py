"""What all cells together say: metrics added up, and rejections, which are the same everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import structlog

from pushgate.cells.child import Child
from pushgate.cells.messages import AskCount, AskExplain, AskFamilies, AskForget, AskRejections, Question
from pushgate.errors import SpoolUnavailable
from pushgate.journal import Explained, merged
from pushgate.metrics.families import Family, Kind, summed
from pushgate.spool import KnownRejection

log = structlog.get_logger(__name__)

T = TypeVar("T")
COLLECT_WITHIN_S = 5.0

Serving = Callable[[], Collection[Child]]
"""The cells that run and answer just now, in order."""


class Together:
    """Of the cells of one machine. See `console.rejections.Rejections` for those three."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._past: list[Family] = []
        """What those counted that are gone."""

    async def families(self) -> list[Family]:
        """What all have counted: those that are gone, and those that do not answer in time as they last said."""

        async def ask(child: Child) -> None:
            try:
                child.families = await child.ask(AskFamilies(), list[Family], within_s=COLLECT_WITHIN_S)
            except (SpoolUnavailable, TimeoutError):
                log.warning("cell does not tell its metrics", cell=child.cell)

        cells = list(self._serving())
        await asyncio.gather(*map(ask, cells))
        return summed([self._past, *(child.families for child in cells)])

    def gone(self, child: Child) -> None:
        """A cell has ended: what it counted stays counted, for a counter never falls."""
        last = child.stopped.families if child.stopped is not None else child.families
        self._past = summed([self._past, [each for each in last if each.kind is not Kind.GAUGE]])

    async def rejections(
        self, *, app_id: str = "", prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[KnownRejection]:
        """Of any cell: all remember the same."""
        return await self._any(AskRejections(app_id, prefix, after, limit), list[KnownRejection])

    async def count_rejections(self) -> Mapping[tuple[str, str], int]:
        """Of any cell."""
        counts = await self._any(AskCount(), list[tuple[str, str, int]])
        return {(app_id, reason): count for app_id, reason, count in counts}

    async def forget_rejections(self, lane: str, *, since: float = 0, prefix: str = "") -> int:
        """In every cell, one after the other: what one forgets the others forget with it."""
        question = AskForget(lane, since, prefix)
        counts: list[int] = []
        for child in self._serving():
            counts.append(await child.ask(question, int))
        if not counts:
            raise SpoolUnavailable("no cell is running")
        return max(counts)

    async def explain(self, asked: str) -> Explained:
        """What is known of an id by those that run. Raises `SpoolUnavailable`."""
        told: list[Explained] = [await child.ask(AskExplain(asked), Explained) for child in self._serving()]
        if not told:
            raise SpoolUnavailable("no cell is running")
        return merged(told)

    async def _any(self, question: Question, kind: type[T]) -> T:
        fault = SpoolUnavailable("no cell is running")
        for child in self._serving():
            try:
                return await child.ask(question, kind)
            except SpoolUnavailable as failed:
                fault = failed
        raise fault
