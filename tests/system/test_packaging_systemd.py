"""The systemd unit: systemd itself finds no fault in it, and says how shut in it is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "pushgate.service"
PAGE = (ROOT / "docs" / "how-to" / "run-with-systemd.md").read_text()
LARGEST_EXPOSURE = 1.5
"""Of 10. The words for it: up to 2 it is "OK", above 5 it is "MEDIUM"."""

pytestmark = pytest.mark.slow


def systemd_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=15, check=False)


def test_the_page_shows_the_unit() -> None:
    assert re.findall(r"^```ini\n(.*?)^```$", PAGE, re.M | re.S) == [UNIT.read_text()]
    assert str(UNIT.relative_to(ROOT)) in PAGE


def test_systemd_knows_every_line(tmp_path: Path) -> None:
    """Of a unit that is the same but for the program: that is not installed here."""
    (here := tmp_path / UNIT.name).write_text(UNIT.read_text().replace("/opt/pushgate/bin/pushgate", "/bin/true"))
    done = systemd_analyze("verify", here)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_sees_it_shut_in() -> None:
    threshold = f"--threshold={LARGEST_EXPOSURE * 10:.0f}"
    done = systemd_analyze("security", "--offline=true", "--no-pager", threshold, UNIT)
    assert done.returncode == 0, done.stdout
    found = re.search(r"Overall exposure level for pushgate\.service: ([0-9.]+)", done.stdout)
    assert found is not None
    told = re.search(r"calls this exposure ([0-9.]+)", PAGE)
    assert told is not None
    assert abs(float(found[1]) - float(told[1])) <= 0.3, "versions of systemd differ a little"
