"""One bout of a fault: a gateway under load between two providers, one of them sick for a while, the other one well."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from pushgate.client import seal
from pushgate.emulator import ApnsEmulator, FcmEmulator, Step
from pushgate.emulator.script import MAX_STEPS
from pushgate.model import Device, EncryptedNotification
from pushgate.stage import APNS_APP_ID, FCM_APP_ID
from tests.faults.ledger import Ledger, Verdict, longest_pause_s
from tests.faults.watching import Key
from tests.processes import CHAIN, Run, staged

IN_FLIGHT = 40
"""Of each lane."""
DEVICES = 200
"""Each gets something again and again: a pushkey that was wrongly called dead would be told as `rejected`."""
DEAD, DEAD_EACH = "dead", 3
"""Pushkeys that begin so are dead. So many of each provider get something too, before the fault and after it."""
FRESH = 20
"""So many deliveries that were taken during the fault must have arrived at the other provider before it ends."""
SETTLES_WITHIN_S = 40.0
SLOW = Step(delay_s=0.05, repeat=True)
"""Takes a notification and answers a little later: so that something is in flight at any moment."""
NOTHING_LEFT_OPEN = "the provider has processed nothing whose answer did not come back"
_TABLES = {APNS_APP_ID: "ORG_EXAMPLE_HEALTH_APNS", FCM_APP_ID: "EXAMPLE_PROJECT_APP_FIREBASE"}


class Bout:
    """What a test does during its bout, and what came of it. What is entered into `kept` lasts until all is settled."""

    def __init__(self, run: Run, ledger: Ledger, *, sick: str, kept: AsyncExitStack, mortal: Sequence[str]) -> None:
        self.run = run
        self.ledger = ledger
        self.sick = sick
        self.kept = kept
        self.well = FCM_APP_ID if sick == APNS_APP_ID else APNS_APP_ID
        self._verdict: Verdict | None = None
        self._recovered_in_s = 0.0
        self.dead = [device(app_id, DEAD, number) for app_id in mortal for number in range(DEAD_EACH)]

    @property
    def apns(self) -> ApnsEmulator:
        return self.run.stage.apns

    @property
    def fcm(self) -> FcmEmulator:
        return self.run.stage.fcm

    @property
    def verdict(self) -> Verdict:
        assert self._verdict is not None, "the bout is not over"
        return self._verdict

    def arrived(self, app_id: str, *, taken_after: float = 0.0) -> int:
        """How many deliveries of this app, taken after that time, have arrived."""
        arrivals = self.ledger.watch.arrivals
        taken = list(self.ledger.taken.items())
        return sum(at > taken_after and app_of(key) == app_id and key in arrivals for key, at in taken)

    def waiting(self) -> int:
        """How many deliveries wait for the sick provider."""
        return sum(app_of(key) == self.sick for key in self._missing())

    def _missing(self) -> set[Key]:
        return {key for key in self.ledger.missing() if not key[0].startswith(DEAD)}

    async def until_arrived(self, app_id: str, *, within_s: float = 30.0) -> None:
        """Wait until some that are taken from now on have arrived at this app's provider."""
        begin = time.monotonic()
        await self.until(lambda: self.arrived(app_id, taken_after=begin) >= FRESH, within_s=within_s)

    async def both_work(self) -> None:
        """Wait until both lanes deliver."""
        for app_id in (self.sick, self.well):
            await self.until_arrived(app_id)

    async def last(self, seconds: float) -> None:
        """Let the fault last for so long, and until the other lane has shown that it goes on meanwhile."""
        async with asyncio.TaskGroup() as waiting:
            waiting.create_task(asyncio.sleep(seconds))
            waiting.create_task(self.until_arrived(self.well))

    async def until(self, condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
        """Wait until this is so."""
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.05)

    async def recover(self, *, within_s: float = 40.0) -> None:
        """Wait until everything that was taken by now, during the fault or before it, has arrived: under load still."""
        begin = time.monotonic()
        await self.until(lambda: all(self.ledger.taken[key] > begin for key in self._missing()), within_s=within_s)
        self._recovered_in_s = time.monotonic() - begin
        await self.both_work()

    def pause_of_sick_s(self) -> float:
        """The longest time in which nothing arrived at the sick provider although something waited for it."""
        ledger = self.ledger
        taken = {key: at for key, at in ledger.taken.items() if app_of(key) == self.sick}
        arrivals = {key: times for key, times in ledger.watch.arrivals.items() if app_of(key) == self.sick}
        return longest_pause_s(taken, arrivals)

    def remark(self) -> str:
        """What the row says of the two lanes."""
        waited = f"its own lane waited {self.pause_of_sick_s():.1f} s at most"
        return f"{waited} and had caught up {self._recovered_in_s:.1f} s after the end; the other lane went on"

    async def settle(self) -> None:
        """Judge, when all that was taken has ended. Who is dead, and nobody else, must be told as dead."""
        await self.ledger.settle(within_s=SETTLES_WITHIN_S)
        async with self.run.client() as client:
            await self.ledger.send(client, [_to(device) for device in self.dead])
        self._verdict = await self.ledger.settle(within_s=SETTLES_WITHIN_S)
        assert self.ledger.told.keys() == {device.pushkey for device in self.dead}
        assert len(self.run.events("pushkey is dead")) == self._verdict.rejected == len(self.dead)


