"""Open the file of a spool: its lock, its checks, its tables; and what SQLite's errors mean to an operator."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pushgate.errors import SpoolUnavailable, SpoolUnusable
from pushgate.spool.portions import PREPARED

APPLICATION_ID = 0x50475370
"""Says that the file is a spool of ours (SQLite file format §1.3.14): "PGSp"."""
FORMAT = 5
"""What the file says about itself. A release that reads another one refuses it."""
PAGE_BYTES = 8192
CHECKPOINT_PAGES = 2000
"""The write-ahead log starts again from its beginning after so many pages: 16 MB."""
CACHE_KB = 32 * 1024
LOCK_WAIT_S = 0.5
CHECK_S = 0.5
CHECK_STEPS = 10_000
OLDEST_SQLITE = (3, 35, 0)
"""UPDATE … FROM (3.33) with the corrections of 3.35."""

_TABLES = (
    """CREATE TABLE deliveries (
        id INTEGER PRIMARY KEY,
        lane TEXT NOT NULL,
        due_ms INTEGER NOT NULL,
        accepted_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        payload BLOB NOT NULL
    )""",
    "CREATE INDEX due ON deliveries (lane, due_ms, accepted_ms)",
    "CREATE TABLE seeds (chunk INTEGER PRIMARY KEY, value BLOB NOT NULL)",
    "CREATE TABLE bundles (id INTEGER PRIMARY KEY, expires_ms INTEGER NOT NULL, payload BLOB NOT NULL)",
    "CREATE TABLE ends (bundle INTEGER PRIMARY KEY, ended BLOB NOT NULL)",
    "CREATE TABLE bundle_seeds (chunk INTEGER PRIMARY KEY, value BLOB NOT NULL)",
    "CREATE TABLE repeats (id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, fingerprints BLOB NOT NULL)",
    """CREATE TABLE rejections (
        name BLOB PRIMARY KEY,
        app_id TEXT NOT NULL,
        reason TEXT NOT NULL,
        since_ms INTEGER,
        at_ms INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX lapsing ON rejections (at_ms)",
    "CREATE INDEX of_app ON rejections (app_id)",
    "CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
)


