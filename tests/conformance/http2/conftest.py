"""Peers for the HTTP/2 connection over real TLS: a scripted one built on h2, and servers written by others."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import pytest
import trustme
import uvloop

from pushgate.http2 import Target, encode_headers

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on each of the loops that the program may use."""

    def go(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(coroutine)

    return go


# Trust


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Who signs the servers' certificates."""
    return trustme.CA()


@pytest.fixture(scope="session")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    """Trusts that authority and offers h2."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2"])
    return context


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    """A server on the loopback."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    context.set_alpn_protocols(["h2"])
    return context


# The scripted peer


class Peer(asyncio.Protocol):
    """One accepted connection: h2 minds the rules, the scene says what to answer."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=scene.settings)
        self.bodies: dict[int, bytearray] = {}
        self.heads: dict[int, list[tuple[str, str]]] = {}
        self.waiting: dict[int, bytes] = {}
        self.resets: list[tuple[int, int]] = []
        self.goaways: list[int] = []
        self.pongs = 0
        self.most_open = 0
        self.is_lost = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.scene.peers.append(self)
        if self.scene.greeting is None:
            self.h2.initiate_connection()
        else:
            self.raw(self.scene.greeting)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True

    def data_received(self, data: bytes) -> None:
        if self.scene.is_deaf:
            return
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError as fault:
            self.scene.faults.append(repr(fault))
            self.flush()
            return
        for event in events:
            self.on_event(event)
        self.flush()

    def on_event(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=int(stream_id), headers=headers):
                self.bodies[stream_id] = bytearray()
                self.heads[stream_id] = [(str(name), str(value)) for name, value in headers or []]
                self.most_open = max(self.most_open, self.h2.open_inbound_streams)
                self.scene.on_head(self, stream_id)
            case h2.events.DataReceived(stream_id=int(stream_id), data=data, flow_controlled_length=int(length)):
                self.bodies[stream_id] += data or b""
                if length and self.scene.acknowledges:
                    self.h2.acknowledge_received_data(length, stream_id)
            case h2.events.StreamEnded(stream_id=int(stream_id)):
                self.scene.received.append(bytes(self.bodies[stream_id]))
                self.scene.on_request(self, stream_id, bytes(self.bodies[stream_id]))
            case h2.events.StreamReset(stream_id=int(stream_id), error_code=code):
                self.resets.append((stream_id, int(code or 0)))
            case h2.events.ConnectionTerminated(error_code=code):
                self.goaways.append(int(code or 0))
            case h2.events.PingAckReceived():
                self.pongs += 1

    def answer(self, stream_id: int, body: bytes = b"", status: int = 200) -> None:
        """A whole answer."""
        headers = [(":status", str(status)), ("apns-id", f"id-{stream_id}")]
        self.h2.send_headers(stream_id, headers, end_stream=not body)
        if body:
            self.h2.send_data(stream_id, body, end_stream=True)
        self.flush()

    def raw(self, data: bytes) -> None:
        """Bytes that h2 would never send."""
        self.flush()
        if self.transport is not None:
            self.transport.write(data)

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and self.transport is not None:
            self.transport.write(data)

    def hang_up(self) -> None:
        """End without a word."""
        if self.transport is not None:
            self.transport.abort()


def digest(peer: Peer, stream_id: int, body: bytes) -> None:
    """The usual answer: what arrived."""
    peer.answer(stream_id, hashlib.sha256(body).hexdigest().encode())


class Scene:
    """A listening peer and the script it follows."""

    def __init__(self, client_tls: ssl.SSLContext) -> None:
        self.settings: dict[h2.settings.SettingCodes, int] = {
            h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 100,
            h2.settings.SettingCodes.ENABLE_PUSH: 0,
        }
        self.greeting: bytes | None = None
        self.peers: list[Peer] = []
        self.received: list[bytes] = []
        self.faults: list[str] = []
        self.is_deaf = False
        self.acknowledges = True
        self.on_request: Callable[[Peer, int, bytes], None] = digest
        self.on_head: Callable[[Peer, int], None] = lambda peer, stream_id: None
        self.port = 0
        self._client_tls = client_tls

    @property
    def target(self) -> Target:
        return Target("127.0.0.1", self.port, self._client_tls)

    def head(self, path: str = "/3/device/x") -> bytes:
        """A header block for this peer."""
        return encode_headers(
            [(":method", "POST"), (":scheme", "https"), (":authority", self.target.authority), (":path", path)]
        ) + encode_headers([("authorization", "bearer x")], never_indexed={"authorization"})

    @contextlib.asynccontextmanager
    async def listen(self, tls: ssl.SSLContext) -> AsyncIterator[Scene]:
        """Accept connections; at the end, that nothing we sent broke a rule that h2 knows."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Peer(self), "127.0.0.1", self.port, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for _ in range(100):
                for peer in self.peers:
                    peer.hang_up()
                await asyncio.sleep(0.01)
                if all(peer.is_lost for peer in self.peers):
                    break
        assert self.faults == []


@pytest.fixture
def scene(client_tls: ssl.SSLContext) -> Scene:
    """A script to change before it is listened to."""
    return Scene(client_tls)
