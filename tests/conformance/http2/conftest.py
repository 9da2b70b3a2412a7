"""Peers for the HTTP/2 connection over real TLS: a scripted one built on h2, and servers written by others."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
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
            for peer in self.peers:
                peer.hang_up()
            await asyncio.sleep(0.01)
        assert self.faults == []


@pytest.fixture
def scene(client_tls: ssl.SSLContext) -> Scene:
    """A script to change before it is listened to."""
    return Scene(client_tls)


# Servers written by others


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A running server process of another make."""

    def __init__(self, target: Target, process: subprocess.Popen[bytes]) -> None:
        self.target = target
        self.process = process

    def head(self, path: str = "/") -> bytes:
        return encode_headers(
            [(":method", "POST"), (":scheme", "https"), (":authority", self.target.authority), (":path", path)]
        )

    def signal(self, number: signal.Signals) -> None:
        """Only ever to the process that was started here."""
        self.process.send_signal(number)


@pytest.fixture(scope="session")
def pem_files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate chain and key for servers that read files."""
    folder = tmp_path_factory.mktemp("pem")
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(str(key))
    return chain, key


Launch = Callable[[str, Callable[[int, Path], Sequence[str]]], Server]


@pytest.fixture(scope="module")
def launch(client_tls: ssl.SSLContext, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Starts a server on a free port and waits until it accepts; ends all of them, and only them."""
    started: list[subprocess.Popen[bytes]] = []

    def go(binary: str, command: Callable[[int, Path], Sequence[str]]) -> Server:
        path = shutil.which(binary, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if path is None:
            assert not os.environ.get("CI"), f"{binary} must be installed where CI is set"
            pytest.skip(f"{binary} is not installed")
        folder, port = tmp_path_factory.mktemp(binary), free_port()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([path, *command(port, folder)], stdout=log, stderr=log, cwd=folder)
        started.append(process)
        until = time.monotonic() + 10
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return Server(Target("127.0.0.1", port, client_tls), process)
            time.sleep(0.02)
        raise AssertionError(f"{binary} did not start: {(folder / 'log').read_text(errors='replace')}")

    yield go
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


@pytest.fixture(scope="module")
def nghttpd(launch: Launch, pem_files: tuple[Path, Path]) -> Callable[..., Server]:
    """nghttp2's server; sends back what it gets, with trailers and padding where it is told so."""

    def go(*options: str) -> Server:
        chain, key = map(str, pem_files)
        return launch("nghttpd", lambda port, _: ["-a127.0.0.1", *options, str(port), key, chain])

    return go


NGINX = """
{user} daemon off; pid {folder}/pid; error_log {folder}/error.log warn; worker_processes 1;
events {{ worker_connections 512; }}
http {{
  access_log off; client_max_body_size 1m; client_body_buffer_size 256k;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{
    listen 127.0.0.1:{port} ssl http2; ssl_certificate {chain}; ssl_certificate_key {key};
    keepalive_requests {requests}; lingering_close always;
    location / {{ proxy_pass http://unix:{folder}/inner; }}
  }}
  server {{ listen unix:{folder}/inner; location / {{ return 200 "$content_length"; }} }}
}}
"""


@pytest.fixture(scope="module")
def nginx(launch: Launch, pem_files: tuple[Path, Path]) -> Callable[..., Server]:
    """nginx; answers with the length of the body, and with GOAWAY after so many requests."""

    def go(requests: int = 100_000) -> Server:
        chain, key = pem_files

        def command(port: int, folder: Path) -> Sequence[str]:
            user = "user root root;" if os.geteuid() == 0 else ""
            text = NGINX.format(folder=folder, port=port, chain=chain, key=key, requests=requests, user=user)
            (folder / "nginx.conf").write_text(text)
            return ["-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "early.log")]

        return launch("nginx", command)

    return go


H2O = """
hosts:
  default:
    listen: {{ host: 127.0.0.1, port: {port}, ssl: {{ certificate-file: {chain}, key-file: {key} }} }}
    paths:
      "/":
        mruby.handler: |
          Proc.new {{|env| [200, {{}}, [(env["rack.input"] ? env["rack.input"].read.length : 0).to_s]] }}
http2-graceful-shutdown-timeout: 2
num-threads: 1
{user}
"""


@pytest.fixture(scope="module")
def h2o(launch: Launch, pem_files: tuple[Path, Path]) -> Callable[..., Server]:
    """h2o; answers with the length of the body."""

    def go() -> Server:
        chain, key = pem_files

        def command(port: int, folder: Path) -> Sequence[str]:
            user = "user: root" if os.geteuid() == 0 else ""
            (folder / "h2o.conf").write_text(H2O.format(port=port, chain=chain, key=key, user=user))
            return ["-m", "worker", "-c", str(folder / "h2o.conf")]

        return launch("h2o", command)

    return go


NODE = """
const http2 = require('http2'), fs = require('fs'), crypto = require('crypto');
const server = http2.createSecureServer({
  cert: fs.readFileSync(process.argv[2]), key: fs.readFileSync(process.argv[3]),
  settings: { maxConcurrentStreams: 32, initialWindowSize: 20000 },
});
const sessions = new Set();
server.on('session', (session) => { sessions.add(session); session.on('close', () => sessions.delete(session)); });
server.on('stream', (stream, headers) => {
  const hash = crypto.createHash('sha256');
  stream.on('error', () => {});
  stream.on('data', (chunk) => hash.update(chunk));
  stream.on('end', () => {
    if (stream.destroyed || stream.closed) return;
    stream.respond({ ':status': headers[':path'] === '/410' ? 410 : 200, 'apns-id': 'x' });
    setTimeout(() => stream.end(hash.digest('hex')), headers[':path'] === '/slow' ? 300 : 0);
  });
});
process.on('SIGUSR2', () => { for (const session of sessions) session.close(); });
server.listen(Number(process.argv[4]), '127.0.0.1');
"""


@pytest.fixture(scope="module")
def node(launch: Launch, pem_files: tuple[Path, Path]) -> Callable[..., Server]:
    """Node's http2; answers with the digest of the body. SIGUSR2 makes it close its sessions gracefully."""

    def go() -> Server:
        chain, key = map(str, pem_files)

        def command(port: int, folder: Path) -> Sequence[str]:
            (folder / "server.js").write_text(NODE)
            return [str(folder / "server.js"), chain, key, str(port)]

        return launch("node", command)

    return go