class Database:
    """An open file and its connection. Only one thread uses it at a time. Nobody else can open the file meanwhile."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.connection = connection
        self.execute = connection.execute
        self._files = {each: _identity(each) for each in (str(path), f"{path}-wal")}

    def check_files(self) -> None:
        """Raises `SpoolUnavailable` when the file or its write-ahead log is not the one that was opened.

        What is written into a deleted file is on disk and yet lost.
        """
        for path, identity in self._files.items():
            if _identity(path) != identity:
                raise SpoolUnavailable(f"{path} was removed or replaced while in use -> restart the gateway")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything in it or nothing, durable at its end."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # SQLite may have undone it itself
                self.execute("ROLLBACK")
            raise

    def touch(self) -> None:
        """Write one page as it is."""
        self.execute(f"PRAGMA user_version = {FORMAT}")

    def used_bytes(self) -> int:
        """What its data takes: pages that are free do not count."""
        pages, free = (self.execute(f"PRAGMA {count}").fetchone()[0] for count in ("page_count", "freelist_count"))
        return int(pages - free) * PAGE_BYTES

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()


def open_database(
    path: Path,
    *,
    entropy: Callable[[], bytes],
    check_s: float = CHECK_S,
    monotonic: Callable[[], float] = time.monotonic,
    lock_wait_s: float = LOCK_WAIT_S,
) -> Database:
    """Open the spool at `path` or make a new one there.

    Checks as much of an old one as it can in `check_s`. Raises `SpoolUnusable`, and then nothing was changed.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise SpoolUnusable(f"SQLite {sqlite3.sqlite_version} is too old -> a Python with 3.35 or later")
    _touch(path)
    with _closed_to_others(path), explained(path):
        connection = sqlite3.connect(
            path, timeout=lock_wait_s, isolation_level=None, check_same_thread=False, cached_statements=PREPARED
        )
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # and so without shared memory
            if _is_new(path, connection):
                _create(connection, entropy())
            else:
                _check(path, connection, check_s, monotonic)
            _tune(connection)
            return Database(path, connection)
        except BaseException:
            connection.close()
            raise


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite says while a file is opened into a `SpoolUnusable` that says how to mend it."""
    try:
        yield
    except sqlite3.Error as error:
        match _code(error):
            case sqlite3.SQLITE_BUSY:
                why = "another process is using it -> stop that one, or give each gateway a file of its own"
            case sqlite3.SQLITE_NOTADB:
                why = "it is not a spool but another kind of file -> name another file, or move this one away"
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
                raise _read_only(path) from error
            case sqlite3.SQLITE_FULL:
                why = "no space left -> make some on its disk"
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_ERROR:
                raise _damaged(path) from error
            case _:
                name = getattr(error, "sqlite_errorname", type(error).__name__)
                why = f"{name} -> see https://sqlite.org/rescode.html"
        raise SpoolUnusable(f"{path}: {why}") from error


def unavailable(path: Path, error: sqlite3.Error) -> SpoolUnavailable:
    """What to tell callers and the operator when a running spool cannot do its work."""
    mend = {
        sqlite3.SQLITE_FULL: "no space left -> make some on its disk; it goes on by itself",
        sqlite3.SQLITE_IOERR: "its disk cannot be read or written -> see the system's log; it goes on by itself",
        sqlite3.SQLITE_READONLY: "it cannot be written -> see its mount and permissions, then restart",
        sqlite3.SQLITE_CORRUPT: "it is damaged -> stop, keep a copy, and start with another file",
    }.get(_code(error), "see https://sqlite.org/rescode.html")
    return SpoolUnavailable(f"{path}: {getattr(error, 'sqlite_errorname', type(error).__name__)}: {mend}")


def _touch(path: Path) -> None:
    """Make an empty file that only we may read, unless there is one."""
    folder = path.parent
    if not folder.is_dir():
        raise SpoolUnusable(f"{path}: there is no folder {folder} -> create it, for the user that runs the gateway")
    if path.is_dir():
        raise SpoolUnusable(f"{path} is a folder -> name a file in it")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        entry = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)
    except FileExistsError:
        _check_owner(path)
        _check_not_emptied(path)
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
            raise _read_only(path) from None
    except OSError as error:
        raise SpoolUnusable(f"{path}: cannot be created: {error.strerror} -> see its disk and permissions") from error


def _check_not_emptied(path: Path) -> None:
    """SQLite takes an empty file for a new one and would throw away the log beside it, with what waits in it."""
    wal = Path(f"{path}-wal")
    if path.stat().st_size == 0 and wal.exists() and wal.stat().st_size:
        mend = "put the file back that belongs to it, or move both away to start anew"
        raise SpoolUnusable(f"{path}: it is empty, but {wal.name} beside it holds deliveries -> {mend}")


def _check_owner(path: Path) -> None:
    """Whoever owns a file can open it to others at any time."""
    for each in _files(path):
        if each.stat().st_uid != os.geteuid():
            mend = "run the gateway as that one, or chown the file to the user that runs the gateway"
            raise SpoolUnusable(f"{each}: belongs to another user -> {mend}")


@contextmanager
def _closed_to_others(path: Path) -> Iterator[None]:
    """Only the owner may read the files, before a log is made with the same mode. As it was where that is no spool.

    By name, not by descriptor: to close one would let go of every lock that this process has on the file.
    """
    before = {each: stat.S_IMODE(each.stat().st_mode) for each in _files(path)}
    opened = {each: mode for each, mode in before.items() if mode & 0o077}
    try:
        for each in opened:
            each.chmod(0o600)
    except OSError as error:
        raise SpoolUnusable(f"{path}: others can read it ({error.strerror}) -> chmod 600, as its owner") from error
    try:
        yield
    except BaseException:
        for each, mode in opened.items():
            with suppress(OSError):
                each.chmod(mode)
        raise


def _files(path: Path) -> list[Path]:
    """Those that are there: the file, and what a crash may have left beside it."""
    return [each for each in (path, Path(f"{path}-wal"), Path(f"{path}-journal")) if each.exists()]


def _is_new(path: Path, connection: sqlite3.Connection) -> bool:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application == APPLICATION_ID:
        if version != FORMAT:
            raise SpoolUnusable(
                f"{path}: format {version}, this program reads {FORMAT} -> use the release that made it and let it "
                "send what waits, or start with a new file"
            )
        return False
    empty = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application or version or not empty:
        raise SpoolUnusable(f"{path}: an SQLite file of another program -> name another file, or move this one away")
    return True


def _create(connection: sqlite3.Connection, secret: bytes) -> None:
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    for statement in _TABLES:
        connection.execute(statement)
    connection.execute("INSERT INTO secrets VALUES ('hash', ?)", (secret,))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")


def _check(path: Path, connection: sqlite3.Connection, check_s: float, monotonic: Callable[[], float]) -> None:
    """Look for damage, for so long."""
    until = monotonic() + check_s
    connection.set_progress_handler(lambda: monotonic() > until, CHECK_STEPS)
    try:
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise _damaged(path)
    except sqlite3.OperationalError as error:
        if _code(error) != sqlite3.SQLITE_INTERRUPT:
            raise
    finally:
        connection.set_progress_handler(None, 0)


def _tune(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute("BEGIN IMMEDIATE")  # fails here, and not later, where nothing can be written
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _read_only(path: Path) -> SpoolUnusable:
    return SpoolUnusable(f"{path}: it or its folder cannot be written -> see the mount, the owner and the permissions")


def _damaged(path: Path) -> SpoolUnusable:
    return SpoolUnusable(f"{path}: it is damaged -> keep a copy for `sqlite3 .recover` and start with another file")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - behind each commit, and a quarter of what Path.stat costs
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _code(error: sqlite3.Error) -> int:
    """The primary result code; 0 where Python itself raised the error."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
