"""dispatch: how each outcome is settled, what pauses a lane, and that lanes do not hold each other up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from pushgate import lane, pace, retry, settling
from pushgate.dispatch import Dispatcher
from pushgate.errors import SpoolUnavailable
from pushgate.lane import MOST_UNSENT
from pushgate.lane_settings import LaneSettings, Sender
from pushgate.metrics import Metrics
from pushgate.model import Delivery, Device, EncryptedNotification
from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected, Undeliverable
from pushgate.provider import NOTHING, Attempt, judged
from pushgate.settling import Timing
from pushgate.spool import Lease
from tests.samples import CIPHERTEXT

LANE, OTHER = "de.example.app.apns", "de.example.other.apns"


class Clock:
    """Time that a test moves. Sleeping on it is instant."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Ledger:
    """A spool of one test: hands out what it was given and writes down how each lease ended."""

    def __init__(self) -> None:
        self.queues: dict[str, asyncio.Queue[Lease]] = {LANE: asyncio.Queue(), OTHER: asyncio.Queue()}
        self.ended: list[tuple[str, str]] = []
        self.delays: list[float] = []
        self.forgotten: list[tuple[str, float]] = []
        self.hastened: list[str] = []
        self.failures = 0
        self.failures_of: dict[str, int] = {}
        self.bugs = 0
        self.bugs_of: dict[str, int] = {}
        self.change = asyncio.Event()

    def add(self, number: int, *, lane: str = LANE, attempt: int = 1, lives_s: float = 86_400) -> None:
        device = Device(lane, f"key-{number}")
        sealed = EncryptedNotification(
            device=device, ciphertext=CIPHERTEXT, time_message_encrypted="2026-11", key_identifier="k"
        )
        delivery = Delivery(
            id=str(number), device=device, notification=sealed, accepted_at=1e6, expires_at=1e6 + lives_s
        )
        self.queues[lane].put_nowait(Lease(delivery, attempt, number))

    async def lease(self, lane: str, limit: int) -> Sequence[Lease]:
        self._fail()
        if self.bugs:
            self.bugs -= 1
            raise ZeroDivisionError
        first = await self.queues[lane].get()
        more = min(limit - 1, self.queues[lane].qsize())
        return [first, *(self.queues[lane].get_nowait() for _ in range(more))]

    async def ack(self, leases: Sequence[Lease]) -> None:
        self._end("ack", leases)

    async def nack(self, leases: Sequence[Lease], *, delay_s: float) -> None:
        self._end("nack", leases)
        self.delays.append(delay_s)

    async def reject(self, lease: Lease, rejected: Rejected) -> None:
        self._end("reject", (lease,))

    async def forget_rejections(self, lane: str, *, since: float) -> int:
        self._fail()
        self.forgotten.append((lane, since))
        return 50

    async def hasten(self, lane: str) -> int:
        self._fail()
        self.hastened.append(lane)
        return 0

    async def bury(self, leases: Sequence[Lease]) -> None:
        self._end("bury", leases)

    def _end(self, verb: str, leases: Sequence[Lease]) -> None:
        self._fail()
        for lease in leases:
            if self.bugs_of.pop(lease.delivery.id, 0):
                raise ZeroDivisionError
            if self.failures_of.pop(lease.delivery.id, 0):
                raise SpoolUnavailable("disk full")
        self.ended += [(verb, lease.delivery.id) for lease in leases]
        self.change.set()

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise SpoolUnavailable("disk full")

    async def until(self, done: Callable[[], bool]) -> None:
        while not done():
            self.change.clear()
            await self.change.wait()


