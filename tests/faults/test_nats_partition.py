"""A NATS server that is cut off from the others under load, by networks of its own, and comes back."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.nats_play import HELD, Play, play_on
from tests.faults.table import Report
from tests.nats_cluster import nats_cluster
from tests.nats_fleet import ACK_WAIT_S, STREAM
from tests.nats_net import Cable, Island, island

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

CUT_S = 25
"""Longer than a leader without a majority takes to notice, and a gateway to look elsewhere."""
AT_MOST = 2 * 3 * HELD
"""The one that is cut off gives what it has to workers on its side for a while, and what it is told stays there."""
BECAUSE = "who was cut off had given it to workers, and what they told of it was not told to the others"


@asynccontextmanager
async def play_with_an_island(folder: Path) -> AsyncIterator[tuple[Play, Island]]:
    """The leader of the stream is on the island; one that takes and one worker are connected to it."""
    with (
        tempfile.TemporaryDirectory() as data,
        island() as far,
        nats_cluster(Path(data), size=3, places=(far.place, far.shore, far.shore)) as nats,
    ):
        async with play_on(nats, folder, first_at=nats.servers[0]) as this:
            await nats.make_leader(nats.servers[0], STREAM)
            await this.until_it_goes_on()
            yield this, far
            far.heal()


@pytest.mark.fault(
    "a NATS server without a network",
    how="2 that take, 3 workers, 3 servers of NATS; the leader of the stream is cut off from everything for 25 s",
)
async def test_a_server_without_a_network_costs_nothing(tmp_path: Path, table: Report) -> None:
    async with play_with_an_island(tmp_path) as (this, far):
        with this.ledger.fault():
            far.cut(*Cable)
            await this.until_it_goes_on()
            for each in this.fleet.apis:
                await each.until_ready(within_s=CUT_S)
            await asyncio.sleep(CUT_S / 2)
            far.heal()
            await this.until_it_goes_on()
            await asyncio.sleep(ACK_WAIT_S)
    table(this.verdict, twice_at_most=AT_MOST, because=BECAUSE, remark=this.remark)


@pytest.mark.fault(
    "a NATS server that is cut off from the others only",
    how="the same; gateways still reach it, but the other servers do not, for 25 s",
)
async def test_gateways_leave_a_server_that_is_cut_off_from_the_others(tmp_path: Path, table: Report) -> None:
    async with play_with_an_island(tmp_path) as (this, far):
        with this.ledger.fault():
            far.cut(Cable.SERVERS)
            await this.fleet.apis[0].until_ready(503, within_s=CUT_S)
            await this.fleet.apis[0].until_ready(within_s=CUT_S)
            await this.until_it_goes_on()
            far.heal()
            await this.until_it_goes_on()
            await asyncio.sleep(ACK_WAIT_S)
    table(this.verdict, twice_at_most=AT_MOST, because=BECAUSE, remark=this.remark)
