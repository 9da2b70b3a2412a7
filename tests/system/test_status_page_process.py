"""The status page in a real browser, and `pushgate explain` on a real gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pushgate.pace import OUTAGE_AFTER_FAILURES, SILENCE_S
from pushgate.stage import APNS_APP_ID
from tests.ports import free_port
from tests.processes import pushgate, sealed, staged
from tests.status_scenes import HOSTILE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
CHROMIUM = shutil.which("chromium")


@asynccontextmanager
async def scene(name: str) -> AsyncIterator[str]:
    """The address of a scene that is served by a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.status_scenes", name), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            port = int(await process.stdout.readline())
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        await process.wait()


async def rendered(url: str, folder: Path, *options: str) -> str:
    """What a browser makes of a page, after its scripts."""
    assert CHROMIUM is not None
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--virtual-time-budget=3000")
    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM, *flags, *options, "--dump-dom", url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    return out.decode()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
async def test_the_page_shows_trouble_and_hostile_names_as_text(tmp_path: Path) -> None:
    async with scene("hostile") as url:
        dom = await rendered(f"{url}?still", tmp_path)
    assert "Needs attention</span>" in dom
    assert "InvalidProviderToken" in dom
    shown = HOSTILE.replace("\n", "\N{REPLACEMENT CHARACTER}").replace("&", "&amp;")
    assert shown.replace("<", "&lt;").replace(">", "&gt;") in dom
    assert len(re.findall("<script", dom)) == 1
    assert "<img" not in dom
    assert len(re.findall('<tr role="row">', dom)) == 1 + 5
    assert re.search(r'<path class="line accepted" d="M[^"]{500,}"', dom)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
async def test_the_page_of_a_calm_gateway_says_so(tmp_path: Path) -> None:
    async with scene("calm") as url:
        dom = await rendered(f"{url}?still", tmp_path, "--window-size=400,900")
    assert '<p id="state" class="pill" data-level="good">' in dom
    assert "Healthy" in dom
    assert 'role="status" aria-live="polite">Healthy' in dom


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize(
    ("name", "pill", "words"),
    [
        ("silent", "One lane held up", ["No answer", "no answer", "8 attempts in a row have failed", "connect × 8"]),
        ("outage", "One lane held up", ["Outage", "next try in", "pushgate doctor"]),
        ("empty", "Nothing configured", ["No app is configured.", "pushgate init"]),
    ],
)
async def test_the_page_of_a_gateway_that_is_held_up_is_not_green(
    name: str, pill: str, words: list[str], tmp_path: Path
) -> None:
    async with scene(name) as url:
        dom = await rendered(f"{url}?still", tmp_path)
    assert re.search(r'<p id="state" class="pill" data-level="(\w+)">', dom)[1] == "warn"  # type: ignore[index]  # None fails
    assert f"{pill}</span>" in dom
    for each in words:
        assert each in dom, each


async def test_from_a_complaint_to_what_the_provider_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHGATE_MANAGEMENT__LISTEN", f"127.0.0.1:{free_port()}")
    alive, dead = f"{1:064x}", f"dead{2:060x}"
    devices = [{"app_id": APNS_APP_ID, "pushkey": pushkey} for pushkey in (alive, dead)]
    async with staged(tmp_path) as run:
        config = str(run.stage.config_file)
        code, _, err = await pushgate("explain", "--config", config, "complaint-7")
        assert (code, "nobody listens" in err) == (1, True)
        await run.start()
        tls = ssl.create_default_context(cafile=str(run.stage.ca_file))
        tls.load_cert_chain(run.stage.caller_cert_file, run.stage.caller_key_file)
        async with httpx.AsyncClient(base_url=run.url, verify=tls, trust_env=False) as http:
            body = {"notification": {"event_id": "$1", "prio": "high", "devices": devices}}
            answer = await http.post("notify", json=body, headers={"X-Request-Id": "complaint-7"})
            assert (answer.status_code, answer.headers["x-request-id"]) == (200, "complaint-7")
        await run.until({alive})
        (received,) = run.stage.apns.devices()[alive]
        told = await _explained(config, "complaint-7", ended=2)
        (request,) = told["requests"]
        assert (request["caller"], request["status"], request["repeats"]) == ("erp", 200, 0)
        said = {
            each["id"]: [(one["event"], one["reason"]) for one in each["attempts"]] for each in request["deliveries"]
        }
        assert said.pop(received.apns_id.lower()) == [("accepted", "")]
        assert [*said.values()] == [[("rejected", "Unregistered")]]
        assert (await _explained(config, received.apns_id, ended=2))["requests"] == [request]
        code, out, _ = await pushgate("explain", "--config", config, received.apns_id)
        assert (code, "the provider calls the pushkey dead: Unregistered" in out) == (0, True)
        assert alive not in out + str(told)
        assert dead not in out + str(told)
        code, _, err = await pushgate("explain", "--config", config, "never-was")
        assert (code, "nothing is known of this id" in err) == (1, True)
        code, _, err = await pushgate("explain", "--config", config, "not an id")
        assert (code, "not an id" in err) == (2, True)
        async with httpx.AsyncClient(base_url=run.management, trust_env=False) as http:
            status = (await http.get("/status.json")).json()
        assert status["totals"]["hour_rejected"] == 1
        assert {each["lane"]: each["rejected"] for each in status["lanes"]}[APNS_APP_ID] == 1
        assert status["machine"]["memory_bytes"] > 1_000_000
        assert sum(each["opened"] for each in status["peers"]) >= 1
        metrics = await run.metrics()
        assert metrics["pushgate_spool_commit_seconds_count"] > 0
        assert metrics["pushgate_spool_bytes"] > 0
        assert (
            metrics["pushgate_server_certificate_end_timestamp_seconds"] > metrics["process_start_time_seconds"] > 1e9
        )
        assert metrics['pushgate_reasons_total{provider="apns",reason="Unregistered"}'] == 1


