"""A disk of its own for a NATS server: an ext4 in a file that can be filled, or turn read-only as after a fault.

The kernel itself turns it read-only (`errors=remount-ro`), with all files open: as root `chmod` would do nothing, and a
remount is refused while somebody writes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

SIZE_MB = 64


class Disk:
    """Mounted at `folder`."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image = image
        self.folder = folder
        self._ballast = folder / "ballast"

    def mount(self) -> None:
        """As it was left, with what its journal holds."""
        _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.folder))

    def unmount(self) -> None:
        """Nobody uses it any more, or from now on."""
        _run("umount", "--lazy", str(self.folder))

    def fill(self) -> None:
        """Not a byte has room any more."""
        descriptor = os.open(self._ballast, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            for chunk in (1 << 20, 4096, 1):
                with suppress(OSError):
                    while os.write(descriptor, b"\0" * chunk) == chunk:
                        pass
        finally:
            os.close(descriptor)

    def make_room(self) -> None:
        self._ballast.unlink()

    def turn_read_only(self) -> None:
        """As a fault of the device would have it."""
        (Path("/sys/fs/ext4") / self._device() / "trigger_fs_error").write_text("a test\n")
        with pytest.raises(OSError, match="Read-only"):
            (self.folder / "written").touch()

    def mend(self) -> None:
        """Checked and mounted anew, as an operator would. Nobody uses it any more.

        Whoever made a mount namespace meanwhile (a container, `ip netns exec`) may have it mounted still, in its failed
        state, and a mount of the same file would be that one again: so the file becomes a copy of what it was.
        """
        _run("umount", str(self.folder))
        copy = self._image.with_suffix(".copy")
        _run("cp", "--sparse=always", str(self._image), str(copy))
        copy.replace(self._image)
        checked = subprocess.run(["fsck.ext4", "-p", "-f", str(self._image)], capture_output=True, check=False)
        assert checked.returncode in (0, 1), checked.stdout
        self.mount()

    def _device(self) -> str:
        for line in Path("/proc/mounts").read_text().splitlines():
            device, point, *_ = line.split()
            if point == str(self.folder):
                return Path(device).name
        raise AssertionError("not mounted")


@contextmanager
def disks(folder: Path, names: Sequence[str]) -> Iterator[list[Disk]]:
    """A disk for each of these folders, which are made. Skips where nothing may be mounted."""
    with ExitStack() as stack:
        made = []
        for name in names:
            image, place = folder / f"{name}.img", folder / name
            place.mkdir(parents=True)
            with image.open("wb") as file:
                file.truncate(SIZE_MB << 20)
            disk = Disk(image, place)
            try:
                _run("mkfs.ext4", "-q", str(image))
                disk.mount()
            except OSError as fault:
                pytest.skip(f"no disk of its own can be made here: {type(fault).__name__}")
            except subprocess.CalledProcessError:
                pytest.skip("the kernel does not permit a disk of its own")
            stack.callback(disk.unmount)
            made.append(disk)
        yield made


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
