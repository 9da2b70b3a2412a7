"""kill -9 at random moments under load, again and again over the same spool."""

from __future__ import annotations

import asyncio
import signal
import statistics
from pathlib import Path

import pytest

from pushgate.emulator import Step
from tests.faults.ledger import Ledger
from tests.faults.table import Report
from tests.processes import Run, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

KILLS = 40
IN_FLIGHT = 5
"""Of each lane."""
LANES = 2
ANSWER_S = 0.06
"""Slower than the callers send, so that at each kill there is something in flight and more that waits."""
LATEST_S = 0.5


def answer_after(run: Run, seconds: float) -> None:
    for emulator in (run.stage.apns, run.stage.fcm):
        emulator.script("*", [Step(delay_s=seconds, repeat=True)])


@pytest.mark.fault(
    "kill -9 under load",
    how="40 kills of the process at random moments under load, each followed by a start with the same spool",
)
async def test_forty_kills_at_random_moments_lose_nothing(tmp_path: Path, table: Report) -> None:
    environ = {
        "PUSHGATE_APPS__ORG_EXAMPLE_HEALTH_APNS__MAX_IN_FLIGHT": str(IN_FLIGHT),
        "PUSHGATE_APPS__EXAMPLE_PROJECT_APP_FIREBASE__MAX_IN_FLIGHT": str(IN_FLIGHT),
    }
    async with staged(tmp_path, environ=environ, retry_scale=0.01) as run, Ledger(run) as ledger:
        answer_after(run, ANSWER_S)
        await run.start()
        waiting = []
        async with ledger.load(tasks=3):
            for _ in range(KILLS):
                await asyncio.sleep(ledger.chance.uniform(0, LATEST_S))
                with ledger.fault():
                    await run.kill()
                    waiting.append(len(ledger.missing()))
                    await run.start()
            await ledger.until_taken(1)
        answer_after(run, 0)
        verdict = await ledger.settle()
        assert await run.end(signal.SIGTERM) == 0
        assert b"Traceback" not in run.log
    table(
        verdict,
        twice_at_most=KILLS * LANES * IN_FLIGHT,
        because="at each kill, what the provider had taken and was not yet written down: at most what was in flight",
        remark=f"{statistics.median(waiting):.0f} were waiting at a kill; "
        f"{verdict.in_doubt} had no answer, {verdict.in_doubt_arrived} of them arrived all the same",
    )
    assert statistics.median(waiting) > LANES * IN_FLIGHT, "too little waited to be lost"
    assert verdict.in_doubt > 0
