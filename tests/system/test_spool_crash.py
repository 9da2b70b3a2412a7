"""A gateway that is killed in the middle of its work loses nothing that it said yes to."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pushgate.spool.sqlite import SqliteSpool

ROUNDS = 20
LANE = "de.example.app.apns"

CHILD = """
import asyncio, itertools, sys, time
from pathlib import Path
from pushgate.model import Delivery, Device, PlainNotification
from pushgate.spool.sqlite import SqliteSpool

path, start = Path(sys.argv[1]), int(sys.argv[2])
numbers = itertools.count(start)

def delivery(number):
    device = Device(app_id="de.example.app.apns", pushkey=f"k{number}")
    now = time.time()
    notification = PlainNotification(devices=(device,), event_id="x" * 900)
    return Delivery(id=str(number), device=device, notification=notification, accepted_at=now, expires_at=now + 86400)

def say(what, ids):
    sys.stdout.write("".join(f"{what} {each}\\n" for each in ids))
    sys.stdout.flush()

async def put(spool, size):
    while True:
        deliveries = [delivery(next(numbers)) for _ in range(size)]
        await spool.put(deliveries)
        say("put", [each.id for each in deliveries])

async def end(spool):
    while True:
        leases = await spool.lease("de.example.app.apns", 5)
        await spool.nack(leases[:1], delay_s=0)
        say("end", [each.delivery.id for each in leases[1:]])
        await spool.ack(leases[1:])
        say("ack", [each.delivery.id for each in leases[1:]])

async def main():
    spool = await SqliteSpool.open(path, memory_rows=64, tidy_every_s=0.05)
    say("open", ["0"])
    async with asyncio.TaskGroup() as tasks:
        for size in (1, 1, 1, 7, 30):
            tasks.create_task(put(spool, size))
        for _ in range(2):
            tasks.create_task(end(spool))

asyncio.run(main())
"""


def run_and_kill(path: Path, start: int, after_s: float) -> dict[str, set[str]]:
    """What a process said before it was killed: what it had `put`, what it would `end`, what it had acked (`ack`)."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(start)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"open 0\n"
    os.set_blocking(child.stdout.fileno(), False)
    until = time.monotonic() + after_s
    told = b""
    while time.monotonic() < until:
        told += child.stdout.read() or b""
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait(5)
    os.set_blocking(child.stdout.fileno(), True)
    told += child.stdout.read()
    child.stdout.close()
    said: dict[str, set[str]] = {"put": set(), "end": set(), "ack": set()}
    for line in told.decode().splitlines(keepends=True):
        if line.endswith("\n"):
            verb, number = line.split()
            said[verb].add(number)
    return said


async def in_the_spool(path: Path) -> set[str]:
    """What can be leased from it; all of it is erased."""
    spool = await SqliteSpool.open(path)
    found: list[str] = []
    while backlog := await spool.backlog():
        assert set(backlog) == {LANE}
        async with asyncio.timeout(5):
            leases = await spool.lease(LANE, 1000)
        found += [lease.delivery.id for lease in leases]
        await spool.ack(leases)
    await spool.close()
    assert len(found) == len(set(found)), "leased twice"
    return set(found)


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_what_was_acknowledged_before_kill_9_is_leased_after_it(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    chance = random.Random(27435)
    put_in_all = acked_in_all = 0
    for round_number in range(ROUNDS):
        said = run_and_kill(path, round_number * 1_000_000, 0.02 + 0.2 * chance.random())
        found = asyncio.run(in_the_spool(path))
        assert said["put"] - said["end"] - found == set(), "lost"
        assert said["ack"] & found == set(), "acked, and yet there"
        put_in_all += len(said["put"] - said["end"])
        acked_in_all += len(said["ack"])
    assert put_in_all > ROUNDS * 10
    assert acked_in_all > ROUNDS
