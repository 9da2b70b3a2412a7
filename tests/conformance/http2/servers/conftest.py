"""Servers written by others, as processes on free ports: nghttpd, nginx, h2o, Node's http2."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import trustme

from pushgate.http2 import Target, encode_headers
from tests.ports import free_port


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
