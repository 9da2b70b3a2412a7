"""Traces, from a caller's request to the provider's answer, as a collector of ours gets them over the wire."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from pushgate import __version__, otlp
from pushgate.config import load
from pushgate.emulator import Step
from pushgate.gateway import Gateway, Ports
from pushgate.metrics import ENDINGS
from pushgate.otlp import OtlpSpans
from pushgate.stage import APNS_APP_ID, FCM_APP_ID, Stage, set_stage
from pushgate.tracing import Kind, Span
from tests.processes import sealed, staged
from tests.samples import SECRET_MARK, batch, encrypted, plain
from tests.tracing import Collector, Seen, collecting, facts_of

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"
PUSHKEY = "5ec7e75ec7e7" + "ab" * 26
MARK = "MaRk5ec7e7"
"""Stands in whatever is personal."""
KEY = "123e4567-e89b-12d3-a456-5ec7e75ec7e7"
OF_REQUESTS = {
    "http.response.status_code",
    *("pushgate.caller", "pushgate.request_id", "pushgate.deliveries", "pushgate.repeats"),
}
ALLOWED = {
    "accept": OF_REQUESTS,
    "put": {"pushgate.deliveries"},
    "lease": {"pushgate.lane", "pushgate.delivery_id"},
    "attempt": {
        *("pushgate.lane", "pushgate.delivery_id", "pushgate.provider"),
        *("pushgate.attempt", "pushgate.outcome", "pushgate.reason"),
    },
}
"""Which facts each span may hold: no others."""


class Traced:
    """A gateway in this process between emulators, and how it is called."""

    def __init__(self, gateway: Gateway, stage: Stage, port: int) -> None:
        self.gateway = gateway
        self.stage = stage
        tls = ssl.create_default_context(cafile=stage.ca_file)
        tls.load_cert_chain(stage.caller_cert_file, stage.caller_key_file)
        self.http = httpx.AsyncClient(base_url=f"https://localhost:{port}/push/v1/", verify=tls, trust_env=False)

    def metric(self, name: str) -> float:
        for line in self.gateway.metrics.text().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise AssertionError(name)

    async def until_accepted(self, count: int) -> None:
        async with asyncio.timeout(10):
            lanes, accepted = self.gateway.metrics.lanes, ENDINGS.index("accepted")
            while sum(each.endings[accepted] for each in lanes.values()) < count:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def traced(folder: Path, table: str) -> AsyncIterator[Traced]:
    async with set_stage(folder, more=f"[tracing]\n{table}\n[delivery]\nretry_scale = 0.01\n") as stage:
        gateway, stop = Gateway(load(stage.config_file, environ={})), asyncio.Event()
        started: asyncio.Future[Ports] = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(gateway.run(stop=stop, started=started.set_result))
        running.add_done_callback(lambda _: started.done() or started.cancel())
        here = Traced(gateway, stage, (await started).api)
        try:
            yield here
        finally:
            await here.http.aclose()
            stop.set()
            await running


def personal() -> tuple[dict[str, object], dict[str, object]]:
    """A plain and a sealed notification that are full of marks."""
    apns = {"app_id": APNS_APP_ID, "pushkey": PUSHKEY, "data": {MARK: MARK}}
    fcm = {"app_id": FCM_APP_ID, "pushkey": f"fcm-{MARK}", "tweaks": {"sound": MARK}}
    named = plain(
        apns,
        fcm,
        sender=f"@{MARK}:example.org",
        sender_display_name=f"Alice {MARK}",
        room_name=MARK,
        room_id=f"!{MARK}",
        event_id=f"${MARK}",
        content={"msgtype": "m.text", "body": MARK},
    )
    return named, encrypted(device=apns, key_identifier=KEY)


def by_name(spans: list[Seen]) -> dict[str, list[Seen]]:
    return {name: [span for span in spans if span.name == name] for name in ALLOWED}


def assert_nothing_personal(collector: Collector) -> None:
    raw = b"".join(collector.raw)
    assert APNS_APP_ID.encode() in raw
    for secret in (PUSHKEY, PUSHKEY[:12], KEY, SECRET_MARK, bytes.fromhex(PUSHKEY), MARK, "Alice", "m.text"):
        assert (secret if isinstance(secret, bytes) else secret.encode()) not in raw, secret


async def test_a_request_is_one_trace_below_that_of_its_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector, collecting() as strangers:
        for name in ("", "TRACES_"):
            monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT", strangers.endpoint)
            monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}HEADERS", "x-of=the-environment")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"who={MARK}")
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
        monkeypatch.setenv("HTTP_PROXY", strangers.endpoint)
        (tmp_path / "headers").write_text("# to log in\nAuthorization: Bearer of-the-collector\n")
        table = f'endpoint = "{collector.endpoint}"\nheaders_file = "headers"'
        async with traced(tmp_path, table) as here:
            named, concealed = personal()
            asked = {"traceparent": TRACEPARENT, "x-request-id": "complaint-7"}
            answer = await here.http.post("notify/batch", json=batch(named), headers=asked)
            assert answer.status_code == 200 and answer.json()["results"][0]["status"] == "success", answer.text
            answer = await here.http.post("notifyEncrypted/batch", json=batch(concealed), headers=asked)
            assert answer.status_code == 200 and answer.json()["results"][0]["status"] == "success", answer.text
            await here.until_accepted(3)
            # accept and put of each request, lease and attempt of each delivery
            spans = await collector.until(10)
        assert len(collector.spans) == 10  # and no more came at the end
        assert here.metric("pushgate_spans_dropped_total") == 0
        assert strangers.raw == []
    found = by_name(spans)
    assert {name: len(each) for name, each in found.items()} == {"accept": 2, "put": 2, "lease": 3, "attempt": 3}
    assert {span.trace_id for span in spans} == {TRACE_ID}
    assert len({span.span_id for span in spans}) == 10
    assert {span.parent_id for span in found["accept"]} == {PARENT_ID}
    assert {span.parent_id for span in found["put"]} == {span.span_id for span in found["accept"]}
    puts = {span.span_id: span for span in found["put"]}
    for lease in found["lease"]:
        (attempt,) = [
            each
            for each in found["attempt"]
            if each.facts["pushgate.delivery_id"] == lease.facts["pushgate.delivery_id"]
        ]
        assert lease.parent_id == attempt.parent_id
        put = puts[lease.parent_id]
        # an attempt may begin in the turn of the loop in which the put ends
        assert lease.begun_ns == min(put.ended_ns, attempt.begun_ns)
        assert put.begun_ns <= lease.begun_ns <= lease.ended_ns == attempt.begun_ns < attempt.ended_ns
    for span in spans:
        assert span.facts.keys() <= ALLOWED[span.name], span.name
        assert not span.has_failed
        assert abs(span.ended_ns / 1e9 - time.time()) < 30
    assert {(span.facts["pushgate.caller"], span.facts["pushgate.request_id"]) for span in found["accept"]} == {
        ("erp", "complaint-7")
    }
    assert {(span.facts["pushgate.lane"], span.facts["pushgate.provider"]) for span in found["attempt"]} == {
        (APNS_APP_ID, "apns"),
        (FCM_APP_ID, "fcm"),
    }
    assert_nothing_personal(collector)
    resources = [each.resource for request in collector.requests for each in request.resource_spans]
    assert {frozenset(facts_of(each.attributes).items()) for each in resources} == {
        frozenset({"service.name": "pushgate", "service.version": __version__}.items())
    }
    for headers in collector.headers:
        assert headers["Authorization"] == "Bearer of-the-collector"
        assert headers["Content-Type"] == "application/x-protobuf"
        assert "x-of" not in headers


async def test_a_retry_stays_in_the_trace(tmp_path: Path) -> None:
    with collecting() as collector:
        table = f'endpoint = "{collector.endpoint}"'
        async with traced(tmp_path, table) as here:
            here.stage.apns.script(PUSHKEY, [Step(429, "TooManyRequests")])
            _, concealed = personal()
            await here.http.post("notifyEncrypted/batch", json=batch(concealed), headers={"traceparent": TRACEPARENT})
            await here.until_accepted(1)
            spans = by_name(await collector.until(6))
        first, second = sorted(spans["attempt"], key=lambda span: span.begun_ns)
        assert (first.has_failed, second.has_failed) == (True, False)
        assert (first.facts["pushgate.outcome"], first.facts["pushgate.reason"]) == ("deferred", "TooManyRequests")
        assert (second.facts["pushgate.outcome"], second.facts["pushgate.attempt"]) == ("accepted", 2)
        assert {span.trace_id for each in spans.values() for span in each} == {TRACE_ID}
        assert first.parent_id == second.parent_id == spans["put"][0].span_id
        assert sorted(spans["lease"], key=lambda span: span.begun_ns)[1].begun_ns == first.ended_ns
        assert_nothing_personal(collector)


async def test_a_collector_that_is_down_costs_no_delivery_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "EVERY_S", 0.02)
    monkeypatch.setattr(otlp, "PAUSE_S", 0.02)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen: connections are refused
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1/traces"
        with capture_logs() as logs:
            async with traced(tmp_path, f'endpoint = "{endpoint}"') as here:
                for number in range(20):
                    _, concealed = personal()
                    concealed["device"] = {"app_id": APNS_APP_ID, "pushkey": f"{number:064x}"}
                    answer = await here.http.post("notifyEncrypted/batch", json=batch(concealed))
                    assert answer.status_code == 200 and answer.json()["results"][0]["status"] == "success", answer.text
                    await asyncio.sleep(0.01)
                await here.until_accepted(20)
                began = time.monotonic()
            assert time.monotonic() - began < 5
    assert here.metric("pushgate_spans_dropped_total") == 80
    lines = [each for each in logs if each["event"] == "traces do not arrive"]
    assert [each["fault"] for each in lines] == ["ConnectionError"]
    assert [each for each in logs if each["log_level"] == "error"] == []


def a_span(number: int) -> Span:
    return Span("put", Kind.INTERNAL, 1, number + 1, 0, 1, 2, False, ())


def to(collector: Collector, timeout_s: float = 5) -> OtlpSpans:
    return OtlpSpans(collector.endpoint, headers={}, timeout_s=timeout_s, tls=ssl.create_default_context())


async def test_what_finds_no_room_is_dropped_at_once_and_a_stop_waits_a_bounded_time() -> None:
    with collecting() as collector:
        collector.open.clear()
        spans = to(collector, timeout_s=0.5)
        began = time.monotonic()
        for number in range(otlp.MOST_WAITING + otlp.BATCH + 100):
            spans.add(a_span(number))
        assert time.monotonic() - began < 0.4
        assert 100 <= spans.dropped <= otlp.BATCH + 100
        began = time.monotonic()
        with capture_logs() as logs:
            await spans.close()
        assert time.monotonic() - began < 1.5
    assert [each["event"] for each in logs] in ([], ["traces do not arrive"])


@pytest.mark.parametrize("status", [302, 307, 400, 503])
async def test_no_answer_leads_elsewhere_and_what_was_refused_is_not_sent_again(status: int) -> None:
    with collecting() as collector, collecting() as elsewhere:
        collector.status, collector.location = status, elsewhere.endpoint
        spans = to(collector)
        spans.add(a_span(0))
        with capture_logs() as logs:
            await spans.close()
        assert (len(collector.raw), elsewhere.raw, spans.dropped) == (1, [], 1)
        assert [each["fault"] for each in logs] == [f"status {status}"]


async def test_a_stop_sends_what_is_left() -> None:
    with collecting() as collector:
        spans = to(collector)
        for number in range(2 * otlp.BATCH + 1):
            spans.add(a_span(number))
        await spans.close()
        assert sorted(int(span.span_id, 16) for span in collector.spans) == list(range(1, 2 * otlp.BATCH + 2))
        assert spans.dropped == 0


OFF = """
import asyncio, sys
from pathlib import Path
from pushgate.config import load
from pushgate.emulator import Step
from pushgate.gateway import Gateway
settings = load(Path(sys.argv[1]), environ={})
gateway, stop = Gateway(settings), asyncio.Event()
asyncio.run(gateway.run(stop=stop, started=lambda ports: stop.set()))
print(*sys.modules)
"""


@pytest.mark.parametrize("is_on", [False, True])
def test_a_gateway_without_traces_imports_nothing_of_them(tmp_path: Path, *, is_on: bool) -> None:
    file = tmp_path / "pushgate.toml"
    table = '[tracing]\nendpoint = "http://127.0.0.1:9/v1/traces"\n' if is_on else ""
    file.write_text(f'[api]\nlisten = "127.0.0.1:0"\n[management]\nlisten = ""\n[spool]\nurl = "memory:"\n{table}')
    done = subprocess.run(
        [sys.executable, "-c", OFF, str(file)], capture_output=True, text=True, check=True, timeout=60
    )
    modules = {name for name in done.stdout.split() if name.split(".")[0] in ("opentelemetry", "requests")}
    assert bool(modules) == is_on
    assert ("pushgate.otlp" in done.stdout.split()) == is_on


@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_every_process_behind_the_port_makes_traces(tmp_path: Path) -> None:
    with collecting() as collector:
        environ = {"PUSHGATE_API__PROCESSES": "2", "PUSHGATE_TRACING__ENDPOINT": collector.endpoint}
        async with staged(tmp_path, environ=environ) as run:
            await run.start()
            for number in range(30):
                async with run.client() as client:
                    await client.notify_encrypted_batch([sealed(number)])
            await run.until({sealed(number).device.pushkey for number in range(30)})
            assert await run.end() == 0
            assert b"Traceback" not in run.log
        found = by_name(collector.spans)
        assert {name: len(each) for name, each in found.items()} == dict.fromkeys(ALLOWED, 30)
        begins = {str(span.facts["pushgate.request_id"]).split("-")[0] for span in found["accept"]}
        assert len(begins) == 2, "ids of requests tell which process they came to"
