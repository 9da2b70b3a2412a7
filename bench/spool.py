"""How fast the SQLite spool is: puts, leases and acks a second, and the CPU time of each row.

    python bench/spool.py [--folder DIR] [--rows 20000] [--loop uvloop|asyncio]

Sealed notifications as E-Rezept sends them (rows of 1.7 KB), repeats looked for, 64 callers at a time. `put` counts
until the row is durable. `ack 1` ends each lease by a call of its own, as the dispatcher does.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import uvloop

from pushgate.model import Delivery, Device, EncryptedNotification
from pushgate.spool import Lease
from pushgate.spool.sqlite import SqliteSpool

LANE = "de.example.app.apns"
CALLERS = 64
CIPHERTEXT = secrets.token_hex(702)


def make(count: int) -> list[Delivery]:
    """So many deliveries to as many devices."""
    now = time.time()
    deliveries = []
    for _ in range(count):
        mark = secrets.token_hex(18)
        device = Device(app_id=LANE, pushkey=secrets.token_hex(32), pushkey_ts=1_760_000_000)
        notification = EncryptedNotification(
            device=device, ciphertext=CIPHERTEXT, time_message_encrypted="2025-11", key_identifier=mark
        )
        deliveries.append(
            Delivery(
                id=mark,
                device=device,
                notification=notification,
                accepted_at=now,
                expires_at=now + 86400,
                fingerprint=secrets.token_bytes(16),
            )
        )
    return deliveries


async def by_callers(work: Iterator[Callable[[], Awaitable[object]]]) -> tuple[float, float]:
    """Wall and CPU seconds of the work, done by so many callers."""

    async def caller() -> None:
        for call in work:
            await call()

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return time.perf_counter() - wall, time.process_time() - cpu


def say(verb: str, rows: int, took: tuple[float, float], commits: int) -> None:
    wall_s, cpu_s = took
    print(
        f"{verb:10}{rows / wall_s:10,.0f} /s{cpu_s / rows * 1e6:8.1f} µs CPU a row{rows / commits:8.0f} rows a commit"
    )


async def run(folder: Path, batch: int, rows: int) -> None:
    """One round: put so many, lease them all, ack them all."""
    spool = await SqliteSpool.open(folder / f"spool-{batch}.db", dedup_window_s=600, memory_rows=1_000_000)
    try:
        stock = [make(batch) for _ in range(rows // batch)]
        commits = spool.commits
        took = await by_callers(iter([lambda each=each: spool.put(each) for each in stock]))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        say(f"put {batch}", rows, took, spool.commits - commits)

        leases: list[Lease] = []
        while len(leases) < rows:
            leases += await spool.lease(LANE, 1000)
        commits = spool.commits
        groups: Sequence[Sequence[Lease]] = [leases[n : n + batch] for n in range(0, rows, batch)]
        took = await by_callers(iter([lambda each=each: spool.ack(each) for each in groups]))  # type: ignore[misc]  # as above
        say(f"ack {batch}", rows, took, spool.commits - commits)
    finally:
        await spool.close()


async def read_back(folder: Path, rows: int) -> None:
    """What waits on disk alone: how fast a successor starts, and how fast it leases."""
    path = folder / "cold.db"
    spool = await SqliteSpool.open(path, memory_rows=1)
    for _ in range(rows // 100):
        await spool.put(make(100))
    await spool.close()
    started = time.perf_counter()
    spool = await SqliteSpool.open(path)
    print(f"open with {rows:,} rows: {time.perf_counter() - started:.3f} s")
    wall, cpu, got = time.perf_counter(), time.process_time(), 0
    while got < rows:
        leases = await spool.lease(LANE, 100)
        got += len(leases)
    say("read back", rows, (time.perf_counter() - wall, time.process_time() - cpu), spool.commits)
    await spool.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--rows", type=int, default=20_000, help="for each batch size, a multiple of 100")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    arguments = parser.parse_args()
    factory = uvloop.new_event_loop if arguments.loop == "uvloop" else None
    print(f"SQLite {sqlite3.sqlite_version}, {arguments.loop}, {CALLERS} callers")
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        asyncio.Runner(loop_factory=factory) as runner,
    ):
        for batch in (1, 10, 100):
            runner.run(run(Path(folder), batch, arguments.rows))
        runner.run(read_back(Path(folder), 10_000))


if __name__ == "__main__":
    main()