class Phone:
    """A provider of one test: answers what it is told to, and counts who is asked at once."""

    waiting = 0

    def __init__(self, *answers: Outcome | Exception | asyncio.Event) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.at_once = 0
        self.most_at_once = 0

    def start(self, delivery: Delivery, tell: Callable[[Outcome], None]) -> asyncio.Task[None]:
        if self.answers and isinstance(fault := self.answers[0], Exception):
            self.answers[:] = self.answers[1:] or [fault]
            raise fault

        async def attempt() -> None:
            tell(await self.send(delivery))

        return asyncio.create_task(attempt())

    async def send(self, delivery: Delivery) -> Outcome:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await asyncio.sleep(0)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, asyncio.Event):
                await answer.wait()
                return Accepted()
            assert not isinstance(answer, Exception)
            return answer
        finally:
            self.at_once -= 1


@asynccontextmanager
async def dispatching(
    ledger: Ledger, clock: Clock, *phones: Sender, max_in_flight: int = 100, begins: bool = False
) -> AsyncIterator[tuple[Dispatcher, Metrics]]:
    lanes = dict(zip((LANE, OTHER), phones, strict=False))
    metrics = Metrics(lanes)
    dispatcher = Dispatcher(
        ledger,
        lanes={
            name: LaneSettings(sender=phone, policy=retry.FCM, max_in_flight=max_in_flight)
            for name, phone in lanes.items()
        },
        timing=Timing(clock=clock, monotonic=clock, jitter=lambda: 0.0),
        metrics=metrics,
    )
    if not begins:  # as if their providers had answered before
        for each in dispatcher.lanes.values():
            each._pace.dares = max_in_flight
    running = asyncio.create_task(dispatcher.run())
    yield dispatcher, metrics
    await dispatcher.drain(0.01)
    await running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[float]:
    """Sleeping takes no time, but moves the clock."""
    asked: list[float] = []
    yield_to_others = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds > 0:
            asked.append(seconds)
            clock.now += seconds
        await yield_to_others(0)

    monkeypatch.setattr("pushgate.lane.asyncio.sleep", sleep)
    return asked


@pytest.mark.parametrize(
    ("outcome", "verb", "ending"),
    [
        (Accepted(), "ack", "accepted"),
        (Rejected("Unregistered"), "reject", "rejected"),
        (Undeliverable("PayloadTooLarge"), "bury", "undeliverable"),
    ],
)
async def test_each_final_outcome_ends_the_lease_its_own_way(
    clock: Clock, outcome: Outcome, verb: str, ending: str
) -> None:
    ledger = Ledger()
    ledger.add(1)
    async with dispatching(ledger, clock, Phone(outcome)) as (_, metrics):
        await ledger.until(lambda: bool(ledger.ended))
    assert ledger.ended == [(verb, "1")]
    assert f'pushgate_deliveries_total{{ending="{ending}",lane="{LANE}"}} 1.0' in metrics.text().decode()


async def test_a_deferred_one_waits_as_its_policy_says(clock: Clock) -> None:
    ledger = Ledger()
    ledger.add(1, attempt=3)
    async with dispatching(ledger, clock, Phone(Deferred(Cause.PROVIDER, "INTERNAL"))):
        await ledger.until(lambda: bool(ledger.ended))
    assert (ledger.ended, ledger.delays) == ([("nack", "1")], [40])


async def test_a_deferred_one_without_time_left_is_buried_and_never_rejected(clock: Clock) -> None:
    ledger = Ledger()
    ledger.add(1, lives_s=9)
    async with dispatching(ledger, clock, Phone(Deferred(Cause.PROVIDER, "INTERNAL"))) as (_, metrics):
        await ledger.until(lambda: bool(ledger.ended))
    assert ledger.ended == [("bury", "1")]
    assert f'pushgate_deliveries_total{{ending="expired",lane="{LANE}"}} 1.0' in metrics.text().decode()


async def test_what_was_leased_into_a_pause_is_buried_when_its_time_is_up(clock: Clock, sleeps: list[float]) -> None:
    ledger, phone = Ledger(), Phone(Deferred(Cause.CREDENTIALS, "InvalidProviderToken"))
    ledger.add(0)
    async with dispatching(ledger, clock, phone) as (_, metrics):
        await ledger.until(lambda: len(ledger.ended) == 1)
        for number in range(1, 5):
            ledger.add(number, lives_s=7)
        await ledger.until(lambda: len(ledger.ended) == 5)
    assert phone.asked == 1
    assert [verb for verb, _ in ledger.ended] == ["nack", *["bury"] * 4]
    assert sleeps[0] == 7
    assert f'ending="expired",lane="{LANE}"}} 4.0' in metrics.text().decode()


