"""How much waits in NATS, as far as this gateway knows: what NATS said last, and what we have done since.

Other gateways put and end too, so it is asked again now and then, and where it comes near a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from pushgate.errors import SpoolFull
from pushgate.spool import Backlog
from pushgate.spool.jetstream.api import JetStream
from pushgate.spool.jetstream.layout import Layout
from pushgate.spool.jetstream.protocol import Message
from pushgate.spool.limits import SMALLEST_BYTES, Limits

FRESH_S = 0.25
ENTRY_BYTES = 200
"""What NATS adds to a message of ours, about: its frame, subject and headers."""
ASK_AT_ONCE = 200
"""Of so many lanes the oldest is asked for at a time. Of more, in turn."""


class Stock:
    """Counts, limits and the backlog."""

    def __init__(
        self, js: JetStream, layout: Layout, *, limits: Limits, accepted_at: Callable[[str, Message], float]
    ) -> None:
        """`accepted_at` tells from a lane and a message of it when that was accepted."""
        self._js = js
        self._layout = layout
        self._limits = limits
        self._accepted_at = accepted_at
        self._waiting: dict[str, int] = {}
        self._total = 0
        self._bytes = 0
        self._asked_at = -FRESH_S
        self._oldest: dict[str, float] = {}
        """Of a lane: when its oldest delivery was accepted, those asked for last at the end."""
        self._asking: asyncio.Task[None] | None = None

    # --- what we do ourselves

    def add(self, lane: str, size: int) -> None:
        """One more waits."""
        self._waiting[lane] = self._waiting.get(lane, 0) + 1
        self._total += 1
        self._bytes += size + ENTRY_BYTES

    def remove(self, lane: str, size: int) -> None:
        """One fewer does."""
        self._waiting[lane] = max(self._waiting.get(lane, 0) - 1, 0)
        self._total = max(self._total - 1, 0)
        self._bytes = max(self._bytes - size - ENTRY_BYTES, 0)

    # --- limits

    def is_crowded(self, lane: str) -> bool:
        """See `spool.Spool.is_crowded`."""
        return self._limits.is_crowded(self._waiting.get(lane, 0))

    async def refusal(self, sizes: Sequence[int] = (SMALLEST_BYTES,)) -> SpoolFull | None:
        """Why there is no room for messages of these sizes, or None when there is."""
        if (full := self._refusal(sizes)) is not None and self._age_s() > FRESH_S:
            await self.ask()
            full = self._refusal(sizes)
        return full

    @property
    def is_full(self) -> bool:
        """Whether there is room for nothing at all."""
        return self._refusal((0,)) is not None

    def _refusal(self, sizes: Sequence[int]) -> SpoolFull | None:
        taken_bytes = self._bytes + sum(sizes) + ENTRY_BYTES * len(sizes)
        return self._limits.refusal(waiting=self._total + len(sizes), taken_bytes=taken_bytes)

    # --- what NATS says

    async def ask(self) -> None:
        """Ask how much waits. Who asks while somebody does gets the same answer."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="asking nats what waits")
        await asyncio.shield(self._asking)

    async def _ask(self) -> None:
        info = await self._js.ask(f"STREAM.INFO.{self._layout.name}", subjects_filter=self._layout.lanes)
        state = info.get("state") or {}
        self._waiting = self._layout.counts(state)
        self._total = int(state.get("messages", 0))
        self._bytes = int(state.get("bytes", 0))
        self._asked_at = asyncio.get_running_loop().time()

    async def backlog(self) -> Mapping[str, Backlog]:
        """See `spool.Spool.backlog`."""
        await self.ask()
        lanes = [lane for lane, count in self._waiting.items() if count]
        longest_ago = [*(lane for lane in lanes if lane not in self._oldest), *self._oldest]
        turn = [lane for lane in longest_ago if self._waiting.get(lane)][:ASK_AT_ONCE]
        for lane, oldest_at in zip(turn, await asyncio.gather(*map(self._first, turn)), strict=True):
            self._oldest.pop(lane, None)
            if oldest_at is not None:
                self._oldest[lane] = oldest_at
        self._oldest = {lane: each for lane, each in self._oldest.items() if self._waiting.get(lane)}
        return {lane: Backlog(self._waiting[lane], oldest_at) for lane, oldest_at in self._oldest.items()}

    async def _first(self, lane: str) -> float | None:
        message = await self._js.first(self._layout.name, self._layout.lane(lane))
        return None if message is None else self._accepted_at(lane, message)

    def _age_s(self) -> float:
        return asyncio.get_running_loop().time() - self._asked_at
