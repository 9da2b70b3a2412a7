"""Children that are killed in the middle of a commit, again and again, over one spool. A program for test_commit_kill.

    python tests/faults/commit_kills.py SPOOL ROUNDS SEED

Each child works with the spool and has a thread that kills it some microseconds after a COMMIT began: SQLite is then
between its writes and its fsync. After each, the parent opens the spool and looks. Prints one line of JSON for each
round. The children are forked, so that a round costs no import; the parent has no threads while it forks.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import mmap
import os
import random
import signal
import sqlite3
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from pushgate.model import Delivery, Device, PlainNotification
from pushgate.spool.sqlite import SqliteSpool

LANE = "org.example.health.apns"
LONGEST_COMMIT_S = 0.004
"""After so long in a commit at the latest it is killed; most commits are shorter."""
MOST_COMMITS = 40
PATIENCE_S = 5.0
_original_connect = sqlite3.connect

IN_COMMIT = 0
COMMITS = 1


class Child:
    """The process that will be killed."""

    def __init__(self, path: Path, start: int, *, pipe: int, shared: mmap.mmap, chance: random.Random) -> None:
        self._path = path
        self._numbers = itertools.count(start)
        self._pipe = pipe
        self._shared = shared
        self._kill_at = chance.randrange(MOST_COMMITS)
        self._kill_after_s = chance.uniform(0, LONGEST_COMMIT_S) ** 2 / LONGEST_COMMIT_S  # rather early than late
        self._committing = threading.Event()

    def run(self) -> NoReturn:
        try:
            threading.Thread(target=self._kill, daemon=True).start()
            sqlite3.connect = self._connect  # type: ignore[assignment] # so that every COMMIT is seen
            asyncio.run(self._work())
        finally:
            traceback.print_exc()
            os._exit(1)  # it was not killed

    def _kill(self) -> None:
        self._committing.wait()
        until = time.perf_counter() + self._kill_after_s
        while time.perf_counter() < until:
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    def _connect(self, *arguments: Any, **named: Any) -> sqlite3.Connection:
        shared, committing, kill_at = self._shared, self._committing, self._kill_at

        class Watched(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if sql != "COMMIT":
                    return super().execute(sql, *values)
                shared[IN_COMMIT] = 1
                if shared[COMMITS] == kill_at:
                    committing.set()
                done = super().execute(sql, *values)
                shared[IN_COMMIT] = 0
                shared[COMMITS] += 1
                return done

        return _original_connect(*arguments, factory=Watched, **named)

    async def _work(self) -> None:
        spool = await SqliteSpool.open(self._path, memory_rows=64, tidy_every_s=0.05)
        async with asyncio.TaskGroup() as tasks:
            for size in (1, 1, 7, 30):
                tasks.create_task(self._put(spool, size))
            tasks.create_task(self._end(spool))

    async def _put(self, spool: SqliteSpool, size: int) -> None:
        while True:
            deliveries = [_delivery(next(self._numbers)) for _ in range(size)]
            self._say("try", deliveries)
            await spool.put(deliveries)
            self._say("put", deliveries)

    async def _end(self, spool: SqliteSpool) -> None:
        while True:
            leases = await spool.lease(LANE, 5)
            await spool.nack(leases[:1], delay_s=0)
            self._say("end", [each.delivery for each in leases[1:]])
            await spool.ack(leases[1:])
            self._say("ack", [each.delivery for each in leases[1:]])

    def _say(self, what: str, deliveries: list[Delivery]) -> None:
        os.write(self._pipe, f"{what} {' '.join(each.id for each in deliveries)}\n".encode())


def _delivery(number: int) -> Delivery:
    device = Device(app_id=LANE, pushkey=f"k{number}")
    now = time.time()
    plain = PlainNotification(devices=(device,), event_id="x" * 900)
    return Delivery(id=str(number), device=device, notification=plain, accepted_at=now, expires_at=now + 86400)


def one_round(path: Path, number: int, chance: random.Random) -> dict[str, Any]:
    """What was found after one kill, held against what the child had said."""
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    reading, writing = os.pipe()
    child = Child(path, number * 1_000_000, pipe=writing, shared=shared, chance=chance)
    if (process := os.fork()) == 0:
        os.close(reading)
        child.run()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode()
    _, status = os.waitpid(process, 0)
    said: dict[str, set[str]] = {"put": set(), "end": set(), "ack": set()}
    tried: list[set[str]] = []
    for line in told.splitlines(keepends=True):
        what, *ids = line.split()
        if what == "try":
            tried.append(set(ids))
        else:
            said[what].update(ids)
    found = asyncio.run(_take_all(path))
    there = set(found)
    return {
        "killed": os.WIFSIGNALED(status),
        "in_commit": bool(shared[IN_COMMIT]),
        "commits": shared[COMMITS],
        "put": len(said["put"] - said["end"]),
        "lost": len(said["put"] - said["end"] - there),
        "acked_and_there": len(said["ack"] & there),
        "ended_and_there": len(said["end"] & there),
        "leased_twice": len(found) - len(there),
        "torn": sum(0 < len(batch & there) < len(batch - said["end"]) for batch in tried),
    }


async def _take_all(path: Path) -> list[str]:
    """The ids of what can be leased; all of it is erased."""
    spool = await SqliteSpool.open(path)
    found: list[str] = []
    while await spool.backlog():
        async with asyncio.timeout(PATIENCE_S):
            leases = await spool.lease(LANE, 1000)
        found += [lease.delivery.id for lease in leases]
        await spool.ack(leases)
    await spool.close()
    return found


def main(path: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(rounds):
        print(json.dumps(one_round(path, number, chance)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
