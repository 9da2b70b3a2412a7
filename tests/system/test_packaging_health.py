"""`pushgate health`: what it says of a gateway, and of what is none."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pushgate import cli
from pushgate.commands import health
from tests.ports import free_port

pytestmark = pytest.mark.slow


class Gateway(BaseHTTPRequestHandler):
    """Lives, and is not ready."""

    def do_GET(self) -> None:
        live = self.path == "/health/live"
        body = b"{}" if live else b'{"reason": "the spool is full\\u001b[2J"}'
        self.send_response(200 if live else 503)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is that of the base class
        """Says nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_it_tells_what_lives_from_what_is_ready(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{port}"
    assert cli.run(["health", "--url", url]) == 0
    assert cli.run(["health", "--url", url, "--ready"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("live\n", "not well: 503 the spool is full?[2J\n")


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_it_asks_where_the_configuration_says(port: int, listen: str, tmp_path: Path) -> None:
    """And heeds no fault elsewhere in it."""
    file = tmp_path / "pushgate.toml"
    file.write_text(f'[management]\nlisten = "{listen}:{port}"\n[api.tls]\ncert_file = "not there"\nunknown = 1\n')
    assert cli.run(["health", "--config", str(file)]) == 0


def test_the_environment_wins_over_the_file(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "pushgate.toml").write_text(f'[management]\nlisten = "127.0.0.1:{free_port()}"\n')
    monkeypatch.setenv("PUSHGATE_MANAGEMENT__LISTEN", f"127.0.0.1:{port}")
    assert cli.run(["health", "--config", str(file)]) == 0


def test_nobody_there_is_no_health(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["health", "--url", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "no answer from port" in capsys.readouterr().err


def test_one_that_does_not_answer_is_not_waited_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ANSWER_WITHIN_S", 0.1)
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as deaf:  # takes connections, for the system does that
        assert cli.run(["health", "--url", f"http://127.0.0.1:{deaf.server_port}"]) == 1
    assert "TimeoutError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('[management]\nlisten = ""', "management.listen is off"),
        ('[management]\nlisten = "127.0.0.1:0"', "takes any port"),
        ('[management]\nlisten = "nowhere"', "not an address to listen on"),
        ("management = 1", "management.listen is off"),
        ("= 1", "not TOML"),
        (None, "No such file"),
    ],
)
def test_a_configuration_that_names_no_address_is_told(
    toml: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pushgate.toml"
    if toml is not None:
        file.write_text(toml)
    assert cli.run(["health", "--config", str(file)]) == 2
    fault, _, mend = capsys.readouterr().err.partition("\n  -> ")
    assert said in fault
    assert mend


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "https://127.0.0.1:8081"],
        ["--url", "127.0.0.1:8081"],
        ["--url", "http://127.0.0.1"],
        ["--url", "http://127.0.0.1:x"],
        ["--url", "http://127.0.0.1:1/metrics"],
        ["--url", "http://127.0.0.1:1", "--config", "pushgate.toml"],
    ],
)
def test_wrong_usage_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["health", *arguments]) == 2
    assert "\n  -> " in capsys.readouterr().err


def test_it_costs_little_for_it_is_run_again_and_again() -> None:
    """None of what makes a start long is imported, as long as no configuration has to be read."""
    script = (
        "import sys; from pushgate import cli; cli.run(['health', '--url', 'http://127.0.0.1:1']); print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=15, check=True)
    imported = {*ran.stdout.split()}
    assert "pushgate.commands.health" in imported
    assert imported.isdisjoint({"pydantic", "cryptography", "httpx", "asyncio", "pushgate.config"})
