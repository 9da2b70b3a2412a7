"""Deliveries in bundles that memory lets go of, that are deferred, or that a fault meets: each is leased in the end."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from pushgate.model import Delivery, Device, PlainNotification
from pushgate.spool import lanes
from pushgate.spool.sqlite import SqliteSpool
from pushgate.spool.store import Store

FEW_BYTES = 60_000


def deliveries(lane: str, count: int, *, first: int = 0) -> list[Delivery]:
    now = time.time()
    made = []
    for n in range(first, first + count):
        device = Device(lane, f"{lane}-{n}")
        notification = PlainNotification(devices=(device,), content={"body": "x" * 500})
        made.append(
            Delivery(
                id=device.pushkey, device=device, notification=notification, accepted_at=now, expires_at=now + 86_400
            )
        )
    return made


async def leased(spool: SqliteSpool, lane: str, count: int) -> list[str]:
    """The ids of so many deliveries, acknowledged."""
    ids: list[str] = []
    async with asyncio.timeout(10):
        while len(ids) < count:
            leases = await spool.lease(lane, 7)
            ids += [lease.delivery.id for lease in leases]
            await spool.ack(leases)
    return sorted(ids)


def on_disk(path: Path, table: str) -> int:
    """Rows of a closed spool."""
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


async def test_what_memory_has_let_go_of_is_read_back(tmp_path: Path) -> None:
    spool = await SqliteSpool.open(tmp_path / "spool.db", memory_bytes=FEW_BYTES, tidy_idle_s=60)
    idle, busy = deliveries("idle", 30), deliveries("busy", 60)
    await spool.put(idle)
    for start in range(0, 60, 10):
        await spool.put(busy[start : start + 10])
    assert await leased(spool, "busy", 60) == sorted(each.id for each in busy)
    assert await leased(spool, "idle", 30) == sorted(each.id for each in idle)
    assert await spool.backlog() == {}
    await spool.close()
    assert [on_disk(tmp_path / "spool.db", table) for table in ("bundles", "ends", "deliveries")] == [0, 0, 0]


async def test_where_that_cannot_be_written_it_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "AGAIN_S", 0.02)
    settle, faults = Store.settle, [sqlite3.OperationalError("disk I/O error")] * 4

    def failing(store: Store, ids: list[int]) -> None:
        if faults:
            raise faults.pop()
        settle(store, ids)

    monkeypatch.setattr(Store, "settle", failing)
    spool = await SqliteSpool.open(tmp_path / "spool.db", memory_bytes=FEW_BYTES, tidy_idle_s=60)
    await spool.put(deliveries("idle", 30))
    for start in range(0, 60, 10):
        await spool.put(deliveries("busy", 10, first=start))
    assert await leased(spool, "idle", 30) == sorted(each.id for each in deliveries("idle", 30))
    assert not faults
    assert await leased(spool, "busy", 60) == sorted(each.id for each in deliveries("busy", 60))
    await spool.close()


async def test_what_stays_gets_a_row_and_a_start_finds_all(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = await SqliteSpool.open(path, tidy_idle_s=0.01)
    await spool.put(deliveries("lane", 10))
    leases = await spool.lease("lane", 10)
    await spool.ack(leases[:3])
    await spool.nack(leases[3:6], delay_s=0)
    await asyncio.sleep(0.1)  # tidied
    await spool.put(deliveries("lane", 5, first=10))
    await spool.close()
    assert (on_disk(path, "bundles"), on_disk(path, "deliveries")) == (0, 12)
    spool = await SqliteSpool.open(path)
    attempts: dict[str, int] = {}
    while len(attempts) < 12:
        attempts |= {lease.delivery.id: lease.attempt for lease in await spool.lease("lane", 20)}
    expected = {f"lane-{n}": 2 if n < 6 else 1 for n in range(3, 15)}
    assert attempts == expected
    await spool.close()


async def test_many_wait_a_moment_for_a_lane_that_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        if seconds == lanes.CATCH_UP_STEP_S:
            waits.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(lanes.asyncio, "sleep", counted)  # type: ignore[attr-defined]  # the module's own name for it
    spool = await SqliteSpool.open(tmp_path / "spool.db", due_clock=lambda: 1000.0)
    for _ in range(4):
        await spool.put(deliveries("lane", 500))
    assert waits == [], "nobody takes anything: whoever waits there, waits in vain"
    await spool.lease("lane", 10)
    await spool.put(deliveries("lane", lanes.CATCH_UP_ROWS - 1))
    await spool.put(deliveries("other", 200))
    assert waits == [], "few never wait, nor does another lane"
    await spool.put(deliveries("lane", 2 * lanes.CATCH_UP_ROWS))
    assert waits == [lanes.CATCH_UP_STEP_S] * 2
    await spool.put(deliveries("lane", 500))
    assert waits == [lanes.CATCH_UP_STEP_S] * (2 + lanes.CATCH_UP_STEPS), "and nobody waits for ever"
    monkeypatch.undo()
    await spool.close()


async def test_who_waits_for_a_lane_waits_for_no_other_and_no_longer_than_it_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "CATCH_UP_STEP_S", 0.02)
    spool = await SqliteSpool.open(tmp_path / "spool.db", due_clock=lambda: 1000.0, memory_rows=400)
    for lane in ("busy", "other"):
        await spool.put(deliveries(lane, 200))
        await spool.lease(lane, 10)
    many = [asyncio.create_task(spool.put(deliveries("busy", 100, first=200 + 100 * n))) for n in range(8)]
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    await spool.put(deliveries("other", 2 * lanes.CATCH_UP_ROWS, first=200))
    assert asyncio.get_running_loop().time() - began < 0.2, "it is behind nobody of the busy lane"
    await asyncio.gather(*many)
    elapsed = asyncio.get_running_loop().time() - began
    assert elapsed < 8 * lanes.CATCH_UP_STEPS * 0.02 - 1, "from where the lane spills on, nobody waits for it"
    assert (await spool.backlog())["busy"].waiting == 1000
    await spool.close()
