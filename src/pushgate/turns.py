"""Turns: heavy work is done once in each turn of the event loop, so that what else waits gets its share of the core.

Without them eight batches that arrive together are taken one after the other, for some 20 ms, in which no answer of a
provider is read and none of its windows is used: what was taken would pile up.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """One for each turn of the loop, in the order of asking."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def mine(self) -> None:
        """Wait for one. Who comes alone does not wait."""
        loop = asyncio.get_running_loop()
        if self._is_taken:
            mine: asyncio.Future[None] = loop.create_future()
            self._waiting.append(mine)
            await mine
            return
        self._is_taken = True
        loop.call_soon(self._next)

    def _next(self) -> None:
        while self._waiting:
            if not (first := self._waiting.popleft()).done():
                first.set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._is_taken = False
