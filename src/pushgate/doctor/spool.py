"""Where deliveries wait: the folder, its disk and file system, the file, and who uses it. Nothing in it is changed."""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from pushgate.config.spool_table import Spool
from pushgate.doctor.finding import Check, Finding, not_checked, ok, warning, wrong
from pushgate.spool.database import APPLICATION_ID, FORMAT

MB = 1024 * 1024
LEAST_FREE_MB = 100
"""With less the spool may be full at any moment: its log takes some tens of MB itself."""
SLOW_SYNC_S = 0.5
NETWORK = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "lustre", "nfs", "nfs4", "smb2", "smb3", "smbfs", "vboxsf"}
)
"""File systems on which locks or fsync are not what SQLite needs (sqlite.org/howtocorrupt.html, §2)."""
FLEETING = frozenset({"tmpfs", "ramfs", "overlay", "aufs"})
"""What is on them is gone with the machine or the container."""
_ESCAPED = re.compile(r"\\([0-7]{3})")
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_VERSION_AT, _APPLICATION_AT = 60, 68
"""SQLite file format §1.3."""
_LOCKS_AT, _LOCKS_BYTES = 0x40000000, 512
"""SQLite locks these bytes (os.h: PENDING_BYTE and what follows)."""
_FLOCK = "@hhqqi"
"""struct flock of Linux with 64 bits: type, whence, start, length, process."""


class Holder(Struct, frozen=True):
    """Who has the spool's file locked."""

    pid: int
    """0 where it cannot be told: a process of another container."""

    def __str__(self) -> str:
        return f"process {self.pid}" if self.pid > 0 else "a process of another container"


def look(spool: Spool) -> Iterator[Finding]:
    """Everything but the lock."""
    path = spool.sqlite_path
    if spool.is_shared:
        return  # see `nats`
    if path is None:
        mend = 'use url = "sqlite:spool.db" for anything but tests'
        yield warning(Check.FOLDER, "spool.url", "in memory: every stop loses what waits", next_step=mend)
        return
    folder = path.parent
    yield _folder(folder)
    try:
        files = [each for each in (path, *_of_other_cells(path)) if each.exists()]
    except OSError as error:
        mend = "run this as the user that runs pushgate; see the owner and the permissions"
        yield wrong(Check.FILE, "spool.url", f"cannot look into {folder} ({error.strerror})", next_step=mend)
        return
    yield _space(folder, max_mb=spool.max_mb, used_mb=sum(map(_size, files)) // MB)
    yield file_system(folder.resolve(), _mounts())
    for each in files:
        yield from _file(each)
    if path not in files:
        yield ok(Check.FILE, "spool.url", f"{path} is not there yet: the first start makes it")


def _of_other_cells(path: Path) -> list[Path]:
    """The files of cells behind the first one: `spool.1.db` beside `spool.db`, and so on."""
    beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    numbered = re.compile(rf"{re.escape(path.stem)}\.[0-9]+{re.escape(path.suffix)}")
    return [each for each in beside if numbered.fullmatch(each.name)]


def _folder(folder: Path) -> Finding:
    """Whether a file can be made, written and synced there."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            took_s = time.perf_counter() - began
    except OSError as error:
        mend = f"make {folder} writable for the user that runs pushgate, and see how it is mounted"
        return wrong(
            Check.FOLDER, "spool.url", f"nothing can be written in {folder} ({error.strerror})", next_step=mend
        )
    seen = f"{folder} takes files, fsync took {took_s * 1000:.1f} ms"
    if took_s > SLOW_SYNC_S:
        mend = "callers wait for each fsync: put the spool on a faster disk, or see what else loads this one"
        return warning(Check.FOLDER, "spool.url", seen, next_step=mend)
    return ok(Check.FOLDER, "spool.url", seen)


def _space(folder: Path, *, max_mb: int, used_mb: int) -> Finding:
    try:
        found = os.statvfs(folder)
    except OSError as error:
        mend = "see its mount and permissions"
        return not_checked(Check.SPACE, "spool.max_mb", f"cannot look at {folder} ({error.strerror})", next_step=mend)
    return space(free_mb=found.f_bavail * found.f_frsize // MB, max_mb=max_mb, used_mb=used_mb)


def space(*, free_mb: int, max_mb: int, used_mb: int) -> Finding:
    """What the free space means for a spool that may grow to `max_mb` (0: without limit) and has `used_mb` now."""
    seen = f"{free_mb} MB free"
    if free_mb < LEAST_FREE_MB:
        mend = "make space: callers get 503 as soon as the disk is full"
        return wrong(Check.SPACE, "spool.max_mb", seen, next_step=mend)
    if max_mb and free_mb < max_mb - used_mb:
        seen += f", but the spool may grow by {max_mb - used_mb} MB more"
        mend = "make space, or lower spool.max_mb: a full disk is harder on everything else than a full spool"
        return warning(Check.SPACE, "spool.max_mb", seen, next_step=mend)
    return ok(Check.SPACE, "spool.max_mb", seen)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text(errors="replace")
    except OSError:
        return ""


def file_system(folder: Path, mounts: str) -> Finding:
    """Whether the file system keeps what fsync promised. `mounts` as in /proc/mounts, `folder` without links."""
    kind = _kind(folder, mounts)
    if not kind:
        mend = "put the spool on a local disk; df -T shows what it is on"
        return not_checked(Check.FILE_SYSTEM, "spool.url", "this system does not tell its mounts", next_step=mend)
    if kind in NETWORK or kind.startswith("fuse"):
        seen = f"{kind}: locks and fsync may not hold there, which costs deliveries"
        mend = "put the spool on a local disk (ext4, xfs, a block device)"
        return warning(Check.FILE_SYSTEM, "spool.url", seen, next_step=mend)
    if kind in FLEETING:
        where = "the container" if kind in ("overlay", "aufs") else "the machine"
        mend = "put the spool on a disk or a volume that stays"
        return warning(Check.FILE_SYSTEM, "spool.url", f"{kind}: what waits is gone with {where}", next_step=mend)
    return ok(Check.FILE_SYSTEM, "spool.url", kind)


def _kind(folder: Path, mounts: str) -> str:
    """The type of the mount that the folder is on; of two at the same place the later one counts."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[1]))
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def _file(path: Path) -> Iterator[Finding]:
    try:
        status, header = path.stat(), _header(path)
    except OSError as error:
        mend = "run this as the user that runs pushgate; see the owner and the permissions"
        yield wrong(Check.FILE, "spool.url", f"cannot read {path} ({error.strerror})", next_step=mend)
        return
    yield format_of(path, header)
    if status.st_uid != os.geteuid():
        seen = f"{path} belongs to {_user(status.st_uid)}, and this command runs as {_user(os.geteuid())}"
        mend = f"run this, and the gateway, as {_user(status.st_uid)}: whom it does not belong to it refuses"
        yield warning(Check.FILE, "spool.url", seen, next_step=mend)
    elif mode := stat.S_IMODE(status.st_mode) & 0o077:
        seen = f"others can open {path} ({mode:03o})"
        yield warning(Check.FILE, "spool.url", seen, next_step=f"chmod 600 {path}; the next start does it too")


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES)