async def _explained(config: str, asked: str, *, ended: int) -> Any:
    """What is known of an id, as soon as so many of its deliveries have ended."""
    async with asyncio.timeout(30):
        while True:
            code, out, _ = await pushgate("explain", "--config", config, asked, "--json")
            told = json.loads(out)
            assert code in (0, 1)
            deliveries = [each for request in told["requests"] for each in request["deliveries"]]
            if sum(any(one["event"] != "deferred" for one in each["attempts"]) for each in deliveries) == ended:
                return told


@asynccontextmanager
async def relayed(port: int, *, to: int) -> AsyncIterator[None]:
    """What listens at one port as if at another."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("localhost", to)
        await asyncio.gather(pass_on(reader, far_writer), pass_on(far_reader, writer))

    async with await asyncio.start_server(meet, "localhost", port):
        yield


async def test_one_notification_and_a_dead_provider_are_seen_long_before_an_hour_is_over(tmp_path: Path) -> None:
    """Time runs 25 times as fast. In the end the provider comes back, and one answer is enough."""
    async with staged(tmp_path, retry_scale=1 / 25) as run:
        dead, (number, lane) = free_port(), (1, APNS_APP_ID)
        config = run.stage.config_file
        config.write_text(config.read_text().replace(f"localhost:{run.stage.apns.port}", f"localhost:{dead}"))
        await run.start()
        async with run.client() as client:
            answer = await client.notify_encrypted_batch([sealed(number)])
        assert [each.status for each in answer.results] == ["success"]
        async with httpx.AsyncClient(base_url=run.management, trust_env=False) as http:

            async def until(state: str, *, within_s: float) -> dict[str, Any]:
                async with asyncio.timeout(within_s):
                    while True:
                        status = (await http.get("/status.json")).json()
                        (found,) = (each for each in status["lanes"] if each["lane"] == lane)
                        if found["state"] == state:
                            return {**status, "lane": found}
                        await asyncio.sleep(0.2)

            told = await until("no answer", within_s=10)
            (notice,) = told["notices"]
            assert (notice["what"], notice["lane"], notice["urgent"]) == ("no answer", lane, False)
            assert [reason for reason, _ in notice["reasons"]] == ["connect"]
            assert told["lane"]["failures"] >= 3
            metrics = await run.metrics()
            assert metrics[f'pushgate_lane_alarm{{alarm="outage",lane="{lane}"}}'] == 0
            assert metrics[f'pushgate_lane_failures_in_a_row{{lane="{lane}"}}'] >= 3
            told = await until("outage", within_s=25)
            assert told["lane"]["failures"] < OUTAGE_AFTER_FAILURES
            assert told["lane"]["failing_s"] >= int(SILENCE_S / 25)
            async with relayed(dead, to=run.stage.apns.port):
                await until(
                    "ok", within_s=70
                )  # connecting has pauses of its own, a minute at most, which nothing scales
                await run.until({sealed(number).device.pushkey})
                metrics = await run.metrics()
                assert metrics[f'pushgate_lane_failing_seconds{{lane="{lane}"}}'] == 0
                assert metrics[f'pushgate_lane_alarm{{alarm="outage",lane="{lane}"}}'] == 0
                assert await run.end() == 0


async def test_the_limits_of_the_spool_and_readiness_are_metrics_from_the_start_of_one_process_or_two(
    tmp_path: Path,
) -> None:
    environ = {"PUSHGATE_SPOOL__MAX_WAITING": "1000", "PUSHGATE_SPOOL__MAX_MB": "64"}
    for processes in ("1", "2"):
        (folder := tmp_path / processes).mkdir()
        async with staged(folder, environ={**environ, "PUSHGATE_API__PROCESSES": processes}) as run:
            await run.start()
            metrics = await run.metrics()
            assert metrics["pushgate_spool_limit_waiting"] == 1000
            assert metrics["pushgate_spool_limit_waiting_per_app"] == 500
            assert metrics["pushgate_spool_limit_bytes"] == 64 << 20
            assert metrics["pushgate_ready"] == ((await run.ready())[0] == 200) == 1
            assert await run.end() == 0


async def test_whoever_watches_is_let_go_when_the_gateway_stops(tmp_path: Path) -> None:
    async with staged(tmp_path) as run:
        await run.start()
        async with (
            httpx.AsyncClient(base_url=run.management, trust_env=False, timeout=20) as http,
            http.stream("GET", "/status/events") as stream,
        ):
            lines = stream.aiter_lines()
            assert await anext(lines) == "retry: 3000"
            assert await anext(lines) == "event: status"
            run.signal(signal.SIGTERM)
            rest = [line async for line in lines]
        assert "event: end" in rest
        assert run.process is not None
        async with asyncio.timeout(30):
            assert await run.process.wait() == 0
