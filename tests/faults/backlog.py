"""A backlog: deliveries that wait before a gateway starts, sick providers of their own, and how long others take.

The time that is measured is that from a caller's request to the arrival at the provider.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sqlite3
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence, Set
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from pushgate.client import PushGatewayClient
from pushgate.emulator import Step
from pushgate.emulator.certificates import APNS_KEY_ID, APNS_TEAM_ID
from pushgate.intake import new_ids
from pushgate.model import Delivery, Device, EncryptedNotification
from pushgate.spool.seeds import Seeds
from pushgate.spool.sqlite import SqliteSpool
from tests.faults.ledger import Ledger
from tests.faults.watching import Key, mark_of
from tests.ports import free_port

RATE = 50
"""Requests a second."""
TRIES = 3
TIMES = 3
NOISE_S = 0.05
"""The p99 may be so many times that of another gateway at the same time, and so much more."""
MOST_KB = 250_000_000 // 1024
"""Resident at any time: 250 MB."""
IN_FLIGHT = 1000
"""Attempts of a lane at the same time, as configured by default."""

SICK_PROVIDER = """
import asyncio, sys
from pathlib import Path
import msgspec
from pushgate.emulator import ApnsEmulator, Landscape, Step, Temper

async def main():
    land = Landscape(Path(sys.argv[1]))
    emulator = ApnsEmulator(tls=land.server_tls(), temper=Temper.ACCEPT_ALL, keys={}, topics=["org.example.health"])
    if steps := msgspec.json.decode(sys.argv[2], type=list[Step]):
        emulator.script("*", steps)
    await emulator.start()
    print(emulator.port, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""

APP = """
[apps."{app}"]
provider = "apns"
bundle_id = "org.example.health"
key_file = "AuthKey_{key_id}.p8"
key_id = "{key_id}"
team_id = "{team_id}"
endpoint = "{endpoint}"
ca_file = "{ca}"
request_timeout_s = {timeout_s}
max_in_flight = {in_flight}
"""


class Peer(NamedTuple):
    """Where a sick provider is, and whom it makes others trust."""

    endpoint: str
    ca: str


@asynccontextmanager
async def emulated(folder: Path, steps: Sequence[Step]) -> AsyncIterator[Peer]:
    """A provider in a process of its own that plays these steps for everybody."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SICK_PROVIDER, str(folder), msgspec.json.encode(steps).decode()), stdout=PIPE
    )
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        yield Peer(f"https://localhost:{port}", str(folder / "ca.pem"))
    finally:
        process.kill()
        await process.communicate()


@asynccontextmanager
async def mute() -> AsyncIterator[Peer]:
    """Accepts connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        yield Peer(f"https://127.0.0.1:{listening.getsockname()[1]}", "ca.pem")


@asynccontextmanager
async def nobody() -> AsyncIterator[Peer]:
    """Refuses connections."""
    yield Peer(f"https://127.0.0.1:{free_port()}", "ca.pem")


async def fill(path: Path, lanes: Sequence[str], rows: int) -> None:
    """Let so many deliveries of realistic size wait in these lanes, as a gateway leaves them that was stopped."""
    ciphertext = secrets.token_hex(702)
    spool = await SqliteSpool.open(path, memory_rows=1)
    now, number = time.time(), 0
    while number < rows:
        deliveries = []
        for id_ in new_ids(100):
            device = Device(lanes[number % len(lanes)], secrets.token_hex(32), 1_634_025_600)
            notification = EncryptedNotification(
                device=device, ciphertext=ciphertext, time_message_encrypted="2026-11", key_identifier=id_
            )
            number += 1
            deliveries.append(
                Delivery(id=id_, device=device, notification=notification, accepted_at=now, expires_at=now + 86_400)
            )
        await spool.put(deliveries)
    await spool.close()


SEEDS_AT_ONCE = 10_000


def grow(path: Path, rows: int) -> None:
    """Let so many wait in a closed spool: copies of those that wait there already, with the same pushkeys."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for pragma in ("locking_mode = EXCLUSIVE", "synchronous = OFF", "cache_size = -65536"):
            database.execute(f"PRAGMA {pragma}")
        columns = [name for _, name, *_ in database.execute("PRAGMA table_info(deliveries)") if name != "id"]
        (have, last) = database.execute("SELECT count(*), max(id) FROM deliveries").fetchone()
        assert have == last, "ids follow one another"
        seeds = Seeds(database.execute)
        while have < rows:
            more, names = min(have, rows - have), ", ".join(columns)
            database.execute(
                f"INSERT INTO deliveries (id, {names}) SELECT id + ?, {names} FROM deliveries ORDER BY id LIMIT ?",
                (last, more),
            )
            database.execute("BEGIN")
            for first in range(1, more + 1, SEEDS_AT_ONCE):
                copied = range(first, min(first + SEEDS_AT_ONCE, more + 1))
                seeds.put(first + last, b"".join(seeds.read(copied)))
                seeds.write()
                seeds.keep()
            database.execute("COMMIT")
            have, last = have + more, last * 2
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)  # or it is written while something is measured
    finally:
        os.close(descriptor)


class Times(NamedTuple):
    """From request to arrival."""

    p50_s: float
    p99_s: float
    most_s: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        ordered = sorted(seconds)
        return cls(ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)], ordered[-1])

    def __str__(self) -> str:
        return f"p50 {self.p50_s * 1000:.1f}, p99 {self.p99_s * 1000:.1f}, most {self.most_s * 1000:.0f} ms"


async def warm_up(ledger: Ledger, client: PushGatewayClient) -> None:
    """Have every side connected."""
    await asyncio.gather(*(ledger.send(client, [ledger.make(is_sealed=True)]) for _ in range(8)))
    await arrival(ledger, ledger.taken.keys())


async def measure(ledger: Ledger, client: PushGatewayClient, seconds: float) -> Times:
    """Send to the lanes that are well at a steady rate, one notification a request."""
    loop = asyncio.get_running_loop()
    asked: dict[Key, float] = {}
    async with asyncio.TaskGroup() as sending:
        begin = loop.time()
        for number in range(int(RATE * seconds)):
            await asyncio.sleep(begin + number / RATE - loop.time())
            note = ledger.make(is_sealed=True)
            assert isinstance(note, EncryptedNotification)
            asked[(note.device.pushkey, mark_of({"ciphertext": note.ciphertext}))] = time.monotonic()
            sending.create_task(ledger.send(client, [note]))
    await arrival(ledger, asked.keys())
    return Times.of([ledger.watch.arrivals[key][0] - at for key, at in asked.items()])


class Side(NamedTuple):
    """A gateway that is measured."""

    ledger: Ledger
    client: PushGatewayClient


async def compare(one: Side, other: Side, *, seconds: float) -> str:
    """Measure two gateways at the same time, so that what the machine does meanwhile befalls both.

    Returns the times in words. Fails where the one is slower than the other, in the best of some tries.
    """
    for _ in range(TRIES):
        times, others = await asyncio.gather(
            measure(one.ledger, one.client, seconds), measure(other.ledger, other.client, seconds)
        )
        told = f"{times}; at the same time in a gateway without: {others}"
        print(told)
        if times.p99_s <= TIMES * others.p99_s + NOISE_S:
            return told
    raise AssertionError(told)


async def arrival(ledger: Ledger, keys: Set[Key]) -> None:
    """Wait until all of these have arrived."""
    async with asyncio.timeout(30):
        while not keys <= ledger.watch.arrivals.keys():
            await asyncio.sleep(0.02)


def table_of(sick: Peer, app: str, *, timeout_s: int = 10, in_flight: int = IN_FLIGHT) -> str:
    """The configuration of an app whose provider is sick."""
    return APP.format(
        app=app,
        key_id=APNS_KEY_ID,
        team_id=APNS_TEAM_ID,
        endpoint=sick.endpoint,
        ca=sick.ca,
        timeout_s=timeout_s,
        in_flight=in_flight,
    )


def peak_kb(pid: int) -> int:
    """The most memory that this process has ever had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
