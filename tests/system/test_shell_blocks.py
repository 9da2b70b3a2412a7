"""Every shell block of README and tutorial does what the page says, in order, in a home of its own.

`make …` is the one exception. `make demo` would set up another `.venv`, and `make test` would run this test: CI runs
both, as `.ci/run` says. So here `make demo` is the command that its target runs, and of others is asked whether there
is such a target.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from pushgate import cli
from pushgate.config import load
from pushgate.emulator import Landscape
from tests.certificates import Authority
from tests.ports import free_ports
from tests.shell_pages import Block, Reader, blocks, commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TUTORIALS = sorted((ROOT / "docs" / "tutorial").glob("*.md"))
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()
PORTS = ("2197", "2198", "8443", "8081")
"""Of the pages. Here they are others, for these may be taken."""
SIGNING_KEY = "AuthKey_ABC1234567.p8"


def without_make(block: str) -> str:
    """What its lines run; see above."""
    lines = []
    for line in block.splitlines():
        if line.startswith("make "):
            (_, target) = shlex.split(line, comments=True)
            assert re.search(rf"^{target}:", MAKEFILE, re.M), f"make {target}"
            line = "pushgate demo" if target == "demo" else ":"
        lines.append(line)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("page", [README, *TUTORIALS], ids=lambda page: page.stem)
def test_every_shell_block_does_what_the_page_says(page: Path, tmp_path: Path) -> None:
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    text = re.sub("|".join(PORTS), lambda found: ports[found[0]], page.read_text())
    text = text.replace("emulate --folder", f"emulate --apns-port {ports['2197']} --fcm-port {ports['2198']} --folder")
    shell = [each for each in blocks(text) if each.kind == "sh"]
    assert len(shell) >= 5
    given = Landscape(tmp_path / "given", project_id="example-project").apns_key_file
    (tmp_path / SIGNING_KEY).write_bytes(given.read_bytes())
    (tmp_path / SIGNING_KEY).chmod(0o600)
    environ = {name: each for name, each in os.environ.items() if not name.startswith("PUSHGATE_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "COLUMNS": "120",
        "PUSHGATE_API__LISTEN": f"127.0.0.1:{ports['8443']}",
        "PUSHGATE_MANAGEMENT__LISTEN": f"127.0.0.1:{ports['8081']}",
    }
    with ExitStack() as stack:
        reader = Reader(tmp_path, environ, stack)
        for block in shell:
            reader.do(Block(block.kind, block.title, without_make(block.content), block.printed))


def test_make_demo_and_make_test_come_first_and_are_run_by_ci() -> None:
    first, second = [each.content for each in blocks(README.read_text()) if each.kind == "sh"][:2]
    assert first == "make demo\n"
    assert second.startswith("make test ")
    assert re.search(r"^demo: .*\n\t\$\(VENV\)/bin/pushgate demo$", MAKEFILE, re.M)
    assert {"make demo", "make test"} <= {*(ROOT / ".ci" / "run").read_text().splitlines()}


def test_the_configuration_of_the_readme_is_one(tmp_path: Path) -> None:
    land = Landscape(tmp_path, project_id="example-project")
    land.write_service_account(token_url="https://oauth2.googleapis.com/token")
    (tmp_path / SIGNING_KEY).write_bytes(land.apns_key_file.read_bytes())
    authority = Authority("callers")
    (tmp_path / "clients-ca.pem").write_bytes(authority.pem)
    authority.issue("push.example.org").write(tmp_path, "server")
    (toml,) = (each.content for each in blocks(README.read_text()) if each.kind == "toml")
    (tmp_path / "pushgate.toml").write_text(toml)
    settings = load(tmp_path / "pushgate.toml", environ={})
    assert {*settings.apps} == {"org.example.health.apns", "example-project.app.firebase"}


def consoles() -> list[tuple[Path, str]]:
    return [
        (page, commands(each))
        for page in PAGES
        if "```console" in page.read_text()
        for each in blocks(page.read_text())
        if each.kind == "console"
    ]


@pytest.mark.parametrize(("page", "typed"), consoles(), ids=lambda each: each.stem if isinstance(each, Path) else "")
def test_what_is_not_run_is_a_command_at_least(page: Path, typed: str) -> None:
    """Blocks that need what only an operator has: valid for the shell, and what they ask of pushgate is there."""
    assert typed, f"{page.name}: nothing in it is typed"
    subprocess.run(["bash", "-n"], input=typed, text=True, check=True, timeout=10)
    for line in typed.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        command = words[words.index("--") + 1 :] if words[:1] == ["runuser"] else words
        if command and Path(command[0]).name == "pushgate":
            cli.app.parse_args(command[1:], exit_on_error=False, print_error=False)
