"""Dead pushkeys on NATS: what is taken back stays so, whatever was on its way; who is registered anew gets everything.

A pushkey that is wrongly remembered as dead unsubscribes a person.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pushgate.errors import SpoolUnavailable
from pushgate.outcome import Rejected
from pushgate.spool.jetstream.api import JetStream, Stored
from pushgate.spool.jetstream.cluster import Cluster
from pushgate.spool.jetstream.layout import token
from pushgate.spool.nats import NatsSpool
from tests.conformance.test_spool import LANE, OTHER, delivery, drain, ids, soon
from tests.conformance.test_spool_nats import NAMES, Open, opener, until
from tests.nats_cluster import NatsCluster
from tests.nats_proxy import Proxy, held_up

DEAD = Rejected("Unregistered")
LATELY_S = 300
MARK = b"a" * 16
REQUEST_S = 1.0


@pytest.fixture
async def gateway(nats: NatsCluster) -> AsyncIterator[Open]:
    async with opener(nats) as each:
        yield each


def lately() -> float:
    return time.time() - LATELY_S


async def is_remembered(spool: NatsSpool, number: int, *, lane: str = LANE) -> bool:
    """What stands in the bucket, whatever this gateway has read of it."""
    message = await spool._js.last(spool._layout.dead_bucket, _key(spool, number, lane))
    return message is not None and not message.value("KV-Operation")


def _key(spool: NatsSpool, number: int, lane: str = LANE) -> str:
    device = delivery(number, lane=lane).device
    name = spool._dead._name_of(device.app_id, device.pushkey).hex()
    return spool._layout.dead(name[:2], token(lane), name)


def hold_writing(spool: NatsSpool, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """From now on this gateway writes nothing of a dead pushkey down until the event is set."""
    go, publish = asyncio.Event(), spool._js.publish

    async def late(subject: str, payload: bytes, **more: Any) -> Stored:
        if payload:
            await go.wait()
        return await publish(subject, payload, **more)

    monkeypatch.setattr(spool._js, "publish", late)
    return go


async def test_what_is_just_being_written_down_is_taken_back_too(
    gateway: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, other = await gateway(), await gateway()
    worker._dead._takes_back_again_s = 0.01
    await worker.put([delivery(n) for n in range(3)])
    leases = await drain(worker)
    await worker.reject(leases[0], DEAD)
    go = hold_writing(worker, monkeypatch)
    rejecting = [asyncio.create_task(worker.reject(lease, DEAD)) for lease in leases[1:]]
    await asyncio.sleep(0)
    taking_back = asyncio.create_task(worker.forget_rejections(LANE, since=lately()))
    await asyncio.sleep(0.2)
    go.set()
    await asyncio.gather(*rejecting)
    assert await taking_back == 3
    assert not any([await is_remembered(other, n) for n in range(3)])


async def test_what_another_worker_writes_down_meanwhile_is_taken_back_too(gateway: Open) -> None:
    opening, other = await gateway(), await gateway()
    opening._dead._takes_back_again_s = 0.5
    await other.put([delivery(1), delivery(2, lane=OTHER)])
    leases = [*await soon(other), *await soon(other, OTHER)]
    taking_back = asyncio.create_task(opening.forget_rejections(LANE, since=lately()))
    await asyncio.sleep(0.2)
    for lease in leases:
        await other.reject(lease, DEAD)
    assert await taking_back == 1
    assert not await is_remembered(opening, 1)
    assert await is_remembered(opening, 2, lane=OTHER), "another app's is left alone"


async def test_an_operator_waits_for_no_second_look(gateway: Open) -> None:
    spool = await gateway()
    spool._dead._takes_back_again_s = 60
    await spool.put([delivery(1)])
    await spool.reject((await soon(spool))[0], DEAD)
    async with asyncio.timeout(5):
        assert await spool.forget_rejections(LANE) == 1


async def test_a_copy_that_lags_behind_is_asked_again(gateway: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any copy may answer. One that has not heard of the last rejection is not believed."""
    spool = await gateway()
    await spool.put([delivery(n) for n in range(2)])
    for lease in await drain(spool):
        await spool.reject(lease, DEAD)
    get, asked = JetStream._get, 0

    async def lagging(js: JetStream, stream: str, what: Any) -> Any:
        nonlocal asked
        asked += 1
        return (await get(js, stream, what))[: asked - 1]

    monkeypatch.setattr(JetStream, "_get", lagging)
    assert await spool.forget_rejections(LANE) == 2
    assert asked == 3
    asked = -10_000
    await spool.put([delivery(5)])
    await spool.reject((await soon(spool))[0], DEAD)
    spool._js.request_s = 0.3
    with pytest.raises(SpoolUnavailable, match="copies in NATS differ"):
        await spool.forget_rejections(LANE)


