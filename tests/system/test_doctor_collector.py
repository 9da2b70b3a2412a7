"""`pushgate doctor` and the collector of traces: asked over real sockets, and never more than a warning."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pushgate.config.tracing_table import Tracing
from pushgate.doctor import Check, Finding, State, collector
from pushgate.emulator import Landscape
from tests.certificates import Authority
from tests.ports import free_port
from tests.tracing import collecting
from tests.ward import PROJECT_ID, Ward

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


async def ask(endpoint: str, *, ca_file: Path | None = None, timeout_s: float = 5) -> Finding:
    (found,) = await collector.look(Tracing(endpoint=endpoint, ca_file=ca_file, timeout_s=timeout_s), offline=False)
    assert (found.check, found.about) == (Check.TRACES, "tracing.endpoint")
    assert bool(found.next_step) == (found.state is not State.OK)
    return found


async def test_a_collector_that_runs_gets_one_batch_without_a_span_and_its_login(tmp_path: Path) -> None:
    ward = Ward(tmp_path, Landscape(tmp_path / "land", project_id=PROJECT_ID))
    (tmp_path / "headers").write_text("Authorization: Bearer geheim\n")
    (tmp_path / "headers").chmod(0o644)
    with collecting() as running:
        ward.tables["tracing"] = {"endpoint": running.endpoint, "headers_file": "headers"}
        async with ward.open():
            found = await ward.examine()
            assert not found.wrong
            assert found.one(Check.TRACES).seen == f"the collector at 127.0.0.1:{running.port} takes spans"
            assert found.one(Check.PERMISSIONS, "tracing.headers_file").seen.startswith("everybody on this machine")
            ((sent,), (headers,)) = running.raw, running.headers
            assert (sent, headers["Authorization"]) == (b"", "Bearer geheim")
            assert not running.requests[0].resource_spans
            offline = (await ward.examine(offline=True)).one(Check.TRACES)
        assert (offline.state, len(running.raw)) == (State.NOT_CHECKED, 1)


async def test_without_tracing_there_is_nothing_to_tell() -> None:
    assert await collector.look(Tracing(), offline=False) == []


@pytest.mark.parametrize(
    ("status", "next_step"),
    [
        (401, "tracing.headers_file"),
        (403, "tracing.headers_file"),
        (404, "its path is /v1/traces"),
        (301, "redirects are not followed"),
        (415, "Its log says why"),
        (503, "Its log says why"),
    ],
)
async def test_what_a_collector_refuses_is_told_with_its_next_step(status: int, next_step: str) -> None:
    with collecting() as running:
        running.status, running.location = status, running.endpoint
        found = await ask(running.endpoint)
        assert len(running.raw) == 1
    assert (found.state, f"answers {status}: traces get lost" in found.seen) == (State.WARNING, True)
    assert next_step in found.next_step


async def test_nobody_who_listens_is_a_warning_that_names_the_port() -> None:
    found = await ask(f"http://127.0.0.1:{(port := free_port())}/v1/traces")
    assert found.state is State.WARNING
    assert found.seen == f"nobody listens at 127.0.0.1:{port}: traces get lost, notifications do not"
    assert "port 4318, not 4317 of gRPC" in found.next_step


async def test_a_collector_that_says_nothing_is_given_up() -> None:
    with collecting() as running:
        running.open.clear()
        found = await ask(running.endpoint, timeout_s=0.3)
    assert (found.state, found.seen.startswith("no answer from ")) == (State.WARNING, True)


async def test_a_name_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "no")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    found = await ask("http://collector.example.org:4318/v1/traces")
    assert found.seen.startswith("there is no host collector.example.org:4318")


@asynccontextmanager
async def answering(answer: bytes, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of somebody who says this to whoever asks, and closes."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(say, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]


TAKEN = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 2\r\n\r\nhi"


@pytest.mark.parametrize(
    ("answer", "state", "seen"),
    [
        (TAKEN, State.OK, "takes spans"),
        (PAGE, State.WARNING, "answers with a page for people"),
        (b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00", State.WARNING, "without an answer"),
    ],
    ids=["collector", "web server", "gRPC"],
)
async def test_who_answers_is_told_apart(answer: bytes, state: State, seen: str) -> None:
    async with answering(answer) as port:
        found = await ask(f"http://127.0.0.1:{port}/v1/traces")
    assert (found.state, seen in found.seen) == (state, True), found


@pytest.mark.parametrize(
    ("host", "trusted", "seen"),
    [
        ("localhost", True, "takes spans"),
        ("127.0.0.1", True, "is not trusted: IP address mismatch"),
        ("localhost", False, "is not trusted: "),
    ],
)
async def test_tls_of_a_collector_that_offers_http2_too(tmp_path: Path, host: str, trusted: bool, seen: str) -> None:
    authority = Authority("collectors")
    certificate, key = authority.issue("localhost").write(tmp_path, "collector")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    tls.set_alpn_protocols(["h2", "http/1.1"])
    async with answering(TAKEN, tls=tls) as port:
        found = await ask(f"https://{host}:{port}/v1/traces", ca_file=tmp_path / "ca.pem" if trusted else None)
    assert seen in found.seen
    assert found.state is (State.OK if seen == "takes spans" else State.WARNING)


async def test_tls_where_there_is_none() -> None:
    with collecting() as running:
        found = await ask(running.endpoint.replace("http://", "https://"))
    assert (found.state, found.seen.startswith("no TLS with ")) == (State.WARNING, True), found
    assert "write http://" in found.next_step