async def test_a_bug_while_leasing_does_not_end_the_lane(clock: Clock, sleeps: list[float]) -> None:
    ledger = Ledger()
    ledger.bugs = 1
    ledger.add(1)
    async with dispatching(ledger, clock, Phone(Accepted())):
        await ledger.until(lambda: bool(ledger.ended))
    assert ledger.ended == [("ack", "1")]


async def test_a_bug_while_settling_leaves_nothing_leased(clock: Clock, sleeps: list[float]) -> None:
    ledger = Ledger()
    ledger.bugs_of["1"] = 1
    ledger.add(1)
    async with dispatching(ledger, clock, Phone(Accepted())):
        await ledger.until(lambda: bool(ledger.ended))
    assert ledger.ended == [("ack", "1")]


async def test_a_rejection_that_could_not_be_stored_is_not_believed_once_the_breaker_is_open(
    clock: Clock, sleeps: list[float]
) -> None:
    ledger, phone = Ledger(), Phone(Rejected("BadDeviceToken"))
    ledger.add(0)
    async with dispatching(ledger, clock, phone, max_in_flight=60):
        ledger.failures_of["0"] = 1
        for number in range(1, 52):
            ledger.add(number)
        await ledger.until(lambda: len(ledger.ended) == 52)
    assert ("nack", "0") in ledger.ended
    assert ("reject", "0") not in ledger.ended


async def test_an_expired_one_is_buried_without_asking_the_provider(clock: Clock) -> None:
    ledger, phone = Ledger(), Phone(Accepted())
    ledger.add(1, lives_s=-1)
    async with dispatching(ledger, clock, phone):
        await ledger.until(lambda: bool(ledger.ended))
    assert (ledger.ended, phone.asked) == ([("bury", "1")], 0)


