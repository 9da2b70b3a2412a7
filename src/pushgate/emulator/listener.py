"""The port of an emulator: TLS, ALPN (h2 and http/1.1 on the same port), every open connection, and bad days."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from pushgate.emulator.breaking import break_off
from pushgate.emulator.exchange import Door, Peer, Session
from pushgate.emulator.http1_server import Http1Connection
from pushgate.emulator.http2_server import Http2Connection
from pushgate.emulator.nonsense import NO_FRAMES

HANDSHAKE_S = 10.0
SHUTDOWN_S = 1.0
FAREWELL_S = 0.1
"""The page that shuts the door is answered before it takes effect."""
ACCEPT_PAUSE_S = 1.0
READ_BYTES = 65_536
BACKLOG = 1024


class Listener:
    """Accepts connections and gives each its session.

    tls     what new connections are shown, its ALPN protocols are set here; may be replaced at any time
    """

    def __init__(
        self, *, tls: ssl.SSLContext, open_session: Callable[[Peer], Session], count: Callable[[str], None]
    ) -> None:
        self.tls = tls
        self._open_session = open_session
        self._count = count
        self._address: tuple[str, int] | None = None
        self._socket: socket.socket | None = None
        self._door = Door.OPEN
        self._timer: asyncio.TimerHandle | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._talking: set[Http2Connection] = set()

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 lets the system choose. Raises `OSError` when the port is taken."""
        self._address = (host, port)
        if self._door is not Door.CLOSED:
            self._listen()

    @property
    def port(self) -> int:
        """The port that is listened on, also while the door is closed. Raises RuntimeError before `start`."""
        if self._address is None:
            raise RuntimeError("the emulator is not started")
        return self._address[1]

    @property
    def door(self) -> Door:
        """What new connections find. Every value but OPEN breaks the living ones off; OPEN may raise `OSError`."""
        return self._door

    @door.setter
    def door(self, door: Door) -> None:
        self._forget_timer()
        self._door = door
        if door is Door.CLOSED:
            self._stop_listening()
        elif self._socket is None and self._address is not None:
            self._listen()
        if door is not Door.OPEN:
            self.break_off()

    def shut_for(self, door: Door, seconds: float) -> None:
        """Set the door in a moment, and after so many seconds let it be open again."""
        loop = asyncio.get_running_loop()

        def unlock() -> None:
            self.door = Door.OPEN

        def shut() -> None:
            self.door = door
            self._timer = loop.call_later(seconds, unlock)

        self._forget_timer()
        self._timer = loop.call_later(FAREWELL_S, shut)

    def break_off(self) -> None:
        """Break every connection, without a word."""
        for writer in list(self._writers):
            break_off(writer)
        for task in self._connections:
            task.cancel()

    def tell_rules(self) -> None:
        """The rules have changed: connections that should know are told."""
        for connection in list(self._talking):
            connection.tell_rules()

    async def close(self) -> None:
        """Stop listening and end every connection."""
        self._forget_timer()
        self._address = None
        self._stop_listening()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _listen(self) -> None:
        assert self._address is not None
        host, _ = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server(self._address, family=family, backlog=BACKLOG)
        self._socket.setblocking(False)
        self._address = (host, int(self._socket.getsockname()[1]))
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._accept)

    def _stop_listening(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            accepted, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # gone before it was accepted
        except OSError:
            self._count("accepts_failed")
            self._pause_accepting(self._socket)
            return
        self._count("connections")
        task = asyncio.get_running_loop().create_task(self._serve(accepted))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    def _pause_accepting(self, listening: socket.socket) -> None:
        """No more sockets: they are tried again in a while, not all the time."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening.fileno())

        def resume() -> None:
            if self._socket is listening:
                loop.add_reader(listening.fileno(), self._accept)

        loop.call_later(ACCEPT_PAUSE_S, resume)

    async def _serve(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        try:
            if self._door is Door.DEAF:
                await _stay_deaf(accepted)
            else:
                await self._serve_tls(accepted)
        except OSError:
            self._count("broken_connections")

    async def _serve_tls(self, accepted: socket.socket) -> None:
        reader, writer = await self._shake_hands(accepted)
        self._writers.add(writer)
        try:
            if self._door in (Door.MUTE, Door.GARBAGE):
                writer.write(NO_FRAMES if self._door is Door.GARBAGE else b"")
                while await reader.read(READ_BYTES):
                    pass
            else:
                await self._talk(reader, writer)
        finally:
            self._writers.discard(writer)
            await _end(writer)

    async def _shake_hands(self, accepted: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.tls.set_alpn_protocols(["h2", "http/1.1"])
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(  # uvloop gives another protocol back than it was given
            lambda: protocol,
            accepted,
            ssl=self.tls,
            ssl_handshake_timeout=HANDSHAKE_S,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        http2 = tls.selected_alpn_protocol() == "h2"
        session = self._open_session(Peer(http2=http2, certificate_der=tls.getpeercert(binary_form=True) or b""))
        if len(self._connections) > session.rules.max_connections:
            self._count("connections_refused")
        elif http2:
            connection = Http2Connection(writer, session=session, count=self._count)
            self._talking.add(connection)
            try:
                await connection.serve(reader)
            finally:
                self._talking.discard(connection)
        else:
            await Http1Connection(writer, session=session, count=self._count).serve(reader)


async def _stay_deaf(accepted: socket.socket) -> None:
    """Hold the connection until the peer gives up."""
    try:
        while await asyncio.get_running_loop().sock_recv(accepted, READ_BYTES):
            pass
    finally:
        accepted.close()


async def _end(writer: asyncio.StreamWriter) -> None:
    """Close a connection; a peer that does not read cannot hold it."""
    writer.close()
    try:
        async with asyncio.timeout(SHUTDOWN_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        pass
    finally:
        break_off(writer)
