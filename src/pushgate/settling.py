"""Settling: what becomes of a delivery is written into the spool, again and again until it stands there.

Accepted: erased. Rejected: the pushkey remembered, the delivery erased. Deferred: waits, or out of time: buried.
Undeliverable: buried.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, assert_never

import structlog
from msgspec import Struct

from pushgate import retry
from pushgate.errors import SpoolError
from pushgate.journal import OFF, Journal
from pushgate.metrics import Metrics
from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected, Undeliverable
from pushgate.spool import Lease

log = structlog.get_logger(__name__)

TROUBLE_S = 1.0
"""How long to wait after the spool or our own code failed."""
TELL_EVERY_S = 5.0


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

    async def hasten(self, lane: str) -> int:
        """See `spool.Spool.hasten`."""
        ...

    async def bury(self, leases: Sequence[Lease]) -> None:
        """See `spool.Spool.bury`."""
        ...


class Timing(Struct, frozen=True):
    """Where time and chance come from."""

    clock: Callable[[], float]
    """Unix seconds: for what ends at a time of day."""
    monotonic: Callable[[], float]
    """Seconds that nobody sets back: for how long something takes."""
    jitter: Callable[[], float]
    """A number in [0, 1)."""
    scale: float = 1.0
    """Multiplies every wait between attempts."""


class Settling:
    """Of the deliveries of one lane."""

    def __init__(self, lane: str, source: Source, timing: Timing, metrics: Metrics, *, journal: Journal = OFF) -> None:
        self._lane = lane
        self._source = source
        self._timing = timing
        self._metrics = metrics
        self._journal = journal
        self._told_at: dict[str, float] = {}

    async def settle(
        self, lease: Lease, outcome: Outcome | None, *, policy: retry.Policy, disbelieves: Callable[[], bool]
    ) -> None:
        """End the lease by what became of it (`None`: its time was up before it could be tried).

        What the provider said must not be lost: it is tried until the spool can be written. A rejection that the lane
        `disbelieves` by then is none.
        """
        while not await self._try(self._end(lease, outcome, policy), lease):
            await asyncio.sleep(TROUBLE_S)
            if isinstance(outcome, Rejected) and disbelieves():
                outcome = Deferred(Cause.MASS_REJECTION, outcome.reason)  # meanwhile nobody believes it

    async def accept(self, leases: Sequence[Lease]) -> None:
        """End leases whose deliveries the provider took: together, or where that fails, each by itself."""
        if await self._try(self._acknowledge(leases), leases[0]):
            return
        await asyncio.sleep(TROUBLE_S)
        left = deque(leases)
        while left:
            if await self._try(self._acknowledge((left[0],)), left[0]):
                left.popleft()
            else:
                left.rotate(-1)
                await asyncio.sleep(TROUBLE_S / len(left))

    async def _try(self, ending: Awaitable[None], lease: Lease) -> bool:
        """Whether it is done."""
        try:
            await ending
        except SpoolError as fault:
            if self.is_news("settle"):
                log.error("spool cannot settle", lane=self._lane, fault=str(fault))
        except Exception as fault:  # noqa: BLE001 - a row must not stay leased for ever
            kind = type(fault).__name__
            log.error("settling failed unexpectedly", lane=self._lane, id=lease.delivery.id, fault=kind)
        else:
            return True
        return False

    async def _acknowledge(self, leases: Sequence[Lease]) -> None:
        await self._source.ack(leases)
        self._count(len(leases), outcome="accepted", ending="accepted")
        self._journal.accepted([lease.delivery.id for lease in leases])

    def is_news(self, trouble: str) -> bool:
        """Whether to log it now: not each second for each of what flies."""
        now = self._timing.monotonic()
        if now - self._told_at.get(trouble, -math.inf) < TELL_EVERY_S:
            return False
        self._told_at[trouble] = now
        return True

    async def _end(self, lease: Lease, outcome: Outcome | None, policy: retry.Policy) -> None:
        """End the lease by what became of it. `None`: its time was up before it could be tried."""
        match outcome:
            case None:
                await self._source.bury((lease,))
                self._tell_expired(lease, "not tried in time")
            case Accepted():
                await self._acknowledge((lease,))
            case Rejected(reason=reason):
                await self._source.reject(lease, outcome)
                self._count(1, outcome="rejected", ending="rejected")
                self._put_down(lease, outcome, reason)
                log.info("pushkey is dead", lane=self._lane, id=lease.delivery.id, reason=reason)
            case Undeliverable(reason=reason):
                await self._source.bury((lease,))
                self._count(1, outcome="undeliverable", ending="undeliverable")
                self._put_down(lease, outcome, reason)
                log.warning("undeliverable", lane=self._lane, id=lease.delivery.id, reason=reason)
            case Deferred():
                await self._defer(lease, outcome, policy)
            case _:
                assert_never(outcome)

    async def _defer(self, lease: Lease, deferred: Deferred, policy: retry.Policy) -> None:
        timing = self._timing
        wait_s = retry.next_wait_s(
            deferred,
            policy=policy,
            attempt=lease.attempt,
            jitter=timing.jitter(),
            remaining_s=lease.delivery.expires_at - timing.clock(),
            scale=timing.scale,
        )
        if wait_s is None:
            await self._source.bury((lease,))
        else:
            await self._source.nack((lease,), delay_s=wait_s)
        self._metrics.lanes[self._lane].count_outcome("deferred")
        self._put_down(lease, deferred, deferred.reason)
        if wait_s is None:
            self._tell_expired(lease, deferred.reason)

    def _tell_expired(self, lease: Lease, reason: str) -> None:
        self._metrics.lanes[self._lane].count_ending("expired")
        self._journal.expired(lease.delivery.id, reason)
        log.warning("out of time", lane=self._lane, id=lease.delivery.id, attempts=lease.attempt, reason=reason)

    def _put_down(self, lease: Lease, outcome: Rejected | Deferred | Undeliverable, reason: str) -> None:
        self._metrics.count_reason(self._lane, type(outcome).__name__.lower(), reason)
        self._journal.tried(lease.delivery.id, outcome)

    def _count(self, count: int, *, outcome: str, ending: str) -> None:
        counts = self._metrics.lanes[self._lane]
        counts.count_outcome(outcome, count)
        counts.count_ending(ending, count)
