"""A SQLite spool in which very much waits: nothing reads it all, and what goes through it all goes in small steps."""

from __future__ import annotations

import asyncio
import resource
import secrets
import sqlite3
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from pushgate.model import Delivery, Device, PlainNotification
from pushgate.outcome import Rejected
from pushgate.spool import KnownRejection, Lease, envelope
from pushgate.spool.cipher import NO_KEYS, SEED_BYTES, Cipher
from pushgate.spool.database import open_database
from pushgate.spool.seeds import Seeds
from pushgate.spool.sqlite import SqliteSpool

LANE, OTHER = "de.example.app.apns", "my-project.app.firebase"


def delivery(number: int, *, lane: str = LANE, size: int = 100) -> Delivery:
    device = Device(app_id=lane, pushkey=f"pushkey-{number}")
    now = time.time()
    return Delivery(
        id=str(number),
        device=device,
        notification=PlainNotification(devices=(device,), content={"body": "x" * size}),
        accepted_at=now,
        expires_at=now + 86400,
    )


async def leased(spool: SqliteSpool, count: int, lane: str = LANE) -> list[Lease]:
    leases: list[Lease] = []
    async with asyncio.timeout(10):
        while len(leases) < count:
            leases += await spool.lease(lane, 1000)
    return leases


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows at a time, where else it would be thousands."""
    for name in ("rejection_table.LOOK_AT_ONCE", "rejection_table.COUNT_AT_ONCE", "store.HASTEN_AT_ONCE"):
        monkeypatch.setattr(f"pushgate.spool.{name}", 3)
    monkeypatch.setattr("pushgate.spool.sqlite.HASTEN_AT_ONCE", 3)
    monkeypatch.setattr("pushgate.spool.contents.COUNT_AT_ONCE", 3)


async def reject(spool: SqliteSpool, lane: str, numbers: range) -> None:
    await spool.put([delivery(n, lane=lane) for n in numbers])
    for lease in await leased(spool, len(numbers), lane):
        await spool.reject(lease, Rejected(("Unregistered", "ExpiredToken")[int(lease.delivery.id) % 2]))


@pytest.mark.usefixtures("small_steps")
async def test_rejections_are_counted_and_forgotten_in_small_steps(path: Path) -> None:
    clock = [time.time()]
    spool = await SqliteSpool.open(path, clock=lambda: clock[0])
    for _ in range(4):
        await reject(spool, LANE, range(int(clock[0]) % 1000 * 100, int(clock[0]) % 1000 * 100 + 7))
        await reject(spool, OTHER, range(int(clock[0]) % 1000 * 100, int(clock[0]) % 1000 * 100 + 4))
        clock[0] += 10
    dead = list(await spool.rejections())
    assert len(dead) == 44
    commits = spool.commits
    assert await spool.count_rejections() == Counter((each.app_id, each.reason) for each in dead)
    assert spool.commits - commits >= 44 / 3

    async def forget(since: float = 0, prefix: str = "") -> set[KnownRejection]:
        before = set(await spool.rejections())
        count = await spool.forget_rejections(LANE, since=since, prefix=prefix)
        gone = before - set(await spool.rejections())
        assert count == len(gone)
        return gone

    mine = {each for each in dead if each.app_id == LANE}
    late = {each for each in mine if each.told_at > clock[0] - 21}
    assert len(late) == 14
    commits = spool.commits
    assert await forget(since=clock[0] - 21) == late
    assert spool.commits - commits >= 22 / 3
    digit = sorted(each.name for each in mine - late)[0][0]
    assert await forget(prefix=digit) == {each for each in mine - late if each.name[0] == digit}
    await forget()
    assert {each.app_id for each in await spool.rejections()} == {OTHER}
    await spool.close()


@pytest.mark.usefixtures("small_steps")
async def test_a_successor_counts_in_small_steps_what_waits(path: Path) -> None:
    clock = [1_760_000_000.0]
    spool = await SqliteSpool.open(path, clock=lambda: clock[0])
    for number in range(40):
        clock[0] += 17 * (number % 4)  # several at the same moment, and several minutes
        lane = (LANE, OTHER, "a", "z")[number % 7 % 4]
        await spool.put([msgspec.structs.replace(delivery(number, lane=lane), accepted_at=clock[0] - number % 3)])
    for number in range(5):
        await spool.nack(await spool.lease(LANE, 2), delay_s=100 * number)
    backlog = await spool.backlog()
    assert len(backlog) == 4
    await spool.close()
    spool = await SqliteSpool.open(path, clock=lambda: clock[0])
    assert {lane: (each.waiting, each.oldest_at) for lane, each in (await spool.backlog()).items()} == {
        lane: (each.waiting, each.oldest_at) for lane, each in backlog.items()
    }
    await spool.close()


@pytest.mark.usefixtures("small_steps")
async def test_hasten_goes_in_small_steps_and_ends_whatever_is_deferred_meanwhile(path: Path) -> None:
    spool = await SqliteSpool.open(path)
    await spool.put([delivery(n) for n in range(20)])
    await spool.nack(await leased(spool, 20), delay_s=1000)
    commits = spool.commits
    hastening = asyncio.create_task(spool.hasten(LANE))
    for _ in range(200):
        (lease, *others) = await spool.lease(LANE, 5)
        await spool.nack([lease, *others], delay_s=1000)
        if hastening.done():
            break
    assert 20 <= await hastening <= 23
    assert spool.commits - commits >= 7
    await spool.close()


async def test_no_statement_reads_a_whole_table(path: Path) -> None:
    spool = await SqliteSpool.open(path, dedup_window_s=600, memory_rows=2)
    said: set[str] = set()
    connection = spool._committer._store.database.connection
    connection.set_trace_callback(said.add)
    await reject(spool, LANE, range(10))
    await reject(spool, OTHER, range(10))
    await spool.put([delivery(n) for n in range(20, 40)])
    await spool.nack((await leased(spool, 20))[:10], delay_s=1000)
    assert await spool.hasten(LANE) == 10
    name = (await spool.rejections())[3].name
    await spool.rejections(app_id=LANE, prefix=name[:1], after=name, limit=5)
    await spool.rejected_among([Device(app_id=LANE, pushkey="pushkey-1")])
    await spool.count_rejections()
    await spool.forget_rejections(LANE, since=1)
    await spool.forget_rejections(LANE, prefix=name[:2])
    await spool.sweep()
    await spool.probe()
    connection.set_trace_callback(None)
    await spool.close()

    copy = sqlite3.connect(path)
    plans = {
        each: [row[3] for row in copy.execute(f"EXPLAIN QUERY PLAN {each}")]
        for each in said
        if each.startswith(("SELECT", "UPDATE", "DELETE"))
    }
    copy.close()
    assert len(plans) > 20
    whole = ("SCAN deliveries", "SCAN rejections", "USE TEMP B-TREE FOR ORDER BY")
    assert not {each: plan for each, plan in plans.items() if any(line.startswith(whole) for line in plan)}


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / (1 << 20)


def write_backlog(path: Path, rows: int) -> None:
    """A file in which so many rows wait, as an outage of twelve hours leaves it."""
    database = open_database(path, entropy=lambda: secrets.token_bytes(32))
    database.execute("PRAGMA synchronous = OFF")
    payload, seeds = envelope.encode(delivery(0, size=1500)), Seeds(database.execute)
    cipher, random = Cipher(NO_KEYS), secrets.token_bytes(rows * SEED_BYTES)
    seeds.put(1, random)
    now_ms = int(time.time() * 1000)
    with database.transaction():
        database.connection.executemany(
            "INSERT INTO deliveries VALUES (?, ?, ?, ?, ?, 1, ?)",
            (
                (number + 1, LANE, at_ms, at_ms, at_ms + 86_400_000, cipher.seal(LANE, payload, seed))
                for number in range(rows)
                for at_ms in [now_ms - 43_200_000 * (rows - number) // rows]
                for seed in [random[number * SEED_BYTES : (number + 1) * SEED_BYTES]]
            ),
        )
        seeds.write()
        database.connection.executemany(
            "INSERT INTO rejections VALUES (?, ?, 'Unregistered', NULL, ?)",
            ((secrets.token_bytes(16), OTHER, now_ms - number) for number in range(rows)),
        )
    database.close()


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_large_backlog_costs_neither_time_nor_memory(path: Path) -> None:
    """A tenth of what `python bench/spool.py --waiting 1000000` measures."""
    write_backlog(path, 100_000)
    warm = await SqliteSpool.open(path.with_name("warm.db"))  # what the process takes once, for any spool
    await warm.put([delivery(n) for n in range(2000)])
    before_mb = resident_mb()
    started = time.monotonic()
    spool = await SqliteSpool.open(path, dedup_window_s=600)
    assert time.monotonic() - started < 5
    assert (await spool.backlog())[LANE].waiting == 100_000
    for number in range(20):
        leases = await spool.lease(LANE, 100)
        await asyncio.gather(
            spool.ack(leases), spool.put([delivery(n) for n in range(number * 100, number * 100 + 50)])
        )
    page = await spool.rejections(app_id=OTHER, limit=100)
    assert len(await spool.rejections(after=page[-1].name, limit=100)) == 100
    assert await spool.count_rejections() == {(OTHER, "Unregistered"): 100_000}
    assert resident_mb() - before_mb < 80, "32 MB of it are pages that SQLite keeps, 8 MB the filter of the dead"
    await spool.close()
    await warm.close()
