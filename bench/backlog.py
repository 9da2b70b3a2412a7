"""What a backlog costs: start, memory, and how fast others go while it waits and while it drains.

    python -m bench.backlog [--rows 20000,100000,1000000] [--seconds 6] [--folder DIR]

For each size so many sealed notifications of 1.9 KB wait in one lane when the gateway starts. First its provider hangs,
then (a second start) it takes everything. Meanwhile callers send to another lane: one a request at a steady rate, and
batches of 100 as fast as they are answered. Both providers are as thin as can be and live in processes of their own.
CPU is that of the gateway alone, so a busy machine changes it little. Takes two minutes for a million.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import secrets
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench.thin_provider import MOST_ARRIVALS, Till, provide
from pushgate.emulator import Landscape
from tests.faults.backlog import Times, fill, grow

CROWD, FRESH = "org.example.crowd.apns", "org.example.fresh.apns"
RATE = 50
"""Single notifications a second."""
CALLERS = 8
BATCH = 100
BATCHES = 100
FEW = 1000
"""Rows that are made one by one; the others are copies."""
WARM = 2000
DRAINED = 12_000
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

CONFIG = """
[api]
listen = "127.0.0.1:0"
[management]
listen = ""
[spool]
url = "sqlite:spool.db"
"""
APP = """
[apps."{app}"]
provider = "apns"
bundle_id = "org.example.health"
key_file = "{key}"
key_id = "{key_id}"
team_id = "{team_id}"
endpoint = "https://localhost:{port}"
ca_file = "ca.pem"
"""


# --- the gateway and its callers


class Gateway(NamedTuple):
    """A running one."""

    process: Process
    port: int
    started_in_s: float

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S

    def memory_mb(self, name: str) -> float:
        """`VmRSS` or `VmHWM` in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0]) * 1024 / 1e6


@asynccontextmanager
async def gateway(folder: Path) -> AsyncIterator[Gateway]:
    """Start one, and kill it in the end."""
    begin = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pushgate", "serve", "--config", str(folder / "pushgate.toml")),
        stdout=DEVNULL,
        stderr=PIPE,
    )
    assert process.stderr is not None
    try:
        said = b""
        while b'"serving"' not in (line := await process.stderr.readline()):
            said += line
            if not line:
                raise SystemExit(said.decode())
        took_s = time.monotonic() - begin
        silent = asyncio.create_task(drop(process.stderr))
        yield Gateway(process, json.loads(line)["port"], took_s)
        silent.cancel()
    finally:
        process.kill()
        await process.wait()


async def drop(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass


class Caller:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int) -> Caller:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, numbers: Sequence[int]) -> float:
        """One request to as many devices. Returns how many seconds its answer took."""
        request = self._request(numbers)
        begin = time.monotonic()
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].split()[0])
        answer = await self._reader.readexactly(size)
        took_s = time.monotonic() - begin
        if b" 200 " not in head:
            raise SystemExit(f"{head!r} {answer!r}")
        return took_s

    def _request(self, numbers: Sequence[int]) -> bytes:
        items = [
            {
                "id": str(number),
                "notification": {
                    "ciphertext": secrets.token_hex(702),
                    "time_message_encrypted": "2026-11",
                    "key_identifier": "k",
                    "prio": "high",
                    "device": {"app_id": FRESH, "pushkey": "f" * 32 + f"{number:032x}", "pushkey_ts": 1_634_025_600},
                },
            }
            for number in numbers
        ]
        body = json.dumps({"notifications": items}).encode()
        head = "POST /push/v1/notifyEncrypted/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def close(self) -> None:
        self._writer.close()


class Fresh:
    """What is sent to the other lane."""

    def __init__(self, till: Till) -> None:
        self._till = till
        self._number = 0

    def take(self, count: int) -> range:
        """The next numbers."""
        self._number += count
        return range(self._number - count, self._number)

    async def singles(self, port: int, seconds: float) -> tuple[Times, Times]:
        """One a request at a steady rate: the times to the answer, and from request to arrival."""
        free: asyncio.Queue[Caller] = asyncio.Queue()
        for _ in range(CALLERS):
            free.put_nowait(await Caller.connect(port))
        asked: dict[int, float] = {}
        answered: list[float] = []

        async def one(number: int) -> None:
            asked[number] = time.monotonic()
            caller = await free.get()
            answered.append(await caller.send([number]))
            free.put_nowait(caller)

        begin = time.monotonic()
        async with asyncio.TaskGroup() as sending:
            for position, number in enumerate(self.take(int(RATE * seconds))):
                await asyncio.sleep(begin + position / RATE - time.monotonic())
                sending.create_task(one(number))
        while not free.empty():
            free.get_nowait().close()
        await self._arrived(asked)
        return Times.of(answered), Times.of([self._till.arrivals[number] - at for number, at in asked.items()])

    async def batches(self, gate: Gateway) -> tuple[Times, float, float]:
        """Batches, each caller the next as soon as one is answered: their times, the rate, CPU µs for each one in them.

        The rate is that of answers, the CPU includes the way to the provider.
        """
        callers = [await Caller.connect(gate.port) for _ in range(CALLERS)]
        work = iter(range(BATCHES))
        took: list[float] = []
        asked: dict[int, float] = {}

        async def one(caller: Caller) -> None:
            for _ in work:
                numbers = self.take(BATCH)
                asked.update(dict.fromkeys(numbers, 0.0))
                took.append(await caller.send(numbers))

        cpu_s, begin = gate.cpu_s(), time.monotonic()
        await asyncio.gather(*(one(caller) for caller in callers))
        rate = BATCHES * BATCH / (time.monotonic() - begin)
        await self._arrived(asked)
        for caller in callers:
            caller.close()
        return Times.of(took), rate, (gate.cpu_s() - cpu_s) / (BATCHES * BATCH) * 1e6

    async def _arrived(self, asked: dict[int, float]) -> None:
        async with asyncio.timeout(120):
            while not all(self._till.arrivals[number] for number in asked):  # noqa: ASYNC110 - another process writes them
                await asyncio.sleep(0.05)


