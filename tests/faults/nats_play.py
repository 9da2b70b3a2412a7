"""A fleet on NATS under load while something happens to it, and what is said of it in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pushgate.emulator import Step
from tests.faults.ledger import Ledger, Verdict
from tests.nats_cluster import Nats, NatsCluster
from tests.nats_fleet import Fleet, fleet, fleet_on

IN_FLIGHT = 10
"""Of each lane of each worker."""
LANES = 2
ANSWER_S = 0.05
ENVIRON = {
    "PUSHGATE_APPS__ORG_EXAMPLE_HEALTH_APNS__MAX_IN_FLIGHT": str(IN_FLIGHT),
    "PUSHGATE_APPS__EXAMPLE_PROJECT_APP_FIREBASE__MAX_IN_FLIGHT": str(IN_FLIGHT),
    "PUSHGATE_DELIVERY__RETRY_SCALE": "0.05",
}
HELD = LANES * IN_FLIGHT
"""What a worker can have in flight."""


class Play:
    """A fleet under load, and what came of it."""

    def __init__(self, fleet: Fleet, ledger: Ledger) -> None:
        self.fleet = fleet
        self.ledger = ledger
        self.doubtful = 0
        self._verdict: Verdict | None = None

    @property
    def verdict(self) -> Verdict:
        assert self._verdict is not None, "it is not over"
        return self._verdict

    @property
    def remark(self) -> str:
        verdict = self.verdict
        unavailable = self.ledger.statuses.get(503, 0)
        return (
            f"{unavailable} requests were answered 503; of {self.doubtful} deliveries without a yes "
            f"{verdict.in_doubt_arrived} arrived all the same"
        )

    async def until_it_goes_on(self) -> None:
        """Wait until what is taken from now on arrives."""
        known = set(self.ledger.taken)
        await self.ledger.until_taken(30)
        async with asyncio.timeout(40):
            while sum(key in self.ledger.watch.arrivals for key in self.ledger.taken.keys() - known) < 20:
                await asyncio.sleep(0.05)

    async def judge(self) -> None:
        # NATS may have stored what it could not tell us of: a 503 is no promise that nothing was kept.
        self.ledger.in_doubt |= self.ledger.refused
        self.doubtful = len(self.ledger.in_doubt)
        self.ledger.refused.clear()
        self._verdict = await self.ledger.settle(within_s=30)


@asynccontextmanager
async def play(folder: Path) -> AsyncIterator[Play]:
    """A fleet on three servers here."""
    async with fleet(folder, environ=ENVIRON) as run, play_of(run) as this:
        yield this


@asynccontextmanager
async def play_on(nats: NatsCluster, folder: Path, *, first_at: Nats | None = None) -> AsyncIterator[Play]:
    """A fleet on these servers."""
    async with fleet_on(nats, folder, environ=ENVIRON, first_at=first_at) as run, play_of(run) as this:
        yield this


@asynccontextmanager
async def play_of(run: Fleet) -> AsyncIterator[Play]:
    """Under load from begin to end. When all has arrived it is judged, and nobody must have crashed."""
    async with Ledger(run) as ledger:
        for emulator in (run.stage.apns, run.stage.fcm):
            emulator.script("*", [Step(delay_s=ANSWER_S, repeat=True)])
        await run.begin()
        this = Play(run, ledger)
        async with ledger.load(tasks=4, most_in_batch=10, pause_s=0.05):
            await ledger.until_arrived(50)
            yield this
            await this.until_it_goes_on()
        await this.judge()
        await run.finish()
