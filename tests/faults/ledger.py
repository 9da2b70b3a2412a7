"""The ledger: what the gateway took, what arrived, and what must be said about the difference.

    async with staged(folder) as run, Ledger(run) as ledger:
        await run.start()
        async with ledger.load(tasks=3):
            await ledger.until_taken(500)
            with ledger.fault():
                await run.kill()
                await run.start()
        verdict = await ledger.settle()

A *delivery* is one notification for one device. Taken: it was answered `success`. Refused: it was answered 503, 429 or
4xx, or no connection was made, so nothing of it may be kept. In doubt: it has no answer, so it may arrive or not.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import pairwise
from types import TracebackType
from typing import Self

import httpx
import msgspec
from msgspec import Struct

from pushgate.client import (
    AnswerUnusable,
    GatewayRefused,
    GatewayUnavailable,
    PushGatewayClient,
    Retries,
    seal,
)
from pushgate.model import Counts, Device, EncryptedNotification, PlainNotification, Prio
from pushgate.stage import APNS_APP_ID, FCM_APP_ID
from tests.faults.watching import Key, Watch, mark_of
from tests.processes import CHAIN, Run

Note = PlainNotification | EncryptedNotification
QUIET_S = 0.5
"""After so long without an arrival nothing more is on its way."""


class Verdict(Struct, frozen=True, kw_only=True):
    """What came of all that was sent."""

    taken: int
    lost: int
    twice: int = 0
    """Deliveries that reached a device more often than once."""
    twice_unexplained: int = 0
    """Those of them that no fault explains: see `Ledger.fault`."""
    arrived: int = 0
    rejected: int = 0
    """Not arrived, because the provider called the pushkey dead and the gateway settled it so."""
    expired: int = 0
    """What the gateway says was out of time."""
    refused: int = 0
    refused_arrived: int = 0
    in_doubt: int = 0
    in_doubt_arrived: int = 0
    told: int = 0
    """Pushkeys that the gateway told as `rejected`."""
    wrongly_told: int = 0
    """Those of them that no provider had called dead before."""
    longest_pause_s: float | None = None
    """The longest time in which nothing arrived although something that was taken waited; None: not measured."""


class Ledger:
    """Sends numbered notifications, remembers how each was answered, watches the emulators, and judges.

    `pushkeys`  0: each device of its own; else so many devices get everything, at random
    `apps`      the app_ids to send to, in turn; APNs where the pushkeys shall be hexadecimal, by `apns`
    `may_expire` whether what the gateway reports as out of time is counted as such, and not as lost
    """

    def __init__(
        self,
        run: Run,
        *,
        pushkeys: int = 0,
        apps: Sequence[str] = (APNS_APP_ID, FCM_APP_ID),
        apns: Callable[[str], bool] = lambda app_id: app_id.endswith(".apns"),
        may_expire: bool = False,
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._pushkeys = pushkeys
        self._apps = apps
        self._is_apns = apns
        self._may_expire = may_expire
        self.seed = random_seed() if seed is None else seed
        self.chance = random.Random(self.seed)
        self._clock = clock
        self._number = 0
        self._made = 0
        self._resources = AsyncExitStack()
        self.watch = Watch(clock)
        self.taken: dict[Key, float] = {}
        self.refused: set[Key] = set()
        self.in_doubt: set[Key] = set()
        self.told: dict[str, float] = {}
        self.statuses: dict[int, int] = {}
        """How many requests ended with which status; 0: without an answer."""
        self.sent_again: dict[Key, float] = {}
        """What callers sent more than once, as no answer had come, and when they sent it first."""
        self._faults: list[tuple[float, float]] = []

    async def __aenter__(self) -> Self:
        self._resources.enter_context(self.watch)
        self.watch.add(self._run.stage.apns, self._run.stage.fcm)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    # --- what is sent

    def device(self, *, prefix: str = "", app_id: str | None = None) -> Device:
        """The next device, or any where there are few. `prefix` begins its pushkey (hexadecimal digits for APNs)."""
        self._number += 1
        number = self.chance.randrange(self._pushkeys) if self._pushkeys else self._number
        return self._device(number, prefix, app_id)

    def devices(self) -> list[Device]:
        """All of them, where there are few (`pushkeys`)."""
        return [self._device(number, "", None) for number in range(self._pushkeys)]

    def _device(self, number: int, prefix: str, app_id: str | None) -> Device:
        app_id = app_id or self._apps[number % len(self._apps)]
        if self._is_apns(app_id):
            return Device(app_id, f"{prefix}{number:0{64 - len(prefix)}x}")
        return Device(app_id, f"{prefix}fcm-device-{number}")

    def make(
        self, *, is_sealed: bool, prefix: str = "", app_id: str | None = None, device: Device | None = None
    ) -> Note:
        """A notification like no other, for one device: this one, or the next."""
        device = device or self.device(prefix=prefix, app_id=app_id)
        self._made += 1
        number = self._made
        prio = Prio.HIGH if number % 3 else Prio.LOW
        counts = Counts(unread=number % 10)
        if is_sealed:
            return seal(f"message {number}", key=CHAIN.newest).for_device(device, prio=prio, counts=counts)
        return PlainNotification(
            devices=(device,),
            event_id=f"$event-{self.seed}-{number}",
            room_id=f"!room-{number % 7}",
            sender_display_name="Somebody",
            prio=prio,
            counts=counts,
        )

    async def send(self, client: PushGatewayClient, notes: Sequence[Note]) -> bool:
        """Send these, all sealed or all plain, in one request, and remember the answer. Returns whether one came."""
        keys = {key for note in notes for key in _keys(note)}
        try:
            await self._send(client, notes)
        except GatewayRefused as error:
            self._count(error.status)
            self.refused |= keys
        except GatewayUnavailable as error:
            self._count(error.status or 0)
            unsent = isinstance(error.__cause__, httpx.ConnectError)
            surely_not = error.attempts == 1 and (unsent or error.status in (429, 503))
            (self.refused if surely_not else self.in_doubt).update(keys)
            return error.status is not None
        except AnswerUnusable:
            self._count(0)
            self.in_doubt |= keys
        except asyncio.CancelledError:
            self.in_doubt |= keys
            raise
        return True

    async def _send(self, client: PushGatewayClient, notes: Sequence[Note]) -> None:
        sealed = [note for note in notes if isinstance(note, EncryptedNotification)]
        plain = [note for note in notes if isinstance(note, PlainNotification)]
        if sealed:
            assert not plain, "one request is sealed or plain"
            answers = (await client.notify_encrypted_batch(sealed)).results
        elif len(plain) == 1:
            answer = await client.notify(plain[0])
            self._remember(plain[0], answer.rejected)
            self._count(200)
            return
        else:
            answers = (await client.notify_batch(plain)).results
        self._count(200)
        for note, result in zip(notes, answers, strict=True):
            self._remember(note, result.rejected, was_taken=result.status != "failed")

    def _remember(self, note: Note, rejected: Iterable[str], *, was_taken: bool = True) -> None:
        now = self._clock()
        for pushkey in rejected:
            self.told.setdefault(pushkey, now)
        for key in _keys(note):
            if was_taken and key[0] not in rejected:
                self.taken[key] = now
            else:
                self.refused.add(key)

    def _count(self, status: int) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1

    @asynccontextmanager
    async def load(
        self,
        *,
        tasks: int = 3,
        most_in_batch: int = 20,
        pause_s: float = 0.03,
        retries: Retries | None = None,
        timeout_s: float = 10.0,
        prefix: str = "",
        app_id: str | None = None,
    ) -> AsyncIterator[None]:
        """Callers that send all the time until the block ends: singles and batches, sealed and plain, both providers.

        The last of the tasks tries again where the others do not (with `retries` all do), as real callers would.
        """
        stopping = asyncio.Event()
        patient = Retries(count=100, base_delay_s=0.05, max_delay_s=0.3)

        async def one(which: int) -> None:
            own = retries or (patient if tasks > 1 and which == tasks - 1 else Retries(count=0))
            waits: list[float] = []

            async def sleep(seconds: float) -> None:
                waits.append(seconds)
                await asyncio.sleep(seconds)

            async with self._run.client(retries=own, timeout_s=timeout_s, sleep=sleep) as client:
                while not stopping.is_set():
                    size = self.chance.choice((1, 1, 2, most_in_batch // 2, most_in_batch))
                    is_sealed = self.chance.random() < 0.5
                    notes = [self.make(is_sealed=is_sealed, prefix=prefix, app_id=app_id) for _ in range(max(size, 1))]
                    waits.clear()
                    begin = self._clock()
                    answered = await self.send(client, notes)
                    if waits:
                        self.sent_again.update(dict.fromkeys((key for note in notes for key in _keys(note)), begin))
                    await asyncio.sleep(pause_s if answered else 0.05)

        async with asyncio.TaskGroup() as sending:
            senders = [sending.create_task(one(which)) for which in range(tasks)]
            try:
                yield
            finally:
                stopping.set()
                patience_s = timeout_s if self._run.is_running else 0.5  # nobody would answer any more
                _, late = await asyncio.wait(senders, timeout=patience_s)
                for sender in late:
                    sender.cancel()

    # --- the fault

    @contextmanager
    def fault(self) -> Iterator[None]:
        """While the fault lasts. What arrives twice must be explained by one: see `_explained`."""
        begin = self._clock()
        try:
            yield
        finally:
            self._faults.append((begin, self._clock()))

    # --- waiting

    async def until_taken(self, more: int, *, within_s: float = 60.0) -> None:
        """Wait until so many more have been taken."""
        wanted = len(self.taken) + more
        async with asyncio.timeout(within_s):
            while len(self.taken) < wanted:
                await asyncio.sleep(0.01)

    async def until_arrived(self, more: int, *, within_s: float = 60.0) -> None:
        """Wait until so many more have arrived."""
        wanted = len(self.watch.arrivals) + more
        async with asyncio.timeout(within_s):
            while len(self.watch.arrivals) < wanted:
                await asyncio.sleep(0.01)

    async def until_answered(self, more: int, *, within_s: float = 60.0) -> None:
        """Wait until so many more requests have ended, however."""
        wanted = sum(self.statuses.values()) + more
        async with asyncio.timeout(within_s):
            while sum(self.statuses.values()) < wanted:
                await asyncio.sleep(0.01)

    def missing(self) -> set[Key]:
        """What was taken and has not arrived."""
        return self.taken.keys() - self.watch.arrivals.keys()

    async def settle(self, *, within_s: float = 60.0) -> Verdict:
        """Wait until all that was taken has ended and nothing more comes, at most so long; then judge."""
        until = self._clock() + within_s
        while self._clock() < until:
            quiet = self._clock() - self.watch.last_arrival > QUIET_S
            if quiet and (not self.missing() or not self.judge().lost):
                break
            await asyncio.sleep(0.2)
        return self.judge()

    # --- judging

    def judge(self) -> Verdict:
        """What came of all that was sent so far."""
        arrivals, dead = self.watch.arrivals, self.watch.dead
        missing = self.missing()
        to_dead = {key for key in missing if key[0] in dead}
        rejected = min(len(to_dead), len(self._run.events("pushkey is dead")) if to_dead else 0)
        expired = sum(_whole(event.get("count", 1)) for event in self._run.events("out of time"))
        lost = len(missing) - rejected
        twice = [(key, times) for key, times in arrivals.items() if len(times) > 1]
        return Verdict(
            taken=len(self.taken),
            arrived=len(self.taken) - len(missing),
            rejected=rejected,
            expired=expired,
            lost=max(lost - expired, 0) if self._may_expire else lost,
            twice=len(twice),
            twice_unexplained=sum(not self._explained(key, times) for key, times in twice),
            refused=len(self.refused),
            refused_arrived=len(self.refused & arrivals.keys()),
            in_doubt=len(self.in_doubt),
            in_doubt_arrived=len(self.in_doubt & arrivals.keys()),
            told=len(self.told),
            wrongly_told=sum(not dead.get(pushkey, at + 1) <= at for pushkey, at in self.told.items()),
            longest_pause_s=longest_pause_s(self.taken, arrivals),
        )

    def _explained(self, key: Key, times: Sequence[float]) -> bool:
        """Whether a fault lies between each two arrivals of the same delivery.

        What a caller sent again may wait twice, in the process that it was sent to first and in another, and both may
        arrive when all is well again: there the fault lies between the first sending and the last arrival.
        """
        since = self.sent_again.get(key, math.inf)
        return all(
            any(begin <= after and min(before, since) <= end for begin, end in self._faults)
            for before, after in pairwise(times)
        )


def random_seed() -> int:
    """Another one each time, printed; or the one that the environment's `FAULTS_SEED` says, to see a run again."""
    seed = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"FAULTS_SEED={seed}")
    return seed


def _keys(note: Note) -> set[Key]:
    fields = {"event_id": note.event_id} if isinstance(note, PlainNotification) else {"ciphertext": note.ciphertext}
    devices = note.devices if isinstance(note, PlainNotification) else (note.device,)
    return {(device.pushkey, mark_of(fields)) for device in devices}


def _whole(number: object) -> int:
    return msgspec.convert(number, int)


def longest_pause_s(taken: dict[Key, float], arrivals: dict[Key, list[float]]) -> float:
    """The longest time without any arrival in which something waited all the time that arrived in the end."""
    changes = [(at, +1) for key, at in taken.items() if key in arrivals and arrivals[key][0] > at]
    changes += [(arrivals[key][0], -1) for key, at in taken.items() if key in arrivals and arrivals[key][0] > at]
    changes += [(at, 0) for times in arrivals.values() for at in times]
    waiting, since, longest = 0, 0.0, 0.0
    for at, change in sorted(changes):
        if change <= 0:
            if waiting:
                longest = max(longest, at - since)
            since = at
        elif not waiting:
            since = at
        waiting += change
    return longest
