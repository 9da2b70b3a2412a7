"""The port of an emulator: TLS, ALPN (h2 and http/1.1 on the same port), and every open connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from pushgate.emulator.exchange import Peer, Session
from pushgate.emulator.http1_server import Http1Connection
from pushgate.emulator.http2_server import Http2Connection

HANDSHAKE_S = 10.0
SHUTDOWN_S = 1.0


class Listener:
    """Accepts connections and gives each its session."""

    def __init__(
        self, *, tls: ssl.SSLContext, open_session: Callable[[Peer], Session], count: Callable[[str], None]
    ) -> None:
        self._tls = tls
        self._open_session = open_session
        self._count = count
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 lets the system choose. Sets the ALPN protocols of the TLS context."""
        self._tls.set_alpn_protocols(["h2", "http/1.1"])
        self._server = await asyncio.start_server(
            self._accept,
            host,
            port,
            ssl=self._tls,
            ssl_handshake_timeout=HANDSHAKE_S,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )

    @property
    def port(self) -> int:
        """The port that is listened on. Raises RuntimeError before `start`."""
        if self._server is None:
            raise RuntimeError("the emulator is not started")
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count("connections")
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._talk(reader, writer)
        except OSError:
            self._count("broken_connections")
        finally:
            await _end(writer)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        http2 = tls.selected_alpn_protocol() == "h2"
        session = self._open_session(Peer(http2=http2, certificate_der=tls.getpeercert(binary_form=True) or b""))
        if self._server is None or len(self._connections) > session.rules.max_connections:
            self._count("connections_refused")
        elif http2:
            await Http2Connection(writer, session=session, count=self._count).serve(reader)
        else:
            await Http1Connection(writer, session=session, count=self._count).serve(reader)


async def _end(writer: asyncio.StreamWriter) -> None:
    """Close a connection; a peer that does not read cannot hold it."""
    writer.close()
    try:
        async with asyncio.timeout(SHUTDOWN_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()
