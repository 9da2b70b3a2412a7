"""Callers that hold connections and do not behave: thousands that are silent, hundreds that are slow."""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Callable
from contextlib import suppress

from msgspec import Struct

from tests.processes import Run

OPENING_AT_ONCE = 100
FILES_FOR_OTHERS = 500
"""What the test process needs besides: emulators, callers, the log."""


class Slow(Struct, frozen=True):
    """How a connection misbehaves after its handshake."""

    name: str
    opening: bytes
    dripping: bytes
    """One byte of it a second."""
    half_closes: bool = False


_HEAD = b"POST /push/v1/notify HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
MANNERS = (
    Slow("silent after the handshake", b"", b""),
    Slow("slow head", b"POST /push/v1/notify HTTP/1.1\r\nhost: ", b"x" * 1000),
    Slow("slow body", _HEAD + b"content-length: 100000\r\n\r\n", b"{" * 1000),
    Slow("half a request and no more", _HEAD + b"content-length: 100000\r\n\r\n{", b""),
    Slow("half-closed in the body", _HEAD + b"content-length: 100000\r\n\r\n{", b"", half_closes=True),
)


def raise_file_limit(wanted: int) -> int:
    """How many connections this process may open, having asked for as many as `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted + FILES_FOR_OTHERS:
        for limit in ((wanted + FILES_FOR_OTHERS, max(hard, wanted + FILES_FOR_OTHERS)), (hard, hard)):
            with suppress(ValueError, PermissionError):
                resource.setrlimit(resource.RLIMIT_NOFILE, limit)
                break
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(wanted, soft - FILES_FOR_OTHERS)


class Crowd:
    """Many connections to a gateway's port, and how they ended."""

    def __init__(self, run: Run, clock: Callable[[], float]) -> None:
        self._run = run
        self._clock = clock
        self._tls = ssl.create_default_context(cafile=str(run.stage.ca_file))
        self._tls.load_cert_chain(run.stage.caller_cert_file, run.stage.caller_key_file)
        self._tasks: list[asyncio.Task[None]] = []
        self._opening = asyncio.Semaphore(OPENING_AT_ONCE)
        self.opened: dict[str, int] = {}
        self.closed: dict[str, int] = {}
        self.longest_s: dict[str, float] = {}
        """How long the last of them to be closed was open."""

    def gather(self, idle: int, each: int) -> None:
        """Begin to open: `idle` plain TCP connections that say nothing, and `each` of the other manners."""
        names = ["silent without a handshake"] * idle
        self._tasks = [asyncio.create_task(self._hold_silent(name)) for name in names]
        for manner in MANNERS:
            self._tasks += [asyncio.create_task(self._hold(manner)) for _ in range(each)]

    @property
    def standing(self) -> int:
        """How many are open now."""
        return sum(self.opened.values()) - sum(self.closed.values())

    async def until_opened(self) -> None:
        """Wait until each has been open once."""
        while sum(self.opened.values()) < len(self._tasks):
            await asyncio.sleep(0.05)

    async def until_closed(self) -> None:
        """Wait until the gateway has closed them all."""
        await asyncio.gather(*self._tasks)

    async def disperse(self) -> None:
        """Close what is left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _hold_silent(self, name: str) -> None:
        async with self._opening:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._run.port)
        await self._until_end(name, reader, writer)

    async def _hold(self, manner: Slow) -> None:
        async with self._opening:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self._run.port, ssl=self._tls, server_hostname="localhost", ssl_handshake_timeout=60
            )
        writer.write(manner.opening)
        if manner.half_closes:
            # TLS has no half-close that Python could send: the TCP connection below is shut for writing.
            await writer.drain()
            writer.get_extra_info("socket").shutdown(1)
        dripping = asyncio.create_task(_drip(writer, manner.dripping))
        try:
            await self._until_end(manner.name, reader, writer)
        finally:
            dripping.cancel()

    async def _until_end(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begin = self._clock()
        self.opened[name] = self.opened.get(name, 0) + 1
        try:
            with suppress(OSError):
                await reader.read()
            self.closed[name] = self.closed.get(name, 0) + 1
            self.longest_s[name] = max(self.longest_s.get(name, 0.0), self._clock() - begin)
        finally:
            writer.transport.abort()


async def _drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    with suppress(OSError):
        for position in range(len(data)):
            await asyncio.sleep(1)
            writer.write(data[position : position + 1])
            await writer.drain()