# --- one size


async def one_size(folder: Path, rows: int, *, seconds: float, crowd: Till, fresh: Till) -> None:
    """Fill, start twice, print."""
    path = folder / "spool.db"
    path.unlink(missing_ok=True)
    began = time.monotonic()
    if rows:
        await fill(path, [CROWD], min(rows, FEW))
        await asyncio.to_thread(grow, path, rows)
    size_mb = path.stat().st_size / 1e6 if rows else 0
    print(f"\n{rows:,} wait ({size_mb:,.0f} MB, filled in {time.monotonic() - began:.0f} s)", flush=True)
    sending = Fresh(fresh)
    for number in range(MOST_ARRIVALS):
        fresh.arrivals[number] = 0.0
    crowd.takes.value = 0
    async with gateway(folder) as gate:
        print(f"  start {gate.started_in_s:.2f} s, {gate.memory_mb('VmRSS'):.0f} MB")
        await tell(sending, gate, seconds, "provider hangs" if rows else "nothing waits")
    if not rows:
        return
    crowd.takes.value, before = 1, crowd.count.value
    async with gateway(folder) as gate:
        cost_us, rate = await drain(gate, crowd)
        print(f"  drains: {rate:,.0f} /s, {cost_us:.0f} µs CPU each")
        if rows - (crowd.count.value - before) > 2 * rate * seconds:
            await tell(sending, gate, seconds, "while it drains")
            print(f"    {crowd.count.value - before:,} drained by then")


async def tell(sending: Fresh, gate: Gateway, seconds: float, when: str) -> None:
    """Measure what others see, and print it."""
    answers, arrivals = await sending.singles(gate.port, seconds)
    print(f"  {when}: one a request, answered: {answers}")
    print(f"    from request to arrival: {arrivals}", flush=True)
    batches, rate, cost_us = await sending.batches(gate)
    print(f"    batches of {BATCH}: {batches}; {rate:,.0f} notifications/s, {cost_us:.0f} µs of all CPU for each")
    print(f"    memory {gate.memory_mb('VmRSS'):.0f} MB, {gate.memory_mb('VmHWM'):.0f} MB at most", flush=True)


async def drain(gate: Gateway, crowd: Till) -> tuple[float, float]:
    """CPU µs for each row that reaches the provider, and how many in a second."""
    first = crowd.count.value
    async with asyncio.timeout(120):
        while (began := crowd.count.value) < first + WARM:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
        cpu_s, begin = gate.cpu_s(), time.monotonic()
        while (ended := crowd.count.value) < began + DRAINED:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
    seconds = time.monotonic() - begin
    return (gate.cpu_s() - cpu_s) / (ended - began) * 1e6, (ended - began) / seconds


def prepare(folder: Path, crowd: Till, fresh: Till) -> list[multiprocessing.Process]:
    """Certificates, providers and a configuration."""
    land = Landscape(folder)
    files = str(land.server_cert_file), str(land.server_key_file)
    providers = [multiprocessing.Process(target=provide, args=(till, *files), daemon=True) for till in (crowd, fresh)]
    for each in providers:
        each.start()
    while not (crowd.port.value and fresh.port.value):
        time.sleep(0.05)
    apps = [
        APP.format(
            app=app,
            key=land.apns_key_file.name,
            key_id=land.apns_key_id,
            team_id=land.apns_team_id,
            port=till.port.value,
        )
        for app, till in ((CROWD, crowd), (FRESH, fresh))
    ]
    (folder / "pushgate.toml").write_text(CONFIG + "".join(apps))
    return providers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="0,20000,100000,1000000", help="how many wait, one size after the other")
    parser.add_argument("--seconds", type=float, default=6, help="for each measurement of single ones")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; a million take 2.1 GB")
    arguments = parser.parse_args()
    sizes = [int(rows) for rows in arguments.rows.split(",")]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        need = max(sizes) * 4400
        if shutil.disk_usage(folder).free < need:
            raise SystemExit(f"{folder} has less than {need / 1e9:.1f} GB free")
        crowd, fresh = Till(), Till()
        providers = prepare(folder, crowd, fresh)
        try:
            for rows in sizes:
                uvloop.run(one_size(folder, rows, seconds=arguments.seconds, crowd=crowd, fresh=fresh))
        finally:
            for each in providers:
                each.kill()


if __name__ == "__main__":
    main()
