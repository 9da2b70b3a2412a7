"""The table of rejections, as the writing thread sees it. It may hold a million: no statement looks at all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from sqlite3 import Cursor

from msgspec import Struct

from pushgate.model import Device
from pushgate.spool import KnownRejection
from pushgate.spool.rejections import LAST, Rejection, Span
from pushgate.spool.sharing import Dead, Doubts

LOOK_AT_ONCE = 1000
COUNT_AT_ONCE = 5000


class Forgotten(Struct, frozen=True):
    """How far a step of forgetting came."""

    count: int
    seen: tuple[int, bytes] | None
    """When it was told and the name of the last one looked at; None where none is left."""


class Counted(Struct, frozen=True):
    """How many there are in a part of the table, by app_id and reason."""

    counts: Counter[tuple[str, str]]
    seen: bytes | None
    """The last name of the part; None where no other follows."""


class RejectionTable:
    """All statements about rejections, inside one transaction."""

    def __init__(self, execute: Callable[..., Cursor], *, clock_ms: Callable[[], int], remember_s: float) -> None:
        self._execute = execute
        self._clock_ms = clock_ms
        self._remember_s = remember_s
        self._dead: list[Dead] = []
        self._alive: list[bytes] = []
        self._doubts = Doubts()

    def remember(self, name: bytes, rejection: Rejection) -> None:
        """Remember that a pushkey is dead."""
        self._dead.append((name, rejection))
        self._insert(name, rejection)

    def take_changes(self) -> tuple[Sequence[Dead], Sequence[bytes]]:
        """What was remembered and forgotten since it was asked last."""
        changes = (self._dead, self._alive)
        if self._dead or self._alive:
            self._dead, self._alive = [], []
        return changes

    def learn(self, dead: Sequence[Dead], alive: Sequence[bytes], *, at_ms: int) -> None:
        """What a sibling remembered and forgot at that time."""
        self._doubts.add(alive, at_ms)
        for name in alive:
            self._execute("DELETE FROM rejections WHERE name = ? AND at_ms <= ?", (name, at_ms))
        for name, rejection in dead:
            if not self._doubts.concern(name, rejection.at_ms):
                self._insert(name, rejection)

    def told_after(self, since_ms: int, name: bytes) -> list[Dead]:
        """The next `LOOK_AT_ONCE` behind a moment and a name, in the order in which they were told."""
        rows = self._execute(
            "SELECT name, app_id, reason, since_ms, at_ms FROM rejections INDEXED BY lapsing "
            "WHERE (at_ms, name) > (?, ?) ORDER BY at_ms, name LIMIT ?",
            (since_ms, name, LOOK_AT_ONCE),
        )
        return [(row[0], Rejection(*row[1:])) for row in rows]

    def forgo(self, until_ms: int) -> None:
        """Forget all that were told until then."""
        self._execute("DELETE FROM rejections WHERE at_ms <= ?", (until_ms,))

    def _insert(self, name: bytes, rejection: Rejection) -> None:
        self._execute(
            "INSERT OR REPLACE INTO rejections VALUES (?, ?, ?, ?, ?)",
            (name, rejection.app_id, rejection.reason, rejection.since_ms, rejection.at_ms),
        )

    def dead_among(self, devices: Sequence[tuple[int, bytes, Device]]) -> frozenset[int]:
        """Positions of the devices (position, name, device) that are known to be dead. Forgets what is undone."""
        now_ms = self._clock_ms()
        dead = []
        for position, name, device in devices:
            row = self._execute(
                "SELECT app_id, reason, since_ms, at_ms FROM rejections WHERE name = ?", (name,)
            ).fetchone()
            if row is None:
                continue
            rejection = Rejection(*row)
            if rejection.lapsed(now_ms, self._remember_s) or rejection.undone_by(device):
                self._forget([name])
            else:
                dead.append(position)
        return frozenset(dead)

    def page(self, app_id: str, span: Span, limit: int) -> Sequence[KnownRejection]:
        """The first so many of an app, or of all, whose name is in the span. Walks an index, and no further."""
        columns = "name, app_id, reason, since_ms, at_ms"
        narrowed = "INDEXED BY of_app WHERE app_id = ? AND" if app_id else "WHERE"
        rows = self._execute(
            f"SELECT {columns} FROM rejections {narrowed} name BETWEEN ? AND ? AND at_ms > ? "  # noqa: S608 - no input
            "ORDER BY name LIMIT ?",
            (*((app_id,) if app_id else ()), span.first, span.last, self._lapsed_ms(), limit),
        )
        return [Rejection(*row[1:]).known_as(row[0]) for row in rows]

    def count_after(self, seen: bytes) -> Counted:
        """Count the next `COUNT_AT_ONCE` behind a name; behind b"" from the first on."""
        row = self._execute(
            "SELECT name FROM rejections WHERE name > ? ORDER BY name LIMIT 1 OFFSET ?", (seen, COUNT_AT_ONCE - 1)
        ).fetchone()
        counts = self._execute(
            "SELECT app_id, reason, count(*) FROM rejections WHERE name > ? AND name <= ? AND at_ms > ? GROUP BY 1, 2",
            (seen, LAST if row is None else row[0], self._lapsed_ms()),
        )
        return Counted(Counter({(app_id, reason): count for app_id, reason, count in counts}), row and row[0])

    def forget(self, app_id: str, span: Span, *, since_ms: int, seen: tuple[int, bytes] | None) -> Forgotten:
        """Look at the next `LOOK_AT_ONCE`: forget those of the app in the span that were told from a moment on."""
        if since_ms > 0 and span.is_whole:
            rows = self._told_since(*(seen or (since_ms, b"")))
        else:
            rows = self._named(app_id, span if seen is None else span.behind(seen[1]))
        doomed = [name for at_ms, name, of_app in rows if of_app == app_id and at_ms >= since_ms]
        self._forget(doomed)
        return Forgotten(len(doomed), rows[-1][:2] if len(rows) == LOOK_AT_ONCE else None)

    def _told_since(self, at_ms: int, name: bytes) -> Sequence[tuple[int, bytes, str]]:
        return self._execute(
            "SELECT at_ms, name, app_id FROM rejections INDEXED BY lapsing WHERE (at_ms, name) > (?, ?) "
            "ORDER BY at_ms, name LIMIT ?",
            (at_ms, name, LOOK_AT_ONCE),
        ).fetchall()

    def _named(self, app_id: str, span: Span) -> Sequence[tuple[int, bytes, str]]:
        return self._execute(
            "SELECT at_ms, name, app_id FROM rejections INDEXED BY of_app WHERE app_id = ? AND name BETWEEN ? AND ? "
            "ORDER BY name LIMIT ?",
            (app_id, span.first, span.last, LOOK_AT_ONCE),
        ).fetchall()

    def forget_lapsed(self, limit: int) -> bool:
        """Forget some whose time is up. Returns whether there may be more."""
        lapsed = self._execute(
            "SELECT name FROM rejections WHERE at_ms <= ? LIMIT ?", (self._lapsed_ms(), limit)
        ).fetchall()
        self._delete([name for (name,) in lapsed])
        return len(lapsed) == limit

    def _forget(self, names: Sequence[bytes]) -> None:
        self._alive += names
        self._delete(names)

    def _delete(self, names: Sequence[bytes]) -> None:
        for name in names:
            self._execute("DELETE FROM rejections WHERE name = ?", (name,))

    def _lapsed_ms(self) -> int:
        """What was told until then is not remembered any more."""
        return self._clock_ms() - int(self._remember_s * 1000)
