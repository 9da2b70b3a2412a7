"""The rules and the dashboard as Prometheus itself sees them: promtool judges them, and a real server sees an alert."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pushgate.client import seal
from pushgate.model import Device
from pushgate.stage import APNS_APP_ID
from tests.ports import free_port
from tests.processes import CHAIN, Run, sealed, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
PAGE = (ROOT / "docs" / "how-to" / "answer-alerts.md").read_text()
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "pushgate.json").read_text())
GRAFANA = {
    "$__rate_interval": "30s",
    "$__range": "1m",
    "$job": "pushgate",
    "$instance": "127.0.0.1:.+",
    "$lane": ".+",
}
"""What Grafana puts in the place of its variables."""
MAY_BE_EMPTY = {
    "Alarms B",
    "Deaths of processes B",
    "Requests refused, by caller A",
    "Restarts",
    "What ends C",
    "Why attempts are not accepted A",  # a series that begins with what it counts first has no rate
}
"""Where there is nothing to show: no open breaker, death, refused caller, restart, revocation list."""


def tool(name: str) -> str:
    """A program of Debian's package `prometheus`."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: install the package prometheus")
    return found


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [tool("promtool"), *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=40, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def queries() -> dict[str, str]:
    """Every query of the dashboard by its panel, as Grafana would send it."""
    found = {}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['title']} {target['refId']}"] = filled_in(target["expr"])
    for each in DASHBOARD["annotations"]["list"]:
        found[each["name"]] = filled_in(each["expr"])
    return found


def filled_in(expression: str) -> str:
    for name, value in GRAFANA.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def test_the_page_runs_what_is_tested_here() -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S)
    commands = [line.split() for line in block.splitlines()]
    assert [each[1:3] for each in commands] == [["check", "rules"], ["test", "rules"]]
    for each in commands:
        promtool(*each[1:])


def test_the_tests_of_the_rules_make_every_alert_fire_and_rest() -> None:
    """`ALERTS` is asked for all that fires: an empty answer says that every one of them rests."""
    tests = yaml.safe_load(ALERTS.with_name("alerts_test.yml").read_text())["tests"]
    fires: set[str] = set()
    for each in tests:
        asked = each["promql_expr_test"]
        assert any(not one["exp_samples"] for one in asked), each["name"]
        labels = [sample["labels"] for one in asked for sample in one["exp_samples"]]
        fires |= {name for text in labels for name in re.findall(r'alertname="(\w+)"', text)}
    assert fires == {rule["alert"] for rule in rules()["groups"][0]["rules"]}


def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    recorded = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(queries().values())]
    assert len(recorded) > 40
    (file := tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": recorded}]}))
    promtool("check", "rules", file)


def test_what_is_no_promql_would_be_found(tmp_path: Path) -> None:
    (file := tmp_path / "faulty.yml").write_text(ALERTS.read_text().replace("== 1\n", "== = 1\n", 1))
    with pytest.raises(AssertionError, match="unexpected"):
        promtool("check", "rules", file)


def rules() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(ALERTS.read_text())
    return loaded


class Prometheus:
    """A server that runs, and what it says."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, trust_env=False, timeout=10)

    async def ask(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        answer = await self._http.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def until_ready(self) -> None:
        while True:
            try:
                if (await self._http.get("/-/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)

    async def firing(self) -> set[tuple[str, str]]:
        """Alert and lane of each that fires."""
        alerts = (await self.ask("/api/v1/alerts"))["alerts"]
        return {
            (each["labels"]["alertname"], each["labels"].get("lane", ""))
            for each in alerts
            if each["state"] == "firing"
        }

    async def until_firing(self, wanted: set[tuple[str, str]], *, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                while await self.firing() != wanted:
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"{await self.firing()} fire and not {wanted}") from None

    async def close(self) -> None:
        await self._http.aclose()


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[Prometheus]:
    """Scrapes the target each second, and has our rules with each `for` cut to a second."""
    hurried = rules()
    for rule in hurried["groups"][0]["rules"]:
        rule["for"] = "1s"
    (folder / "alerts.yml").write_text(yaml.safe_dump(hurried))
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [{"job_name": "pushgate", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        tool("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        async with asyncio.timeout(20):
            await server.until_ready()
            while not (await server.ask("/api/v1/query", {"query": "up == 1"}))["result"]:
                await asyncio.sleep(0.05)
        yield server
    finally:
        await server.close()
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(10):
                said, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            said, _ = await process.communicate()
    assert said == b""


def other_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


async def send(run: Run, numbers: range) -> None:
    """These, and one that is not taken."""
    stranger = seal("x", key=CHAIN.newest).for_device(Device("org.example.unknown", "a"))
    async with run.client() as client:
        answer = await client.notify_encrypted_batch([*map(sealed, numbers), stranger])
    assert [each.status for each in answer.results] == ["success"] * len(numbers) + ["failed"]


async def test_a_wrong_key_is_an_alert_of_its_lane_until_it_is_mended(tmp_path: Path) -> None:
    """Of two processes; no other alert fires meanwhile. Then every query of the dashboard has an answer."""
    tool("prometheus")
    async with staged(tmp_path, environ={"PUSHGATE_API__PROCESSES": "2"}) as run:
        key_file = next(tmp_path.glob("AuthKey_*.p8"))
        right = key_file.read_bytes()
        key_file.write_bytes(other_key())
        await run.start()
        async with prometheus(tmp_path, run.management.removeprefix("http://")) as server:
            await send(run, range(20))
            await server.until_firing({("PushgateCredentialsRefused", APNS_APP_ID)}, within_s=15)
            key_file.write_bytes(right)
            await server.until_firing(set(), within_s=20)
            await send(run, range(20, 40))
            await run.until({sealed(number).device.pushkey for number in range(40)})
            await asyncio.sleep(2.2)  # two scrapes: of one there is no rate
            answers = {title: await server.ask("/api/v1/query", {"query": query}) for title, query in queries().items()}
        assert {title for title, answer in answers.items() if not answer["result"]} <= MAY_BE_EMPTY < {*answers}
        assert await run.end() == 0
