"""How fast the SQLite spool is: puts, leases and acks a second, and the CPU time of each row.

    python bench/spool.py [--folder DIR] [--rows 20000] [--loop uvloop|asyncio] [--encrypted] [--waiting 1000000]

Sealed notifications as E-Rezept sends them (rows of 1.7 KB), repeats looked for, 64 callers at a time. `put` counts
until the row is durable. `ack 1` ends each lease by a call of its own, as the dispatcher does. First comes a single
caller with a commit for each row. Rows are sealed on disk, with `--encrypted` by a configured key too: what sealing
takes is told first.

With `--waiting` it measures instead what a backlog of so many rows costs: opening, memory, the time of a put, and how
fast rows are leased and acked, each beside the same with 20,000 rows waiting. The backlog is written by SQL.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import resource
import secrets
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import uvloop

from pushgate.model import Delivery, Device, EncryptedNotification
from pushgate.spool import Lease, envelope
from pushgate.spool.cipher import KEY_BYTES, NO_KEYS, SEED_BYTES, Cipher, Keys
from pushgate.spool.database import open_database
from pushgate.spool.seeds import Seeds
from pushgate.spool.sqlite import SqliteSpool

LANE = "de.example.app.apns"
CALLERS = 64
DAY_MS = 86_400_000
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


async def by_callers(work: Iterator[Callable[[], Awaitable[object]]], callers: int) -> tuple[float, float]:
    """Wall and CPU seconds of the work, done by so many callers."""

    async def caller() -> None:
        for call in work:
            await call()

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return time.perf_counter() - wall, time.process_time() - cpu


def say(verb: str, rows: int, took: tuple[float, float], commits: int) -> None:
    wall_s, cpu_s = took
    print(
        f"{verb:10}{rows / wall_s:10,.0f} /s{cpu_s / rows * 1e6:8.1f} µs CPU a row{rows / commits:8.0f} rows a commit"
    )


async def run(folder: Path, batch: int, rows: int, keys: Keys, *, callers: int = CALLERS) -> None:
    """One round: put so many, lease them all, ack them all."""
    path = folder / f"spool-{batch}-{callers}.db"
    spool = await SqliteSpool.open(path, dedup_window_s=600, memory_rows=1_000_000, keys=keys)
    try:
        stock = [make(batch) for _ in range(rows // batch)]
        commits = spool.commits
        took = await by_callers(iter([lambda each=each: spool.put(each) for each in stock]), callers)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        say(f"put {batch}", rows, took, spool.commits - commits)

        leases: list[Lease] = []
        while len(leases) < rows:
            leases += await spool.lease(LANE, 1000)
        commits = spool.commits
        groups: Sequence[Sequence[Lease]] = [leases[n : n + batch] for n in range(0, rows, batch)]
        took = await by_callers(iter([lambda each=each: spool.ack(each) for each in groups]), callers)  # type: ignore[misc]  # as above
        say(f"ack {batch}", rows, took, spool.commits - commits)
    finally:
        await spool.close()


async def read_back(folder: Path, rows: int, keys: Keys) -> None:
    """What waits on disk alone: how fast a successor starts, and how fast it leases."""
    path = folder / "cold.db"
    spool = await SqliteSpool.open(path, memory_rows=1, keys=keys)
    for _ in range(rows // 100):
        await spool.put(make(100))
    await spool.close()
    started = time.perf_counter()
    spool = await SqliteSpool.open(path, keys=keys)
    print(f"open with {rows:,} rows: {time.perf_counter() - started:.3f} s")
    wall, cpu, got = time.perf_counter(), time.process_time(), 0
    while got < rows:
        leases = await spool.lease(LANE, 100)
        got += len(leases)
    say("read back", rows, (time.perf_counter() - wall, time.process_time() - cpu), spool.commits)
    await spool.close()


def sealing_alone(keys: Keys, rows: int) -> None:
    """What sealing takes: the best of five, for other work on the machine only makes it slower."""
    cipher = Cipher(keys)
    payload, seed = envelope.encode(make(1)[0]), secrets.token_bytes(SEED_BYTES)
    sealed = [cipher.seal(LANE, payload, seed) for _ in range(rows)]

    def cpu_us(work: Callable[[], object]) -> float:
        started = time.process_time()
        work()
        return (time.process_time() - started) / rows * 1e6

    encrypt_us = min(cpu_us(lambda: [cipher.seal(LANE, payload, seed) for _ in range(rows)]) for _ in range(5))
    decrypt_us = min(cpu_us(lambda: [cipher.open(LANE, row, seed) for row in sealed]) for _ in range(5))
    sizes = f"{len(payload):,} bytes become {len(sealed[0]):,}"
    print(f"sealing alone: {encrypt_us:.2f} µs CPU a put, {decrypt_us:.2f} µs a row read back, {sizes}")


def write_backlog(path: Path, rows: int, keys: Keys) -> None:
    """A file in which so many rows wait, accepted over the last 12 hours."""
    database = open_database(path, entropy=lambda: secrets.token_bytes(32))
    database.execute("PRAGMA synchronous = OFF")
    cipher, seeds = Cipher(keys), Seeds(database.execute)
    payload = envelope.encode(make(1)[0])
    now_ms = int(time.time() * 1000)
    step_ms = 12 * 3_600_000 / rows

    def values() -> Iterator[tuple[object, ...]]:
        for number in range(1, rows + 1):
            at_ms = now_ms - int((rows - number) * step_ms)
            seed = secrets.token_bytes(SEED_BYTES)
            seeds.put(number, seed)
            yield number, LANE, at_ms, at_ms, at_ms + DAY_MS, 1, cipher.seal(LANE, payload, seed)

    with database.transaction():
        database.connection.executemany("INSERT INTO deliveries VALUES (?, ?, ?, ?, ?, ?, ?)", values())
        seeds.write()
    database.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def resident_mb() -> float:
    """What the process takes of the memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


