"""The management port as a socket: nobody who has shown no token keeps others off it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from pushgate.console import Collect, Console
from pushgate.listener import Listener
from pushgate.metrics import Metrics
from pushgate.metrics.families import Family

TOKEN = b"0123456789abcdef0123"
MOST = 20


async def nothing() -> Sequence[Family]:
    return []


@pytest.fixture(params=[b"", TOKEN], ids=["without a token", "with a token"])
async def port(request: pytest.FixtureRequest) -> AsyncIterator[int]:
    console = Console(unready=lambda: None, collect=nothing, address="127.0.0.1:0", token=request.param)
    listener = Listener(console, address="127.0.0.1:0", most=MOST)
    serving = asyncio.create_task(listener.serve())
    yield listener.port
    listener.stop()
    await serving


async def ask(port: int, path: str, *more: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = (f"GET {path} HTTP/1.1", f"host: 127.0.0.1:{port}", *more, "", "")
    writer.write("\r\n".join(lines).encode())
    return reader, writer


async def status(reader: asyncio.StreamReader) -> int:
    """0 where there is no answer."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        return int((await reader.readuntil(b"\r\n")).split()[1])
    return 0


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/health/live", ()),
        ("/health/live", ("connection: keep-alive",)),
        ("/health/ready", ("content-length: 100000",)),
        ("/nowhere", ()),
        ("/metrics", ("host: rebound.example.org",)),
    ],
)
async def test_who_asks_without_a_token_and_stays_keeps_nobody_off(port: int, path: str, more: tuple[str, ...]) -> None:
    stay = []
    try:
        for _ in range(3 * MOST):
            reader, writer = await ask(port, path, *more)
            stay.append(writer)
            assert await status(reader) in (200, 400, 401, 404)
        for _ in range(MOST):
            reader, writer = await ask(port, "/health/live")
            stay.append(writer)
            assert await status(reader) == 200
            assert (await reader.read()).endswith(b'{"status":"ok"}'), "and then the connection ends"
    finally:
        for writer in stay:
            writer.close()


async def test_who_shows_the_token_keeps_its_connection() -> None:
    console = Console(unready=lambda: None, collect=nothing, address="127.0.0.1:0", token=TOKEN)
    listener = Listener(console, address="127.0.0.1:0", most=MOST)
    serving = asyncio.create_task(listener.serve())
    shown = f"GET /metrics HTTP/1.1\r\nhost: gateway.example.org\r\nauthorization: Bearer {TOKEN.decode()}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    for _ in range(3):
        writer.write(shown.encode())
        assert await status(reader) == 200
        await reader.readuntil(b"\r\n\r\n")
    writer.close()
    listener.stop()
    await serving


# --- who holds a place between two requests


@asynccontextmanager
async def open_port(most: int = MOST, collect: Collect = nothing) -> AsyncIterator[int]:
    """A port without a token, with so many places, as a gateway opens it."""
    console = Console(unready=lambda: None, collect=collect, address="127.0.0.1:0")
    listener = Listener(console, address="127.0.0.1:0", most=most, idle_make_way=True)
    serving = asyncio.create_task(listener.serve())
    yield listener.port
    listener.stop()
    await serving


async def kept(port: int, stack: AsyncExitStack, path: str = "/metrics") -> asyncio.StreamReader:
    """A connection that has had an answer, or the beginning of one, and stays."""
    reader, writer = await ask(port, path)
    stack.callback(writer.close)
    assert await status(reader) == 200
    await reader.readuntil(b"\r\n\r\n")
    return reader


async def test_a_supervisor_gets_its_answer_though_all_places_are_held_by_idle_connections() -> None:
    async with open_port(100) as port, AsyncExitStack() as stack:
        held = [await kept(port, stack) for _ in range(100)]
        for _ in range(5):
            reader, writer = await ask(port, "/health/live")
            stack.callback(writer.close)
            assert await status(reader) == 200
            assert (await reader.read()).endswith(b'{"status":"ok"}')
        gone = [reader.at_eof() for reader in held]
        assert gone[0]
        assert sum(gone) <= 5, "one for each that came, at most"


