"""What only a spool on NATS has: the time of a server, several gateways on it, and servers that go and come again.

Everything else is in `test_spool.py`, which runs over NATS too.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pushgate.errors import SpoolFull, SpoolUnavailable
from pushgate.model import Device
from pushgate.outcome import Rejected
from pushgate.spool import Lease
from pushgate.spool.jetstream.cluster import Cluster
from pushgate.spool.limits import Limits
from pushgate.spool.nats import NatsSpool
from tests.conformance.test_spool import LANE, OTHER, delivery, drain, ids, soon
from tests.faults.disks import small_disk
from tests.nats_cluster import NatsCluster, nats_cluster

NAMES = itertools.count(1)
ACK_WAIT_S = 1.0

Open = Callable[..., Awaitable[NatsSpool]]


@pytest.fixture
async def gateway(nats: NatsCluster) -> AsyncIterator[Open]:
    """Opens gateways on one spool of its own."""
    async with opener(nats) as each:
        yield each


@asynccontextmanager
async def opener(nats: NatsCluster) -> AsyncIterator[Open]:
    cluster = Cluster(nats.addresses, name=f"real{next(NAMES)}", ack_wait_s=ACK_WAIT_S, request_s=2.0)
    opened: list[NatsSpool] = []

    async def another(**options: Any) -> NatsSpool:
        spool = await NatsSpool.open(cluster, **options)
        opened.append(spool)
        return spool

    try:
        yield another
    finally:
        for spool in opened:
            await spool.close()


async def nothing_for(spool: NatsSpool, seconds: float, lane: str = LANE) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await spool.lease(lane, 10)
            return False
    return True


async def until(condition: Callable[[], Awaitable[bool]], *, within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not await condition():
            await asyncio.sleep(0.02)


# --- the time of NATS


async def test_a_nacked_delivery_comes_again_after_its_delay_whoever_takes_it(gateway: Open) -> None:
    first, second = await gateway(), await gateway()
    await first.put([delivery(1)])
    begin = time.monotonic()
    await first.nack(await soon(first), delay_s=0.7)
    (lease,) = await soon(second)
    assert 0.69 <= time.monotonic() - begin < 2
    assert (lease.delivery, lease.attempt) == (delivery(1), 2)
    await second.ack([lease])
    assert await first.backlog() == {}


async def test_a_repeat_is_one_within_the_window_for_every_gateway(gateway: Open) -> None:
    first, second = await gateway(dedup_window_s=1), await gateway(dedup_window_s=1)
    mark = first.fingerprint("plain", "event", LANE, "k")
    assert second.fingerprint("plain", "event", LANE, "k") == mark
    assert await first.put([delivery(1, fingerprint=mark)]) == 0
    assert await second.put([delivery(2, fingerprint=mark), delivery(3)]) == 1
    await asyncio.sleep(1.3)
    assert await second.put([delivery(4, fingerprint=mark)]) == 0
    assert sorted(ids(await drain(first))) == [delivery(n).id for n in (1, 3, 4)]


async def test_what_was_rejected_is_no_repeat_for_any_gateway_and_once_only(gateway: Open) -> None:
    first, second = await gateway(dedup_window_s=60), await gateway(dedup_window_s=60)
    await second.rejected_among([])  # from now on it follows
    await first.put([delivery(1, fingerprint=b"a" * 16)])
    (lease,) = await soon(first)
    await first.reject(lease, Rejected("Unregistered"))

    async def heard() -> bool:
        return bool(second._dead._again)

    await until(heard)
    assert await second.put([delivery(2, fingerprint=b"a" * 16)]) == 0
    assert await first.put([delivery(3, fingerprint=b"a" * 16)]) == 1
    third = await gateway(dedup_window_s=60)  # a start later
    await third.rejected_among([Device(app_id=LANE, pushkey="x")])

    async def caught_up() -> bool:
        return bool(third._dead._again)

    await until(caught_up)
    assert await third.put([delivery(4, fingerprint=b"a" * 16)]) == 1


async def test_what_is_older_than_max_age_is_erased_by_nats_itself(gateway: Open) -> None:
    spool = await gateway(max_age_s=2)
    now = time.time()
    await spool.put([delivery(n, at=now, life_s=2) for n in range(3)])
    held = await soon(spool, limit=1)
    assert (await spool.backlog())[LANE].waiting == 3

    async def gone() -> bool:
        return await spool.backlog() == {}

    await until(gone)
    assert held
    assert await nothing_for(spool, ACK_WAIT_S + 0.3), "neither what waited nor what was held"


# --- several gateways


async def test_a_dead_pushkey_is_known_to_the_others_and_forgotten_by_them(gateway: Open) -> None:
    first, second = await gateway(), await gateway()
    devices = [delivery(n).device for n in range(40)]
    assert await second.rejected_among(devices) == frozenset()
    await first.put([delivery(n) for n in range(40)])
    for lease in (await drain(first))[::2]:
        await first.reject(lease, Rejected("Unregistered"))

    async def known() -> bool:
        return await second.rejected_among(devices) == frozenset(range(0, 40, 2))

    await until(known)
    assert await second.forget_rejections(LANE) == 20
    assert await first.rejected_among(devices) == frozenset()


async def test_a_delivery_in_the_hands_of_a_slow_worker_is_left_to_it(gateway: Open) -> None:
    slow, other = await gateway(), await gateway()
    await slow.put([delivery(n) for n in range(30)])
    leases = await drain(slow)
    assert await nothing_for(other, 3 * ACK_WAIT_S)
    await slow.ack(leases)
    assert await other.backlog() == {}
    assert await nothing_for(other, ACK_WAIT_S + 0.5), "ended is ended"


async def test_what_a_dead_worker_had_is_given_to_another(gateway: Open) -> None:
    dying, other = await gateway(), await gateway()
    await dying.put([delivery(n) for n in range(30)])
    await drain(dying)
    begin = time.monotonic()
    dying.drop()
    leases: list[Lease] = []
    while len(leases) < 30:
        leases += await soon(other)
    assert time.monotonic() - begin < ACK_WAIT_S + 1.5
    assert {lease.attempt for lease in leases} == {2}


async def test_what_cannot_be_read_holds_up_nothing_else(gateway: Open) -> None:
    """As a worker with another key, or of another version, has put it. It is told with the time when it was stored."""
    spool = await gateway()
    await spool._js.publish(spool._layout.lane(OTHER), b"\x02unreadable")
    await spool.put([delivery(1)])
    waiting = await spool.backlog()
    assert {lane: each.waiting for lane, each in waiting.items()} == {LANE: 1, OTHER: 1}
    assert abs(waiting[OTHER].oldest_at - time.time()) < 60
    assert await nothing_for(spool, 0.3, OTHER)
    assert ids(await soon(spool)) == [delivery(1).id]


async def test_a_worker_that_stops_gives_back_at_once_what_it_has(gateway: Open) -> None:
    stopping, other = await gateway(), await gateway()
    await stopping.put([delivery(n) for n in range(5)])
    await drain(stopping)
    await stopping.close()
    async with asyncio.timeout(ACK_WAIT_S / 2):
        assert len(await drain(other)) == 5


async def test_what_was_given_and_nobody_wants_here_goes_to_who_waits(gateway: Open) -> None:
    """A lane that was retired while it waited: NATS still owes it something."""
    retired, other = await gateway(), await gateway()
    await retired.put([delivery(0)])
    await retired.ack(await soon(retired))
    waiting = asyncio.create_task(retired.lease(LANE, 5))
    await asyncio.sleep(0.1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await other.put([delivery(1)])
    assert ids(await soon(other)) == [delivery(1).id]


async def test_a_quiet_lane_is_woken_by_whoever_puts(gateway: Open) -> None:
    taking, sending = await gateway(), await gateway()
    waiting = asyncio.create_task(sending.lease(LANE, 5))
    await asyncio.sleep(0.2)
    begin = time.monotonic()
    await taking.put([delivery(1)])
    assert ids(await waiting) == [delivery(1).id]
    assert time.monotonic() - begin < 0.7


async def test_a_thousand_lanes_are_no_thousand_consumers(gateway: Open, nats: NatsCluster) -> None:
    taking, sending = await gateway(), await gateway()
    lanes = [f"org.example.lane{n}" for n in range(1000)]
    got: list[str] = []

    async def take(lane: str) -> None:
        leases = await sending.lease(lane, 10)
        await sending.ack(leases)
        got.append(lane)

    waiting = [asyncio.create_task(take(lane)) for lane in lanes]
    await asyncio.sleep(0.2)
    await taking.put([delivery(n, lane=lanes[n]) for n in range(0, 1000, 50)])

    async def all_came() -> bool:
        return len(got) == 20

    await until(all_came)
    info = await nats.ask(f"STREAM.INFO.{taking._layout.name}")
    assert isinstance(state := info["state"], dict)
    assert state["consumer_count"] == 20
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_limits_hold_over_all_gateways(gateway: Open) -> None:
    limits = Limits(max_waiting=20, share_of_lane=0.5)
    first, second = await gateway(limits=limits), await gateway(limits=limits)
    await first.put([delivery(n) for n in range(12)])
    await second.backlog()  # asked every few seconds
    assert second.is_crowded(LANE)
    assert not second.is_crowded(OTHER)
    await second.put([delivery(n) for n in range(12, 19)])
    with pytest.raises(SpoolFull):
        await first.put([delivery(n) for n in range(40, 43)])
    await asyncio.gather(first.put([delivery(19)]), return_exceptions=True)
    with pytest.raises(SpoolFull):
        await second.put([delivery(n) for n in (50, 51)])
    assert (await first.backlog())[LANE].waiting == 20


async def test_hasten_reaches_what_this_worker_has_deferred(gateway: Open) -> None:
    first, second = await gateway(), await gateway()
    await first.put([delivery(n) for n in range(4)])
    leases = await drain(first)
    await first.nack(leases[:3], delay_s=600)
    await first.ack(leases[3:])
    assert await second.hasten(LANE) == 0
    assert await first.hasten(LANE) == 3
    assert ids(await drain(second)) == [delivery(n).id for n in range(3)]


# --- servers go and come again


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsCluster]:
    with nats_cluster(tmp_path / "nats") as cluster:
        yield cluster


async def test_a_restart_of_nats_costs_nothing(own_nats: NatsCluster) -> None:
    async with opener(own_nats) as gateway:
        spool = await gateway()
        await spool.put([delivery(n) for n in range(10)])
        held = await soon(spool, limit=4)
        waiting = asyncio.create_task(spool.lease(OTHER, 1))
        own_nats.servers[0].kill()
        with pytest.raises(SpoolUnavailable):
            await spool.put([delivery(20)])
        with pytest.raises(SpoolUnavailable):
            await spool.ack(held)
        with pytest.raises(SpoolUnavailable):
            await spool.probe()
        own_nats.start()

        async def back() -> bool:
            with suppress(SpoolUnavailable):
                await spool.probe()
                return True
            return False

        await until(back, within_s=10)
        await spool.ack(held)
        assert await spool.put([delivery(21, lane=OTHER)]) == 0
        async with asyncio.timeout(5):
            assert ids(await waiting) == [delivery(21).id]
        left = await drain(spool)
        assert sorted(ids(left)) == sorted({delivery(n).id for n in range(10)} - set(ids(held)))


async def test_a_server_that_says_goodbye_is_left_without_a_fault(tmp_path: Path) -> None:
    with nats_cluster(tmp_path / "nats", size=3) as cluster:
        await cluster.until_ready()
        async with opener(cluster) as gateway:
            spool = await gateway()
            connection = spool._js.link._connection
            assert connection is not None
            mine = next(each for each in cluster.servers if each.name == connection.info["server_name"])
            mine.signal(signal.SIGUSR2)  # lame duck: it goes in a while
            for number in range(100):
                await spool.put([delivery(number)])
                await asyncio.sleep(0.02)
            connection = spool._js.link._connection
            assert connection is not None
            assert connection.info["server_name"] != mine.name
            leases: list[Lease] = []
            async with asyncio.timeout(15):  # it may have led the cluster: another one is elected
                while len(leases) < 100:
                    leases += await spool.lease(LANE, 100)


async def test_a_server_that_hangs_is_told_and_left_waiting_for(own_nats: NatsCluster) -> None:
    async with opener(own_nats) as gateway:
        spool = await gateway()
        await spool.put([delivery(1)])
        (lease,) = await soon(spool)
        own_nats.servers[0].signal(signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(SpoolUnavailable):
            await spool.put([delivery(2)])
        assert time.monotonic() - begin < 3.5, "no caller waits for ever"
        own_nats.servers[0].signal(signal.SIGCONT)

        async def acked() -> bool:
            with suppress(SpoolUnavailable):
                await spool.ack([lease])
                return True
            return False

        await until(acked, within_s=10)
        await until(lambda: ended(spool, lease), within_s=5)


async def ended(spool: NatsSpool, lease: Lease) -> bool:
    with suppress(SpoolUnavailable):
        waiting = await spool.backlog()
        return waiting.get(LANE) is None or waiting[LANE].waiting <= 1
    return False


async def test_a_full_disk_of_nats_takes_nothing_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        if not disk.is_mounted:
            return  # a server whose files may not grow ends by itself: nothing to be seen
        with nats_cluster(disk.folder / "nats") as cluster:
            async with opener(cluster) as gateway:
                spool = await gateway()
                taken = []
                for number in range(20):
                    await spool.put([delivery(number)])
                    taken.append(delivery(number).id)
                disk.fill(cluster.servers[0].pid)
                with pytest.raises(SpoolUnavailable):
                    for number in range(20, 3000, 20):
                        await spool.put([delivery(number + n) for n in range(20)])
                        taken += [delivery(number + n).id for n in range(20)]
                disk.make_room(cluster.servers[0].pid)
                cluster.servers[0].kill()  # it does without JetStream until it is started again
                cluster.start()

                async def back() -> bool:
                    with suppress(SpoolUnavailable):
                        await spool.probe()
                        return True
                    return False

                await until(back, within_s=10)
                assert set(taken) <= set(ids(await drain(spool, limit=1000)))
