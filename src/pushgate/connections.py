"""How many connections there may be at a time, handshakes counted, and who has to go when there are too many.

Whoever has not sent the whole head of a request yet is a newcomer: in its handshake, silent, or slow. Honest ones are
newcomers for milliseconds. There is room for a number of them; when that is used up, the one that has been there
longest makes room for the next. So nobody is kept out by those that only hold a place.
"""

from __future__ import annotations

import resource
from collections.abc import Callable

MOST = 10_000
FILES_FOR_OTHERS = 256
"""Open files that connections leave to the spool, the providers and the management port."""
SHARE_OF_NEWCOMERS = 4
"""At most one in so many."""


def most_connections() -> int:
    """How many there may be: as many as may open files, but for some."""
    return min(max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - FILES_FOR_OTHERS, 16), MOST)


class Connections:
    """Those that are open."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_newcomers = max(most // SHARE_OF_NEWCOMERS, 1)
        self._newcomers: dict[object, Callable[[], None]] = {}
        """Each with what ends it, the one that came first in front."""
        self._settled: set[object] = set()

    def __len__(self) -> int:
        return len(self._newcomers) + len(self._settled)

    @property
    def is_full(self) -> bool:
        """Whether there is no room even for a newcomer in the place of another."""
        return len(self._settled) >= self._most

    def enter(self, who: object, end: Callable[[], None]) -> bool:
        """Let a newcomer in, for whom there must be room. Whether another one had to go: its `end` was called."""
        crowded = len(self._newcomers) >= self._most_newcomers or len(self) >= self._most
        if crowded:
            self._newcomers.pop(next(iter(self._newcomers)))()
        self._newcomers[who] = end
        return crowded

    def settle(self, who: object) -> None:
        """It is no newcomer any more."""
        if self._newcomers.pop(who, None) is not None:
            self._settled.add(who)

    def leave(self, who: object) -> None:
        """It is gone. May be said twice."""
        self._newcomers.pop(who, None)
        self._settled.discard(who)
