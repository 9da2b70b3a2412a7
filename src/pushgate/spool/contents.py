"""What a file holds when it is opened, as far as memory keeps it: the secret, the dead, and how much waits."""

from __future__ import annotations

from collections.abc import Iterator

from pushgate.spool.census import MINUTE_MS, Census
from pushgate.spool.database import Database
from pushgate.spool.lane import NEVER_MS
from pushgate.spool.rejections import Presence

COUNT_AT_ONCE = 20_000
"""SQLite sorts what it groups, in memory: so it gets small portions."""


class Contents:
    """Read from indexes, never from payloads: 1,000,000 rows take half a second and no memory to speak of."""

    def __init__(self, database: Database) -> None:
        self._execute = database.execute
        self.secret: bytes = self._execute("SELECT value FROM secrets WHERE name = 'hash'").fetchone()[0]
        """The key of the hashes."""
        self.last_id: int = self._execute("SELECT ifnull(max(id), 0) FROM deliveries").fetchone()[0]
        self.presence = Presence()
        """Of the names of all rejections."""
        for (name,) in self._execute("SELECT name FROM rejections"):
            self.presence.add(name)
        self.census = Census()
        for lane in self._lanes():
            for accepted_ms, count in self._minutes(lane):
                self.census.add(lane, accepted_ms, count)

    def _lanes(self) -> Iterator[str]:
        lane = ""
        while (
            lane := self._execute("SELECT min(lane) FROM deliveries WHERE lane > ?", (lane,)).fetchone()[0]
        ) is not None:
            yield lane

    def _minutes(self, lane: str) -> Iterator[tuple[int, int]]:
        """When the first of each minute was accepted and how many were then, in portions: a minute may come again."""
        after_ms = -1
        while after_ms < NEVER_MS:
            border = self._execute(
                "SELECT due_ms FROM deliveries WHERE lane = ? AND due_ms > ? ORDER BY due_ms LIMIT 1 OFFSET ?",
                (lane, after_ms, COUNT_AT_ONCE),
            ).fetchone()
            until_ms = NEVER_MS if border is None else border[0]
            yield from self._execute(
                "SELECT min(accepted_ms), count(*) FROM deliveries INDEXED BY due "
                "WHERE lane = ? AND due_ms > ? AND due_ms <= ? GROUP BY accepted_ms / ?",
                (lane, after_ms, until_ms, MINUTE_MS),
            )
            after_ms = until_ms
