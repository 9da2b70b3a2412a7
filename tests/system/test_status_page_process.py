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

from pushgate.stage import APNS_APP_ID
from tests.processes import free_port, pushgate, staged
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
