"""A gateway as operators run it: `pushgate serve` with the default configuration, alone on its core."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from bench import machine
from bench.load import Kind, Requests, Wish
from bench.sink import Sink
from pushgate.commands.load import Line, Peer
from pushgate.emulator import FcmEmulator, Landscape

PROJECT_ID = "example-project"
STARTS_WITHIN_S = 60
QUIET_S = 0.6
"""Without work for so long the spool has emptied its log too."""
QUIET_SHARE = 0.02
"""Of a core: what a gateway uses that has nothing to do."""

CONFIG = """\
[api]
listen = "127.0.0.1:0"
[management]
listen = "127.0.0.1:0"
[spool]
url = "sqlite:spool.db"
"""
APNS = """\
[apps."{app}"]
provider = "apns"
bundle_id = "org.example.health"
key_file = "{key}"
key_id = "{key_id}"
team_id = "{team_id}"
endpoint = "https://localhost:{port}"
ca_file = "ca.pem"
"""
FCM = """\
[apps."{app}"]
provider = "fcm"
project_id = "{project}"
credentials_file = "service-account.json"
endpoint = "https://localhost:{port}"
ca_file = "ca.pem"
"""


def write_config(land: Landscape, apps: Mapping[str, tuple[Kind, Sink]]) -> Path:
    """A configuration with these apps: what provider each has, and which sink stands for it."""
    tables = [
        (FCM if kind is Kind.FCM else APNS).format(
            app=app,
            port=sink.port,
            key=land.apns_key_file.name,
            key_id=land.apns_key_id,
            team_id=land.apns_team_id,
            project=PROJECT_ID,
        )
        for app, (kind, sink) in apps.items()
    ]
    path = land.folder / "pushgate.toml"
    path.write_text(CONFIG + "".join(tables))
    return path


@asynccontextmanager
async def token_endpoint(land: Landscape) -> AsyncIterator[None]:
    """Gives access tokens for FCM: the sink speaks HTTP/2 only, and Google's library does not."""
    emulator = FcmEmulator(
        tls=land.server_tls(),
        project_id=PROJECT_ID,
        service_account_email=land.service_account_email,
        public_key=land.service_account_public_key,
    )
    await emulator.start()
    try:
        land.write_service_account(token_url=emulator.token_url)
        yield
    finally:
        await emulator.close()


class _Serving(Struct, frozen=True):
    port: int
    management_port: int


class Gateway:
    """One that runs."""

    def __init__(self, process: Process, serving: _Serving, log: Path) -> None:
        self._management = f"http://127.0.0.1:{serving.management_port}"
        self._process = process
        self._log = log
        self.peer = Peer("127.0.0.1", serving.port)
        self.pid = process.pid

    def cpu_s(self) -> float:
        """CPU seconds so far, user and system."""
        return machine.cpu_s(self.pid)

    def memory_mb(self, name: str = "VmRSS") -> float:
        """`VmRSS` or `VmHWM` in MB."""
        return machine.memory_mb(self.pid, name)

    async def until_quiet(self, within_s: float = 20.0) -> None:
        """Wait until it does nothing any more: what is delivered is also written down and erased."""
        deadline, before = time.monotonic() + within_s, self.cpu_s()
        while time.monotonic() < deadline:
            await asyncio.sleep(QUIET_S)
            now = self.cpu_s()
            if now - before < QUIET_SHARE * QUIET_S:
                return
            before = now

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all lanes, of those samples that have these labels."""
        async with httpx.AsyncClient(base_url=self._management, trust_env=False, timeout=20) as http:
            page = (await http.get("/metrics")).text
        families = text_string_to_metric_families(page)
        samples = [each for family in families for each in family.samples if each.name == name]
        return sum(each.value for each in samples if labels.items() <= each.labels.items())

    async def accepted(self) -> int:
        """How many deliveries are settled because the provider took them: each counts once, however often it came."""
        return int(await self.metric("pushgate_deliveries_total", ending="accepted"))

    def faults(self, *, sick: str = "") -> Sequence[str]:
        """In words, if it has logged what is not good news, but for an app whose provider is meant to be sick."""
        told = [line for line in self._log.read_text().splitlines() if '"warning"' in line or '"error"' in line]
        told = [line for line in told if not sick or sick not in line]
        if not told:
            return []
        first = msgspec.json.decode(told[0], type=dict[str, object])
        details = (f"{name} {value}" for name, value in first.items() if name not in ("event", "level", "timestamp"))
        return [f"the gateway logged {len(told):,} faults, the first: {first['event']} ({', '.join(details)})"]


@asynccontextmanager
async def running(config: Path, *, core: int, keeps_spool: bool = False) -> AsyncIterator[Gateway]:
    """Start one with an empty spool, unless it is to be kept, and kill it in the end."""
    if not keeps_spool:
        for old in config.parent.glob("spool.db*"):
            old.unlink()
    log = config.parent / "gateway.log"
    command = machine.pinned(core, sys.executable, "-m", "pushgate", "serve", "--config", str(config))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PUSHGATE_")}
    with log.open("wb") as file:  # a pipe that nobody reads would stop it
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=DEVNULL, stderr=file, env=environ
        )
    try:
        yield Gateway(process, await _serving(process, log), log)
        if process.returncode is not None:
            raise SystemExit(f"the gateway ended by itself: {_end_of(log)}")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _serving(process: Process, log: Path) -> _Serving:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline and process.returncode is None:
        if (found := _serving_line(log)) is not None:
            return found
        await asyncio.sleep(0.005)
    raise SystemExit(f"the gateway does not start: {_end_of(log)}")


def _serving_line(log: Path) -> _Serving | None:
    for line in log.read_bytes().splitlines(keepends=True):
        if b'"serving"' in line and line.endswith(b"\n"):
            return msgspec.json.decode(line, type=_Serving)
    return None


def _end_of(log: Path) -> str:
    return log.read_text()[-2000:]


async def start_to_answer(config: Path, app: str, *, core: int, keeps_spool: bool = False) -> float:
    """Seconds from the start of the process to the first answer, which must be 200."""
    begin = time.perf_counter()
    async with running(config, core=core, keeps_spool=keeps_spool) as gateway:
        line = await Line.open(gateway.peer)
        answer = await line.ask(next(Requests(Wish([app])).take(1, until=math.inf)))
        took_s = time.perf_counter() - begin
        line.close()
        if answer.status != 200 or b'"success"' not in answer.body:
            raise SystemExit(f"the first answer was {answer.status}: {answer.body!r}")
    return took_s
