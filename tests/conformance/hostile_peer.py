"""Servers that mean harm, in the place of a provider, a token endpoint or a proxy: they follow a script of raw bytes.

They count what they get rid of, and keep what they were told.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from hpack.hpack import Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 0x1, 0x4
MOST_BYTES = 100_000_000
"""What a flood holds. Nobody may take all of it."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def fields(*pairs: tuple[str, str]) -> bytes:
    """A header block without a dynamic table."""
    encoder = Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(list(pairs)))


def answer(stream: int, status: int, *more: tuple[str, str], body: bytes = b"") -> bytes:
    """A whole answer."""
    head = frame(HEADERS, END_HEADERS | (0 if body else END_STREAM), stream, fields((":status", str(status)), *more))
    return head + (frame(DATA, END_STREAM, stream, body) if body else b"")


Script = Callable[[int], Iterator[bytes]]
"""What is written once the request on this stream is there, piece by piece."""


class Hostile:
    """What happened at the server: connections, application bytes that came in, bytes that went out."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.received = b""
        self.sent_bytes = 0
        self.is_left = False
        """Whether a connection was ended by the other side."""

    @property
    def origin(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@asynccontextmanager
async def hostile(tls: ssl.SSLContext | None, script: Script) -> AsyncIterator[Hostile]:
    """Listen; greet each connection as HTTP/2 does, wait for the end of a request, and follow the script."""
    peer = Hostile()
    if tls is not None:
        tls.set_alpn_protocols(["h2"])

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.connections += 1
        reading: asyncio.Task[None] | None = None
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError):
            writer.write(frame(SETTINGS, 0, 0))
            peer.received += await reader.readexactly(len(PREFACE))
            stream = await _request(reader, peer)
            reading = asyncio.create_task(_read(reader, peer))
            for piece in script(stream):
                if reading.done():
                    break
                writer.write(piece)
                peer.sent_bytes += len(piece)
                async with asyncio.timeout(20):
                    await writer.drain()
                await asyncio.sleep(0)
            async with asyncio.timeout(20):
                await reading  # until the other side has closed
        peer.is_left |= reading is not None and reading.done()
        if reading is not None:
            reading.cancel()

    async with serving(meet, tls) as peer.port:
        yield peer


@asynccontextmanager
async def serving(
    meet: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]], tls: ssl.SSLContext | None
) -> AsyncIterator[int]:
    """Do this to each connection. Gives the port; ends with all of them ended."""
    tasks: set[asyncio.Task[None]] = set()

    async def until_gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await meet(reader, writer)
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(until_gone(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports end a little later


@asynccontextmanager
async def hostile_http1(tls: ssl.SSLContext | None, flood: Callable[[], Iterator[bytes]]) -> AsyncIterator[Hostile]:
    """The same for HTTP/1.1, of a token endpoint or (without TLS) of a proxy: the flood follows a request."""
    peer = Hostile()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError):
            peer.received += await reader.readuntil(b"\r\n\r\n")
            reading = asyncio.create_task(_read(reader, peer))
            for piece in flood():
                if reading.done():
                    break
                writer.write(piece)
                peer.sent_bytes += len(piece)
                async with asyncio.timeout(20):
                    await writer.drain()
                await asyncio.sleep(0.001)  # `drain` alone does not see that the peer has gone
            reading.cancel()

    async with serving(meet, tls) as peer.port:
        yield peer


@asynccontextmanager
async def tunnel() -> AsyncIterator[Hostile]:
    """An honest proxy that opens tunnels on this machine. `received` is what it was asked, not what went through."""
    peer = Hostile()

    async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65_536):
                sink.write(data)
            sink.write_eof()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            asked = await reader.readuntil(b"\r\n\r\n")
            peer.received += asked
            host, _, port = asked.split()[1].decode().rpartition(":")
            there, back = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            try:
                await asyncio.gather(pipe(reader, back), pipe(there, writer))
            finally:
                back.transport.abort()

    async with serving(meet, None) as peer.port:
        yield peer


async def _request(reader: asyncio.StreamReader, peer: Hostile) -> int:
    """The stream of the first request, once all of it is there."""
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        peer.received += head + payload
        if head[3] in (DATA, HEADERS) and head[4] & END_STREAM:
            return int.from_bytes(head[5:], "big")


async def _read(reader: asyncio.StreamReader, peer: Hostile) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65_536):
            peer.received += data


def repeated(piece: bytes, *, first: bytes = b"", at_once: int = 65_536) -> Script:
    """First something, then one piece again and again. `%s` of a frame's stream is filled in by `on`."""

    def script(stream: int) -> Iterator[bytes]:
        yield on(first, stream)
        many = on(piece, stream) * max(1, at_once // len(piece))
        for _ in range(MOST_BYTES // len(many)):
            yield many

    return script


def on(pieces: bytes | Sequence[bytes], stream: int) -> bytes:
    """Frames with the stream in place of the one that nobody has."""
    joined = pieces if isinstance(pieces, bytes) else b"".join(pieces)
    return joined.replace(THIS, stream.to_bytes(4, "big"))


THIS = b"\x7f\xff\xff\xfd"
THIS_STREAM = int.from_bytes(THIS, "big")
