"""What a new connection with mutual TLS costs: CPU time of the gateway for each, full and resumed, beside nginx.

    python bench/handshakes.py [--connections 300] [--rounds 3] [--core 0]

E-Rezept makes a new connection for each notification, so the handshake is most of what one costs. A gateway of one
process and an nginx (one worker, which answers by itself) are pinned to one core and asked over new connections by a
client on the others: one request on each, TLS 1.2 as E-Rezept speaks it (P-256, no RSA-PSS) and TLS 1.3. "full" shows a
certificate, "resumed" comes back with a ticket. What is counted is the CPU time of the servers, so the client's speed
does not matter. "kept" is a request on a connection that is there already, for comparison.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import trustme

CALLER = "erp.example.org"
BODY = b'{"notifications":[]}'
"""Answered 400: nothing of the spool is measured."""
REQUEST = (
    b"POST /push/v1/notifyEncrypted/batch HTTP/1.1\r\nHost: localhost:443\r\nUser-Agent: bench\r\n"
    b"X-Request-Id: 7\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
)
CLOSING = REQUEST % (b"Connection: close\r\n", len(BODY), BODY)
KEEPING = REQUEST % (b"", len(BODY), BODY)
E_REZEPT_CIPHERS = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
TICKS = os.sysconf("SC_CLK_TCK")
START_WITHIN_S = 15.0

GATEWAY = """\
[api]
listen = "127.0.0.1:{port}"
auth = "mtls"
[api.tls]
cert_file = "{kind}.pem"
key_file = "{kind}.key"
client_ca_file = "ca.pem"
[management]
listen = ""
[spool]
url = "memory:"
[log]
level = "error"
[[clients]]
name = "erp"
san = "{caller}"
"""

NGINX = """\
daemon off;
pid {folder}/nginx.pid;
error_log stderr emerg;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {folder}/{kind}.pem;
    ssl_certificate_key {folder}/{kind}.key;
    ssl_client_certificate {folder}/ca.pem;
    ssl_verify_client on;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_tickets on;
    location / {{ return 400 "{{}}"; }}
  }}
}}
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=300, help="for each figure")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts")
    parser.add_argument("--core", type=int, default=0, help="where the servers run")
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    if len(cores) > 1:
        os.sched_setaffinity(0, cores - {options.core})
    with tempfile.TemporaryDirectory(prefix="handshakes-") as name:
        folder = Path(name)
        authority = write_certificates(folder)
        print(f"{'server':<9}{'certificate':<13}{'TLS':<6}{'full':>12}{'resumed':>12}{'kept':>12}   CPU for each")
        for kind, server in product(("ecdsa", "rsa"), ("pushgate", "nginx")):
            with serving(server, folder, kind=kind, core=options.core) as (pid, port):
                for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                    client = Client(port, authority, folder, version)
                    measure = Measure(pid, options.connections, options.rounds)
                    costs = [measure.each(way) for way in (client.full, client.resumed, client.kept)]
                    row = "".join(f"{cost * 1e6:>9,.0f} µs" for cost in costs)
                    print(f"{server:<9}{kind:<13}{version.name[-3:].replace('_', '.'):<6}{row}", flush=True)


def write_certificates(folder: Path) -> trustme.CA:
    """An authority, a server's certificate of each kind, a caller's."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, host, kind in (
        ("ecdsa", "localhost", trustme.KeyType.ECDSA),
        ("rsa", "localhost", trustme.KeyType.RSA),
        ("caller", CALLER, trustme.KeyType.ECDSA),
    ):
        leaf = authority.issue_cert(host, key_type=kind)
        leaf.private_key_pem.write_to_path(folder / f"{name}.key")
        leaf.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    return authority


@contextmanager
def serving(server: str, folder: Path, *, kind: str, core: int) -> Iterator[tuple[int, int]]:
    """A server that runs, pinned to a core: its process id and port."""
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        port = int(probing.getsockname()[1])
    config = folder / f"{server}.conf"
    text = GATEWAY if server == "pushgate" else NGINX
    config.write_text(text.format(port=port, kind=kind, folder=folder, caller=CALLER))
    if server == "pushgate":
        command = [sys.executable, "-m", "pushgate", "serve", "--config", str(config)]
    else:
        command = [shutil.which("nginx") or "/usr/sbin/nginx", "-e", "stderr", "-p", str(folder), "-c", str(config)]
    process = subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    try:
        until_it_listens(port, process)
        yield process.pid, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    """Raises `RuntimeError` where it does not."""
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the server did not start")


class Measure:
    """CPU time of a process and its children for each of many doings."""

    def __init__(self, pid: int, count: int, rounds: int) -> None:
        self._pid, self._count, self._rounds = pid, count, rounds

    def each(self, way: Callable[[], None]) -> float:
        """Seconds of CPU, the median of the rounds."""
        way()
        found = []
        for _ in range(self._rounds):
            before = self._used_s()
            for _ in range(self._count):
                way()
            time.sleep(0.05)
            found.append((self._used_s() - before) / self._count)
        return statistics.median(found)

    def _used_s(self) -> float:
        """Of the process and of those that it has started, to the nanosecond."""
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
        total = 0.0
        for pid in (str(self._pid), *children):
            for task in Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0]) / 1e9
        return total


class Client:
    """Asks one server, each time in the same way."""

    def __init__(self, port: int, authority: trustme.CA, folder: Path, version: ssl.TLSVersion) -> None:
        self._port = port
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(self._tls)
        self._tls.minimum_version = self._tls.maximum_version = version
        self._tls.set_ciphers(E_REZEPT_CIPHERS)
        self._tls.load_cert_chain(folder / "caller.pem", folder / "caller.key")
        self._session: ssl.SSLSession | None = None
        self._connection: ssl.SSLSocket | None = None

    def full(self) -> None:
        """A connection with a handshake, and a request on it."""
        self._ask(None)

    def resumed(self) -> None:
        """A connection with a ticket, and a request on it."""
        if self._session is None:
            self._ask(None)
        self._ask(self._session)

    def kept(self) -> None:
        """A request on the connection of before."""
        if self._connection is None:
            self._connection = self._connect(None)
        self._connection.sendall(KEEPING)
        answer = b""
        while not answer.endswith(b"}"):
            answer += self._connection.recv(65536) or b"}"
        if not answer.startswith(b"HTTP/1.1 400"):
            raise RuntimeError("no answer")

    def _ask(self, session: ssl.SSLSession | None) -> None:
        with self._connect(session) as connection:
            connection.sendall(CLOSING)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
            if not answer.startswith(b"HTTP/1.1 400") or connection.session_reused != (session is not None):
                raise RuntimeError(f"not as asked: {answer[:60]!r}, resumed: {connection.session_reused}")
            self._session = connection.session

    def _connect(self, session: ssl.SSLSession | None) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._tls.wrap_socket(plain, server_hostname="localhost", session=session)


if __name__ == "__main__":
    main()
