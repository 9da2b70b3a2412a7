"""A spool whose pages change as they do in service: rows end beside others that wait, are put and are deferred."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from pushgate.model import Delivery, Device, PlainNotification
from pushgate.outcome import Rejected
from pushgate.spool import Lease
from pushgate.spool.cipher import SEED_BYTES
from pushgate.spool.sqlite import SqliteSpool

SEED_MARK = b"SEED"


class KnownSeeds:
    """What a spool takes for random: seeds that can be told from everything else, and are remembered."""

    def __init__(self, chance: random.Random) -> None:
        self.given: list[bytes] = []
        self._chance = chance

    def __call__(self, size: int) -> bytes:
        count = size // SEED_BYTES
        seeds = [SEED_MARK + self._chance.randbytes(SEED_BYTES - len(SEED_MARK)) for _ in range(count)]
        self.given += seeds
        return b"".join(seeds)


class Tangle:
    """A spool in which rows end, in any order and way, beside others that wait, are put, and are deferred."""

    def __init__(self, spool: SqliteSpool, chance: random.Random) -> None:
        self.waiting: set[str] = set()
        """Pushkeys."""
        self._leases: list[Lease] = []
        self._spool = spool
        self._chance = chance

    async def put(self, count: int) -> None:
        while count > 0:
            batch = [self._delivery() for _ in range(min(self._chance.randrange(1, 60), count))]
            await self._spool.put(batch)
            self.waiting |= {each.device.pushkey for each in batch}
            self._leases += await self._spool.lease("lane", len(batch))
            count -= len(batch)

    async def end(self, count: int) -> None:
        """Each time a few end, and a few more are deferred and leased again."""
        while count > 0:
            self._chance.shuffle(self._leases)
            some, deferred = self._leases[:7], self._leases[7:10]
            del self._leases[:10]
            how = self._chance.choice((self._spool.ack, self._spool.bury, self._reject))
            await asyncio.gather(how(some), self._spool.nack(deferred, delay_s=0))
            self._leases += await self._spool.lease("lane", len(deferred))
            for lease in some:
                self.waiting.remove(lease.delivery.device.pushkey)
            count -= len(some)

    async def _reject(self, leases: Sequence[Lease]) -> None:
        await asyncio.gather(*(self._spool.reject(each, Rejected("Unregistered")) for each in leases))

    def _delivery(self) -> Delivery:
        device = Device("lane", f"KEY-{self._chance.randbytes(24).hex()}")
        content = {"body": self._chance.randbytes(self._chance.choice((100, 700, 750, 1800, 3000))).hex()}
        now = time.time()
        return Delivery(
            id=device.pushkey[-8:],
            device=device,
            notification=PlainNotification(devices=(device,), content=content),
            accepted_at=now,
            expires_at=now + 86_400,
        )
