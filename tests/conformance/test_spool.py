"""Every spool keeps the promises of `spool.Spool`: one suite, run over each of them.

SQLite runs three times: as it is, with so little memory that nearly everything goes by way of the disk, and with
payloads that are encrypted there. NATS is a real server; where the time of that server counts, which no test can move,
`test_spool_nats.py` shows the same in real time.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pushgate.errors import SpoolFull, SpoolUnavailable
from pushgate.model import Counts, Delivery, Device, EncryptedNotification, PlainNotification, Prio
from pushgate.outcome import Rejected
from pushgate.spool import KnownRejection, Lease, Spool
from pushgate.spool.cipher import Keys
from pushgate.spool.jetstream.cluster import Cluster
from pushgate.spool.limits import Limits
from pushgate.spool.memory import MemorySpool
from pushgate.spool.nats import NatsSpool
from pushgate.spool.sqlite import SqliteSpool
from tests.nats_cluster import NatsCluster
from tests.samples import CIPHERTEXT

AnySpool = MemorySpool | SqliteSpool | NatsSpool

LANE, OTHER = "de.example.app.apns", "example-project.app.firebase"
START = 1_760_000_000.0
DAY_S = 86_400
REMEMBER_S = 30 * DAY_S
TIMED = ("memory", "sqlite", "sqlite-little-memory", "sqlite-encrypted")
"""Those whose time a test can move."""
KINDS = (*TIMED, "nats")
TIMED_DURABLE, DURABLE = TIMED[1:], KINDS[1:]
NAMES = itertools.count(1)
ACK_WAIT_S = 2.0
"""What a crashed worker had on NATS comes again after so long."""
LITTLE_MEMORY: dict[str, Any] = {"memory_rows": 2, "memory_bytes": 8_000}


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class Place:
    """Where a spool lives over several runs."""

    def __init__(self, kind: str, folder: Path, nats: NatsCluster | None = None) -> None:
        self.kind = kind
        self._nats = nats
        self._name = f"t{next(NAMES)}"
        self.clock = Clock()
        self.keys = Keys((secrets.token_bytes(32),))
        self.expired: Counter[str] = Counter()
        self._folder = folder / "0"
        self._folder.mkdir()
        self._opened: list[AnySpool] = []

    async def open(self, **options: Any) -> AnySpool:
        """The spool as it is on disk; in memory a new one."""
        options = {"clock": self.clock, "on_expired": self._count, "remember_s": REMEMBER_S, **options}
        spool: AnySpool
        if self._nats is not None:
            for unknown in ("on_expired", "due_clock"):
                options.pop(unknown, None)
            cluster = Cluster(self._nats.addresses, name=self._name, ack_wait_s=ACK_WAIT_S)
            spool = await NatsSpool.open(cluster, **options)
        elif self.kind == "memory":
            spool = MemorySpool(**options)
        else:
            if self.kind != "sqlite":
                options |= LITTLE_MEMORY
            if self.kind == "sqlite-encrypted":
                options["keys"] = self.keys
            spool = await SqliteSpool.open(self._folder / "spool.db", **options)
        self._opened.append(spool)
        return spool

    def crash(self) -> None:
        """From now on the files are as a dying process would leave them at this moment."""
        if self._nats is not None:
            for spool in self._opened:
                assert isinstance(spool, NatsSpool)
                spool.drop()
            return
        after = self._folder.parent / f"{int(self._folder.name) + 1}"
        shutil.copytree(self._folder, after)
        self._folder = after

    async def close(self) -> None:
        for spool in self._opened:
            await spool.close()

    def _count(self, lane: str, count: int) -> None:
        self.expired[lane] += count


def a_place(kind: str, folder: Path, request: pytest.FixtureRequest) -> Place:
    return Place(kind, folder, request.getfixturevalue("nats") if kind == "nats" else None)


async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    place = a_place(request.param, tmp_path, request)
    yield place
    await place.close()


place = pytest.fixture(params=KINDS, name="place")(opened)
durable = pytest.fixture(params=DURABLE, name="durable")(opened)
timed = pytest.fixture(params=TIMED, name="timed")(opened)
timed_durable = pytest.fixture(params=TIMED_DURABLE, name="timed_durable")(opened)


def delivery(number: int = 0, *, lane: str = LANE, at: float = START, life_s: float = DAY_S, **more: Any) -> Delivery:
    device = more.pop("device", None) or Device(app_id=lane, pushkey=f"pushkey-{number}", pushkey_ts=1_700_000_000)
    sealed = EncryptedNotification(
        device=device,
        ciphertext=CIPHERTEXT,
        time_message_encrypted="2025-11",
        key_identifier="key",
        prio=Prio.LOW,
        counts=Counts(unread=number),
    )
    return Delivery(
        id=f"{number:08d}-0000-4000-8000-000000000000",
        device=device,
        notification=sealed,
        accepted_at=at,
        expires_at=at + life_s,
        **more,
    )


def plain_delivery(number: int) -> Delivery:
    device = Device(app_id=LANE, pushkey=f"pushkey-{number}", data={"format": "event_id_only"}, tweaks={"sound": "b"})
    notification = PlainNotification(
        devices=(device,), event_id="$e:example.org", content={"body": "Grüße", "n": [1, None, 2.5]}
    )
    return Delivery(
        id=f"{number:08d}-0000-4000-8000-000000000000",
        device=device,
        notification=notification,
        accepted_at=START,
        expires_at=START + DAY_S,
        fingerprint=b"f" * 16,
    )


async def soon(spool: Spool, lane: str = LANE, limit: int = 100) -> Sequence[Lease]:
    """What can be leased; fails where nothing comes."""
    async with asyncio.timeout(5):
        return await spool.lease(lane, limit)


async def nothing(spool: Spool, lane: str = LANE) -> bool:
    """Whether nothing can be leased."""
    try:
        async with asyncio.timeout(0.05):
            await spool.lease(lane, 1)
    except TimeoutError:
        return True
    return False


async def sweep(spool: AnySpool) -> int:
    """Have what is out of time erased. NATS does so by itself, by its own clock."""
    return 0 if isinstance(spool, NatsSpool) else await spool.sweep()


async def drain(spool: Spool, lane: str = LANE, *, limit: int = 100, held: int = 0) -> list[Lease]:
    """Everything that can be leased now, in order, where so many are leased already. It stays leased."""
    leases: list[Lease] = []
    while (backlog := await spool.backlog()).get(lane) and backlog[lane].waiting > held + len(leases):
        leases += await soon(spool, lane, limit)
    return leases


def ids(leases: Sequence[Lease]) -> list[str]:
    return [lease.delivery.id for lease in leases]


# --- put and lease


@pytest.mark.parametrize("make", [delivery, plain_delivery])
async def test_what_was_put_is_leased_unchanged(place: Place, make: Callable[[int], Delivery]) -> None:
    spool = await place.open(dedup_window_s=600)
    deliveries = [make(1), make(2)] if make is delivery else [make(1)]
    assert await spool.put(deliveries) == 0
    leases = await drain(spool)
    assert [lease.delivery for lease in leases] == deliveries
    assert {lease.attempt for lease in leases} == {1}


async def test_a_lease_has_at_most_its_limit_and_the_oldest_come_first(place: Place) -> None:
    spool = await place.open()
    numbers = range(25)
    for number in numbers:
        place.clock.now += 1
        await spool.put([delivery(number)])
    leases: list[Lease] = []
    while len(leases) < 25:
        some = await soon(spool, limit=4)
        assert 1 <= len(some) <= 4
        leases += some
    assert ids(leases) == [delivery(number).id for number in numbers]


async def test_a_lease_waits_until_something_is_put(place: Place) -> None:
    spool = await place.open()
    waiting = asyncio.create_task(spool.lease(LANE, 10))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await spool.put([delivery(1), delivery(2, lane=OTHER)])
    async with asyncio.timeout(5):
        assert ids(await waiting) == [delivery(1).id]


async def test_lanes_do_not_see_each_other(place: Place) -> None:
    spool = await place.open()
    await spool.put([delivery(1), delivery(2, lane=OTHER)])
    assert ids(await drain(spool, OTHER)) == [delivery(2).id]
    assert ids(await drain(spool)) == [delivery(1).id]


async def test_many_who_wait_share_without_doubles(place: Place) -> None:
    spool = await place.open()
    got: list[str] = []

    async def worker() -> None:
        while True:
            got.extend(ids(await spool.lease(LANE, 3)))

    workers = [asyncio.create_task(worker()) for _ in range(20)]
    await asyncio.gather(*(spool.put([delivery(n), delivery(100 + n)]) for n in range(50)))
    async with asyncio.timeout(5):
        while len(got) < 100:
            await asyncio.sleep(0.005)
    for each in workers:
        each.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert sorted(got) == sorted(delivery(n).id for n in (*range(50), *range(100, 150)))


async def test_a_cancelled_lease_loses_nothing(place: Place) -> None:
    spool = await place.open()
    first, second = (asyncio.create_task(spool.lease(LANE, 10)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await spool.put([delivery(1)])
    async with asyncio.timeout(5):
        assert ids(await second) == [delivery(1).id]


async def test_a_lease_cancelled_in_the_moment_it_is_given_goes_to_the_next(place: Place) -> None:
    spool = await place.open()
    first, second = (asyncio.create_task(spool.lease(LANE, 10)) for _ in range(2))
    await asyncio.sleep(0)
    putting = asyncio.create_task(spool.put([delivery(1)]))
    putting.add_done_callback(lambda _: first.cancel())
    async with asyncio.timeout(5):
        await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED)
        leases = [] if first.cancelled() else list(await first)
        if first.cancelled():
            leases += await second
    second.cancel()
    await asyncio.gather(second, putting, return_exceptions=True)
    assert ids(leases) == [delivery(1).id]


async def test_put_of_nothing_is_nothing(place: Place) -> None:
    spool = await place.open()
    assert await spool.put([]) == 0
    assert await spool.backlog() == {}


# --- how a lease ends


@pytest.mark.parametrize("verb", ["ack", "bury"])
async def test_what_is_acked_or_buried_is_gone_and_no_pushkey_is_dead(place: Place, verb: str) -> None:
    spool = await place.open()
    await spool.put([delivery(n) for n in range(5)])
    leases = await drain(spool)
    await getattr(spool, verb)(leases)
    assert await spool.backlog() == {}
    assert await nothing(spool)
    assert await spool.rejected_among([lease.delivery.device for lease in leases]) == frozenset()


async def test_a_nacked_delivery_comes_again_after_its_delay_and_counts_up(timed: Place) -> None:
    spool = await timed.open()
    await spool.put([delivery(1), delivery(2)])
    first, second = await drain(spool)
    await spool.nack([first], delay_s=10)
    await spool.nack([second], delay_s=0)
    (again,) = await soon(spool)
    assert (again.delivery, again.attempt) == (second.delivery, 2)
    timed.clock.now += 9.99
    assert await nothing(spool)
    timed.clock.now += 0.02
    (again,) = await soon(spool)
    assert (again.delivery, again.attempt) == (first.delivery, 2)


async def test_who_waits_is_woken_when_a_deferred_delivery_is_due(place: Place) -> None:
    spool = await place.open(clock=asyncio.get_running_loop().time)
    await spool.put([delivery(1)])
    await spool.nack(await soon(spool), delay_s=0.5)
    waiting = asyncio.create_task(spool.lease(LANE, 1))
    await asyncio.sleep(0.01)
    await spool.put([delivery(2)])
    await spool.nack(await waiting, delay_s=0.1)
    assert ids(await soon(spool)) == [delivery(2).id]
    assert ids(await soon(spool)) == [delivery(1).id]


async def test_hastened_deliveries_come_at_once_the_oldest_first(timed: Place) -> None:
    spool = await timed.open()
    assert await spool.hasten(LANE) == 0
    for number in range(4):
        await spool.put([delivery(number, at=START + number), delivery(10 + number, lane=OTHER)])
    for lease in await drain(spool):
        await spool.nack([lease], delay_s=100 - 10 * int(lease.delivery.id[:8]))  # the oldest last
    await spool.nack(await drain(spool, OTHER), delay_s=100)
    timed.clock.now += 75  # one of them is due already
    assert await spool.hasten(LANE) == 3
    assert await spool.hasten(LANE) == 0
    leases = await drain(spool)
    assert sorted(ids(leases)) == [delivery(number).id for number in range(4)]
    assert ids([lease for lease in leases if lease.delivery.id != delivery(3).id]) == [delivery(n).id for n in range(3)]
    assert {lease.attempt for lease in leases} == {2}
    assert await nothing(spool, OTHER)


async def test_who_waits_is_woken_by_hasten_and_what_is_leased_is_left_alone(place: Place) -> None:
    spool = await place.open()
    await spool.put([delivery(1), delivery(2)])
    (first,), (second,) = await soon(spool, limit=1), await soon(spool, limit=1)
    await spool.nack([second], delay_s=1000)
    waiting = asyncio.create_task(spool.lease(LANE, 10))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    assert await spool.hasten(LANE) == 1
    async with asyncio.timeout(5):
        assert ids(await waiting) == [second.delivery.id]
    await spool.ack([first, *waiting.result()])
    assert await spool.backlog() == {}


async def test_what_was_hastened_stays_so_over_a_crash(durable: Place) -> None:
    spool = await durable.open()
    await spool.put([delivery(1)])
    await spool.nack(await soon(spool), delay_s=1000)
    assert await spool.hasten(LANE) == 1
    durable.crash()
    assert [lease.attempt for lease in await soon(await durable.open())] == [2]


async def test_ending_a_lease_twice_does_nothing(place: Place) -> None:
    spool = await place.open()
    await spool.put([delivery(1)])
    (stale,) = await soon(spool)
    await spool.nack([stale, stale], delay_s=0)
    (fresh,) = await soon(spool)
    await spool.ack([stale])
    await spool.nack([stale], delay_s=0)
    await spool.reject(stale, Rejected("Unregistered"))
    assert (await spool.backlog())[LANE].waiting == 1
    assert await spool.rejected_among([stale.delivery.device]) == frozenset()
    await spool.ack([fresh])
    assert await spool.backlog() == {}


async def test_a_verb_on_no_lease_is_nothing(place: Place) -> None:
    spool = await place.open()
    await spool.ack([])
    await spool.nack([], delay_s=1)
    await spool.bury([])


# --- dead pushkeys


async def test_a_rejected_pushkey_is_known_dead_for_its_app_alone(place: Place) -> None:
    spool = await place.open()
    await spool.put([delivery(1)])
    (lease,) = await soon(spool)
    dead = lease.delivery.device
    assert await spool.rejected_among([dead]) == frozenset()
    await spool.reject(lease, Rejected("Unregistered"))
    assert await spool.backlog() == {}
    others = [Device(app_id=OTHER, pushkey=dead.pushkey), Device(app_id=LANE, pushkey="another")]
    assert await spool.rejected_among([others[0], dead, others[1], dead]) == {1, 3}
    assert await spool.rejected_among([]) == frozenset()


async def reject(spool: Spool, device: Device, rejected: Rejected) -> None:
    await spool.put([delivery(1, device=device)])
    (lease,) = await soon(spool, lane=device.app_id)
    await spool.reject(lease, rejected)


@pytest.mark.parametrize(
    ("since_ms", "pushkey_ts", "dead"),
    [
        (None, int(START) - 1, True),
        (None, int(START), True),
        (None, int(START) + 1, False),
        (None, None, True),
        (int(START - 500) * 1000, int(START) - 501, True),
        (int(START - 500) * 1000, int(START) - 500, True),
        (int(START - 500) * 1000, int(START) - 499, False),
        (int(START - 500) * 1000 + 999, int(START) - 500, True),
    ],
)
async def test_a_device_registered_after_its_rejection_lives(
    place: Place, since_ms: int | None, pushkey_ts: int | None, dead: bool
) -> None:
    spool = await place.open()
    await reject(spool, Device(app_id=LANE, pushkey="k"), Rejected("Unregistered", since_ms))
    device = Device(app_id=LANE, pushkey="k", pushkey_ts=pushkey_ts)
    assert (await spool.rejected_among([device]) == {0}) is dead
    # a rejection that was undone is forgotten, for older devices too
    assert (await spool.rejected_among([Device(app_id=LANE, pushkey="k")]) == {0}) is dead


async def test_rejections_of_a_lane_can_be_forgotten_from_a_moment_on(place: Place) -> None:
    spool = await place.open()
    devices = [
        Device(app_id=LANE, pushkey="old"),
        Device(app_id=LANE, pushkey="new"),
        Device(app_id=OTHER, pushkey="new"),
    ]
    for device in devices:
        await reject(spool, device, Rejected("BadDeviceToken"))
        place.clock.now += 10
    assert await spool.forget_rejections(LANE, since=place.clock.now - 25) == 1
    assert await spool.rejected_among(devices) == {0, 2}
    assert await spool.forget_rejections(LANE, since=0) == 1
    assert await spool.rejected_among(devices) == {2}


async def some_dead(place: Place, spool: Spool) -> list[KnownRejection]:
    """30 dead pushkeys of two apps, told a second after each other; as the spool tells them."""
    for number in range(30):
        app_id, reason = (OTHER, "UNREGISTERED") if number % 3 else (LANE, ("Unregistered", "ExpiredToken")[number % 2])
        since_ms = None if number % 2 else int(START * 1000) - 500
        await reject(spool, Device(app_id=app_id, pushkey=f"dead-{number}"), Rejected(reason, since_ms))
        place.clock.now += 1
    return list(await spool.rejections())


async def test_what_is_remembered_of_the_dead_can_be_looked_at(place: Place) -> None:
    spool = await place.open()
    assert await spool.rejections() == []
    assert await spool.count_rejections() == {}
    dead = await some_dead(place, spool)
    assert [each.name for each in dead] == sorted({each.name for each in dead})
    assert all(re.fullmatch("[0-9a-f]{32}", each.name) for each in dead)
    assert sorted(each.told_at for each in dead) == [START + n for n in range(30)]
    assert {(each.app_id, each.reason, each.since) for each in dead} == {
        (LANE, "Unregistered", START - 0.5),
        (LANE, "ExpiredToken", None),
        (OTHER, "UNREGISTERED", START - 0.5),
        (OTHER, "UNREGISTERED", None),
    }
    assert await spool.count_rejections() == {
        (LANE, "Unregistered"): 5,
        (LANE, "ExpiredToken"): 5,
        (OTHER, "UNREGISTERED"): 20,
    }
    assert "dead-" not in str(dead)


@pytest.mark.parametrize("app_id", ["", LANE, OTHER, "unknown"])
@pytest.mark.parametrize("limit", [1, 7, 30, 31])
async def test_pages_of_rejections_make_up_the_whole(place: Place, app_id: str, limit: int) -> None:
    spool = await place.open()
    dead = await some_dead(place, spool)
    pages: list[KnownRejection] = []
    while page := await spool.rejections(app_id=app_id, after=pages[-1].name if pages else "", limit=limit):
        assert len(page) <= limit
        pages += page
    assert pages == [each for each in dead if app_id in ("", each.app_id)]
    assert await spool.rejections(after="f" * 32) == []
    assert await spool.rejections(app_id=app_id, limit=0) == []


@pytest.mark.parametrize("app_id", ["", LANE])
async def test_rejections_are_found_by_the_beginning_of_their_names(place: Place, app_id: str) -> None:
    spool = await place.open()
    dead = await some_dead(place, spool)
    for digits in (1, 2, 3, 31, 32):
        for prefix in {each.name[:digits] for each in dead}:
            wanted = [each for each in dead if each.name.startswith(prefix) and app_id in ("", each.app_id)]
            assert await spool.rejections(app_id=app_id, prefix=prefix) == wanted
            assert await spool.rejections(app_id=app_id, prefix=prefix.upper()) == wanted
            if wanted:
                assert await spool.rejections(app_id=app_id, prefix=prefix, after=wanted[0].name) == wanted[1:]
    for prefix in ("", "0", "7", "f"):
        for after in ("", "3", "7c", "f" * 31):
            wanted = [each for each in dead if each.name.startswith(prefix) and each.name > after]
            assert await spool.rejections(prefix=prefix, after=after) == wanted
    for no_prefix in ("x", "0x", " 1", "1_0", "0" * 33, dead[0].name + "0"):
        assert await spool.rejections(app_id=app_id, prefix=no_prefix) == []
        assert await spool.forget_rejections(LANE, prefix=no_prefix) == 0
    assert await spool.rejections() == dead


async def test_rejections_can_be_forgotten_by_app_name_and_time(place: Place) -> None:
    spool = await place.open()
    dead = await some_dead(place, spool)

    async def forget(since: float = 0, prefix: str = "") -> list[KnownRejection]:
        """Those that are gone by it."""
        before = list(await spool.rejections())
        count = await spool.forget_rejections(LANE, since=since, prefix=prefix)
        left = await spool.rejections()
        gone = [each for each in before if each not in left]
        assert (count, len(left)) == (len(gone), len(before) - len(gone))
        return gone

    mine = [each for each in dead if each.app_id == LANE]
    assert await forget(since=START + 21) == [each for each in mine if each.told_at >= START + 21]
    mine = [each for each in mine if each.told_at < START + 21]
    one = mine[3].name
    assert await forget(prefix=next(each for each in dead if each.app_id == OTHER).name) == []
    assert await forget(since=mine[3].told_at + 1, prefix=one) == []
    assert await forget(since=mine[3].told_at, prefix=one[:9]) == [mine.pop(3)]
    assert await forget(since=START + 2, prefix=mine[0].name[:1]) == [
        each for each in mine if each.name[0] == mine[0].name[0] and each.told_at >= START + 2
    ]
    devices = [Device(app_id=LANE, pushkey=f"dead-{number}") for number in range(0, 30, 3)]
    assert len(await spool.rejected_among(devices)) == len([r for r in await spool.rejections() if r.app_id == LANE])
    await forget()
    assert await spool.rejected_among(devices) == frozenset()
    assert await spool.rejections() == [each for each in dead if each.app_id == OTHER]
    assert await spool.forget_rejections(OTHER) == 20
    assert await spool.count_rejections() == {}


async def test_lapsed_rejections_are_neither_told_nor_counted(place: Place) -> None:
    spool = await place.open()
    dead = await some_dead(place, spool)
    place.clock.now = START + REMEMBER_S + 19
    left = [each for each in dead if each.told_at > START + 19]
    assert await spool.rejections() == left
    assert await spool.rejections(app_id=LANE, limit=2) == [each for each in left if each.app_id == LANE][:2]
    assert sum((await spool.count_rejections()).values()) == len(left) == 10


async def test_rejections_are_remembered_over_a_crash(durable: Place) -> None:
    spool = await durable.open()
    dead = await some_dead(durable, spool)
    durable.crash()
    after = await durable.open()
    assert await after.rejections() == dead
    assert await after.forget_rejections(LANE) == 10
    durable.crash()
    assert len(await (await durable.open()).rejections()) == 20


async def test_a_rejection_lapses(place: Place) -> None:
    spool = await place.open()
    device = Device(app_id=LANE, pushkey="k")
    await reject(spool, device, Rejected("Unregistered", since_ms=1))
    place.clock.now += REMEMBER_S - 1
    await sweep(spool)
    assert await spool.rejected_among([device]) == {0}
    place.clock.now += 1
    assert await spool.rejected_among([device]) == frozenset()
    await sweep(spool)
    assert await spool.rejected_among([device]) == frozenset()


async def test_a_lapsed_rejection_may_be_swept_first(place: Place) -> None:
    spool = await place.open()
    device = Device(app_id=LANE, pushkey="k")
    await reject(spool, device, Rejected("Unregistered"))
    place.clock.now += REMEMBER_S
    await sweep(spool)
    assert await spool.rejected_among([device]) == frozenset()


# --- repeats


async def test_a_repeat_within_the_window_is_left_out_even_after_the_first_is_gone(place: Place) -> None:
    spool = await place.open(dedup_window_s=600)
    mark = spool.fingerprint("plain", "event", LANE, "k")
    assert await spool.put([delivery(1, fingerprint=mark)]) == 0
    await spool.ack(await soon(spool))
    place.clock.now += 599
    await sweep(spool)
    assert await spool.put([delivery(2, fingerprint=mark), delivery(3)]) == 1
    assert ids(await drain(spool)) == [delivery(3).id]


async def test_after_the_window_it_is_no_repeat(timed: Place) -> None:
    spool = await timed.open(dedup_window_s=600)
    mark = b"m" * 16
    assert await spool.put([delivery(1, fingerprint=mark)]) == 0
    timed.clock.now += 300
    assert await spool.put([delivery(2, fingerprint=mark)]) == 1
    timed.clock.now += 300
    assert await spool.put([delivery(3, fingerprint=mark)]) == 0, "a repeat does not prolong the window"
    assert await spool.put([delivery(4, fingerprint=mark)]) == 1


async def test_repeats_within_one_put_are_left_out(place: Place) -> None:
    spool = await place.open(dedup_window_s=600)
    marks = (b"a" * 16, b"b" * 16, b"a" * 16, b"", b"", b"a" * 16)
    assert await spool.put([delivery(n, fingerprint=mark) for n, mark in enumerate(marks)]) == 2
    assert ids(await drain(spool)) == [delivery(n).id for n in (0, 1, 3, 4)]
    assert (await spool.backlog())[LANE].waiting == 4


async def test_repeats_of_puts_at_the_same_time_are_left_out(place: Place) -> None:
    spool = await place.open(dedup_window_s=600)
    repeats = await asyncio.gather(*(spool.put([delivery(n, fingerprint=b"a" * 16)]) for n in range(20)))
    assert sorted(repeats) == [0, *[1] * 19]
    assert len(await drain(spool)) == 1


async def test_what_was_rejected_is_no_repeat_when_it_comes_again(place: Place) -> None:
    spool = await place.open(dedup_window_s=600)
    await spool.put([delivery(1, fingerprint=b"a" * 16), delivery(2, fingerprint=b"b" * 16)])
    first, second = await drain(spool)
    await spool.reject(first, Rejected("Unregistered"))
    await spool.ack([second])
    again = [delivery(3, fingerprint=b"a" * 16), delivery(4, fingerprint=b"b" * 16), delivery(5, fingerprint=b"a" * 16)]
    assert await spool.put(again) == 2, "only the one that was rejected, and that once"
    assert ids(await drain(spool)) == [delivery(3).id]
    place.clock.now += 599
    assert await spool.put([delivery(6, fingerprint=b"a" * 16)]) == 1, "remembered anew"


async def test_a_rejection_that_came_to_nothing_forgets_no_fingerprint(place: Place) -> None:
    spool = await place.open(dedup_window_s=600)
    await spool.put([delivery(1, fingerprint=b"a" * 16)])
    (lease,) = await drain(spool)
    await spool.ack([lease])
    await spool.reject(lease, Rejected("Unregistered"))
    assert await spool.put([delivery(2, fingerprint=b"a" * 16)]) == 1


@pytest.mark.parametrize("put_again", [False, True])
async def test_what_was_rejected_is_no_repeat_after_a_crash_either(timed_durable: Place, put_again: bool) -> None:
    spool = await timed_durable.open(dedup_window_s=600)
    await spool.put([delivery(n, fingerprint=f"{n:016}".encode()) for n in range(3)])
    for lease in await drain(spool):
        if lease.delivery.id == delivery(1).id:
            await spool.reject(lease, Rejected("Unregistered"))
    timed_durable.clock.now += 300
    if put_again:
        assert await spool.put([delivery(11, fingerprint=f"{1:016}".encode())]) == 0
    timed_durable.crash()
    after = await timed_durable.open(dedup_window_s=600)
    repeated = [delivery(20 + n, fingerprint=f"{n:016}".encode()) for n in range(3)]
    assert await after.put(repeated) == (3 if put_again else 2)
    timed_durable.clock.now += 300
    await sweep(after)
    timed_durable.crash()
    later = await timed_durable.open(dedup_window_s=600)
    assert await later.put([delivery(30 + n, fingerprint=f"{n:016}".encode()) for n in range(3)]) == 1


async def test_without_a_window_nothing_is_a_repeat(place: Place) -> None:
    spool = await place.open(dedup_window_s=0)
    assert await spool.put([delivery(n, fingerprint=b"a" * 16) for n in range(3)]) == 0
    assert len(await drain(spool)) == 3


async def test_a_fingerprint_depends_on_every_part_and_where_parts_end(place: Place) -> None:
    spool, another = await place.open(), MemorySpool()
    marks = [spool.fingerprint(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("ab", "d"), ("ab", "c", ""))]
    assert len(set(marks)) == len(marks)
    assert {len(mark) for mark in marks} == {16}
    assert spool.fingerprint("ab", "c") == marks[0]
    assert another.fingerprint("ab", "c") != marks[0], "another spool has another key"


# --- time


async def test_a_delivery_out_of_time_can_still_be_leased(place: Place) -> None:
    spool = await place.open()
    await spool.put([delivery(1, life_s=10)])
    place.clock.now += 11
    assert ids(await soon(spool)) == [delivery(1).id]


async def test_a_sweep_erases_what_is_out_of_time_and_not_leased(timed: Place) -> None:
    spool = await timed.open()
    await spool.put([delivery(n, life_s=10) for n in range(3)])
    leased, deferred = await soon(spool, limit=1), await soon(spool, limit=1)
    await spool.nack(deferred, delay_s=100)
    await spool.put([delivery(n, lane=OTHER, life_s=10) for n in range(300)])
    await spool.put([delivery(n, life_s=20) for n in range(3, 8)])
    timed.clock.now += 11
    assert await sweep(spool) == 302
    assert timed.expired == {LANE: 2, OTHER: 300}
    assert {lane: each.waiting for lane, each in (await spool.backlog()).items()} == {LANE: 6}
    left: list[Lease] = []
    while len(left) < 5:
        left += await soon(spool)
    assert ids(left) == [delivery(n).id for n in range(3, 8)]
    assert await nothing(spool, OTHER)
    await spool.ack([*leased, *left])
    assert await spool.backlog() == {}
    assert await sweep(spool) == 0


async def test_what_is_late_is_leased_or_swept_and_never_both(timed: Place) -> None:
    spool = await timed.open()
    for turns in range(40):
        await spool.put([delivery(n, life_s=10) for n in range(4)])
        await spool.nack(await soon(spool, limit=2), delay_s=0)
        timed.clock.now += 11
        sweeping = asyncio.create_task(sweep(spool))
        for _ in range(turns):
            await asyncio.sleep(0)
        leasing = asyncio.create_task(spool.lease(LANE, 10))
        swept = await sweeping
        await asyncio.sleep(0.005)
        leasing.cancel()
        (leases,) = await asyncio.gather(leasing, return_exceptions=True)
        leased = [] if isinstance(leases, BaseException) else list(leases)
        backlog = await spool.backlog()
        assert swept + (backlog[LANE].waiting if LANE in backlog else 0) == 4
        leased += await drain(spool, held=len(leased))
        assert len(leased) == len(set(ids(leased))) == 4 - swept
        await spool.ack(leased)
        assert await spool.backlog() == {}
        timed.clock.now = START


async def test_a_memory_spool_sweeps_when_its_backlog_is_asked_for_now_and_then() -> None:
    clock = Clock()
    spool = MemorySpool(clock=clock)
    await spool.put([delivery(1, life_s=10)])
    clock.now += 29
    assert (await spool.backlog())[LANE].waiting == 1
    clock.now += 1
    assert await spool.backlog() == {}


async def test_the_backlog_counts_what_waits_and_knows_the_oldest(place: Place) -> None:
    spool = await place.open()
    await spool.put([delivery(1, at=START - 600.25)])
    await spool.put([delivery(2, at=START - 300.5), delivery(3, at=START - 300.5), delivery(4, lane=OTHER)])
    backlog = await spool.backlog()
    assert {lane: (each.waiting, each.oldest_at) for lane, each in backlog.items()} == {
        LANE: (3, START - 600.25),
        OTHER: (1, START),
    }
    await spool.ack(await soon(spool, limit=1))
    backlog = await spool.backlog()
    assert (backlog[LANE].waiting, backlog[LANE].oldest_at) == (2, START - 300.5)


# --- how much may wait


async def refused(putting: Awaitable[object]) -> str:
    """Why there is no room for it."""
    with pytest.raises(SpoolFull) as caught:
        await putting
    assert isinstance(caught.value, SpoolUnavailable)
    return str(caught.value)


async def test_past_max_waiting_nothing_is_put_until_there_is_room(place: Place) -> None:
    spool = await place.open(limits=Limits(max_waiting=5), dedup_window_s=600)
    await spool.put([delivery(n, fingerprint=f"{n:016}".encode()) for n in range(4)])
    held = await soon(spool, limit=2)
    await spool.probe()
    too_many = [delivery(n, fingerprint=f"{n:016}".encode()) for n in (8, 9)]
    fault = await refused(spool.put(too_many))
    assert re.search(r"full: spool\.max_waiting is 5 .* -> .*by itself", fault)
    await spool.put([delivery(4, lane=OTHER, fingerprint=b"4" * 16)])
    await refused(spool.put([delivery(5)]))
    await refused(spool.probe())
    assert {lane: each.waiting for lane, each in (await spool.backlog()).items()} == {LANE: 4, OTHER: 1}
    await spool.ack(held)
    await spool.probe()
    assert await spool.put(too_many) == 0, "what was refused is no repeat"
    await refused(spool.probe())
    assert ids(await drain(spool)) == [delivery(n).id for n in (2, 3, 8, 9)]
    assert ids(await drain(spool, OTHER)) == [delivery(4).id]


async def test_a_lane_is_crowded_when_it_holds_its_share_of_the_room(place: Place) -> None:
    spool = await place.open(limits=Limits(max_waiting=10, share_of_lane=0.5))
    await spool.put([delivery(n) for n in range(4)])
    assert not spool.is_crowded(LANE)
    await spool.put([delivery(4)])
    assert (spool.is_crowded(LANE), spool.is_crowded(OTHER)) == (True, False)
    await spool.ack((await soon(spool, limit=1))[:1])
    assert not spool.is_crowded(LANE)


async def test_without_a_limit_nothing_is_crowded(place: Place) -> None:
    spool = await place.open(limits=Limits(share_of_lane=0.5))
    await spool.put([delivery(n) for n in range(4)])
    assert not spool.is_crowded(LANE)


async def test_a_clock_that_is_set_back_delays_nothing(timed: Place) -> None:
    steady = Clock()
    spool = await timed.open(due_clock=steady)
    await spool.put([delivery(0)])
    timed.clock.now += 3600
    await spool.nack(await soon(spool), delay_s=5)
    timed.clock.now -= 3600
    assert await nothing(spool)
    steady.now += 6
    assert ids(await soon(spool)) == [delivery(0).id]


async def test_what_a_clock_that_ran_ahead_has_deferred_is_due_after_the_next_start(timed_durable: Place) -> None:
    ahead = Clock()
    ahead.now += 30 * DAY_S
    spool = await timed_durable.open(due_clock=ahead)
    await spool.put([delivery(0)])
    await spool.nack(await soon(spool), delay_s=5)
    await spool.close()
    assert ids(await soon(await timed_durable.open())) == [delivery(0).id]


async def test_a_full_spool_still_knows_repeats_and_the_dead_and_lets_everything_end(place: Place) -> None:
    spool = await place.open(limits=Limits(max_waiting=4), dedup_window_s=600)
    sent = [delivery(n, fingerprint=f"{n:016}".encode()) for n in range(4)]
    await spool.put(sent)
    await refused(spool.put([*sent, delivery(9)]))
    assert await spool.put(sent) == 4
    assert await spool.put(sent[:1]) == 1
    leases = await drain(spool)
    await spool.nack(leases[:1], delay_s=0)
    assert await spool.hasten(LANE) == 0
    await refused(spool.put([delivery(9)]))
    await spool.reject(leases[1], Rejected("Unregistered"))
    assert await spool.rejected_among([leases[1].delivery.device]) == {0}
    assert await spool.put(sent[1:2]) == 0, "one has left, and it was rejected"
    await refused(spool.put([delivery(9)]))
    await spool.bury(leases[2:3])
    await spool.ack(leases[3:])
    assert await spool.put([delivery(9), delivery(10)]) == 0
    await refused(spool.put([delivery(11)]))
    assert sorted(ids(await drain(spool))) == [delivery(n).id for n in (0, 1, 9, 10)]


async def test_a_full_spool_takes_more_when_what_was_out_of_time_is_swept(timed: Place) -> None:
    spool = await timed.open(limits=Limits(max_waiting=3))
    await spool.put([delivery(n, life_s=10) for n in range(3)])
    timed.clock.now += 11
    await refused(spool.put([delivery(4)]))
    assert await sweep(spool) == 3
    await spool.put([delivery(n) for n in range(4, 7)])
    await refused(spool.put([delivery(8)]))


@pytest.mark.parametrize("limits", [Limits(max_waiting=50), Limits(max_bytes=250_000)])
async def test_of_puts_at_the_same_time_only_those_without_room_are_refused(place: Place, limits: Limits) -> None:
    spool = await place.open(limits=limits)
    results = await asyncio.gather(
        *(spool.put([delivery(2 * n), delivery(2 * n + 1)]) for n in range(200)), return_exceptions=True
    )
    taken = [n for n, result in enumerate(results) if result == 0]
    assert all(isinstance(result, SpoolFull) for n, result in enumerate(results) if n not in taken)
    assert len(taken) == 25 if limits.max_waiting else 30 < len(taken) < 90
    leases = await drain(spool)
    assert sorted(ids(leases)) == sorted(delivery(2 * n + more).id for n in taken for more in (0, 1))
    await spool.ack(leases)
    assert await spool.put([delivery(n) for n in range(40)]) == 0


async def test_past_max_bytes_nothing_is_put_until_there_is_room(place: Place) -> None:
    most = 1 << 20
    spool = await place.open(limits=Limits(max_bytes=most), dedup_window_s=600)
    for turn in range(3):  # and so it does not shrink from turn to turn
        count = 0
        with pytest.raises(SpoolFull, match=r"full: spool\.max_mb is 1 MB -> .*by itself"):
            while True:
                await spool.put([delivery(count), delivery(count + 1)])
                count += 2
        assert most * 0.55 < count * len(CIPHERTEXT) < most
        with pytest.raises(SpoolFull):
            await spool.probe()
            while True:  # where two had no room, one may have
                await spool.put([delivery(count)])
                count += 1
        leases = await drain(spool)
        assert len(leases) == count
        await spool.nack(leases[::4], delay_s=0)
        await spool.bury(leases[1::4])
        for lease in leases[2::4]:
            await spool.reject(lease, Rejected("Unregistered"))
        await spool.ack(leases[3::4])
        await spool.ack(await drain(spool))
        assert await spool.backlog() == {}, turn
        await spool.probe()
        assert await spool.put([]) == 0


async def test_the_limits_hold_over_a_crash(durable: Place) -> None:
    spool = await durable.open()
    await spool.put([delivery(n) for n in range(40)])
    durable.crash()
    tight = await durable.open(limits=Limits(max_waiting=40))
    await refused(tight.put([delivery(41)]))
    await tight.ack(await soon(tight, limit=1))
    await tight.put([delivery(41)])
    durable.crash()
    small = await durable.open(limits=Limits(max_bytes=50_000))
    assert len(await drain(small)) == 40, "what waits already is not given up"
    await refused(small.put([delivery(42)]))


# --- whether anything could be put


async def test_a_probe_of_a_sound_spool_changes_nothing(place: Place) -> None:
    spool = await place.open(dedup_window_s=600)
    await spool.probe()
    await spool.put([delivery(1, fingerprint=b"a" * 16)])
    (lease,) = await soon(spool)
    await asyncio.gather(spool.probe(), spool.nack([lease], delay_s=0), spool.probe())
    assert (await spool.backlog())[LANE].waiting == 1
    assert ids(await soon(spool)) == [delivery(1).id]
    assert await nothing(spool, OTHER)
    assert await spool.put([delivery(2, fingerprint=b"a" * 16)]) == 1


async def test_a_probe_of_a_closed_spool_says_so(place: Place) -> None:
    spool = await place.open()
    await spool.close()
    with pytest.raises(SpoolUnavailable, match="closed"):
        await spool.probe()


# --- the end


async def test_a_closed_spool_refuses_and_tells_who_waits(place: Place) -> None:
    spool = await place.open()
    await spool.put([delivery(1), delivery(2, lane=OTHER)])
    (lease,) = await soon(spool)
    waiting = asyncio.create_task(spool.lease(LANE, 1))
    await asyncio.sleep(0.01)
    await spool.close()
    for verb in (
        waiting,
        spool.put([delivery(2)]),
        spool.lease(OTHER, 1),
        spool.ack([lease]),
        spool.nack([lease], delay_s=1),
        spool.reject(lease, Rejected("Unregistered")),
        spool.bury([lease]),
        spool.rejected_among([lease.delivery.device]),
        spool.forget_rejections(LANE),
        spool.rejections(),
        spool.count_rejections(),
        spool.hasten(LANE),
        spool.backlog(),
    ):
        with pytest.raises(SpoolUnavailable, match="closed"):
            await verb
    await spool.close()


async def test_put_then_close_is_leased_again(durable: Place) -> None:
    spool = await durable.open()
    await asyncio.gather(*(spool.put([delivery(n)]) for n in range(10)))
    await soon(spool, limit=3)
    await spool.close()
    assert sorted(ids(await drain(await durable.open()))) == sorted(delivery(n).id for n in range(10))


async def test_put_then_crash_is_leased_again(durable: Place) -> None:
    spool = await durable.open()
    await spool.put([delivery(n) for n in range(10)])
    held = await soon(spool, limit=4)
    durable.crash()
    assert held
    after = await durable.open()
    leases = await drain(after)
    if isinstance(after, NatsSpool):  # it counts what was begun, and gives that again last
        assert sorted((lease.delivery.id, lease.attempt) for lease in leases) == [
            (delivery(n).id, 2 if n < 4 else 1) for n in range(10)
        ]
        return
    assert ids(leases) == [delivery(n).id for n in range(10)]
    assert {lease.attempt for lease in leases} == {1}, "interrupted is not failed"


async def test_acked_then_crash_is_not_leased_again(durable: Place) -> None:
    spool = await durable.open()
    await spool.put([delivery(n) for n in range(4)])
    first, second, third, fourth = await drain(spool)
    await spool.ack([first])
    await spool.bury([second])
    await spool.reject(third, Rejected("Unregistered"))
    durable.crash()
    after = await durable.open()
    assert ids(await drain(after)) == [fourth.delivery.id]
    assert await after.rejected_among([first.delivery.device, third.delivery.device]) == {1}


async def test_a_deferred_delivery_keeps_its_time_and_its_count_over_a_crash(timed_durable: Place) -> None:
    spool = await timed_durable.open()
    await spool.put([delivery(1)])
    await spool.nack(await soon(spool), delay_s=100)
    timed_durable.crash()
    after = await timed_durable.open()
    assert await nothing(after)
    timed_durable.clock.now += 101
    assert [lease.attempt for lease in await soon(after)] == [2]


async def test_repeats_backlog_and_fingerprints_are_known_after_a_crash(timed_durable: Place) -> None:
    spool = await timed_durable.open(dedup_window_s=600)
    mark = spool.fingerprint("event")
    await spool.put([delivery(1, fingerprint=mark, at=START - 120), delivery(2, lane=OTHER)])
    backlog = await spool.backlog()
    timed_durable.crash()
    after = await timed_durable.open(dedup_window_s=600)
    assert after.fingerprint("event") == mark
    assert {lane: (each.waiting, each.oldest_at) for lane, each in (await after.backlog()).items()} == {
        lane: (each.waiting, each.oldest_at) for lane, each in backlog.items()
    }
    assert await after.put([delivery(3, fingerprint=mark)]) == 1
    timed_durable.clock.now += 600
    await sweep(after)
    assert await after.put([delivery(4, fingerprint=mark)]) == 0
    timed_durable.clock.now += 600
    assert await after.put([delivery(5, fingerprint=mark)]) == 0


async def test_a_lapsed_window_is_not_loaded(timed_durable: Place) -> None:
    spool = await timed_durable.open(dedup_window_s=600)
    await spool.put([delivery(1, fingerprint=b"a" * 16)])
    await spool.close()
    timed_durable.clock.now += 600
    after = await timed_durable.open(dedup_window_s=600)
    assert await after.put([delivery(2, fingerprint=b"a" * 16)]) == 0


# --- any order of things

Step = tuple[str, int]
VERBS = ["put", "put", "lease", "lease", "lease", "cancel", "ack", "nack", "bury", "reject", "sweep", "turn", "wait"]
STEPS = st.lists(st.tuples(st.sampled_from(VERBS), st.integers(0, 7)), max_size=60)


class Model:
    """What must be true of a spool, written down beside it."""

    def __init__(self, spool: AnySpool) -> None:
        self.spool = spool
        self.numbers = iter(range(1_000_000))
        self.waiting: dict[str, int] = {}
        """Deliveries that were put and have not ended: id and the attempt that comes next."""
        self.ending: set[str] = set()
        self.held: list[Lease] = []
        self.leasing: list[asyncio.Task[None]] = []
        self.others: list[asyncio.Task[None]] = []

    async def step(self, what: str, number: int) -> None:
        match what:
            case "put":
                self.others.append(asyncio.create_task(self._put(number + 1)))
            case "lease":
                self.leasing.append(asyncio.create_task(self._lease(number + 1)))
            case "cancel" if self.leasing:
                self.leasing.pop(number % len(self.leasing)).cancel()
            case "ack" | "nack" | "bury" | "reject" if self.held:
                lease = self.held.pop(number % len(self.held))
                self.others.append(asyncio.create_task(self._end(lease, what)))
            case "sweep":
                assert await sweep(self.spool) == 0
            case "turn":
                for _ in range(number):
                    await asyncio.sleep(0)
            case "wait":
                await asyncio.sleep(number / 2000)

    async def finish(self) -> None:
        """Everything that was begun ends, and what is left can be leased exactly once."""
        for task in self.leasing:
            task.cancel()
        await asyncio.gather(*self.leasing, return_exceptions=True)
        async with asyncio.timeout(5):
            await asyncio.gather(*self.others)
            backlog = await self.spool.backlog()
            assert (backlog[LANE].waiting if LANE in backlog else 0) == len(self.waiting)
            while len(self.held) < len(self.waiting):
                await self._lease(5)
        assert sorted(ids(self.held)) == sorted(self.waiting)
        assert await nothing(self.spool)

    async def _put(self, count: int) -> None:
        deliveries = [delivery(next(self.numbers)) for _ in range(count)]
        self.waiting |= {each.id: 1 for each in deliveries}  # may be leased before `put` tells us
        await self.spool.put(deliveries)

    async def _lease(self, limit: int) -> None:
        leases = await self.spool.lease(LANE, limit)
        assert 1 <= len(leases) <= limit
        for lease in leases:
            assert lease.delivery.id not in ids(self.held), "leased twice at once"
            assert lease.delivery.id not in self.ending, "leased while it ends"
            assert self.waiting[lease.delivery.id] == lease.attempt
        self.held += leases

    async def _end(self, lease: Lease, verb: str) -> None:
        name = lease.delivery.id
        if verb == "nack":
            self.waiting[name] += 1
            await self.spool.nack([lease], delay_s=0)
            return
        self.ending.add(name)
        if verb == "reject":
            await self.spool.reject(lease, Rejected("Unregistered"))
        else:
            await getattr(self.spool, verb)([lease])
        del self.waiting[name]


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS)
def test_in_any_order_nothing_is_lost_and_nothing_leased_twice_at_once(
    request: pytest.FixtureRequest, kind: str, steps: Sequence[Step]
) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as folder:
            place = a_place(kind, Path(folder), request)
            model = Model(await place.open())
            try:
                for step in steps:
                    await model.step(*step)
                await model.finish()
                if kind in DURABLE:
                    if kind == "nats":
                        await place.close()  # who was killed is waited for by NATS: too long for so many turns
                    else:
                        place.crash()
                    after = await place.open()
                    assert sorted(ids(await drain(after))) == sorted(model.waiting)
            finally:
                await place.close()

    asyncio.run(play())
