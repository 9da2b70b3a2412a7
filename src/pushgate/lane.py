"""One lane: the stream of one app_id. Takes leases from the spool, has them sent, and has them settled.

A lane has its own concurrency, its own breaker and its own pauses (`pace`), so that one sick provider or key stops
nobody else. Its settings may change while it runs: what flies then is settled, but says nothing of the new settings.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Collection, Coroutine, Sequence
from operator import attrgetter
from typing import Any, assert_never

import structlog

from pushgate.breaker import Breaker
from pushgate.errors import SpoolError
from pushgate.flights import Flight, Flights, Landing, Room
from pushgate.journal import OFF, Journal
from pushgate.lane_settings import LaneSettings, Standing, of_old_settings
from pushgate.metrics import Metrics
from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected
from pushgate.pace import Change, Pace, Paused, Resumed
from pushgate.settling import TROUBLE_S, Settling, Source, Timing
from pushgate.spool import Lease
from pushgate.tracing import Tracing

log = structlog.get_logger(__name__)

LEASE_AT_ONCE = 200
MOST_UNSENT = 64
"""So many attempts may wait for a free stream. More would only lie there, and be out of the processor's caches then."""
BEGINS_WITH = 32
"""Attempts at once, until the provider has answered: a hundred lanes whose provider hangs must not fill the memory."""
LOOK_FOR_ROOM_S = 0.05
GIVE_BACK_TRIES = 15
"""So often a lane that is retired tries to give back what it had not sent: longer would hold up a stop."""
ACCEPTED = Accepted()
BUG = Deferred(Cause.CONNECTION, "internal")
"""The outcome that is a bug of ours: it is tried again."""

_expires_at = attrgetter("delivery.expires_at")