# --- what NATS has not confirmed


@asynccontextmanager
async def by_a_long_way(nats: NatsCluster) -> AsyncIterator[tuple[NatsSpool, Proxy]]:
    """A gateway whose way to NATS can be held up."""
    async with held_up(nats.servers[0].server) as proxy:
        cluster = Cluster((proxy.server,), name=f"far{next(NAMES)}", ack_wait_s=30, request_s=REQUEST_S)
        spool = await NatsSpool.open(cluster)
        spool._dead._takes_back_again_s = 0.01
        try:
            yield spool, proxy
        finally:
            proxy.release()
            await spool.close()


async def opened_beside(spool: NatsSpool, nats: NatsCluster) -> NatsSpool:
    return await NatsSpool.open(Cluster(nats.addresses, name=spool._layout.name))


@pytest.mark.parametrize("ending", ["deferred", "out of time", "taken back"])
async def test_what_was_stored_without_a_word_and_is_not_believed_does_not_stay(ending: str, nats: NatsCluster) -> None:
    async with by_a_long_way(nats) as (spool, proxy):
        other = await opened_beside(spool, nats)
        await spool.put([delivery(1)])
        (lease,) = await soon(spool)
        proxy.hold_answers()
        with pytest.raises(SpoolUnavailable):
            await spool.reject(lease, DEAD)
        assert await is_remembered(other, 1), "or this shows nothing"
        proxy.release()
        match ending:
            case "deferred":
                await spool.nack([lease], delay_s=0)
            case "out of time":
                await spool.bury([lease])
            case _:
                assert await spool.forget_rejections(LANE, since=lately()) == 1
        assert not await is_remembered(other, 1)
        assert not spool._dead._doubtful
        await other.close()


async def test_what_a_server_that_hung_stores_late_does_not_stay(nats: NatsCluster) -> None:
    async with by_a_long_way(nats) as (spool, proxy):
        other = await opened_beside(spool, nats)
        await spool.put([delivery(1)])
        (lease,) = await soon(spool)
        proxy.hold_what_is_sent()
        with pytest.raises(SpoolUnavailable):
            await spool.reject(lease, DEAD)
        connection = spool._js.link._connection
        assert connection is not None
        connection.end("it hangs")

        async def deferred() -> bool:
            try:
                await spool.nack([lease], delay_s=60)
            except SpoolUnavailable:
                return False
            return True

        await until(deferred)
        proxy.release()
        await asyncio.sleep(0.5)
        assert not await is_remembered(other, 1)
        await other.close()


async def test_what_was_stored_without_a_word_and_is_believed_is_written_down_once(nats: NatsCluster) -> None:
    async with by_a_long_way(nats) as (spool, proxy):
        other = await opened_beside(spool, nats)
        await spool.put([delivery(1)])
        (lease,) = await soon(spool)
        proxy.hold_answers()
        with pytest.raises(SpoolUnavailable):
            await spool.reject(lease, DEAD)
        before = await other._js.newest(other._layout.dead_bucket, _key(other, 1))
        proxy.release()
        await spool.reject(lease, DEAD)
        assert await other._js.newest(other._layout.dead_bucket, _key(other, 1)) == before
        assert await is_remembered(other, 1)
        assert await other.backlog() == {}
        assert not spool._dead._doubtful
        await other.close()


