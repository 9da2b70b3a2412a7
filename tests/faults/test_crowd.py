"""Thousands of connections that say nothing or little: time limits end them, and nobody else notices."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import pytest

from tests.faults.crowds import Crowd, raise_file_limit
from tests.faults.ledger import Ledger
from tests.faults.table import Report
from tests.processes import Run, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

IDLE = 5000
EACH = 80
REQUESTS = 200
FACTOR = 20
"""So much slower the slowest hundredth may be: both processes share two cores with all these connections."""
AT_LEAST_S = 2.0
CLOSED_WITHIN_S = 30.0


async def p99_s(run: Run, ledger: Ledger) -> float:
    """How long the slowest hundredth of normal requests takes."""
    times = []
    async with run.client() as client:
        for _ in range(REQUESTS):
            note = ledger.make(is_sealed=True)
            begin = time.monotonic()
            await ledger.send(client, [note])
            times.append(time.monotonic() - begin)
            await asyncio.sleep(0.01)
    return statistics.quantiles(times, n=100)[-1]


@pytest.mark.fault(
    "5,000 idle connections, slow heads, slow bodies",
    how="5,000 silent TCP connections; 80 each: silent after TLS, 1 byte/s of head or body, half a body, half-closed",
)
async def test_a_crowd_that_says_little_stops_nobody(tmp_path: Path, table: Report) -> None:
    idle = raise_file_limit(IDLE + 5 * EACH) - 5 * EACH
    assert idle >= 1000, "this machine allows too few open files for this test"
    environ = {"PUSHGATE_API__REQUEST_TIMEOUT_S": "5"}
    async with staged(tmp_path, environ=environ) as run, Ledger(run) as ledger:
        await run.start()
        before_s = await p99_s(run, ledger)
        crowd = Crowd(run, time.monotonic)
        try:
            with ledger.fault():
                crowd.gather(idle, EACH)
                opening = asyncio.create_task(crowd.until_opened())
                during_s = await p99_s(run, ledger)
                standing = crowd.standing
                async with asyncio.timeout(CLOSED_WITHIN_S * 2):
                    await opening
                    await crowd.until_closed()
        finally:
            await crowd.disperse()
        print(crowd.opened, crowd.closed, crowd.longest_s, standing)
        verdict = await ledger.settle()
        assert await run.end() == 0
        assert b"Traceback" not in run.log
    print(f"p99 before {before_s * 1000:.1f} ms, during {during_s * 1000:.1f} ms")
    assert crowd.closed == crowd.opened
    assert max(crowd.longest_s.values()) < CLOSED_WITHIN_S, crowd.longest_s
    assert during_s < max(FACTOR * before_s, AT_LEAST_S)
    assert set(ledger.statuses) == {200}
    table(
        verdict,
        twice_at_most=0,
        because="no request and no attempt is cut off",
        remark=f"{idle} silent ones; all closed by the gateway after at most {max(crowd.longest_s.values()):.0f} s; "
        f"p99 of normal requests {before_s * 1000:.0f} ms before, {during_s * 1000:.0f} ms during",
    )