class Misread:
    """A provider whose first answer is not understood, for a bug."""

    waiting = 0

    def __init__(self) -> None:
        self.asked = 0

    def start(self, delivery: Delivery, tell: Callable[[Outcome], None]) -> Attempt:
        self.asked += 1

        def judge() -> None:
            tell(Accepted() if self.asked > 1 else Rejected(str(1 // 0)))

        judged(tell, judge)
        return NOTHING


async def test_an_answer_that_was_not_understood_is_tried_again(clock: Clock) -> None:
    ledger, phone = Ledger(), Misread()
    ledger.add(1)
    async with dispatching(ledger, clock, phone):
        await ledger.until(lambda: len(ledger.ended) == 1)
        ledger.add(1, attempt=2)
        await ledger.until(lambda: len(ledger.ended) == 2)
    assert (ledger.ended, ledger.delays) == ([("nack", "1"), ("ack", "1")], [retry.FCM[Cause.CONNECTION].first_s])


async def test_a_bug_in_a_provider_costs_no_delivery(clock: Clock) -> None:
    ledger = Ledger()
    ledger.add(1)
    async with dispatching(ledger, clock, Phone(ZeroDivisionError("x"))):
        await ledger.until(lambda: bool(ledger.ended))
    assert ledger.ended == [("nack", "1")]


@pytest.mark.parametrize("outcome", [Rejected("Unregistered"), Deferred(Cause.PROVIDER, "x"), Accepted()])
async def test_a_bug_in_learning_costs_neither_a_delivery_nor_the_other_answers(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    def learn(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("pushgate.lane.Pace.learn", learn)
    monkeypatch.setattr(asyncio.get_running_loop(), "call_exception_handler", lambda _: None)
    ledger = Ledger()
    for number in range(3):
        ledger.add(number)
    async with dispatching(ledger, clock, Phone(outcome)) as (dispatcher, _):
        await ledger.until(lambda: len(ledger.ended) == 3)
        await asyncio.sleep(0)
        assert dispatcher.lanes[LANE].in_flight == 0
    verb = "ack" if isinstance(outcome, Accepted) else "nack"
    assert sorted(ledger.ended) == [(verb, "0"), (verb, "1"), (verb, "2")]


class Chatterbox:
    """A provider that tells an outcome, and then others, at once and later."""

    waiting = 0

    def start(self, delivery: Delivery, tell: Callable[[Outcome], None]) -> Attempt:
        loop = asyncio.get_running_loop()
        tell(Accepted())
        tell(Rejected("Unregistered"))
        loop.call_soon(tell, Undeliverable("x"))
        loop.call_later(0, tell, Accepted())
        return NOTHING


class Narrow:
    """A provider with ten streams: what more is started waits for one of them."""

    def __init__(self) -> None:
        self.open: list[Callable[[Outcome], None]] = []

    @property
    def waiting(self) -> int:
        return max(len(self.open) - 10, 0)

    def start(self, delivery: Delivery, tell: Callable[[Outcome], None]) -> Attempt:
        self.open.append(tell)
        return NOTHING

    def answer(self, count: int) -> None:
        for tell in self.open[:count]:
            tell(Accepted())
        del self.open[:count]


async def test_no_more_is_started_than_soon_finds_a_stream(clock: Clock) -> None:
    """And what was answered makes room at once, though it is not settled yet."""
    ledger, narrow, settled = Ledger(), Narrow(), asyncio.Event()

    async def ack(leases: Sequence[Lease]) -> None:
        await settled.wait()
        ledger._end("ack", leases)

    ledger.ack = ack  # type: ignore[method-assign]
    for number in range(600):
        ledger.add(number)
    async with dispatching(ledger, clock, narrow, max_in_flight=1000) as (dispatcher, _):
        for answered in range(0, 201, 50):
            await asyncio.sleep(0.01)
            assert len(narrow.open) == 10 + MOST_UNSENT
            assert dispatcher.lanes[LANE].in_flight == answered + 10 + MOST_UNSENT
            narrow.answer(50)
        settled.set()
        while narrow.open:
            narrow.answer(50)
            await asyncio.sleep(0.01)
        await ledger.until(lambda: len(ledger.ended) == 600)
    assert {verb for verb, _ in ledger.ended} == {"ack"}


async def test_an_attempt_is_told_once(clock: Clock) -> None:
    ledger = Ledger()
    ledger.add(1)
    async with dispatching(ledger, clock, Chatterbox()) as (dispatcher, metrics):
        await ledger.until(lambda: bool(ledger.ended))
        while dispatcher.lanes[LANE].in_flight:
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
    assert ledger.ended == [("ack", "1")]
    told = metrics.text().decode()
    assert f'pushgate_attempts_total{{lane="{LANE}",outcome="accepted"}} 1.0' in told
    assert f'pushgate_attempts_total{{lane="{LANE}",outcome="rejected"}} 0.0' in told
    assert f'pushgate_attempt_seconds_count{{lane="{LANE}"}} 1.0' in told


async def test_no_more_fly_at_once_than_allowed(clock: Clock) -> None:
    ledger, phone = Ledger(), Phone(Accepted())
    for number in range(50):
        ledger.add(number)
    async with dispatching(ledger, clock, phone, max_in_flight=7):
        await ledger.until(lambda: len(ledger.ended) == 50)
    assert phone.most_at_once == 7


async def test_a_lane_that_hangs_does_not_hold_up_another(clock: Clock) -> None:
    ledger, stuck, well = Ledger(), asyncio.Event(), Phone(Accepted())
    for number in range(20):
        ledger.add(number)
        ledger.add(100 + number, lane=OTHER)
    async with dispatching(ledger, clock, Phone(stuck), well, max_in_flight=10):
        await ledger.until(lambda: len(ledger.ended) == 20)
        assert {verb for verb, _ in ledger.ended} == {"ack"}
        assert all(int(number) >= 100 for _, number in ledger.ended)


async def test_a_credential_fault_pauses_the_lane_and_one_probe_reopens_it(clock: Clock, sleeps: list[float]) -> None:
    ledger = Ledger()
    fault = Deferred(Cause.CREDENTIALS, "InvalidProviderToken")
    phone = Phone(fault, fault, Accepted())
    ledger.add(1)
    async with dispatching(ledger, clock, phone) as (_, metrics):
        await ledger.until(lambda: len(ledger.ended) == 1)
        alarm = f'pushgate_lane_alarm{{alarm="credentials",lane="{LANE}"}}'
        assert f"{alarm} 1.0" in metrics.text().decode()
        for number in range(2, 40):
            ledger.add(number)
        await ledger.until(lambda: len(ledger.ended) == 39)
        assert f"{alarm} 0.0" in metrics.text().decode()
    assert sleeps[:2] == [30, 60]
    assert [verb for verb, _ in ledger.ended].count("nack") == 2
    assert phone.most_at_once > 1


async def test_a_quota_pauses_the_lane_as_long_as_the_provider_asks(clock: Clock, sleeps: list[float]) -> None:
    ledger = Ledger()
    ledger.add(1)
    async with dispatching(ledger, clock, Phone(Deferred(Cause.QUOTA, "QUOTA_EXCEEDED", 77.0), Accepted())):
        await ledger.until(lambda: len(ledger.ended) == 1)
        ledger.add(2)
        await ledger.until(lambda: len(ledger.ended) == 2)
    assert sleeps[0] == 77


async def test_an_outage_is_probed_by_one_attempt_at_a_time(clock: Clock, sleeps: list[float]) -> None:
    ledger = Ledger()
    down = Deferred(Cause.CONNECTION, "connect")
    phone = Phone(*[down] * (pace.OUTAGE_AFTER_FAILURES + 3), Accepted())
    for number in range(100):
        ledger.add(number)
    async with dispatching(ledger, clock, phone, max_in_flight=pace.OUTAGE_AFTER_FAILURES):
        await ledger.until(lambda: len(ledger.ended) == 100)
    assert [verb for verb, _ in ledger.ended].count("nack") == pace.OUTAGE_AFTER_FAILURES + 3
    assert sleeps == [1, 2, 4, 8]


async def test_a_mass_of_rejections_is_held_back_until_answers_look_sane(clock: Clock, sleeps: list[float]) -> None:
    ledger, phone = Ledger(), Phone(Rejected("BadDeviceToken"))
    for number in range(80):
        ledger.add(number)
    async with dispatching(ledger, clock, phone, max_in_flight=10) as (_, metrics):
        await ledger.until(lambda: len(ledger.ended) == 80)
        verbs = [verb for verb, _ in ledger.ended]
        assert (verbs.count("reject"), verbs.count("nack")) == (50, 30)
        alarm = f'pushgate_lane_alarm{{alarm="mass_rejection",lane="{LANE}"}}'
        assert f"{alarm} 1.0" in metrics.text().decode()
        phone.answers = [Accepted()]
        for number in range(100, 120):
            ledger.add(number)
        await ledger.until(lambda: len(ledger.ended) == 100)
        assert f"{alarm} 0.0" in metrics.text().decode()
        phone.answers = [Rejected("Unregistered")]
        ledger.add(200)
        await ledger.until(lambda: ledger.ended[-1] == ("reject", "200"))
    assert sleeps[:4] == [60, 120, 240, 480]
    assert ledger.forgotten == [(LANE, 1_000_000.0 - 301)]


async def test_trouble_with_one_device_does_not_pause_the_lane(clock: Clock, sleeps: list[float]) -> None:
    ledger = Ledger()
    for number in range(60):
        ledger.add(number)
    async with dispatching(ledger, clock, Phone(Deferred(Cause.DEVICE, "TooManyRequests"))):
        await ledger.until(lambda: len(ledger.ended) == 60)
    assert sleeps == []


async def test_what_the_provider_said_survives_a_spool_that_cannot_write(clock: Clock, sleeps: list[float]) -> None:
    ledger, phone = Ledger(), Phone(asyncio.Event())
    ledger.add(1)
    async with dispatching(ledger, clock, phone):
        while not phone.asked:
            await asyncio.sleep(0)
        ledger.failures = 3
        answer = phone.answers[0]
        assert isinstance(answer, asyncio.Event)
        answer.set()
        await ledger.until(lambda: bool(ledger.ended))
    assert (ledger.ended, phone.asked) == ([("ack", "1")], 1)


async def test_a_spool_that_cannot_be_read_is_asked_again(clock: Clock, sleeps: list[float]) -> None:
    ledger = Ledger()
    ledger.failures = 2
    ledger.add(1)
    async with dispatching(ledger, clock, Phone(Accepted())):
        await ledger.until(lambda: bool(ledger.ended))
    assert sleeps == [settling.TROUBLE_S] * 2


async def test_draining_waits_for_what_flies_and_cuts_off_what_does_not_land(clock: Clock) -> None:
    ledger, lands = Ledger(), asyncio.Event()
    ledger.add(1)
    ledger.add(2)
    async with dispatching(ledger, clock, Phone(lands, asyncio.Event())) as (dispatcher, _):
        while dispatcher.lanes[LANE].in_flight < 2:
            await asyncio.sleep(0)
        lands.set()
        assert await dispatcher.drain(0.05) == 1
    assert ledger.ended == [("ack", "1")]


async def test_a_lane_goes_on_with_changed_settings_at_once_and_what_failed_before_is_due(clock: Clock) -> None:
    ledger = Ledger()
    ledger.add(1)
    async with dispatching(ledger, clock, Phone(Deferred(Cause.CREDENTIALS, "InvalidProviderToken"))) as (
        dispatcher,
        metrics,
    ):
        await ledger.until(lambda: len(ledger.ended) == 1)  # the lane pauses for 30 s, and nobody moves the clock
        assert metrics.lanes[LANE].alarms == {"credentials"}
        ledger.add(2)
        how = LaneSettings(sender=Phone(Accepted()), policy=retry.FCM, max_in_flight=100)
        await dispatcher.change({LANE: how})
        await ledger.until(lambda: len(ledger.ended) == 2)
        assert not metrics.lanes[LANE].alarms
    assert ledger.ended == [("nack", "1"), ("ack", "2")]
    assert ledger.hastened == [LANE]


async def test_equal_settings_change_nothing(clock: Clock) -> None:
    ledger = Ledger()
    async with dispatching(ledger, clock, Phone(Accepted())) as (dispatcher, _):
        lane = dispatcher.lanes[LANE]
        await dispatcher.change({LANE: LaneSettings(lane.how.sender, retry.FCM, 100)})
        assert (dispatcher.lanes[LANE], ledger.hastened) == (lane, [])


@pytest.mark.parametrize(
    ("late", "verb"),
    [
        (Rejected("BadDeviceToken"), "nack"),
        (Deferred(Cause.CREDENTIALS, "InvalidProviderToken"), "nack"),
        (Deferred(Cause.CONNECTION, "reset"), "nack"),
        (Accepted(), "ack"),
        (Undeliverable("PayloadEmpty"), "bury"),
    ],
)
async def test_an_answer_to_settings_that_were_replaced_rejects_nobody_and_pauses_nothing(
    clock: Clock, late: Outcome, verb: str
) -> None:
    ledger, answers = Ledger(), asyncio.Event()

    class Slow(Phone):
        async def send(self, delivery: Delivery) -> Outcome:
            self.asked += 1
            await answers.wait()
            return late

    slow = Slow()

    ledger.add(1)
    async with dispatching(ledger, clock, slow) as (dispatcher, _):
        while not slow.asked:
            await asyncio.sleep(0)
        (flying,) = await dispatcher.change({LANE: LaneSettings(Phone(Accepted()), retry.FCM, 100)})
        answers.set()
        await flying.wait()
        assert ledger.ended == [(verb, "1")]
        assert ledger.delays in ([], [1.0])
        ledger.add(2)  # and nothing holds up the next one
        await ledger.until(lambda: len(ledger.ended) == 2)


async def test_a_lane_that_is_taken_out_gives_back_what_it_had_not_sent(clock: Clock) -> None:
    ledger, lands = Ledger(), asyncio.Event()
    for number in range(5):
        ledger.add(number)
    async with dispatching(ledger, clock, Phone(lands), Phone(Accepted()), max_in_flight=5) as (dispatcher, metrics):
        dispatcher.lanes[LANE]._pace.dares = 5
        while dispatcher.lanes[LANE].in_flight < 5:
            await asyncio.sleep(0)
        dispatcher.lanes[LANE]._pace.dares = 7
        ledger.add(5)
        ledger.add(6)
        dispatcher.lanes[LANE]._changed()
        await asyncio.sleep(0)
        retired = dispatcher.lanes[LANE]
        other = dispatcher.lanes[OTHER].how
        flying = await dispatcher.change({OTHER: other})
        assert LANE not in dispatcher.lanes
        lands.set()
        await asyncio.gather(*(landing.wait() for landing in flying))
        async with asyncio.timeout(5):
            while len(ledger.ended) + ledger.queues[LANE].qsize() < 7:
                await asyncio.sleep(0)
        assert {number for verb, number in ledger.ended if verb == "ack"} >= {str(n) for n in range(5)}
        while retired in dispatcher._retired:
            await asyncio.sleep(0)
        assert metrics.lanes[LANE].in_flight == 0


async def test_a_lane_that_comes_back_has_no_alarm_of_the_one_that_has_not_landed(clock: Clock) -> None:
    ledger, lands = Ledger(), asyncio.Event()
    ledger.add(1)
    ledger.add(2)
    sick, how = Phone(Deferred(Cause.CREDENTIALS, "InvalidProviderToken"), lands), Phone(Accepted())
    async with dispatching(ledger, clock, sick) as (dispatcher, metrics):
        await ledger.until(lambda: len(ledger.ended) == 1)
        assert metrics.lanes[LANE].alarms == {"credentials"}
        retired = dispatcher.lanes[LANE]
        assert retired.in_flight == 1
        await dispatcher.change({})
        await dispatcher.change({LANE: LaneSettings(sender=how, policy=retry.FCM, max_in_flight=100)})
        assert not metrics.lanes[LANE].alarms
        lands.set()
        while retired in dispatcher._retired:
            await asyncio.sleep(0)
        assert not metrics.lanes[LANE].alarms


async def test_what_a_retired_lane_learns_is_no_alarm_of_its_successor(clock: Clock) -> None:
    ledger, lands = Ledger(), asyncio.Event()
    ledger.add(1)

    class Late(Phone):
        async def send(self, delivery: Delivery) -> Outcome:
            await lands.wait()
            return Deferred(Cause.CREDENTIALS, "InvalidProviderToken")

    async with dispatching(ledger, clock, Late()) as (dispatcher, metrics):
        while dispatcher.lanes[LANE].in_flight < 1:
            await asyncio.sleep(0)
        await dispatcher.change({})
        await dispatcher.change({LANE: LaneSettings(sender=Phone(Accepted()), policy=retry.FCM, max_in_flight=100)})
        lands.set()
        await ledger.until(lambda: len(ledger.ended) == 1)
        assert ledger.ended == [("nack", "1")]
        assert not metrics.lanes[LANE].alarms


async def test_a_paused_lane_that_is_woken_once_looks_once_more(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, looks = Ledger(), 0
    ledger.add(1)
    async with dispatching(ledger, clock, Phone(Deferred(Cause.CREDENTIALS, "InvalidProviderToken"))) as (it, _):
        await ledger.until(lambda: len(ledger.ended) == 1)
        ledger.add(2)  # leased, and not sent while the lane is paused
        lane = it.lanes[LANE]
        wait = lane._sleep_or_wake

        async def counted(seconds: float) -> None:
            nonlocal looks
            looks += 1
            await wait(seconds)

        monkeypatch.setattr(lane, "_sleep_or_wake", counted)
        for _ in range(20):
            await asyncio.sleep(0)
        lane._changed()
        for _ in range(50):
            await asyncio.sleep(0)
    assert looks == 2


async def test_a_drain_cuts_off_nothing_that_a_lane_gives_back(clock: Clock) -> None:
    lane_stops, may = asyncio.Event(), asyncio.Event()

    class Slow(Ledger):
        async def nack(self, leases: Sequence[Lease], *, delay_s: float) -> None:
            lane_stops.set()
            await may.wait()
            await super().nack(leases, delay_s=delay_s)

    ledger = Slow()
    async with dispatching(ledger, clock, Phone(), Phone()) as (dispatcher, _):
        await asyncio.sleep(0.01)  # it waits for something to send
        dispatcher.lanes[LANE]._pace.paused_until = clock() + 100
        for number in range(2):
            ledger.add(number)
        await asyncio.sleep(0.01)
        await dispatcher.change({OTHER: dispatcher.lanes[OTHER].how})
        await lane_stops.wait()
        draining = asyncio.create_task(dispatcher.drain(1.0))
        await asyncio.sleep(0.01)
        may.set()
        await draining
        async with asyncio.timeout(5):
            while len(ledger.ended) < 2:
                await asyncio.sleep(0)
    assert ledger.ended == [("nack", "0"), ("nack", "1")]


async def test_an_open_breaker_stays_open_when_settings_change(clock: Clock, sleeps: list[float]) -> None:
    """A reload must not make the next fifty rejections believed."""
    ledger = Ledger()
    for number in range(60):
        ledger.add(number)
    async with dispatching(ledger, clock, Phone(Rejected("BadDeviceToken")), max_in_flight=60) as (dispatcher, _):
        await ledger.until(lambda: len(ledger.ended) >= 60)
        rejected = [verb for verb, _ in ledger.ended].count("reject")
        for number in range(100, 110):
            ledger.add(number)
        ended = len(ledger.ended)
        await dispatcher.change({LANE: LaneSettings(Phone(Rejected("BadDeviceToken")), retry.FCM, 60)})
        await ledger.until(lambda: len(ledger.ended) >= ended + 3)
        await dispatcher.retry_now()
        await ledger.until(lambda: len(ledger.ended) >= ended + 5)
    assert [verb for verb, _ in ledger.ended].count("reject") == rejected <= 51


async def test_a_lane_begins_with_few_attempts_until_its_provider_has_answered(clock: Clock) -> None:
    ledger, lands = Ledger(), asyncio.Event()
    phone = Phone(lands)
    for number in range(300):
        ledger.add(number)
    async with dispatching(ledger, clock, phone, max_in_flight=200, begins=True) as (dispatcher, _):
        for _ in range(2000):
            await asyncio.sleep(0)
        assert phone.at_once == lane.BEGINS_WITH
        lands.set()
        await ledger.until(lambda: len(ledger.ended) == 300)
        assert lane.BEGINS_WITH < phone.most_at_once <= 200
    assert dispatcher._room.used == 0


async def test_lanes_that_hang_leave_room_for_others(clock: Clock) -> None:
    ledger, lands, well = Ledger(), asyncio.Event(), Phone(Accepted())
    for number in range(100):
        ledger.add(number)
    async with dispatching(ledger, clock, Phone(lands), well, max_in_flight=60) as (dispatcher, _):
        dispatcher._room.most = 20
        while dispatcher.lanes[LANE].in_flight < 10:
            await asyncio.sleep(0)
        for number in range(100, 150):
            ledger.add(number, lane=OTHER)
        await ledger.until(lambda: len(ledger.ended) == 50)
        assert dispatcher.lanes[LANE].in_flight == 10, "half of the room"
        lands.set()
        await ledger.until(lambda: len(ledger.ended) == 150)
