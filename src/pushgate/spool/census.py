"""How much waits in each lane, and since when: counted in memory, so that nobody asks the disk.

Ages are kept by the minute: one lane costs at most 1,440 small entries for the 24 hours that a delivery may wait,
however many deliveries there are. So the age of the oldest is right to the minute.
"""

from __future__ import annotations

from pushgate.spool import Backlog

MINUTE_MS = 60_000


class Census:
    """What waits, held deliveries included."""

    def __init__(self) -> None:
        self.total = 0
        """How many wait in all lanes."""
        self._waiting: dict[str, int] = {}
        self._lanes: dict[str, dict[int, _Minute]] = {}

    def add(self, lane: str, accepted_ms: int, count: int = 1) -> None:
        """So many more wait, accepted then or later in the same minute."""
        self.total += count
        self._waiting[lane] = self._waiting.get(lane, 0) + count
        minutes = self._lanes.get(lane)
        if minutes is None:
            minutes = self._lanes[lane] = {}
        minute = minutes.get(accepted_ms // MINUTE_MS)
        if minute is None:
            minutes[accepted_ms // MINUTE_MS] = _Minute(count, accepted_ms)
        else:
            minute.count += count
            if accepted_ms < minute.oldest_ms:
                minute.oldest_ms = accepted_ms

    def remove(self, lane: str, accepted_ms: int, count: int = 1) -> None:
        """So many fewer wait."""
        self.total -= count
        self._waiting[lane] -= count
        minutes = self._lanes[lane]
        minute = minutes[accepted_ms // MINUTE_MS]
        minute.count -= count
        if not minute.count:
            del minutes[accepted_ms // MINUTE_MS]
            if not minutes:
                del self._lanes[lane], self._waiting[lane]

    def waiting(self, lane: str) -> int:
        """How many wait in a lane."""
        return self._waiting.get(lane, 0)

    def backlog(self) -> dict[str, Backlog]:
        """By lane; a lane where nothing waits is not in it."""
        return {
            lane: Backlog(self._waiting[lane], minutes[min(minutes)].oldest_ms / 1000)
            for lane, minutes in self._lanes.items()
        }


class _Minute:
    __slots__ = ("count", "oldest_ms")

    def __init__(self, count: int, oldest_ms: int) -> None:
        self.count = count
        self.oldest_ms = oldest_ms
