"""What a file says about its siblings: the key of the hashes that all of them use, and until when it knew of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import structlog

from pushgate.errors import SpoolUnusable
from pushgate.spool.database import Database
from pushgate.spool.sharing import Sharing

log = structlog.get_logger(__name__)


def settle_hash_key(database: Database, sharing: Sharing) -> None:
    """Use the key that all siblings use from now on. Raises `SpoolUnusable`.

    What is remembered under another one cannot be found again, and is forgotten: that happens where somebody has put
    a foreign file in the place of ours.
    """
    execute = database.execute
    if sharing.is_left_over and execute("SELECT 1 FROM secrets WHERE name = 'known'").fetchone() is None:
        mend = "where what waits in it is to be sent, start a gateway with this file; else move it away"
        raise SpoolUnusable(f"{database.path}: it was no process of this gateway that made it -> {mend}")
    (ours,) = execute("SELECT value FROM secrets WHERE name = 'hash'").fetchone()
    is_binding = any(execute("SELECT EXISTS (SELECT 1 FROM rejections), EXISTS (SELECT 1 FROM repeats)").fetchone())
    agreed = sharing.agree(ours, is_binding=is_binding)
    with database.transaction():
        execute("INSERT OR IGNORE INTO secrets VALUES ('known', '0')")
    if agreed == ours:
        return
    if is_binding:
        log.warning("rejections and repeats of a foreign spool forgotten")
    with database.transaction():
        execute("UPDATE secrets SET value = ? WHERE name = 'hash'", (agreed,))
        execute("DELETE FROM rejections")
        execute("DELETE FROM repeats")
        note_known(database, 0)


def is_of_siblings(path: Path) -> bool:
    """Whether the spool at this path was one of several; so it is said too of one that is in use."""
    try:
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # as its owner has it: without shared memory
            return connection.execute("SELECT 1 FROM secrets WHERE name = 'known'").fetchone() is not None
    except sqlite3.Error as error:
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def known_ms(database: Database) -> int:
    """Until when the file held whatever siblings had told; 0 where it never did."""
    found = database.execute("SELECT value FROM secrets WHERE name = 'known'").fetchone()
    return 0 if found is None else int(found[0])


def note_known(database: Database, now_ms: int) -> None:
    """In a transaction: everything that siblings have told by now is in the file."""
    database.execute("INSERT OR REPLACE INTO secrets VALUES ('known', ?)", (str(now_ms).encode(),))
