"""When a cell that has died is started again. Arithmetic: the time comes in as an argument."""

from __future__ import annotations

from collections import deque

AT_FIRST_S = 0.1
MANY = 5
WITHIN_S = 60.0
SLOWLY_S = 30.0
"""How often a cell is tried that died so many times within so long."""


class Restarts:
    """Of one cell."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque(maxlen=MANY)
        self.count = 0
        """How often it has died."""

    def died(self, now: float) -> float:
        """It has died. Returns how many seconds to wait before it is started again."""
        self.count += 1
        self._deaths.append(now)
        lately = sum(at > now - WITHIN_S for at in self._deaths)
        return SLOWLY_S if lately >= MANY else AT_FIRST_S * 2 ** (lately - 1)

    def keeps_dying(self, now: float) -> bool:
        """Whether it died so often lately that somebody has to look."""
        return len(self._deaths) == MANY and self._deaths[0] > now - WITHIN_S - SLOWLY_S
