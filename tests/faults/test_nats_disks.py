"""Disks under a cluster of NATS that fill up or turn read-only: what is not stored is not taken, nothing is lost."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pushgate.client import GatewayUnavailable, Retries
from tests.faults.nats_play import HELD, Play, play_on
from tests.faults.table import Report
from tests.nats_cluster import Nats, nats_cluster
from tests.nats_disks import Disk, disks
from tests.nats_fleet import ACK_WAIT_S

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

NAMES = ("n1", "n2", "n3")
SYNCED = ", sync_interval: always"
"""What an ill disk had not been told to sync is lost, as in a loss of power."""


@asynccontextmanager
async def play_with_disks(folder: Path) -> AsyncIterator[tuple[Play, Sequence[Disk]]]:
    """A fleet on three servers, each with a disk of its own."""
    with (
        tempfile.TemporaryDirectory() as data,
        disks(Path(data), NAMES) as each_its_own,
        nats_cluster(Path(data), size=3, store=SYNCED) as nats,
    ):
        async with play_on(nats, folder) as this:
            yield this, each_its_own


def disk_of(server: Nats, each_its_own: Sequence[Disk]) -> Disk:
    return each_its_own[NAMES.index(server.name)]


async def until_refused(this: Play) -> None:
    """Wait until everybody is told to come later, and nothing is taken any more."""
    statuses, taken = this.ledger.statuses, this.ledger.taken
    async with asyncio.timeout(60):
        before = (-1, -1)
        while statuses.get(503, 0) < before[0] + 2 or len(taken) > before[1]:
            before = (statuses.get(503, 0), len(taken))
            await asyncio.sleep(7)  # a put is tried for 5 s
    for api in this.fleet.apis:
        async with api.client(retries=Retries(count=0), timeout_s=15) as client:
            with pytest.raises(GatewayUnavailable) as caught:
                await client.notify(this.ledger.make(is_sealed=False))  # type: ignore[arg-type]  # a plain one
            assert caught.value.status == 503
            assert caught.value.retry_after_s is not None
        await api.until_ready(503, within_s=15)


@pytest.mark.fault(
    "read-only disk of a NATS server",
    how="2 that take, 3 workers, 3 servers of NATS, each with a disk: that of the leader turns read-only under load",
)
async def test_one_disk_that_turns_read_only_costs_nothing(tmp_path: Path, table: Report) -> None:
    async with play_with_disks(tmp_path) as (this, each_its_own):
        leader = await this.fleet.leader()
        with this.ledger.fault():
            disk_of(leader, each_its_own).turn_read_only()
            await asyncio.sleep(ACK_WAIT_S)
            await this.until_it_goes_on()
            leader.kill()
            disk_of(leader, each_its_own).mend()
            this.fleet.nats.start(leader)
            await this.until_it_goes_on()
            await asyncio.sleep(ACK_WAIT_S)
    table(
        this.verdict,
        twice_at_most=2 * 3 * HELD,
        because="what was told to the server with the disk was not told to the others",
        remark=this.remark,
    )


@pytest.mark.fault(
    "read-only disks of most NATS servers",
    how="the same; the disks of two of the three turn read-only, then they are mended and their servers started again",
)
async def test_without_most_disks_nothing_is_taken_and_then_it_goes_on(tmp_path: Path, table: Report) -> None:
    async with play_with_disks(tmp_path) as (this, each_its_own):
        leader = await this.fleet.leader()
        ill = [leader, next(each for each in this.fleet.nats.servers if each is not leader)]
        with this.ledger.fault():
            for server in ill:
                disk_of(server, each_its_own).turn_read_only()
            await until_refused(this)
            for server in ill:
                server.kill()
                disk_of(server, each_its_own).mend()
                this.fleet.nats.start(server)
            await this.until_it_goes_on()
            await asyncio.sleep(ACK_WAIT_S)
    table(
        this.verdict,
        twice_at_most=3 * HELD,
        because="what was told while most disks took nothing was forgotten",
        remark=this.remark,
    )


@pytest.mark.fault(
    "full disks of all NATS servers",
    how="the same; the disks of all three have no byte left, then they have room and their servers are started again",
)
async def test_full_disks_take_nothing_and_lose_nothing(tmp_path: Path, table: Report) -> None:
    async with play_with_disks(tmp_path) as (this, each_its_own):
        with this.ledger.fault():
            for disk in each_its_own:
                disk.fill()
            await until_refused(this)
            for server in this.fleet.nats.servers:
                server.kill()
            for disk, server in zip(each_its_own, this.fleet.nats.servers, strict=True):
                disk.make_room()
                this.fleet.nats.start(server)
            await this.until_it_goes_on()
            await asyncio.sleep(ACK_WAIT_S)
    table(
        this.verdict,
        twice_at_most=3 * HELD,
        because="what was told while the disks took nothing was forgotten",
        remark=this.remark,
    )
