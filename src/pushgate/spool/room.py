"""Whether there is room for more in a file, counted by the writing thread before anything is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from pushgate.errors import SpoolFull
from pushgate.spool.database import PAGE_BYTES
from pushgate.spool.limits import SMALLEST_BYTES, Limits

COLUMNS_BYTES = 60
"""What a row has beside its payload, about: times, the name of the lane."""
INDEX_BYTES = 80
"""What a row takes in the index and for its seed, about."""


class Room:
    """Counts, inside a transaction and from one to the next, what waits and what the pages in use take.

    What is put is counted by the pages that it needs, so it is refused before any is written. What ends is never
    refused, although it may need a page too: the limit binds what is put, not the file.
    """

    def __init__(self, limits: Limits, *, waiting: int, used_bytes: Callable[[], int]) -> None:
        """`waiting` is what waits at the start. `used_bytes` is asked at most once a transaction."""
        self._limits = limits
        self._used_bytes = used_bytes
        self._waiting = waiting
        self.most_in_bundles = limits.max_bytes // 100 or math.inf
        """Bytes. What is in bundles will need more room when it gets rows, twice as much at most."""
        self.begin()

    def begin(self) -> None:
        """A transaction starts, or what was done in one is undone."""
        self._change = 0
        self._bytes: int | None = None

    def commit(self) -> None:
        """What was done is done."""
        self._waiting += self._change
        self.begin()

    def take(self, needs: Sequence[int]) -> SpoolFull | None:
        """So many more wait, which need so many bytes (`row_bytes`). Or nothing, and why there is no room for them."""
        taken_bytes = self._with(needs)
        full = self._limits.refusal(waiting=self._waiting + self._change + len(needs), taken_bytes=taken_bytes)
        if full is None:
            self._change += len(needs)
            self._bytes = taken_bytes
        return full

    def probe(self) -> SpoolFull | None:
        """Why there is no room for a single small one, or None when there is."""
        return self._limits.refusal(
            waiting=self._waiting + self._change + 1, taken_bytes=self._with([row_bytes(SMALLEST_BYTES)])
        )

    def remove(self, count: int) -> None:
        """So many fewer wait."""
        self._change -= count

    def _with(self, needs: Sequence[int]) -> int:
        """What the data would take with so much more; 0 where it does not matter."""
        if not self._limits.max_bytes:
            return 0
        if self._bytes is None:
            self._bytes = self._used_bytes()
        return self._bytes + sum(needs)


@lru_cache(maxsize=4096)
def row_bytes(payload_bytes: int) -> int:
    """What a row takes in the file: small ones share a page, as many as fit, large ones have pages of their own."""
    size = payload_bytes + COLUMNS_BYTES
    whole = PAGE_BYTES // (PAGE_BYTES // size) if size <= PAGE_BYTES else -(-size // PAGE_BYTES) * PAGE_BYTES
    return whole + INDEX_BYTES
