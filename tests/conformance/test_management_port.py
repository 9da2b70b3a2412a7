"""The management port as a socket: nobody who has shown no token keeps others off it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import pytest

from pushgate.console import Console
from pushgate.listener import Listener
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