async def under_backlog(folder: Path, waiting: int, keys: Keys) -> None:
    """What so many waiting rows cost."""
    path = folder / f"waiting-{waiting}.db"
    writer = multiprocessing.get_context("spawn").Process(target=write_backlog, args=(path, waiting, keys))
    writer.start()
    writer.join()
    print(f"{waiting:,} rows waiting, {path.stat().st_size / waiting:,.0f} bytes each in the file")
    before_mb = resident_mb()
    started = time.perf_counter()
    spool = await SqliteSpool.open(path, dedup_window_s=600, keys=keys)
    print(f"  open        {time.perf_counter() - started:8.3f} s")
    started = time.perf_counter()
    leases = list(await spool.lease(LANE, 100))
    print(f"  first lease {(time.perf_counter() - started) * 1e3:8.1f} ms")
    await spool.ack(leases)
    said = await put_steadily(spool)
    print(f"  put, 500 a second, nobody leasing: {said}")
    rows = min(waiting - 10_000, 100_000)
    wall, cpu, taken = time.perf_counter(), time.process_time(), 0
    flying: set[asyncio.Task[None]] = set()
    while taken < rows:
        leases = list(await spool.lease(LANE, 100))
        taken += len(leases)
        flying.add(task := asyncio.create_task(spool.ack(leases)))
        task.add_done_callback(flying.discard)
        if len(flying) >= 10:
            await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*flying)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"  drain       {taken / wall:8,.0f} rows/s, {cpu / taken * 1e6:.1f} µs CPU a row, {taken} rows")
    draining = asyncio.create_task(drain(spool))
    said = await put_steadily(spool)
    print(f"  put, 500 a second, while draining: {said}")
    draining.cancel()
    await asyncio.gather(draining, return_exceptions=True)
    await spool.close()
    print(f"  memory      {before_mb:8.0f} MB before, {resident_mb():.0f} MB after")


async def drain(spool: SqliteSpool) -> None:
    while True:
        await spool.ack(await spool.lease(LANE, 100))


async def put_steadily(spool: SqliteSpool, *, rate: int = 500, for_s: float = 4) -> str:
    """How long a put takes until it is durable, one row each."""
    took: list[float] = []

    async def put(delivery: Delivery) -> None:
        started = time.perf_counter()
        await spool.put([delivery])
        took.append((time.perf_counter() - started) * 1000)

    start = time.perf_counter()
    puts = []
    for number, delivery in enumerate(make(int(rate * for_s))):
        await asyncio.sleep(max(start + number / rate - time.perf_counter(), 0))
        puts.append(asyncio.create_task(put(delivery)))
    await asyncio.gather(*puts)
    cuts = statistics.quantiles(took, n=100)
    return f"{cuts[49]:.1f} ms median, {cuts[98]:.1f} ms of 99 %, {max(took):.1f} ms the longest"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--rows", type=int, default=20_000, help="for each batch size, a multiple of 100")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    parser.add_argument("--encrypted", action="store_true", help="by a configured key too")
    parser.add_argument("--waiting", type=int, help="measure beside a backlog of so many rows")
    arguments = parser.parse_args()
    keys = Keys((secrets.token_bytes(KEY_BYTES),)) if arguments.encrypted else NO_KEYS
    factory = uvloop.new_event_loop if arguments.loop == "uvloop" else None
    crypt = ", encrypted" if arguments.encrypted else ""
    print(f"SQLite {sqlite3.sqlite_version}, {arguments.loop}, {CALLERS} callers{crypt}")
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        asyncio.Runner(loop_factory=factory) as runner,
    ):
        if arguments.waiting:
            for waiting in (20_000, arguments.waiting):
                runner.run(under_backlog(Path(folder), waiting, keys))
            return
        sealing_alone(keys, arguments.rows)
        runner.run(run(Path(folder), 1, arguments.rows // 10, keys, callers=1))
        for batch in (1, 10, 100):
            runner.run(run(Path(folder), batch, arguments.rows, keys))
        runner.run(read_back(Path(folder), 10_000, keys))


if __name__ == "__main__":
    main()
