"""The clock of the machine is set by an hour and set right again, while the gateway works."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from pushgate.emulator import Step
from tests.faults import shifted_clock
from tests.faults.ledger import Ledger
from tests.faults.table import Report
from tests.processes import staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

HOUR_S = 3600.0
WRONG_FOR_S = 3.0


async def step_under_load(folder: Path, seconds: float, table: Report) -> None:
    """Right, wrong, right again. What waits meanwhile is there from before, from while it is wrong, and from after."""
    clock = folder / "clock"
    shifted_clock.set_clock(clock, 0)
    wrapper = [sys.executable, shifted_clock.__file__, str(clock)]
    async with staged(folder, retry_scale=0.01) as run, Ledger(run) as ledger:
        await run.start(wrapper=wrapper)
        async with ledger.load(tasks=2):
            await ledger.until_taken(50)
            run.stage.fcm.script("*", [Step(status=503, repeat=True)])  # these wait in the spool over both steps
            await ledger.until_taken(50)
            with ledger.fault():
                shifted_clock.set_clock(clock, seconds)
                await asyncio.sleep(WRONG_FOR_S)
                await ledger.until_taken(50)
                shifted_clock.set_clock(clock, 0)
            await ledger.until_taken(50)
            run.stage.fcm.script("*", [])
        verdict = await ledger.settle(within_s=30)
        assert await run.end() == 0
        assert b"Traceback" not in run.log
    assert verdict.expired == 0, "an hour is not a day"
    table(
        verdict,
        twice_at_most=0,
        because="nothing was restarted, and no answer was lost",
        remark="meanwhile the provider refuses our tokens, for they are of another hour",
    )


@pytest.mark.fault("clock set forward", how="the gateway's clock is an hour ahead for 3 s under load, then right again")
async def test_a_clock_that_is_ahead_for_a_while_expires_nothing(tmp_path: Path, table: Report) -> None:
    await step_under_load(tmp_path, HOUR_S, table)


@pytest.mark.fault("clock set back", how="the gateway's clock is an hour behind for 3 s under load, then right again")
async def test_a_clock_that_is_behind_for_a_while_expires_nothing(tmp_path: Path, table: Report) -> None:
    await step_under_load(tmp_path, -HOUR_S, table)