class Lane:
    """The stream of one app_id."""

    def __init__(
        self,
        name: str,
        source: Source,
        how: LaneSettings,
        *,
        timing: Timing,
        metrics: Metrics,
        room: Room,
        journal: Journal = OFF,
        tracing: Tracing | None = None,
    ) -> None:
        self.name = name
        self._source = source
        self.how = how
        self._timing = timing
        self._metrics = metrics
        self._tracing = tracing
        self._flights = Flights(room)
        self._answers: list[tuple[Flight[LaneSettings], Outcome]] = []
        """Of this turn of the loop."""
        self._settlings: dict[asyncio.Task[None], Collection[Flight[LaneSettings]]] = {}
        """What runs, and whom it settles."""
        self._change: asyncio.Future[None] | None = None
        """Awaited until the lane may be open: an attempt was answered or settled, a pause has ended before its time."""
        self._leasing: asyncio.Task[Any] | None = None
        self._is_stopping = self._is_retired = False
        self._needs_somebody = False
        self._settling = Settling(name, source, timing, metrics, journal=journal)
        self._breaker = Breaker(how.breaker)
        self._pace = Pace(how.policy, most=how.max_in_flight, scale=timing.scale, begins=BEGINS_WITH)

    @property
    def in_flight(self) -> int:
        """Deliveries that were sent and are not settled yet."""
        return len(self._flights)

    def standing(self) -> Standing:
        """How it fares just now."""
        pace, now = self._pace, self._timing.monotonic()
        pause_s, failing_s = max(pace.paused_until - now, 0.0), pace.failing_s(now)
        return Standing(self.in_flight, pace.dares, pause_s, self._breaker.is_open, pace.failures_in_a_row, failing_s)

    @property
    def is_disbelieving(self) -> bool:
        """Whether its breaker is open: rejections are held back."""
        return self._breaker.is_open

    def tally(self) -> tuple[int, int]:
        """How many pushkeys turned out alive and dead within the window of its breaker."""
        return self._breaker.tally(self._timing.monotonic())

    def hear_tally(self, alive: int, dead: int) -> None:
        """So many turned out alive and dead in other processes: see `cells`."""
        self._breaker.hear(alive, dead)

    def hear_opened(self) -> None:
        """The breaker has opened in another process: ours opens too, and what we believed lately is taken back."""
        if not self._breaker.is_open:
            self._breaker.open()
            self._start(self._take_back(), ())

    async def run(self) -> None:
        """Lease and send until drained."""
        leasing = self._leasing = asyncio.current_task()
        try:
            await self._lease_until_stopped()
        except asyncio.CancelledError:
            if not self._is_stopping or (leasing is not None and leasing.uncancel()):
                raise  # it was not `_stop`, or not it alone
        finally:
            self._leasing = None

    def _stop(self) -> None:
        """Lease no more. Once: what is being given back must not be cut off."""
        if not self._is_stopping:
            self._is_stopping = True
            if self._leasing is not None:
                self._leasing.cancel()

    async def change(self, how: LaneSettings) -> None:
        """Go on with other settings, as if what held the lane up were mended: at once, beginning with one attempt.

        A breaker that is open stays open until answers look sane, unless its limits are what has changed.
        """
        if how.breaker != self.how.breaker:
            self._breaker = Breaker(how.breaker)
        self.how = how
        self._pace.mended(self._timing.monotonic(), policy=how.policy, most=how.max_in_flight)
        self._changed()
        await self.hasten()

    async def retry_now(self) -> None:
        """Somebody says that what held the lane up is mended. No effect on a lane that only waits for a quota."""
        if self._needs_somebody:
            await self.change(self.how)

    def retire(self) -> None:
        """Take no more. What was leased and not yet sent goes back to the spool."""
        self._is_retired = True
        self._stop()

    def landing(self) -> Landing:
        """What flies now, to be awaited."""
        return self._flights.landing()

    async def drain(self, timeout_s: float) -> int:
        """See `Dispatcher.drain`."""
        self._stop()
        landing = self.landing()
        await landing.wait(timeout_s)
        late = list(landing.left)
        for flight in late:
            flight.cancel()
        for task, flights in self._settlings.items():
            if flights:
                task.cancel()
        self._end(late)
        return len(late)

    async def _lease_until_stopped(self) -> None:
        while not self._is_stopping:
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
        leases = await self._source.lease(self.name, min(self._pace.dares - len(self._flights), LEASE_AT_ONCE))
        waiting = deque(sorted(leases, key=_expires_at))
        try:
            while waiting:
                # The lane may have been paused meanwhile; whoever's time is up then waits no longer.
                if not self._room():
                    await self._until_open(waiting[0].delivery.expires_at)
                if self._is_stopping:
                    break
                self._begin([waiting.popleft() for _ in range(min(max(self._room(), 1), len(waiting)))])
        finally:
            if waiting and self._is_retired:
                await self._give_back(waiting)  # otherwise they are still leased, and a successor's

    async def _give_back(self, leases: Sequence[Lease]) -> None:
        for _ in range(GIVE_BACK_TRIES):
            try:
                await self._source.nack(leases, delay_s=0)
            except SpoolError as fault:
                if self._settling.is_news("settle"):
                    log.error("spool cannot settle", lane=self.name, in_flight=self.in_flight, fault=str(fault))
                await asyncio.sleep(TROUBLE_S)
            else:
                return

    async def hasten(self) -> None:
        """What was deferred waits no longer."""
        try:
            await self._source.hasten(self.name)
        except SpoolError as fault:
            if self._settling.is_news("give"):
                log.error("spool gives nothing", lane=self.name, in_flight=self.in_flight, fault=str(fault))

    def _room(self) -> int:
        """How many attempts more may begin now."""
        if self._pace.paused_until > self._timing.monotonic():
            return 0
        dares, unsent = self._pace.dares - len(self._flights), MOST_UNSENT - self.how.sender.waiting
        return max(min(dares, unsent, self._flights.room()), 0)

    async def _until_open(self, until: float = math.inf) -> None:
        """Wait until the lane is not paused and has room for one more attempt, at most until then (unix seconds)."""
        while not self._room() and (left_s := until - self._timing.clock()) > 0:
            if (pause_s := self._pace.paused_until - self._timing.monotonic()) > 0:
                await self._sleep_or_wake(min(pause_s, left_s))
            elif len(self._flights) >= self._pace.dares or self.how.sender.waiting >= MOST_UNSENT:
                await self._until_change(left_s)
            else:
                await self._sleep_or_wake(min(LOOK_FOR_ROOM_S, left_s))

    async def _sleep_or_wake(self, seconds: float) -> None:
        """Sleep so long, or until something has changed."""
        sleeping = asyncio.ensure_future(asyncio.sleep(seconds))
        sleeping.add_done_callback(self._changed)
        try:
            await self._until_change(math.inf)
        finally:
            sleeping.remove_done_callback(self._changed)  # its end must not end the next wait
            sleeping.cancel()

    async def _until_change(self, seconds: float) -> None:
        """Wait until something has changed, so long at most."""
        loop = asyncio.get_running_loop()
        self._change = loop.create_future()
        alarm = None if seconds == math.inf else loop.call_later(seconds, self._changed)
        try:
            await self._change
        finally:
            if alarm is not None:
                alarm.cancel()

    def _changed(self, _: object = None) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    # --- the way of a lease

    def _begin(self, leases: Sequence[Lease]) -> None:
        """Have them sent, but for those whose time is up."""
        how, started, now = self.how, self._timing.monotonic(), self._timing.clock()
        tell, start = self._answered, how.sender.start
        flights = [Flight(lease, how, started, tell) for lease in leases]
        self._flights.add(flights)
        for flight in flights:
            delivery = flight.lease.delivery
            if now >= delivery.expires_at:
                self._settle_apart(flight, None)
                continue
            try:
                flight.sent(start(delivery, flight.landed))
            except Exception as fault:  # noqa: BLE001 - a bug of ours must not cost a delivery
                log.error("sending failed unexpectedly", lane=self.name, fault=type(fault).__name__)
                flight.landed(BUG)

    def _answered(self, flight: Flight[LaneSettings], outcome: Outcome) -> None:
        """The outcome of an attempt is known. It is settled together with the others of this turn of the loop."""
        if not self._answers:
            asyncio.get_running_loop().call_soon(self._take_answers)
        self._answers.append((flight, outcome))

    def _take_answers(self) -> None:
        answers, self._answers = self._answers, []
        self._changed()  # streams are free, though what was answered is not settled
        now = self._timing.monotonic()
        if self._tracing is not None:
            self._tracing.attempted(
                [(each.lease, outcome, now - each.started) for each, outcome in answers if not each.is_cancelled]
            )
        observe = self._metrics.lanes[self.name].seconds.observe
        accepted: list[Flight[LaneSettings]] = []
        for flight, outcome in answers:
            if flight.is_cancelled:
                continue  # left to a successor meanwhile
            observe(now - flight.started)
            if flight.how is not self.how:
                self._settle_apart(flight, of_old_settings(outcome))
            elif isinstance(outcome, Accepted):
                accepted.append(flight)
            else:
                outcome, opened = self._learn(outcome, flight, now)
                self._settle_apart(flight, outcome, take_back=opened)
        if accepted:
            self._start(self._settle_accepted(accepted), accepted)
            self._learn_of_accepted(accepted, now)  # last: a bug in it costs nobody anything

    def _start(self, settling: Coroutine[Any, Any, None], flights: Collection[Flight[LaneSettings]]) -> None:
        task = asyncio.get_running_loop().create_task(settling)
        self._settlings[task] = flights
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        del self._settlings[task]
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("attempt was not settled", lane=self.name, fault=type(fault).__name__)

    async def _settle_accepted(self, flights: Sequence[Flight[LaneSettings]]) -> None:
        try:
            await self._settling.accept([flight.lease for flight in flights])
        finally:
            self._end(flights)

    def _settle_apart(self, flight: Flight[LaneSettings], outcome: Outcome | None, *, take_back: bool = False) -> None:
        self._start(self._settle(flight, outcome, take_back=take_back), (flight,))

    async def _settle(self, flight: Flight[LaneSettings], outcome: Outcome | None, *, take_back: bool) -> None:
        try:
            if take_back:
                await self._take_back()
            await self._settling.settle(
                flight.lease, outcome, policy=self.how.policy, disbelieves=lambda: self._breaker.is_open
            )
        finally:
            self._end((flight,))

    def _end(self, flights: Collection[Flight[LaneSettings]]) -> None:
        """They are settled, or left to a successor."""
        self._flights.end(flights)
        self._changed()

    # --- what answers say of the lane

    def _learn_of_accepted(self, flights: Sequence[Flight[LaneSettings]], now: float) -> None:
        self._breaker.alive_all(now, [flight.lease.delivery.device.pushkey for flight in flights])
        for flight in flights:
            if self._pace.is_at_ease:
                return  # each one more would say the same
            self._tell(self._pace.learn(ACCEPTED, now, disbelieves=self._breaker.is_open, began=flight.started))

    def _learn(self, outcome: Outcome, flight: Flight[LaneSettings], now: float) -> tuple[Outcome, bool]:
        """What the outcome says of the whole lane: as it is to be believed, and whether the breaker opens."""
        was_open = self._breaker.is_open
        try:
            outcome = self._believe(outcome, flight.lease, now)
            self._tell(self._pace.learn(outcome, now, disbelieves=self._breaker.is_open, began=flight.started))
        except Exception as fault:  # noqa: BLE001 - it must cost neither a delivery nor the other answers of this turn
            log.error("answer not understood", lane=self.name, fault=type(fault).__name__)
            outcome = BUG
        return outcome, self._breaker.is_open and not was_open

    def _believe(self, outcome: Outcome, lease: Lease, now: float) -> Outcome:
        """The outcome; a rejection only while the lane's rejections are few enough to be believed."""
        if isinstance(outcome, Rejected) and not self._breaker.dead(now, lease.delivery.device.pushkey):
            return Deferred(Cause.MASS_REJECTION, outcome.reason)
        return outcome  # others say nothing of the pushkey

    def _tell(self, change: Change) -> None:
        if self._is_retired:
            return  # what is counted is perhaps a successor's
        match change:
            case Paused(alarm=alarm, reason=reason, pause_s=pause_s):
                self._metrics.lanes[self.name].alarm(alarm, stands=True)
                self._needs_somebody = change.needs_somebody
                say = log.error if change.needs_somebody else log.warning
                say("lane pauses", lane=self.name, why=alarm, reason=reason, pause_s=round(pause_s, 1))
            case Resumed(alarms=alarms):
                self._needs_somebody = False
                for alarm in alarms:
                    self._metrics.lanes[self.name].alarm(alarm, stands=False)
                log.info("lane goes on", lane=self.name, after=sorted(alarms))
            case None:
                pass
            case _:
                assert_never(change)

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
