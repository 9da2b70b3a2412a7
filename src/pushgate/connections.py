"""How many connections there may be at a time, handshakes counted, and who has to go when there are too many.

Whoever has not sent the whole head of a request yet is a newcomer: in its handshake, silent, or slow. Honest ones are
newcomers for milliseconds. There is room for a number of them; when that is used up, the one that has been there
longest makes room for the next. So nobody is kept out by those that only hold a place. Where anybody can send a request
and stay, those that are between two requests make room too, when all places are taken.
"""

from __future__ import annotations

import resource
from collections import OrderedDict
from collections.abc import Callable

MOST = 10_000
FILES_FOR_OTHERS = 256
"""Open files that connections leave to the spool, the providers and the management port."""
SHARE_OF_NEWCOMERS = 4
"""At most one in so many."""
LOOKED_AT = 100
"""Of so many one that rests is looked for, when all places are taken: whoever comes then must not cost much."""


def nobody(_: object) -> bool:
    """For where none has to go that has settled."""
    return False


def most_connections() -> int:
    """How many there may be: as many as may open files, but for some."""
    return min(max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - FILES_FOR_OTHERS, 16), MOST)


class Connections:
    """Those that are open."""

    def __init__(self, most: int, *, rests: Callable[[object], bool] = nobody) -> None:
        """`rests` says whether one that has settled is between two requests, and may be ended for another."""
        self._most = most
        self._rests = rests
        self._most_newcomers = max(most // SHARE_OF_NEWCOMERS, 1)
        self._newcomers: dict[object, Callable[[], None]] = {}
        """Each with what ends it, the one that came first in front."""
        self._settled: OrderedDict[object, Callable[[], None]] = OrderedDict()
        """The same; those that were seen at work stand behind."""

    def __len__(self) -> int:
        return len(self._newcomers) + len(self._settled)

    @property
    def is_full(self) -> bool:
        """Whether there is no room even for a newcomer in the place of another."""
        return len(self._settled) >= self._most

    def end_one_that_rests(self) -> bool:
        """Make room by ending one that has settled and rests. Whether there was one."""
        for _ in range(min(len(self._settled), LOOKED_AT)):
            who, end = self._settled.popitem(last=False)
            if self._rests(who):
                end()
                return True
            self._settled[who] = end
        return False

    def enter(self, who: object, end: Callable[[], None]) -> bool:
        """Let a newcomer in, for whom there must be room. Whether another one had to go: its `end` was called."""
        crowded = len(self._newcomers) >= self._most_newcomers or len(self) >= self._most
        if crowded:
            self._newcomers.pop(next(iter(self._newcomers)))()
        self._newcomers[who] = end
        return crowded

    def settle(self, who: object) -> None:
        """It is no newcomer any more."""
        if (end := self._newcomers.pop(who, None)) is not None:
            self._settled[who] = end

    def leave(self, who: object) -> None:
        """It is gone. May be said twice."""
        self._newcomers.pop(who, None)
        self._settled.pop(who, None)