async def test_who_watches_is_not_ended_for_others() -> None:
    async with open_port(6) as port, AsyncExitStack() as stack:
        watching = [await kept(port, stack, "/status/events") for _ in range(5)]
        idle = [await kept(port, stack) for _ in range(4)]
        async with asyncio.timeout(5):
            assert [await reader.read() for reader in idle[:3]] == [b""] * 3
        assert not any(reader.at_eof() for reader in (*watching, idle[3]))


# --- whose the target is, and what is no target


@pytest.mark.parametrize(
    ("target", "host", "expected"),
    [
        ("/metrics", "127.0.0.1", 200),
        ("/metrics", "rebound.example.org", 403),
        ("http://rebound.example.org/metrics", "127.0.0.1", 403),
        ("HTTP://rebound.example.org:8081/metrics", "127.0.0.1", 403),
        ("https://rebound.example.org/metrics", "localhost", 403),
        ("http://127.0.0.1:8081/metrics", "rebound.example.org", 200),
        ("http://localhost/metrics?x", "rebound.example.org", 200),
        ("http://[::1]:80/metrics", "rebound.example.org", 200),
        ("http://127.0.0.1@rebound.example.org/metrics", "127.0.0.1", 400),
        ("http://rebound.example.org@127.0.0.1/metrics", "127.0.0.1", 400),
        ("ws://127.0.0.1/metrics", "127.0.0.1", 400),
        ("http://localhost", "localhost", 200),
        ("http://localhost?still", "localhost", 200),
        ("http://rebound.example.org?still", "localhost", 403),
        ("http://rebound.example.org/status.json", "localhost", 403),
        ("http://rebound.example.org/status/events", "localhost", 403),
    ],
)
async def test_the_authority_in_a_target_counts_and_no_host_beside_it(target: str, host: str, expected: int) -> None:
    """RFC 9112 §3.2.2: the server ignores the `Host` that came with it."""
    async with open_port() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert await status(reader) == expected
        writer.close()


@pytest.mark.parametrize("target", ["gateway.example.org:443", "127.0.0.1:8081", "/metrics", "[::1]:80", "*"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_connect_is_answered_405_and_makes_no_line_of_the_log(
    target: str, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_port() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        caplog.set_level(logging.DEBUG)
        caplog.clear()
        writer.write(f"CONNECT {target} HTTP/{version}\r\nHost: 127.0.0.1\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert caplog.records == []
        lines = head.decode().split("\r\n")
        assert lines[0] == "HTTP/1.1 405 Method Not Allowed"
        assert {"connection: close", "allow: GET, HEAD, POST", "content-type: application/json"} <= {*lines}
        assert "GET, HEAD, POST" in json.loads(body)["error"]


async def test_connect_behind_another_request_takes_nothing_from_that() -> None:
    async with open_port() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        one = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        writer.write(one + one.replace(b"GET /metrics", b"CONNECT a:1") + one)
        answers = await reader.read()
        writer.close()
        assert answers.count(b"HTTP/1.1 ") == answers.count(b"HTTP/1.1 200 OK") == 1
        assert b"\r\nconnection: close\r\n" in answers


# --- pages that leave in parts


@pytest.mark.parametrize(("version", "leaves_in_chunks"), [("1.0", False), ("1.1", True)])
async def test_metrics_of_many_lanes_reach_who_knows_no_chunks(version: str, leaves_in_chunks: bool) -> None:
    """RFC 9112 §6.1: no transfer coding towards HTTP/1.0."""
    metrics = Metrics([f"org.example.{number}" for number in range(300)])

    async def collect() -> Sequence[Family]:
        return metrics.families()

    async with open_port(collect=collect) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /metrics HTTP/{version}\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert (b"transfer-encoding: chunked" in head.lower()) == leaves_in_chunks
    if not leaves_in_chunks:
        assert body == metrics.text()
        assert b"content-length: %d" % len(body) in head.lower()