async def test_two_that_find_the_same_pushkey_dead_at_once_write_it_down_together(gateway: Open) -> None:
    spool, other = await gateway(), await gateway()
    device = delivery(1).device
    await spool.put([delivery(n, device=device) for n in range(4)])
    leases = await drain(spool)
    await asyncio.gather(*(spool.reject(lease, DEAD) for lease in leases))
    assert await is_remembered(other, 1)
    assert await other.backlog() == {}


# --- registered anew


async def behind(gateway: Open) -> NatsSpool:
    """A gateway that has read everything once, and nothing of what came since."""
    spool = await gateway(dedup_window_s=60)
    await spool.rejected_among([delivery(99).device])

    async def has_read() -> bool:
        return spool._dead.has_all

    await until(has_read)
    following = spool._dead._following
    assert following is not None
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    return spool


async def test_what_was_rejected_is_sent_by_a_gateway_that_lags_and_once_only(gateway: Open) -> None:
    first, lagging = await gateway(dedup_window_s=60), await behind(gateway)
    await first.put([delivery(1, fingerprint=MARK), delivery(2, fingerprint=b"b" * 16)])
    leases = await drain(first)
    await first.reject(leases[0], DEAD)
    await first.ack(leases[1:])
    again = [delivery(3, fingerprint=MARK), delivery(4, fingerprint=b"b" * 16), delivery(5, fingerprint=MARK)]
    assert await lagging.put(again) == 2, "one was accepted, one stands there twice"
    (lease,) = await drain(first)
    assert lease.delivery.fingerprint == MARK
    assert await lagging.put([delivery(6, fingerprint=MARK)]) == 1
    await first.reject(lease, DEAD)
    assert await lagging.put([delivery(7, fingerprint=MARK)]) == 0, "again and again"
    assert ids(await drain(first)) == [delivery(7).id]


async def test_what_was_rejected_is_sent_by_a_gateway_that_has_just_started(gateway: Open) -> None:
    first = await gateway(dedup_window_s=60)
    await first.put([delivery(1, fingerprint=MARK)])
    await first.reject((await soon(first))[0], DEAD)
    started = await gateway(dedup_window_s=60)
    assert await started.put([delivery(2, fingerprint=MARK)]) == 0
    assert await first.put([delivery(3, fingerprint=MARK)]) == 1
    assert len(await drain(first)) == 1


# --- a process that was held up


async def test_what_lay_ready_too_long_is_held_no_more(gateway: Open) -> None:
    """Neither sent, for others have it by now, nor renewed for ever."""
    held_up_long, other = await gateway(), await gateway()
    await other.put([delivery(n) for n in range(3)])
    await held_up_long.ack(await soon(held_up_long, limit=1))
    pull, worker = held_up_long._worker.pull(LANE), held_up_long._worker
    waiting = asyncio.create_task(held_up_long.lease(LANE, 1))
    first = (await waiting)[0]
    await held_up_long.put([delivery(7)])
    waiting = asyncio.create_task(held_up_long.lease(LANE, 5))
    leases = [first, *await waiting]
    pull._give_back(leases)
    assert len(worker._held) == len(leases) == len(pull.ready)
    for held in worker._held:
        held.renewed_at -= 10  # as if the loop had stood still
    leasing = asyncio.create_task(held_up_long.lease(LANE, 5))
    await asyncio.sleep(0.1)
    assert not leasing.done()
    assert not worker._held
    assert not pull.ready
    leasing.cancel()
    await asyncio.gather(leasing, return_exceptions=True)
