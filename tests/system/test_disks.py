"""A disk that failed and was mended can be written to, whoever else has it mounted still."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.nats_disks import disks


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_disk_is_mended_while_another_namespace_has_it_mounted(tmp_path: Path) -> None:
    with disks(tmp_path, ["one"]) as (disk,):
        with (disk.folder / "kept").open("w") as file:
            file.write("before")
            file.flush()
            os.fsync(file.fileno())
        holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", "echo held; exec sleep 30"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            disk.turn_read_only()
            disk.mend()
            (disk.folder / "after").write_text("after")
            assert (disk.folder / "kept").read_text() == "before"
        finally:
            holder.kill()
            holder.communicate()
