"""A small disk that can be filled: a file system of its own where that may be mounted, else a limit of file size."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SIZE_BYTES = 64 << 20
"""More than the write-ahead log takes at its longest: on less than that the spool itself could fill the disk."""
LIMIT_BYTES = 128 << 10
"""No file can be written beyond this while the disk is full, where no file system can be mounted."""


class SmallDisk:
    """A folder that takes no more bytes while it is full."""

    def __init__(self, folder: Path, *, is_mounted: bool) -> None:
        self.folder = folder
        self.is_mounted = is_mounted
        self._ballast = folder / "ballast"

    def fill(self, pid: int) -> None:
        """From now on this process can write nothing more, or little."""
        if not self.is_mounted:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (LIMIT_BYTES, hard))
            return
        descriptor = os.open(self._ballast, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            for chunk in (1 << 20, 4096, 1):
                with suppress(OSError):
                    while os.write(descriptor, b"\0" * chunk) == chunk:
                        pass
        finally:
            os.close(descriptor)

    def make_room(self, pid: int) -> None:
        """It can write again."""
        if not self.is_mounted:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
            return
        self._ballast.unlink()


@contextmanager
def small_disk(folder: Path, *, may_mount: bool = True) -> Iterator[SmallDisk]:
    """A small disk at `folder`, which is made. Falls back to a limit of file size where nothing may be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES},mode=700", "tmpfs", str(folder)]
    if not may_mount or os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield SmallDisk(folder, is_mounted=False)
        return
    try:
        yield SmallDisk(folder, is_mounted=True)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)
