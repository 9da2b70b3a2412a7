"""SIGTERM under load: refuse what is new, land what flies, leave the rest to the next start."""

from __future__ import annotations

import asyncio
import signal
import ssl
import time
from pathlib import Path

import httpx
import pytest

from pushgate.emulator import Step
from tests.faults.ledger import Ledger
from tests.faults.table import Report
from tests.processes import Run, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

IN_FLIGHT = 30
LANES = 2
FEW = {
    "PUSHGATE_APPS__ORG_EXAMPLE_HEALTH_APNS__MAX_IN_FLIGHT": str(IN_FLIGHT),
    "PUSHGATE_APPS__EXAMPLE_PROJECT_APP_FIREBASE__MAX_IN_FLIGHT": str(IN_FLIGHT),
}


def caller(run: Run) -> httpx.AsyncClient:
    """A caller without the SDK, to see the answers as they are."""
    tls = ssl.create_default_context(cafile=str(run.stage.ca_file))
    tls.load_cert_chain(run.stage.caller_cert_file, run.stage.caller_key_file)
    return httpx.AsyncClient(base_url=run.url, verify=tls, trust_env=False)


def answer_late(run: Run, seconds: float) -> None:
    """Both providers take everything at once, and say so only then."""
    for emulator in (run.stage.apns, run.stage.fcm):
        emulator.script("*", [Step(delay_s=seconds, repeat=True)])


@pytest.mark.fault(
    "SIGTERM under load", how="SIGTERM while callers send and providers take 2 s to answer; then a start"
)
async def test_sigterm_refuses_lands_and_leaves_the_rest(tmp_path: Path, table: Report) -> None:
    async with staged(tmp_path, environ=FEW, drain_s=10) as run, Ledger(run) as ledger, caller(run) as http:
        answer_late(run, 2.0)
        await run.start()
        assert (await http.post("notify", json={"notification": {"devices": [], "prio": "high"}})).status_code == 200
        async with ledger.load(tasks=2):
            await ledger.until_taken(300)
            with ledger.fault():
                ending = asyncio.create_task(run.end(signal.SIGTERM))
                refused = await http.post("notify", json={"notification": {"devices": [], "prio": "high"}})
                while refused.status_code == 200:  # the signal is still on its way
                    refused = await http.post("notify", json={"notification": {"devices": [], "prio": "high"}})
                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) > 0
                assert (await run.ready())[0] == 503
                assert await ending == 0
                (stopped,) = run.events("stopped")
                assert stopped["cut_off"] == 0
                left = len(ledger.missing())
                assert left > 0, "nothing was left to the next start: this proves nothing"
                answer_late(run, 0)
                await run.start()
            await ledger.until_taken(50)
        verdict = await ledger.settle()
        assert await run.end() == 0
    assert ledger.statuses[503] > 0
    table(
        verdict,
        twice_at_most=0,
        because="all that flew has landed",
        remark=f"exit code 0; {left} were left to the next start",
    )


@pytest.mark.fault(
    "SIGTERM while a provider hangs",
    how="providers take 30 s to answer, `drain_s` is 1; then a start and good providers",
)
async def test_a_provider_that_hangs_does_not_hold_up_the_end(tmp_path: Path, table: Report) -> None:
    async with staged(tmp_path, environ=FEW, drain_s=1) as run, Ledger(run) as ledger:
        answer_late(run, 30)
        await run.start()
        async with ledger.load(tasks=2):
            await ledger.until_taken(300)
        with ledger.fault():
            begin = time.monotonic()
            assert await run.end(signal.SIGTERM) == 0
            took_s = time.monotonic() - begin
            (stopped,) = run.events("stopped")
            cut_off = stopped["cut_off"]
            assert isinstance(cut_off, int)
            assert 0 < cut_off <= LANES * IN_FLIGHT
            answer_late(run, 0)
            await run.start()
        verdict = await ledger.settle()
        assert await run.end() == 0
    assert took_s < 15, "1 s of draining and no more than it takes to close"
    table(
        verdict,
        twice_at_most=cut_off,
        because="the attempts that were cut off: the provider had taken them and not said so",
        remark=f"{cut_off} attempts were cut off",
    )


@pytest.mark.fault(
    "second SIGTERM", how="providers take 30 s to answer, `drain_s` is 30; a second signal ends it at once"
)
async def test_a_second_sigterm_ends_at_once(tmp_path: Path, table: Report) -> None:
    async with staged(tmp_path, environ=FEW, drain_s=30) as run, Ledger(run) as ledger:
        answer_late(run, 30)
        await run.start()
        async with ledger.load(tasks=2):
            await ledger.until_taken(200)
        with ledger.fault():
            run.signal(signal.SIGTERM)
            await run.until_told("draining")
            begin = time.monotonic()
            code = await run.end(signal.SIGTERM)
            took_s = time.monotonic() - begin
            answer_late(run, 0)
            await run.start()
        verdict = await ledger.settle()
        assert await run.end() == 0
    assert (code, took_s < 10) == (1, True)
    table(
        verdict,
        twice_at_most=LANES * IN_FLIGHT,
        because="what was in flight: the providers had taken it and not said so",
        remark="exit code 1",
    )
