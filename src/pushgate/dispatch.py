"""The dispatcher: one lane for each app_id takes leases from the spool, has them sent, and settles how they ended.

A lane has its own concurrency and its own pauses, so that one sick provider or key stops nobody else. Four things
pause a whole lane: a fault of our credentials, a quota, an outage (many failures in a row without one success), and so
many dead pushkeys that the fault must be ours. After a pause a lane starts with one attempt and doubles what it dares
with each success.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol, assert_never

import structlog
from msgspec import Struct

from pushgate import retry
from pushgate.breaker import Breaker, BreakerLimits
from pushgate.errors import SpoolError
from pushgate.metrics import Metrics
from pushgate.model import Delivery
from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected, Undeliverable
from pushgate.spool import Lease

log = structlog.get_logger(__name__)

LEASE_AT_ONCE = 200
OUTAGE_AFTER_FAILURES = 20
OUTAGE_PAUSE = retry.Backoff(1, 60)
SPOOL_RETRY_S = 1.0
_MASS_REJECTION = "mass_rejection"
_LOUD = ("credentials", _MASS_REJECTION)
"""Alarms that somebody must act on now."""


class Sender(Protocol):
    """The part of a provider that sending needs."""

    async def send(self, delivery: Delivery) -> Outcome:
        """See `provider.Provider.send`."""
        ...


class Source(Protocol):
    """The part of a spool that dispatching needs."""

    async def lease(self, lane: str, limit: int) -> Sequence[Lease]:
        """See `spool.Spool.lease`."""
        ...

    async def ack(self, leases: Sequence[Lease]) -> None:
        """See `spool.Spool.ack`."""
        ...

    async def nack(self, leases: Sequence[Lease], *, delay_s: float) -> None:
        """See `spool.Spool.nack`."""
        ...

    async def reject(self, lease: Lease, rejected: Rejected) -> None:
        """See `spool.Spool.reject`."""
        ...

    async def forget_rejections(self, lane: str, *, since: float) -> int:
        """See `spool.Spool.forget_rejections`."""
        ...

    async def bury(self, leases: Sequence[Lease]) -> None:
        """See `spool.Spool.bury`."""
        ...


class LaneSettings(Struct, frozen=True):
    """How one lane is run."""

    sender: Sender
    policy: retry.Policy
    max_in_flight: int
    breaker: BreakerLimits = BreakerLimits()


class Timing(Struct, frozen=True):
    """Where time and chance come from."""

    clock: Callable[[], float]
    """Unix seconds."""
    jitter: Callable[[], float]
    """A number in [0, 1)."""
    scale: float = 1.0
    """Multiplies every wait between attempts."""


class Dispatcher:
    """Runs the lanes until it is drained."""

    def __init__(self, source: Source, *, lanes: Mapping[str, LaneSettings], timing: Timing, metrics: Metrics) -> None:
        self.lanes = {name: Lane(name, source, how, timing, metrics) for name, how in lanes.items()}

    async def run(self) -> None:
        """Run every lane. Returns when all of them were drained."""
        async with asyncio.TaskGroup() as lanes:
            for lane in self.lanes.values():
                lanes.create_task(lane.run(), name=f"lane {lane.name}")

    async def drain(self, timeout_s: float) -> int:
        """Stop leasing, wait until what flies has landed, at most so long. Returns how many attempts were cut off.

        What is cut off stays in the spool and is sent again by a successor.
        """
        counts = await asyncio.gather(*(lane.drain(timeout_s) for lane in self.lanes.values()))
        return sum(counts)


class Lane:
    """The stream of one app_id."""

    def __init__(self, name: str, source: Source, how: LaneSettings, timing: Timing, metrics: Metrics) -> None:
        self.name = name
        self._source = source
        self._how = how
        self._timing = timing
        self._metrics = metrics
        self._attempts: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()
        self._breaker = Breaker(how.breaker)
        self._dares = how.max_in_flight
        self._paused_until = 0.0
        self._failures_in_a_row = 0
        self._pauses_in_a_row = 0
        self._alarms: set[str] = set()

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
            await self._until_open()
            try:
                leases = await self._source.lease(self.name, min(self._dares - len(self._attempts), LEASE_AT_ONCE))
            except SpoolError as fault:
                log.error("spool gives nothing", lane=self.name, fault=str(fault))
                await asyncio.sleep(SPOOL_RETRY_S)
                continue
            for lease in leases:
                await self._until_open()  # it may have been paused meanwhile
                attempt = asyncio.create_task(self._attempt(lease))
                self._attempts.add(attempt)
                attempt.add_done_callback(self._landed)

    async def _until_open(self) -> None:
        """Wait until the lane is not paused and has room for one more attempt."""
        while True:
            if (pause_s := self._paused_until - self._timing.clock()) > 0:
                await asyncio.sleep(min(pause_s, 3600))
            elif len(self._attempts) >= self._dares:
                self._room.clear()
                await self._room.wait()
            else:
                return

    def _landed(self, attempt: asyncio.Task[None]) -> None:
        self._attempts.discard(attempt)
        self._room.set()
        if not attempt.cancelled() and (fault := attempt.exception()) is not None:
            log.error("attempt was not settled", lane=self.name, fault=type(fault).__name__)

    async def _attempt(self, lease: Lease) -> None:
        started = self._timing.clock()
        if started >= lease.delivery.expires_at:
            await self._settle_safely(lease, None)
            return
        try:
            outcome = await self._how.sender.send(lease.delivery)
        except Exception as fault:  # noqa: BLE001 - a bug of ours must not cost a delivery
            log.error("sending failed unexpectedly", lane=self.name, fault=type(fault).__name__)
            outcome = Deferred(Cause.CONNECTION, "internal")
        self._metrics.attempt_seconds[self.name].observe(max(self._timing.clock() - started, 0.0))
        was_open = self._breaker.is_open
        outcome = self._believe(outcome, lease)
        opened = self._breaker.is_open and not was_open
        self._learn(outcome)
        await self._settle_safely(lease, outcome)
        if opened:
            await self._take_back()

    async def _settle_safely(self, lease: Lease, outcome: Outcome | None) -> None:
        """Settle, again and again while the spool cannot be written: what the provider said must not be lost."""
        while True:
            try:
                return await self._settle(lease, outcome)
            except SpoolError as fault:
                log.error("spool cannot settle a delivery", lane=self.name, id=lease.delivery.id, fault=str(fault))
                await asyncio.sleep(SPOOL_RETRY_S)

    async def _take_back(self) -> None:
        """The rejections that led to the breaker's opening are not believed any more either."""
        since = self._timing.clock() - self._how.breaker.window_s
        while True:
            try:
                count = await self._source.forget_rejections(self.name, since=since)
            except SpoolError as fault:
                log.error("spool cannot take back rejections", lane=self.name, fault=str(fault))
                await asyncio.sleep(SPOOL_RETRY_S)
            else:
                log.error("rejections taken back", lane=self.name, count=count)
                return

    async def _settle(self, lease: Lease, outcome: Outcome | None) -> None:
        """End the lease by what became of it. `None`: its time was up before it could be tried."""
        match outcome:
            case None:
                await self._expire(lease, "not tried in time")
            case Accepted():
                await self._source.ack((lease,))
                self._count(outcome="accepted", ending="accepted")
            case Rejected(reason=reason):
                await self._source.reject(lease, outcome)
                self._count(outcome="rejected", ending="rejected")
                log.info("pushkey is dead", lane=self.name, id=lease.delivery.id, reason=reason)
            case Undeliverable(reason=reason):
                await self._source.bury((lease,))
                self._count(outcome="undeliverable", ending="undeliverable")
                log.warning("undeliverable", lane=self.name, id=lease.delivery.id, reason=reason)
            case Deferred():
                await self._defer(lease, outcome)
            case _:
                assert_never(outcome)

    async def _defer(self, lease: Lease, deferred: Deferred) -> None:
        timing = self._timing
        wait_s = retry.next_wait_s(
            deferred,
            policy=self._how.policy,
            attempt=lease.attempt,
            jitter=timing.jitter(),
            remaining_s=lease.delivery.expires_at - timing.clock(),
            scale=timing.scale,
        )
        self._metrics.attempts[(self.name, "deferred")].inc()
        if wait_s is None:
            await self._expire(lease, deferred.reason)
        else:
            await self._source.nack((lease,), delay_s=wait_s)

    async def _expire(self, lease: Lease, reason: str) -> None:
        await self._source.bury((lease,))
        self._metrics.endings[(self.name, "expired")].inc()
        log.warning("out of time", lane=self.name, id=lease.delivery.id, attempts=lease.attempt, reason=reason)

    def _count(self, *, outcome: str, ending: str) -> None:
        self._metrics.attempts[(self.name, outcome)].inc()
        self._metrics.endings[(self.name, ending)].inc()

    def _believe(self, outcome: Outcome, lease: Lease) -> Outcome:
        """The outcome; a rejection only while the lane's rejections are few enough to be believed."""
        now = self._timing.clock()
        match outcome:
            case Rejected(reason=reason):
                if not self._breaker.dead(now, lease.delivery.device.pushkey):
                    return Deferred(Cause.MASS_REJECTION, reason)
            case Accepted():
                self._breaker.alive(now)
            case _:
                pass  # says nothing of the pushkey
        return outcome

    def _learn(self, outcome: Outcome) -> None:
        """What an outcome says about the whole lane."""
        match outcome:
            case Deferred(
                cause=Cause.CREDENTIALS | Cause.QUOTA | Cause.MASS_REJECTION as cause,
                reason=reason,
                retry_after_s=asked_s,
            ):
                self._pause(cause.value, reason, self._how.policy[cause], asked_s)
            case Deferred(cause=Cause.CONNECTION | Cause.PROVIDER, reason=reason):
                self._failures_in_a_row += 1
                if self._failures_in_a_row >= OUTAGE_AFTER_FAILURES:
                    self._pause("outage", reason, OUTAGE_PAUSE, None)
            case Deferred(cause=Cause.DEVICE):
                pass  # about one device: says nothing of the lane
            case _:
                self._recover()

    def _recover(self) -> None:
        """The provider answers properly: dare more, and end the alarms that this ends."""
        self._failures_in_a_row = self._pauses_in_a_row = 0
        for alarm in tuple(self._alarms):
            if alarm != _MASS_REJECTION or not self._breaker.is_open:
                self._alarms.discard(alarm)
                self._metrics.alarms[(self.name, alarm)].set(0)
                log.info("lane goes on", lane=self.name, after=alarm)
        if self._dares < self._how.max_in_flight:
            self._dares = min(self._dares * 2, self._how.max_in_flight)

    def _pause(self, alarm: str, reason: str, backoff: retry.Backoff, asked_s: float | None) -> None:
        """Stop leasing for a while; the first attempt after it is alone. Answers to what still flies change nothing."""
        now = self._timing.clock()
        if now < self._paused_until:
            return
        self._pauses_in_a_row += 1
        wait_s = (backoff.wait_s(self._pauses_in_a_row) if asked_s is None else max(asked_s, 1.0)) * self._timing.scale
        self._paused_until = now + wait_s
        self._dares = 1
        self._alarms.add(alarm)
        self._metrics.alarms[(self.name, alarm)].set(1)
        say = log.error if alarm in _LOUD else log.warning
        say("lane pauses", lane=self.name, why=alarm, reason=reason, pause_s=round(wait_s, 1))
