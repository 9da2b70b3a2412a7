"""What one request costs in CPU: our HTTP/2 connection beside other clients, against nghttpd over TLS.

    python bench/http2_clients.py [--rounds 3] [--seconds 3] [--streams 100] [--body 1900] [--only ours,h2load]

Every client sends POSTs with the same head and body over one connection to the same server, for about the same time,
pinned to one core where there are two (the server has the other). The clients take turns; the best round of each
counts. Needs nghttpd; h2load and the other clients are measured where they are installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any, NamedTuple, cast

import trustme

from pushgate.http2 import Connection, Pool, Target, encode_headers

WARM_UP = 200
HEADERS = [
    ("authorization", "bearer " + "x" * 180),
    ("apns-push-type", "alert"),
    ("apns-topic", "de.example.app"),
    ("apns-priority", "10"),
    ("apns-id", "123e4567-e89b-12d3-a456-426655440000"),
]


class Job(NamedTuple):
    """What a client is to do."""

    port: int
    ca_file: str
    seconds: float
    streams: int
    body: bytes

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/ok"

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        context.set_alpn_protocols(["h2"])
        return context


class Cost(NamedTuple):
    """What it cost."""

    requests: int
    seconds: float
    cpu_s: float

    @property
    def cpu_us(self) -> float:
        return self.cpu_s / self.requests * 1e6

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


async def drive(job: Job, send: Callable[[], Awaitable[int]]) -> Cost:
    """Keep `job.streams` requests in flight until the time is up. Every answer must be 200."""

    async def work(is_over: Callable[[], bool]) -> int:
        sent = 0
        while not is_over():
            if (status := await send()) != 200:
                raise SystemExit(f"answer {status}")
            sent += 1
        return sent

    for _ in range(WARM_UP // job.streams + 1):
        await asyncio.gather(*(send() for _ in range(job.streams)))
    began, before = time.perf_counter(), getrusage(RUSAGE_SELF)
    until = began + job.seconds
    total = sum(await asyncio.gather(*(work(lambda: time.perf_counter() >= until) for _ in range(job.streams))))
    after, seconds = getrusage(RUSAGE_SELF), time.perf_counter() - began
    return Cost(total, seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


# The clients


async def ours(job: Job, way: Connection | Pool) -> Cost:
    """Head encoded per request as a provider does it: a constant part, and path and id anew."""
    authority = f"127.0.0.1:{job.port}"
    begin = encode_headers([(":method", "POST"), (":scheme", "https"), (":authority", authority)])
    rest = encode_headers(HEADERS[:-1], never_indexed={"authorization"})

    async def send() -> int:
        head = begin + encode_headers([(":path", "/ok")]) + rest + encode_headers(HEADERS[-1:])
        return (await way.request(head, job.body, timeout_s=30)).status

    cost = await drive(job, send)
    await way.close(1)
    return cost


async def our_connection(job: Job) -> Cost:
    return await ours(job, await Connection.open(Target("127.0.0.1", job.port, job.tls())))


async def our_pool(job: Job) -> Cost:
    return await ours(job, Pool(Target("127.0.0.1", job.port, job.tls()), max_connections=1))


class Bare(asyncio.Protocol):
    """The h2 library, or jh2 of the same interface, with the least around it: no timeouts, no limits, joined writes."""

    def __init__(self, library: str) -> None:
        config = importlib.import_module(f"{library}.config").H2Configuration(header_encoding=None)
        self.events = importlib.import_module(f"{library}.events")
        self.h2 = importlib.import_module(f"{library}.connection").H2Connection(config)
        self.answers: dict[int, asyncio.Future[int]] = {}
        self.statuses: dict[int, int] = {}
        self.transport: asyncio.Transport | None = None
        self.is_due = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, self.events.ResponseReceived):
                self.statuses[event.stream_id] = int(dict(event.headers)[b":status"])
            elif isinstance(event, self.events.StreamEnded):
                self.answers.pop(event.stream_id).set_result(self.statuses.pop(event.stream_id))
        self.flush()

    def flush(self) -> None:
        self.is_due = False
        if self.transport is not None and (data := self.h2.data_to_send()):
            self.transport.write(data)

    async def send(self, headers: list[tuple[str, str]], body: bytes) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, headers)
        self.h2.send_data(stream_id, body, end_stream=True)
        loop = asyncio.get_running_loop()
        if not self.is_due:
            self.is_due = True
            loop.call_soon(self.flush)
        answer: asyncio.Future[int] = loop.create_future()
        self.answers[stream_id] = answer
        return await answer


async def bare(job: Job, library: str) -> Cost:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(lambda: Bare(library), "127.0.0.1", job.port, ssl=job.tls())
    pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", f"127.0.0.1:{job.port}"), (":path", "/ok")]
    while protocol.h2.outbound_flow_control_window < 1_000_000:  # noqa: ASYNC110 - h2 has nothing to wait for
        await asyncio.sleep(0.01)
    cost = await drive(job, lambda: protocol.send(pseudo + HEADERS, job.body))
    transport.close()
    return cost


async def httpx(job: Job) -> Cost:
    import httpx

    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
    async with httpx.AsyncClient(http2=True, http1=False, verify=job.tls(), limits=limits, timeout=60) as client:

        async def send() -> int:
            return int((await client.post(job.url, content=job.body, headers=HEADERS)).status_code)

        return await drive(job, send)


async def pyreqwest(job: Job) -> Cost:
    client_module = importlib.import_module("pyreqwest.client")
    builder = client_module.ClientBuilder().http2_prior_knowledge().max_connections(None)
    with open(job.ca_file, "rb") as file:  # noqa: ASYNC230, PTH123 - before anything runs
        builder = builder.add_root_certificate_pem(file.read())
    async with builder.build() as client:

        async def send() -> int:
            response = await client.post(job.url).headers(dict(HEADERS)).body_bytes(job.body).build().send()
            await response.bytes()
            return int(response.status)

        return await drive(job, send)


class Client(NamedTuple):
    """A client that can be measured: in Python by `run`, and what must be installed for it."""

    title: str
    run: Callable[[Job], Awaitable[Cost]] | None
    package: str


CLIENTS = {
    "h2load": Client("h2load (nghttp2, C)", None, ""),
    "ours": Client("pushgate Connection", our_connection, "pushgate"),
    "pool": Client("pushgate Pool", our_pool, "pushgate"),
    "h2": Client("h2, bare", lambda job: bare(job, "h2"), "h2"),
    "jh2": Client("jh2, bare", lambda job: bare(job, "jh2"), "jh2"),
    "httpx": Client("httpx, http2=True", httpx, "httpx"),
    "pyreqwest": Client("pyreqwest (Rust)", pyreqwest, "pyreqwest"),
}


def in_child(name: str, job: Job, loop: str) -> None:
    """Measure a Python client in this process and print what it cost."""
    import uvloop

    run = CLIENTS[name].run
    assert run is not None

    async def main() -> Cost:
        return await run(job)

    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        print(json.dumps(runner.run(main())))


# Around them


def pinned(core: int, command: list[str]) -> list[str]:
    taskset = shutil.which("taskset")
    return [taskset, "-c", str(core), *command] if taskset and (os.cpu_count() or 1) > 1 else command


def measure(name: str, loop: str, job: Job, body_file: Path) -> Cost:
    if name == "h2load":
        tool = shutil.which("h2load")
        assert tool is not None
        headers = [f"-H{key}: {value}" for key, value in HEADERS]
        options = ["-c1", f"-m{job.streams}", f"-d{body_file}", *headers, f"-D{max(1, round(job.seconds))}"]
        before = os.times()
        run = subprocess.run(
            pinned(0, [tool, *options, job.url]), check=True, capture_output=True, text=True, timeout=120
        )
        after = os.times()
        cpu_s = after.children_user - before.children_user + after.children_system - before.children_system
        done = re.search(r"(\d+) 2xx", run.stdout)
        assert done is not None, run.stdout
        return Cost(int(done[1]), max(1, round(job.seconds)), cpu_s)
    command = [sys.executable, __file__, "--child", name, "--loop", loop, "--port", str(job.port)]
    command += ["--ca-file", job.ca_file, "--seconds", str(job.seconds), "--streams", str(job.streams)]
    command += ["--body", str(len(job.body))]
    answer = subprocess.run(pinned(0, command), check=True, capture_output=True, text=True, timeout=120)
    return Cost(*json.loads(answer.stdout))


@contextlib.contextmanager
def nghttpd(folder: Path, streams: int) -> Iterator[int]:
    """The server on a free port, with windows wide enough that no client waits for them."""
    binary = shutil.which("nghttpd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        raise SystemExit("nghttpd is not installed")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    (folder / "ok").write_bytes(b"")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    options = ["-a127.0.0.1", f"-d{folder}", "-w24", "-W24", f"-m{streams}"]
    pem = str(folder / "server.pem")
    command = pinned(1, [binary, *options, str(port), pem, pem])
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.05)
            yield port
        finally:
            server.terminate()


def versions() -> str:
    names = ["uvloop", "h2", "hpack", "httpx", "jh2", "pyreqwest"]
    found = [f"Python {platform.python_version()}", ssl.OPENSSL_VERSION.rsplit(" ", 3)[0]]
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    if tool := shutil.which("h2load"):
        found.append(subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout.strip())
    return ", ".join(found)


def table(best: dict[tuple[str, str], Cost]) -> str:
    """A Markdown table, the ratio to h2load last."""
    base = best.get(("h2load", ""))
    lines = ["| Client | Loop | CPU per request | Requests/s | Ratio to h2load |", "|---|---|---:|---:|---:|"]
    for (name, loop), cost in best.items():
        ratio = f"{cost.cpu_us / base.cpu_us:.1f}" if base else "–"
        lines.append(f"| {CLIENTS[name].title} | {loop} | {cost.cpu_us:,.1f} µs | {cost.rate:,.0f} | {ratio} |")
    return "\n".join(lines)


def is_there(name: str) -> bool:
    if name == "h2load":
        return shutil.which("h2load") is not None
    try:
        importlib.metadata.version(CLIENTS[name].package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def arguments() -> Any:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each client and round")
    parser.add_argument("--streams", type=int, default=100, help="requests in flight")
    parser.add_argument("--body", type=int, default=1900, help="bytes in a request")
    parser.add_argument("--only", default=",".join(CLIENTS), help="names, with commas between them")
    parser.add_argument("--loops", default="uvloop,asyncio", help="for our connection; the others run on uvloop")
    for hidden in ("--child", "--loop", "--ca-file"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure what is asked for and print the table."""
    options = arguments()
    if options.child:
        job = Job(options.port, options.ca_file, options.seconds, options.streams, b"b" * options.body)
        in_child(options.child, job, options.loop)
        return
    ways: list[tuple[str, str]] = []
    for name in options.only.split(","):
        if is_there(name):
            loops = options.loops.split(",") if CLIENTS[name].package == "pushgate" else ["uvloop"]
            ways += [(name, "")] if name == "h2load" else [(name, loop) for loop in loops]
    best: dict[tuple[str, str], Cost] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body_file = folder / "body"
        body_file.write_bytes(b"b" * options.body)
        with nghttpd(folder, options.streams) as port:
            job = Job(port, str(folder / "ca.pem"), options.seconds, options.streams, b"b" * options.body)
            for _ in range(options.rounds):
                for way in ways:
                    try:
                        cost = measure(*way, job, body_file)
                    except subprocess.CalledProcessError as error:
                        print(f"{' '.join(way)}: {(error.stderr or '').strip()[-500:]}", file=sys.stderr)
                        continue
                    if way not in best or cost.cpu_us < best[way].cpu_us:
                        best[way] = cost
    print(table(best))
    print(f"\n{options.streams} streams, bodies of {options.body} bytes, {os.cpu_count()} cores. {versions()}.")


if __name__ == "__main__":
    main()
