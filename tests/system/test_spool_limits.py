"""The limits of the SQLite spool, seen from its file: refused before the disk is touched, in the way of no end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pushgate.errors import SpoolFull
from pushgate.model import Delivery, Device, PlainNotification
from pushgate.outcome import Rejected
from pushgate.spool import Lease
from pushgate.spool.limits import MB, Limits
from pushgate.spool.sqlite import SqliteSpool

LANE = "de.example.app.apns"


def delivery(number: int, *, size: int = 1500, **more: Any) -> Delivery:
    device = Device(app_id=LANE, pushkey=f"pushkey-{number}")
    now = time.time()
    return Delivery(
        id=str(number),
        device=device,
        notification=PlainNotification(devices=(device,), content={"body": "x" * size}),
        accepted_at=now,
        expires_at=now + 86400,
        **more,
    )


async def drain(spool: SqliteSpool) -> list[Lease]:
    leases: list[Lease] = []
    async with asyncio.timeout(15):
        while (backlog := await spool.backlog()).get(LANE) and backlog[LANE].waiting > len(leases):
            leases += await spool.lease(LANE, 1000)
    return leases


async def fill(spool: SqliteSpool, *, size: int, at_once: int = 20) -> int:
    """Put until there is no room. Returns how many there are."""
    for number in range(0, 1_000_000, at_once):
        try:
            await spool.put([delivery(each, size=size) for each in range(number, number + at_once)])
        except SpoolFull:
            return number
    raise AssertionError("never full")


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[SqliteSpool]:
    spool = await SqliteSpool.open(tmp_path / "spool.db", limits=Limits(max_bytes=8 * MB), sweep_every_s=3600)
    yield spool
    await spool.close()


async def quiet(folder: Path) -> None:
    """Wait until the spool has tidied up."""
    async with asyncio.timeout(10):
        while (folder / "spool.db-wal").stat().st_size:
            await asyncio.sleep(0.02)


async def test_what_is_refused_is_refused_before_anything_is_written(spool: SqliteSpool, tmp_path: Path) -> None:
    stored = await fill(spool, size=1500)
    await quiet(tmp_path)
    before = (tmp_path / "spool.db").stat()
    results = await asyncio.gather(
        *(spool.put([delivery(n) for n in range(20)]) for _ in range(50)), return_exceptions=True
    )
    assert all(isinstance(result, SpoolFull) for result in results)
    assert (tmp_path / "spool.db-wal").stat().st_size == 0
    after = (tmp_path / "spool.db").stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    assert len(await drain(spool)) == stored


@pytest.mark.parametrize("size", [100, 1500, 4200, 20_000, 60_000])
async def test_what_data_takes_stays_within_the_limit_and_close_to_it(
    spool: SqliteSpool, tmp_path: Path, size: int
) -> None:
    await fill(spool, size=size)
    await quiet(tmp_path)
    taken = (tmp_path / "spool.db").stat().st_size
    request = 20 * (size + 8192)
    assert 8 * MB - request < taken < 8 * MB * 1.02


async def test_free_pages_inside_the_file_are_room(spool: SqliteSpool, tmp_path: Path) -> None:
    first = await fill(spool, size=1500)
    await quiet(tmp_path)
    full = (tmp_path / "spool.db").stat().st_size
    for _ in range(3):
        leases = await drain(spool)
        await spool.ack(leases)
        again = await fill(spool, size=1500)
        assert abs(again - first) <= 40
    await quiet(tmp_path)
    assert (tmp_path / "spool.db").stat().st_size < full * 1.02


async def test_what_has_to_end_ends_even_where_it_needs_more_room_than_it_gives_back(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = await SqliteSpool.open(path, dedup_window_s=600, memory_rows=4096)
    await spool.put([delivery(n, size=10, fingerprint=f"{n:016}".encode()) for n in range(3000)])
    await spool.close()
    spool = await SqliteSpool.open(path, dedup_window_s=600, limits=Limits(max_bytes=1), memory_rows=4096)
    leases = await drain(spool)
    with pytest.raises(SpoolFull):
        await spool.put([delivery(1)])
    await spool.nack(leases[:1000], delay_s=1000)
    assert await spool.hasten(LANE) == 1000
    await asyncio.gather(*(spool.reject(lease, Rejected("Unregistered" * 20)) for lease in leases[1000:]))
    assert sum((await spool.count_rejections()).values()) == 2000
    await spool.bury(await drain(spool))
    assert await spool.backlog() == {}
    await spool.close()


async def test_one_put_without_room_does_not_fail_what_shares_its_commit(spool: SqliteSpool) -> None:
    await spool.put([delivery(0)])
    (lease,) = await drain(spool)
    results = await asyncio.gather(
        spool.put([delivery(1)]),
        spool.put([delivery(n, size=60_000) for n in range(100, 300)]),
        spool.put([delivery(2)]),
        spool.ack([lease]),
        return_exceptions=True,
    )
    assert [results[0], results[2], results[3]] == [0, 0, None]
    assert isinstance(results[1], SpoolFull)
    assert spool.commits <= 4
    assert sorted(lease.delivery.id for lease in await drain(spool)) == ["1", "2"]


async def test_a_probe_of_a_full_spool_takes_nothing_down_with_it(tmp_path: Path) -> None:
    spool = await SqliteSpool.open(tmp_path / "spool.db", limits=Limits(max_bytes=MB // 2))
    await fill(spool, size=200, at_once=1)
    leases = await drain(spool)
    probed, *others = await asyncio.gather(
        spool.probe(), *(spool.ack([lease]) for lease in leases), return_exceptions=True
    )
    assert isinstance(probed, SpoolFull)
    assert others == [None] * len(leases)
    await spool.probe()
    await spool.close()
