"""One lane: the stream of one app_id. Takes leases from the spool, has them sent, and has them settled.

A lane has its own concurrency, its own breaker and its own pauses (`pace`), so that one sick provider or key stops
nobody else. Its settings may change while it runs: what flies then is settled, but says nothing of the new settings.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol, assert_never

import structlog
from msgspec import Struct

from pushgate import retry
from pushgate.breaker import Breaker, BreakerLimits
from pushgate.errors import SpoolError
from pushgate.metrics import Metrics
from pushgate.model import Delivery
from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected
from pushgate.pace import Change, Pace, Paused, Resumed
from pushgate.settling import TROUBLE_S, Settling, Source, Timing
from pushgate.spool import Lease

log = structlog.get_logger(__name__)

LEASE_AT_ONCE = 200
BEGINS_WITH = 32
"""Attempts at once, until the provider has answered: a hundred lanes whose provider hangs must not fill the memory."""
MOST_AT_ONCE = 20_000
"""Attempts of all lanes together. Each takes some 4 KB."""
LOOK_FOR_ROOM_S = 0.05


class Sender(Protocol):
    """The part of a provider that sending needs."""

    async def send(self, delivery: Delivery) -> Outcome:
        """See `provider.Provider.send`."""
        ...


class LaneSettings(Struct, frozen=True):
    """How one lane is run."""

    sender: Sender
    policy: retry.Policy
    max_in_flight: int
    breaker: BreakerLimits = BreakerLimits()


class Room:
    """How many attempts there may be at once in all lanes together.

    A lane may have as many as are left for others (a dynamic threshold): however many lanes hang, something is left
    for the next. One attempt each lane always may have.
    """

    __slots__ = ("most", "used")

    def __init__(self, most: int = MOST_AT_ONCE) -> None:
        self.most = most
        self.used = 0

    def is_there_for(self, in_flight: int) -> bool:
        """Whether a lane with so many in flight may have one more."""
        return in_flight < max(self.most - self.used, 1)


class Lane:
    """The stream of one app_id."""

    def __init__(
        self, name: str, source: Source, how: LaneSettings, *, timing: Timing, metrics: Metrics, room: Room
    ) -> None:
        self.name = name
        self._source = source
        self.how = how
        self._timing = timing
        self._metrics = metrics
        self._room = room
        self._attempts: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        """Set when the lane may be open now: an attempt has landed, or a pause has ended before its time."""
        self._stopping = asyncio.Event()
        self._retired = False
        self._needs_somebody = False
        self._settling = Settling(name, source, timing, metrics)
        self._breaker = Breaker(how.breaker)
        self._pace = Pace(how.policy, most=how.max_in_flight, scale=timing.scale, begins=BEGINS_WITH)

    @property
    def in_flight(self) -> int:
        """Attempts without an answer yet."""
        return len(self._attempts)

    async def run(self) -> None:
        """Lease and send until drained."""
        leasing = asyncio.create_task(self._lease_for_ever(), name=f"leasing {self.name}")
        stopping = asyncio.create_task(self._stopping.wait(), name=f"stopping {self.name}")
        try:
            await asyncio.wait((leasing, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            leasing.cancel()
            with suppress(asyncio.CancelledError):
                await leasing

    async def change(self, how: LaneSettings) -> None:
        """Go on with other settings, as if what held the lane up were mended: at once, beginning with one attempt.

        A breaker that is open stays open until answers look sane, unless its limits are what has changed.
        """
        if how.breaker != self.how.breaker:
            self._breaker = Breaker(how.breaker)
        self.how = how
        self._pace.mended(self._timing.monotonic(), policy=how.policy, most=how.max_in_flight)
        self._changed.set()
        await self.hasten()

    async def retry_now(self) -> None:
        """Somebody says that what held the lane up is mended. No effect on a lane that only waits for a quota."""
        if self._needs_somebody:
            await self.change(self.how)

    def retire(self) -> None:
        """Take no more. What was leased and not yet sent goes back to the spool."""
        self._retired = True
        self._stopping.set()

    def flying(self) -> frozenset[asyncio.Task[None]]:
        """The attempts that have no answer yet."""
        return frozenset(self._attempts)

    async def drain(self, timeout_s: float) -> int:
        """See `Dispatcher.drain`."""
        self._stopping.set()
        if self._attempts:
            _, late = await asyncio.wait(self._attempts, timeout=timeout_s)
            for attempt in late:
                attempt.cancel()
            if late:
                await asyncio.wait(late)
            return len(late)
        return 0

    async def _lease_for_ever(self) -> None:
        while True:
            try:
                await self._lease_some()
            except SpoolError as fault:
                if self._settling.is_news("give"):
                    log.error("spool gives nothing", lane=self.name, in_flight=self.in_flight, fault=str(fault))
                await asyncio.sleep(TROUBLE_S)
            except Exception as fault:  # noqa: BLE001 - a bug must not stop this lane, nor the others
                log.error("leasing failed unexpectedly", lane=self.name, fault=type(fault).__name__)
                await asyncio.sleep(TROUBLE_S)

    async def _lease_some(self) -> None:
        await self._until_open()
        leases = await self._source.lease(self.name, min(self._pace.dares - len(self._attempts), LEASE_AT_ONCE))
        waiting = deque(sorted(leases, key=lambda each: each.delivery.expires_at))
        try:
            while waiting:
                # The lane may have been paused meanwhile; whoever's time is up then waits no longer.
                await self._until_open(waiting[0].delivery.expires_at)
                if self._stopping.is_set():
                    break
                attempt = asyncio.create_task(self._attempt(waiting.popleft()))
                self._attempts.add(attempt)
                self._room.used += 1
                attempt.add_done_callback(self._landed)
        finally:
            if waiting and self._retired:
                await self._give_back(waiting)  # otherwise they are still leased, and a successor's

    async def _give_back(self, leases: Sequence[Lease]) -> None:
        try:
            await self._source.nack(leases, delay_s=0)
        except SpoolError as fault:
            if self._settling.is_news("settle"):
                log.error("spool cannot settle", lane=self.name, in_flight=self.in_flight, fault=str(fault))

    async def hasten(self) -> None:
        """What was deferred waits no longer."""
        try:
            await self._source.hasten(self.name)
        except SpoolError as fault:
            if self._settling.is_news("give"):
                log.error("spool gives nothing", lane=self.name, in_flight=self.in_flight, fault=str(fault))

    async def _until_open(self, until: float = math.inf) -> None:
        """Wait until the lane is not paused and has room for one more attempt, at most until then (unix seconds)."""
        while (left_s := until - self._timing.clock()) > 0:
            self._changed.clear()
            if (pause_s := self._pace.paused_until - self._timing.monotonic()) > 0:
                await self._sleep_or_wake(min(pause_s, left_s))
            elif len(self._attempts) >= self._pace.dares:
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if left_s == math.inf else left_s):
                        await self._changed.wait()
            elif not self._room.is_there_for(len(self._attempts)):
                await self._sleep_or_wake(min(LOOK_FOR_ROOM_S, left_s))
            else:
                return

    async def _sleep_or_wake(self, seconds: float) -> None:
        """Sleep so long, or until something has changed."""
        both = (asyncio.ensure_future(asyncio.sleep(seconds)), asyncio.ensure_future(self._changed.wait()))
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in both:
                each.cancel()

    def _landed(self, attempt: asyncio.Task[None]) -> None:
        self._attempts.discard(attempt)
        self._room.used -= 1
        self._changed.set()
        if not attempt.cancelled() and (fault := attempt.exception()) is not None:
            log.error("attempt was not settled", lane=self.name, fault=type(fault).__name__)

    async def _attempt(self, lease: Lease) -> None:
        if self._timing.clock() >= lease.delivery.expires_at:
            await self._settle(lease, None)
            return
        how = self.how
        started = self._timing.monotonic()
        try:
            outcome = await how.sender.send(lease.delivery)
        except Exception as fault:  # noqa: BLE001 - a bug of ours must not cost a delivery
            log.error("sending failed unexpectedly", lane=self.name, fault=type(fault).__name__)
            outcome = Deferred(Cause.CONNECTION, "internal")
        now = self._timing.monotonic()
        self._metrics.attempt_seconds[self.name].observe(now - started)
        outcome = await self._learn(outcome, lease, started, now) if how is self.how else _of_old_settings(outcome)
        await self._settle(lease, outcome)

    async def _learn(self, outcome: Outcome, lease: Lease, started: float, now: float) -> Outcome:
        """What the outcome says of the whole lane. Returns it as it is to be believed."""
        was_open = self._breaker.is_open
        outcome = self._believe(outcome, lease, now)
        opened = self._breaker.is_open and not was_open
        self._tell(self._pace.learn(outcome, now, disbelieves=self._breaker.is_open, began=started))
        if opened:
            await self._take_back()
        return outcome

    def _believe(self, outcome: Outcome, lease: Lease, now: float) -> Outcome:
        """The outcome; a rejection only while the lane's rejections are few enough to be believed."""
        match outcome:
            case Rejected(reason=reason):
                if not self._breaker.dead(now, lease.delivery.device.pushkey):
                    return Deferred(Cause.MASS_REJECTION, reason)
            case Accepted():
                self._breaker.alive(now, lease.delivery.device.pushkey)
            case _:
                pass  # says nothing of the pushkey
        return outcome

    def _tell(self, change: Change) -> None:
        match change:
            case Paused(alarm=alarm, reason=reason, pause_s=pause_s):
                self._metrics.alarms[(self.name, alarm)].set(1)
                self._needs_somebody = change.needs_somebody
                say = log.error if change.needs_somebody else log.warning
                say("lane pauses", lane=self.name, why=alarm, reason=reason, pause_s=round(pause_s, 1))
            case Resumed(alarms=alarms):
                self._needs_somebody = False
                for alarm in alarms:
                    self._metrics.alarms[(self.name, alarm)].set(0)
                log.info("lane goes on", lane=self.name, after=sorted(alarms))
            case None:
                pass
            case _:
                assert_never(change)

    async def _settle(self, lease: Lease, outcome: Outcome | None) -> None:
        await self._settling.settle(lease, outcome, policy=self.how.policy, disbelieves=lambda: self._breaker.is_open)

    async def _take_back(self) -> None:
        """The rejections that led to the breaker's opening are not believed any more either."""
        since = self._timing.clock() - self.how.breaker.window_s - 1
        while True:
            try:
                count = await self._source.forget_rejections(self.name, since=since)
            except SpoolError as fault:
                log.error("spool cannot take back rejections", lane=self.name, fault=str(fault))
                await asyncio.sleep(TROUBLE_S)
            else:
                log.error("rejections taken back", lane=self.name, count=count)
                return


def _of_old_settings(outcome: Outcome) -> Outcome:
    """What an answer to a request with settings that were replaced is worth: no fault of theirs holds it up longer."""
    match outcome:
        case Rejected(reason=reason) | Deferred(cause=Cause.CREDENTIALS | Cause.MASS_REJECTION, reason=reason):
            return Deferred(Cause.CREDENTIALS, reason, retry_after_s=TROUBLE_S)
        case _:
            return outcome
