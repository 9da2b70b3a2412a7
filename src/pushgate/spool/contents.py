"""What a file holds when it is opened, as far as memory keeps it: the secret, the dead, and how much waits."""

from __future__ import annotations

from pushgate.spool.census import MINUTE_MS, Census
from pushgate.spool.database import Database
from pushgate.spool.rejections import Presence


class Contents:
    """Read from indexes, never from payloads: 1,000,000 rows take half a second."""

    def __init__(self, database: Database) -> None:
        execute = database.execute
        self.secret: bytes = execute("SELECT value FROM secrets WHERE name = 'hash'").fetchone()[0]
        """The key of the hashes."""
        self.last_id: int = execute("SELECT ifnull(max(id), 0) FROM deliveries").fetchone()[0]
        self.presence = Presence()
        """Of the names of all rejections."""
        for (name,) in execute("SELECT name FROM rejections"):
            self.presence.add(name)
        self.census = Census()
        for lane, accepted_ms, count in execute(
            "SELECT lane, min(accepted_ms), count(*) FROM deliveries INDEXED BY due GROUP BY lane, accepted_ms / ?",
            (MINUTE_MS,),
        ):
            self.census.add(lane, accepted_ms, count)
