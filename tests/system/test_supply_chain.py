"""What the gateway is made of: every library is pinned by its hash, and listed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def pinned() -> Mapping[str, str]:
    """Each library of the lock file with its version."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    entries = [line for line in lines if line and not line.startswith((" ", "#", "--"))]
    found = [re.fullmatch(r"([a-z0-9._-]+)==(\S+)(?: ;[^\\]*)? \\", line) for line in entries]
    assert all(found), [line for line, one in zip(entries, found, strict=True) if one is None]
    return {one[1]: one[2] for one in found if one is not None}


def test_every_library_that_runs_is_pinned_with_its_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=;\[ ]", each)[0] for each in project["dependencies"]}
    assert wanted | {"pyopenssl"} <= pinned().keys()
    text = (ROOT / "requirements.lock").read_text()
    for name, version in pinned().items():
        entry = text[text.index(f"{name}=={version}") :]
        assert re.match(r"\S+ (?:;[^\\\n]* )?\\\n    --hash=sha256:[0-9a-f]{64}", entry), name
    assert "://" not in re.sub(r"#.*", "", text), "nothing comes from a place of its own"


def test_the_bill_of_materials_lists_what_is_pinned() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\nsbom:")[2].partition("\n\n")[0]
    assert "cyclonedx-py requirements --pyproject pyproject.toml" in recipe
    assert recipe.rstrip().endswith("requirements.lock")
    tool = Path(sys.executable).parent / "cyclonedx-py"
    command = [str(tool), "requirements", "--pyproject", "pyproject.toml", "requirements.lock"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=15).stdout
    listed = {each["name"]: each["version"] for each in json.loads(told)["components"]}
    assert listed == pinned()
