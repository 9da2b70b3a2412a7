"""Wheel and sdist: what is in them, that both are the same program, and that it runs where nothing else is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from msgspec import Struct

import pushgate

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAME = f"pushgate-{pushgate.__version__}"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


class Distributions(Struct, frozen=True):
    sdist: Path
    wheel: Path


def run(*command: str | Path, cwd: Path, within_s: float = 60.0) -> str:
    """What a command prints. It must do its work, and nothing of this environment reaches it but how to use pip."""
    environ = {name: each for name, each in os.environ.items() if not name.startswith(("PYTHON", "PUSHGATE_", "COV"))}
    ran = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=within_s, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def build(source: Path, kind: str, folder: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder, cwd=source)
    (built,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    folder = tmp_path_factory.mktemp("dist")
    return Distributions(build(ROOT, "sdist", folder), build(ROOT, "wheel", folder))


def inside(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def files_of(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(folder.parent).as_posix()


def test_the_wheel_is_the_package_and_nothing_else(built: Distributions) -> None:
    names = inside(built.wheel).keys()
    about = {name for name in names if name.startswith(f"{NAME}.dist-info/")}
    assert names - about == {*files_of(ROOT / "src" / "pushgate")}
    assert {PurePosixPath(name).name for name in about} >= {"METADATA", "RECORD", "entry_points.txt", "LICENSE"}
    assert {"pushgate/py.typed", "pushgate/config/config.schema.json"} <= names


def test_the_wheel_says_what_the_project_says(built: Distributions) -> None:
    metadata = inside(built.wheel)[f"{NAME}.dist-info/METADATA"].decode()
    head = metadata.partition("\n\n")[0]
    assert f"\nVersion: {pushgate.__version__}\n" in head
    assert f"\nRequires-Python: {PROJECT['project']['requires-python']}" in head
    wanted = {re.split(r"[>=;\[]", each)[0] for each in PROJECT["project"]["dependencies"]}
    plain = {line for line in head.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line}
    assert {re.split(r"[>=;\[ ]", line.removeprefix("Requires-Dist: "))[0] for line in plain} == wanted


def test_the_sdist_builds_the_same_wheel(built: Distributions, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as packed:
        assert {PurePosixPath(each).parts[0] for each in packed.getnames()} == {NAME}
        packed.extractall(tmp_path)
    again = build(tmp_path / NAME, "wheel", tmp_path)
    assert inside(again) == inside(built.wheel)
    assert again.name == built.wheel.name


def test_the_lock_has_what_any_setting_may_need_and_names_no_host() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    of_settings = {
        each for name, wanted in extras.items() if name not in ("dev", "docs", "neighbours") for each in wanted
    }
    assert len(of_settings) >= 2
    pinned = {*re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.M)}
    assert {re.split(r"[>=<]", each)[0] for each in of_settings} <= pinned
    for lock in ROOT.glob("requirements*.lock"):
        assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", lock.read_text()), lock.name


def test_it_runs_where_nothing_but_the_lock_is_installed(built: Distributions, tmp_path: Path) -> None:
    """In two steps, as the README has it; `pipx install` does the same without hashes."""
    venv.create(tmp_path / "venv", with_pip=True)
    there = tmp_path / "venv" / "bin"
    pip = (there / "python", "-m", "pip", "install", "--quiet")
    run(*pip, "--require-hashes", "-r", ROOT / "requirements.lock", cwd=tmp_path)
    run(*pip, "--no-deps", "--no-index", built.wheel, cwd=tmp_path)
    assert "No broken requirements" in run(there / "python", "-m", "pip", "check", cwd=tmp_path)
    command = there / "pushgate"
    assert run(command, "--version", cwd=tmp_path) == f"pushgate {pushgate.__version__}\n"
    assert run(command, "schema", cwd=tmp_path) == (ROOT / "config.schema.json").read_text()
    assert run(command, "demo", cwd=tmp_path).rstrip().endswith("Every phone got exactly what was meant for it.")
    place = run(there / "python", "-c", "import pushgate; print(pushgate.__file__)", cwd=tmp_path)
    assert place.startswith(str(tmp_path / "venv"))
    assert [*tmp_path.iterdir()] == [tmp_path / "venv"], "the demo leaves nothing"
    shutil.rmtree(tmp_path / "venv")  # 100 MB
