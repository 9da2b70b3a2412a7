"""What a start imports: only what its role needs. Bounds on numbers of modules, not on time: machines differ."""

from __future__ import annotations

import subprocess
import sys

import pytest

OF_OTHERS = {
    "google.auth", "h2", "httpx", "prometheus_client", "pushgate.client", "pushgate.demo", "pushgate.doctor",
    "pushgate.emulator", "pushgate.setup", "pushgate.spool.nats", "requests",
}  # fmt: skip
OF_A_PATH = {"pushgate.gateway", "pushgate.intake", "pushgate.server", "pushgate.spool.sqlite", "uvloop"}


@pytest.mark.parametrize(
    ("what", "most", "never"),
    [
        pytest.param("pushgate.gateway", 720, OF_OTHERS, id="a gateway"),
        pytest.param("pushgate.cells.supervisor", 680, OF_OTHERS | OF_A_PATH, id="a supervisor of cells"),
        pytest.param(
            "pushgate.cli", 450, OF_OTHERS | OF_A_PATH | {"pushgate.config", "uvicorn"}, id="the command line"
        ),
    ],
)
def test_a_start_imports_what_it_needs_and_not_much_more(what: str, most: int, never: set[str]) -> None:
    code = f"import sys, {what}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    modules = set(done.stdout.split())
    print(f"{what}: {len(modules)} modules")
    assert what in modules
    assert modules.isdisjoint(never), modules & never
    assert len(modules) <= most