def format_of(path: Path, header: bytes) -> Finding:
    """Whether a file with this beginning is a spool of ours."""
    if not header:
        return ok(Check.FILE, "spool.url", f"{path} is empty: the next start makes a spool of it")
    number = {at: int.from_bytes(header[at : at + 4], "big") for at in (_VERSION_AT, _APPLICATION_AT)}
    if not header.startswith(_MAGIC) or number[_APPLICATION_AT] != APPLICATION_ID:
        mend = "name another file, or move this one away"
        return wrong(Check.FILE, "spool.url", f"{path} is no spool of pushgate", next_step=mend)
    if number[_VERSION_AT] != FORMAT:
        seen = f"{path} has format {number[_VERSION_AT]}, this program reads {FORMAT}"
        mend = "use the release that made it and let it send what waits, or start with a new file"
        return wrong(Check.FILE, "spool.url", seen, next_step=mend)
    return ok(Check.FILE, "spool.url", f"{path}, format {FORMAT}")


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def holder(spool: Spool) -> Holder | None:
    """Who has the file locked; None where nobody has. Asks the kernel, and takes no lock. Raises OSError."""
    path = spool.sqlite_path
    if path is None or not sys.platform.startswith("linux") or not path.exists():
        return None
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _LOCKS_AT, _LOCKS_BYTES, 0)
    with path.open("rb") as file:
        kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else Holder(pid)


def lock(held: Holder | None, *, is_answering: bool, management: str) -> Finding:
    """Whether the file is in use, and by whom. `is_answering`: a gateway does at `management`."""
    if held is None and not is_answering:
        return ok(Check.LOCK, "spool.url", "nobody uses it: a gateway can start")
    if held is None:
        seen = f"nobody uses it, although a gateway answers at {management}"
        mend = "that gateway has another configuration: name its file, or give each a management.listen of its own"
        return warning(Check.LOCK, "spool.url", seen, next_step=mend)
    if is_answering:
        return ok(Check.LOCK, "spool.url", f"a gateway runs ({held}) and uses it")
    seen = f"{held} uses it, and no gateway answers at {management or 'a management port'}"
    mend = "is that a gateway with another management.listen? Only one process can use a spool: another cannot start"
    return warning(Check.LOCK, "spool.url", seen, next_step=mend)