def device(app_id: str, prefix: str, number: int) -> Device:
    """A device that the load does not use. `prefix` is of hexadecimal digits."""
    if app_id == FCM_APP_ID:
        return Device(app_id, f"{prefix}fcm-device-{number}")
    return Device(app_id, f"{prefix}{number:0{64 - len(prefix)}x}")


def _to(device: Device) -> EncryptedNotification:
    return seal("for nobody", key=CHAIN.newest).for_device(device)


def app_of(key: Key) -> str:
    """The app of a delivery, by its pushkey."""
    return FCM_APP_ID if "fcm-device" in key[0] else APNS_APP_ID


def every(count: int, *steps: Step, delay_s: float = 0.0) -> Sequence[Step]:
    """A script for every token: so many answers, the last of them one of the steps in turn, the others proper ones."""
    turn = [each for step in steps for each in ([Step(delay_s=delay_s)] * (count - 1) + [step])]
    return turn * (MAX_STEPS // len(turn))


@asynccontextmanager
async def bout(
    folder: Path,
    *,
    sick: str,
    retry_scale: float,
    timeout_s: float = 10.0,
    before: Callable[[Run], None] = lambda run: None,
    more: dict[str, str] | None = None,
    mortal: Sequence[str] = (APNS_APP_ID, FCM_APP_ID),
) -> AsyncIterator[Bout]:
    """A gateway under load while the block runs; when it ends, everything is settled and the gateway stopped.

    `sick` is the app whose provider will have the fault, `before` happens before the gateway starts, `timeout_s` is
    the time that a provider has for an answer, `more` is more environment, `mortal` are the apps with dead pushkeys.
    """
    environ = {f"PUSHGATE_APPS__{name}__MAX_IN_FLIGHT": str(IN_FLIGHT) for name in _TABLES.values()}
    environ[f"PUSHGATE_APPS__{_TABLES[sick]}__REQUEST_TIMEOUT_S"] = str(timeout_s)
    environ |= more or {}
    async with staged(folder, environ=environ, retry_scale=retry_scale) as run, Ledger(run, pushkeys=DEVICES) as ledger:
        before(run)
        await run.start()
        async with AsyncExitStack() as kept:
            this = Bout(run, ledger, sick=sick, kept=kept, mortal=mortal)
            async with run.client() as client:
                await ledger.send(client, [_to(device) for device in this.dead])
            async with ledger.load(tasks=2, most_in_batch=10, pause_s=0.06):
                yield this
            await this.settle()
        assert all("internal_errors" not in each.counts for each in (run.stage.apns, run.stage.fcm))
        assert await run.end(signal.SIGTERM) == 0
        assert b"Traceback" not in run.log
