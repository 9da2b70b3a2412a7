"""A disk that is full for a while: 503 meanwhile, then it goes on by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pushgate.emulator import Step
from tests.faults.disks import SmallDisk, small_disk
from tests.faults.ledger import Ledger
from tests.faults.table import Report
from tests.processes import staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


async def fill_under_load(disk: SmallDisk, table: Report) -> None:
    async with staged(disk.folder / "stage", retry_scale=0.01) as run, Ledger(run) as ledger:
        for emulator in (run.stage.apns, run.stage.fcm):
            emulator.script("*", [Step(delay_s=0.3, repeat=True)])  # so that something has to be settled meanwhile
        await run.start()
        async with ledger.load(tasks=3):
            await ledger.until_taken(300)
            with ledger.fault():
                disk.fill(run.pid)
                async with asyncio.timeout(30):
                    while ledger.statuses.get(503, 0) < 10:
                        await asyncio.sleep(0.05)
                await run.until_ready(503)
                assert "spool" in (await run.ready())[1]
                disk.make_room(run.pid)
            await run.until_ready(200)
            await ledger.until_taken(100)
        verdict = await ledger.settle()
        assert await run.end() == 0
        assert b"Traceback" not in run.log
    assert verdict.refused > 0
    table(
        verdict,
        twice_at_most=0,
        because="nothing was restarted: what could not be written down is written down later",
        remark=f"{verdict.refused} were answered 503; it goes on by itself",
    )


@pytest.mark.fault(
    "disk full", how="the file system of spool and log has no byte left under load; then it has room again"
)
async def test_a_full_disk_loses_nothing_that_was_taken(tmp_path: Path, table: Report) -> None:
    with small_disk(tmp_path / "disk") as disk:
        await fill_under_load(disk, table)


@pytest.mark.fault("disk write error", how="no file can be written beyond 128 KB (EFBIG) under load; then it can again")
async def test_files_that_cannot_grow_lose_nothing_that_was_taken(tmp_path: Path, table: Report) -> None:
    with small_disk(tmp_path / "disk", may_mount=False) as disk:
        await fill_under_load(disk, table)
