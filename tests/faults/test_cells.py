"""Several processes behind one port: one is killed under load, or all, or their supervisor, or they get fewer."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from pushgate.emulator import Step
from tests.cells import is_running, kill, pids, until_another_serves, until_gone
from tests.faults.ledger import Ledger
from tests.faults.table import Report
from tests.processes import Run, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

CELLS = 2
MORTAL_CELLS = 4
KILLS = 16
"""A cell that died five times within a minute would be started only every 30 seconds."""
KILLS_OF_SUPERVISOR = 6
COUNTS = (4, 2, 1, 3, 1, 2)
IN_FLIGHT = 6
"""Of each lane, in all cells together."""
LANES = 2
CALLERS = 6
IN_BATCH = 20
ANSWER_S = 0.06
"""Slower than the callers send, so that at each kill there is something in flight and more that waits."""
LATEST_S = 0.5
ENVIRON = {
    "PUSHGATE_API__PROCESSES": str(CELLS),
    "PUSHGATE_APPS__ORG_EXAMPLE_HEALTH_APNS__MAX_IN_FLIGHT": str(IN_FLIGHT),
    "PUSHGATE_APPS__EXAMPLE_PROJECT_APP_FIREBASE__MAX_IN_FLIGHT": str(IN_FLIGHT),
}
FLEW = "at each kill, what the providers had taken and was not yet written down: at most what was in flight"


def answer_after(run: Run, seconds: float) -> None:
    for emulator in (run.stage.apns, run.stage.fcm):
        emulator.script("*", [Step(delay_s=seconds, repeat=True)])


@pytest.mark.fault(
    "kill -9 of one of four processes under load",
    how="16 kills of a process behind the port at random moments, each replaced while the others serve",
)
async def test_a_killed_cell_loses_nothing_and_its_successor_sends_what_it_held(tmp_path: Path, table: Report) -> None:
    environ = {**ENVIRON, "PUSHGATE_API__PROCESSES": str(MORTAL_CELLS)}
    async with staged(tmp_path, environ=environ, retry_scale=0.01) as run, Ledger(run) as ledger:
        answer_after(run, ANSWER_S)
        await run.start()
        async with ledger.load(tasks=CALLERS, most_in_batch=IN_BATCH):
            for number in range(KILLS):
                await asyncio.sleep(ledger.chance.uniform(0, LATEST_S))
                cell = number % MORTAL_CELLS
                with ledger.fault():
                    before = kill(run, cell)
                    assert (await run.ready())[0] == 200, "the others serve"
                    await until_another_serves(run, cell, before)
                await ledger.until_taken(IN_BATCH)
        answer_after(run, 0)
        verdict = await ledger.settle()
        deaths = sum(value for name, value in (await run.metrics()).items() if "cell_deaths_total" in name)
        assert await run.end(signal.SIGTERM) == 0
        assert b"Traceback" not in run.log
    table(
        verdict,
        twice_at_most=KILLS * (LANES * IN_FLIGHT + IN_BATCH),
        because=f"{FLEW}; and one request that was sent again, of which the sibling was not told any more",
        remark=f"{verdict.in_doubt} had no answer, {verdict.in_doubt_arrived} of them arrived all the same",
    )
    assert deaths == KILLS
    assert verdict.in_doubt > 0


@pytest.mark.fault(
    "kill -9 of the supervisor under load",
    how="6 kills of the process that started the others, each followed at once by a start",
)
async def test_cells_whose_supervisor_was_killed_lose_nothing(tmp_path: Path, table: Report) -> None:
    async with staged(tmp_path, environ=ENVIRON, retry_scale=0.01) as run, Ledger(run) as ledger:
        answer_after(run, ANSWER_S)
        await run.start()
        async with ledger.load(tasks=CALLERS, most_in_batch=IN_BATCH):
            for _ in range(KILLS_OF_SUPERVISOR):
                await ledger.until_taken(IN_BATCH)
                await asyncio.sleep(ledger.chance.uniform(0, LATEST_S))
                orphans = [*pids(run).values()]
                with ledger.fault():
                    await run.kill()
                    await run.start()
                    await until_gone(orphans, within_s=5)
        answer_after(run, 0)
        verdict = await ledger.settle()
        assert await run.end(signal.SIGTERM) == 0
        assert b"Traceback" not in run.log
    table(verdict, twice_at_most=KILLS_OF_SUPERVISOR * LANES * IN_FLIGHT, because=FLEW)


@pytest.mark.fault(
    "another number of processes, under load",
    how="kill -9 of all of them, then a start with another `api.processes`: 2, 4, 2, 1, 3, 1, 2",
)
async def test_another_number_of_cells_loses_nothing(tmp_path: Path, table: Report) -> None:
    async with staged(tmp_path, environ=ENVIRON, retry_scale=0.01) as run, Ledger(run) as ledger:
        answer_after(run, ANSWER_S)
        await run.start()
        left: list[int] = []
        async with ledger.load(tasks=CALLERS, most_in_batch=IN_BATCH):
            for count in COUNTS:
                await ledger.until_taken(5 * IN_BATCH)
                with ledger.fault():
                    cells = [pid for pid in pids(run).values() if is_running(pid)]
                    await run.kill()
                    await until_gone(cells)
                    left.append(len(ledger.missing()))
                    run.environ["PUSHGATE_API__PROCESSES"] = str(count)
                    await run.start()
        answer_after(run, 0)
        verdict = await ledger.settle()
        async with asyncio.timeout(30):
            while sorted(tmp_path.glob("spool.*.db")) != [tmp_path / "spool.1.db"]:
                await asyncio.sleep(0.1)
        assert await run.end(signal.SIGTERM) == 0
        assert b"Traceback" not in run.log
    table(verdict, twice_at_most=len(COUNTS) * LANES * (IN_FLIGHT + max(COUNTS)), because=FLEW)
    assert all(left), "nothing waited that could have been left behind"
