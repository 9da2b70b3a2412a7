"""The spool on NATS JetStream: any number of gateways on a store that is kept on several machines (ADR 8).

A work queue stream holds deliveries, a subject and a consumer for each lane; two buckets hold what is known of dead
pushkeys and what all gateways share. NATS knows who has what: no gateway has to remember anything, and what a dead one
held is given to another.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Self

from pushgate.drawn_ahead import DrawnAhead
from pushgate.errors import SpoolUnavailable, SpoolUnusable
from pushgate.model import Delivery, Device
from pushgate.outcome import Rejected
from pushgate.spool import Backlog, KnownRejection, Lease
from pushgate.spool.cipher import NO_KEYS, Cipher, Keys
from pushgate.spool.envelope import Unreadable
from pushgate.spool.jetstream.again import Again
from pushgate.spool.jetstream.api import JetStream, stored_at
from pushgate.spool.jetstream.cluster import Cluster
from pushgate.spool.jetstream.dead import Dead
from pushgate.spool.jetstream.held import ACK, TERM, Held, State, nak
from pushgate.spool.jetstream.keys import settle_keys, write_key_down
from pushgate.spool.jetstream.layout import Builder, Layout, Wanted
from pushgate.spool.jetstream.link import Link
from pushgate.spool.jetstream.protocol import Message
from pushgate.spool.jetstream.putting import Putting
from pushgate.spool.jetstream.stock import Stock
from pushgate.spool.jetstream.worker import Worker
from pushgate.spool.jetstream.wrapping import Wrapping
from pushgate.spool.keyed import KEY_BYTES, REJECTION, REPEAT, KeyedHash
from pushgate.spool.limits import NO_LIMITS, Limits
from pushgate.spool.rejections import Rejection

QUIET_S = 60.0
"""A lane where we have put nothing for so long may be one that nobody looks at."""
START_REQUEST_S = 2.0
"""What servers that are just starting do not answer is asked again so soon."""


class NatsSpool:
    """See `spool.Spool`. Made by `open`."""

    def __init__(
        self,
        js: JetStream,
        cluster: Cluster,
        *,
        secret: bytes,
        cipher: Cipher,
        limits: Limits,
        clock: Callable[[], float],
        dedup_window_s: float,
        remember_s: float,
    ) -> None:
        self._js = js
        self._cluster = cluster
        self._layout = layout = Layout(cluster.name)
        self._cipher = cipher
        self._wrapping = wrapping = Wrapping(cipher, entropy=DrawnAhead(secrets.token_bytes))
        self._clock = clock
        self._repeat_of = KeyedHash(secret, REPEAT)
        self._again = again = Again(js, layout, window_s=dedup_window_s)
        self._putting = Putting(
            js, layout, wrapping, again, limits=limits, window_s=dedup_window_s, request_s=cluster.request_s
        )
        name_of = KeyedHash(secret, REJECTION)
        self._dead = Dead(js, layout, again, name_of=name_of, clock=clock, remember_s=remember_s)
        self._stock = Stock(js, layout, limits=limits, accepted_at=self._accepted_at)
        self._worker = Worker(js, cluster, layout, wrapping)
        self._put_at: dict[str, float] = {}
        """When something was put into a lane last, by us."""
        self._closed = False

    @classmethod
    async def open(
        cls,
        cluster: Cluster,
        *,
        clock: Callable[[], float] = time.time,
        max_age_s: float = 86_400,
        dedup_window_s: float = 0,
        remember_s: float = 30 * 86400,
        limits: Limits = NO_LIMITS,
        keys: Keys = NO_KEYS,
        client: str = "pushgate",
    ) -> Self:
        """Connect, and see to it that the stream and the buckets are there. Raises `SpoolUnusable`: how to mend it.

        NATS itself erases what is older than `max_age_s`, and says when what was deferred is due: `clock` is for what
        is remembered of dead pushkeys. `client` is how this gateway is called in the lists of the servers.
        """
        link = Link(cluster, client=client)
        await link.open()
        try:
            js = JetStream(link, request_s=cluster.request_s)
            hasty = JetStream(link, request_s=min(cluster.request_s, START_REQUEST_S))
            builder = Builder(hasty, cluster, Layout(cluster.name))
            await builder.build(Wanted(max_age_s, dedup_window_s, remember_s, limits))
            secret = await builder.shared_key(lambda: secrets.token_bytes(KEY_BYTES))
            cipher = Cipher(keys)
            await settle_keys(js, Layout(cluster.name), cipher)
            spool = cls(
                js,
                cluster,
                secret=secret,
                cipher=cipher,
                limits=limits,
                clock=clock,
                dedup_window_s=dedup_window_s,
                remember_s=remember_s,
            )
            await spool._stock.ask()
        except SpoolUnavailable as fault:
            await link.close()
            raise SpoolUnusable(f"{fault} -> see that NATS is well") from fault
        except BaseException:
            await link.close()
            raise
        return spool

    # --- the verbs, in the order of a delivery's life

    async def put(self, deliveries: Sequence[Delivery]) -> int:
        """See `spool.Spool.put`. Where it raises, some may be stored all the same: they are sent, and not lost."""
        self._check_open()
        if not deliveries:
            return 0
        known = [delivery.fingerprint for delivery in deliveries if self._putting.knows(delivery)]
        if known and not self._dead.has_all:
            self._dead.follow()
            await self._again.look_up(known)
        rows = [self._putting.row(delivery) for delivery in deliveries]
        sizes = [len(row.payload) for row in rows]
        if max(sizes) + 1024 > self._js.link.max_payload:
            raise SpoolUnavailable("a notification is larger than a message in NATS may be (max_payload)")
        full = await self._stock.refusal(sizes)
        if full is not None and not (self._stock.is_full and known):
            raise full
        for row in rows:
            self._stock.add(row.lane, len(row.payload))
        stored: set[int] = set()
        try:
            repeats = await self._putting.publish(rows, stored, full)
            self._wake({row.lane for row in rows})
            return repeats
        finally:
            for position, row in enumerate(rows):
                if position not in stored:
                    self._stock.remove(row.lane, len(row.payload))

    async def rejected_among(self, devices: Sequence[Device]) -> frozenset[int]:
        """See `spool.Spool.rejected_among`."""
        self._check_open()
        return await self._dead.among(devices)

    async def lease(self, lane: str, limit: int) -> Sequence[Lease]:
        """See `spool.Spool.lease`."""
        self._check_open()
        return await self._worker.pull(lane).lease(limit)

    async def ack(self, leases: Sequence[Lease]) -> None:
        """See `spool.Spool.ack`."""
        await self._erase(self._ending(leases), ACK)

    async def nack(self, leases: Sequence[Lease], *, delay_s: float) -> None:
        """See `spool.Spool.nack`."""
        await self._dead.disbelieve([lease.delivery.device for lease in leases])
        held = self._ending(leases)
        await self._worker.end(held, nak(delay_s))
        if delay_s > 0:
            self._worker.defer(held, delay_s)

    async def reject(self, lease: Lease, rejected: Rejected) -> None:
        """See `spool.Spool.reject`. Remembered first, then erased: after a crash in between it is sent again."""
        if not (held := self._ending((lease,))):
            return
        device = lease.delivery.device
        rejection = Rejection.of(device.app_id, rejected, int(self._clock() * 1000))
        try:
            await asyncio.gather(self._dead.remember(device, rejection), self._again.allow(lease.delivery.fingerprint))
        except BaseException:
            held[0].state = State.LEASED
            raise
        await self._erase(held, ACK)

    async def forget_rejections(self, lane: str, *, since: float = 0, prefix: str = "") -> int:
        """See `spool.Spool.forget_rejections`."""
        self._check_open()
        return await self._dead.forget(lane, since=since, prefix=prefix)

    async def rejections(
        self, *, app_id: str = "", prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[KnownRejection]:
        """See `spool.Spool.rejections`."""
        self._check_open()
        return await self._dead.page(app_id=app_id, prefix=prefix, after=after, limit=limit)

    async def count_rejections(self) -> Mapping[tuple[str, str], int]:
        """See `spool.Spool.count_rejections`."""
        self._check_open()
        return await self._dead.count()

    async def hasten(self, lane: str) -> int:
        """See `spool.Spool.hasten`. What this worker has deferred; each worker does so for its own."""
        self._check_open()
        return await self._worker.hasten(lane)

    async def bury(self, leases: Sequence[Lease]) -> None:
        """See `spool.Spool.bury`. Told as a term, so that nothing of it stays in the stream."""
        await self._dead.disbelieve([lease.delivery.device for lease in leases])
        await self._erase(self._ending(leases), TERM)

    def is_crowded(self, lane: str) -> bool:
        """See `spool.Spool.is_crowded`. As far as we know: others put too."""
        return self._stock.is_crowded(lane)

    async def backlog(self) -> Mapping[str, Backlog]:
        """See `spool.Spool.backlog`."""
        self._check_open()
        return await self._stock.backlog()

    async def probe(self) -> None:
        """See `spool.Spool.probe`. Writes into the shared bucket, and asks the stream whether it has a leader."""
        self._check_open()
        await asyncio.gather(
            write_key_down(self._js, self._layout, self._cipher), self._js.ask(f"STREAM.INFO.{self._layout.name}")
        )
        if (full := await self._stock.refusal()) is not None:
            raise full

    def fingerprint(self, *parts: str) -> bytes:
        """See `spool.Spool.fingerprint`. The same in every gateway on this NATS."""
        return self._repeat_of(*parts)

    async def close(self) -> None:
        """See `spool.Spool.close`. What is still leased is given back, and leased again at once by another."""
        if self._closed:
            return
        self._closed = True
        await self._dead.close()
        await self._worker.close(SpoolUnavailable("the spool is closed"))
        await self._js.link.close()

    def drop(self) -> None:
        """For tests: as if this process had died."""
        self._js.link.drop()

    def _wake(self, lanes: Collection[str]) -> None:
        """Tell workers of lanes that were quiet. Where it gets lost they find out by themselves, a second later."""
        now = time.monotonic()
        for lane in lanes:
            quiet, self._put_at[lane] = now - self._put_at.get(lane, -math.inf) > QUIET_S, now
            if quiet:
                with suppress(SpoolUnavailable):
                    self._js.link.send(self._layout.wake(lane), b"")
            self._worker.wake(lane)

    # --- ending

    def _ending(self, leases: Sequence[Lease]) -> list[Held]:
        """Of those leases that had not ended before."""
        self._check_open()
        ending = []
        for lease in leases:
            held = lease.token
            assert isinstance(held, Held)
            if held.state is State.LEASED:
                held.state = State.ENDING
                ending.append(held)
        return ending

    async def _erase(self, held: Sequence[Held], word: bytes) -> None:
        await self._worker.end(held, word)
        for each in held:
            self._stock.remove(each.lane, each.size)

    def _accepted_at(self, lane: str, message: Message) -> float:
        try:
            return self._wrapping.unwrap(lane, message.payload).accepted_at
        except Unreadable:  # nothing of the rest is held up by it
            return stored_at(message)

    def _check_open(self) -> None:
        if self._closed:
            raise SpoolUnavailable("the spool is closed")
