"""Kills of everything there is, under load: two that take, three that send, three servers: real processes."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.faults.nats_play import HELD, play
from tests.faults.table import Report
from tests.nats_fleet import ACK_WAIT_S

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.mark.fault(
    "kill -9 of workers on NATS",
    how="2 that take, 3 workers, 3 servers of NATS: each of the workers is killed and started again under load",
)
async def test_a_killed_worker_costs_nothing_and_what_it_had_is_sent_by_another(tmp_path: Path, table: Report) -> None:
    async with play(tmp_path) as this:
        for worker in this.fleet.workers:
            with this.ledger.fault():
                await worker.kill()
                await asyncio.sleep(ACK_WAIT_S + 1)
            await worker.start()
            await this.until_it_goes_on()
    table(
        this.verdict,
        twice_at_most=3 * HELD,
        because="what the provider had taken and NATS was not yet told: at most what was in flight",
        remark=this.remark,
    )


@pytest.mark.fault(
    "kill -9 of what takes, on NATS",
    how="the same; each of the two that take is killed and started again",
)
async def test_a_killed_api_costs_nothing_that_was_taken(tmp_path: Path, table: Report) -> None:
    async with play(tmp_path) as this:
        for api in this.fleet.apis:
            with this.ledger.fault():
                await api.kill()
            await asyncio.sleep(0.5)
            await api.start()
            await this.until_it_goes_on()
    table(this.verdict, twice_at_most=0, because="whoever takes sends nothing", remark=this.remark)


@pytest.mark.fault(
    "kill -9 of NATS servers",
    how="the same; the leader of the stream is killed and started again, three times",
)
async def test_a_killed_leader_costs_nothing(tmp_path: Path, table: Report) -> None:
    kills = 3
    async with play(tmp_path) as this:
        for _ in range(kills):
            leader = await this.fleet.leader()
            with this.ledger.fault():
                leader.kill()
                await this.until_it_goes_on()
                await asyncio.sleep(ACK_WAIT_S)
            this.fleet.nats.start(leader)
            await asyncio.sleep(1)
    table(
        this.verdict,
        twice_at_most=kills * 3 * HELD,
        because="what was told to the server that died was not told to the others",
        remark=this.remark,
    )


@pytest.mark.fault(
    "loss of most NATS servers",
    how="the same; two of the three servers are killed, for 6 s nothing is taken, then they are started again",
)
async def test_without_most_servers_nothing_is_taken_and_then_it_goes_on(tmp_path: Path, table: Report) -> None:
    async with play(tmp_path) as this:
        leader = await this.fleet.leader()
        dead = [leader, next(each for each in this.fleet.nats.servers if each is not leader)]
        with this.ledger.fault():
            for server in dead:
                server.kill()
            await asyncio.sleep(1)
            before = len(this.ledger.taken)
            await asyncio.sleep(5)
            assert len(this.ledger.taken) == before, "taken without a majority"
            for api in this.fleet.apis:
                await api.until_ready(503, within_s=15)
            for server in dead:
                this.fleet.nats.start(server)
            await this.until_it_goes_on()
            await asyncio.sleep(ACK_WAIT_S)
        for api in this.fleet.apis:
            await api.until_ready(within_s=15)
    assert this.ledger.statuses.get(503, 0) > 0
    table(
        this.verdict,
        twice_at_most=3 * HELD,
        because="what was told to servers that died was not told to the others",
        remark=this.remark,
    )


@pytest.mark.fault(
    "NATS servers and workers that hang",
    how="the same; the leader of the stream hangs for 12 s (SIGSTOP), then a worker for twice the ack_wait",
)
async def test_who_hangs_is_left_and_comes_back(tmp_path: Path, table: Report) -> None:
    async with play(tmp_path) as this:
        leader = await this.fleet.leader()
        with this.ledger.fault():
            leader.signal(signal.SIGSTOP)
            await asyncio.sleep(12)
            leader.signal(signal.SIGCONT)
            await this.until_it_goes_on()
            await asyncio.sleep(ACK_WAIT_S)
        worker = this.fleet.workers[0]
        with this.ledger.fault():
            worker.signal(signal.SIGSTOP)
            await asyncio.sleep(2 * ACK_WAIT_S)
            worker.signal(signal.SIGCONT)
            await this.until_it_goes_on()
    table(
        this.verdict,
        twice_at_most=4 * HELD,
        because="what somebody had who hung was given to others, and then sent by both",
        remark=this.remark,
    )
