"""The spool: where deliveries wait, safe from a crash, until a provider has had its say: `Spool`.

At least once: a duplicate may happen, a loss may not. `put` returns when the deliveries are durable. Whoever holds a
`Lease` must end it with exactly one of `ack`, `nack`, `reject`, `bury`; what a dead process held is leased again by
its successor. One conformance suite (`tests/conformance/test_spool.py`) runs over every spool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from pushgate.model import Delivery, Device
from pushgate.outcome import Rejected


class Lease(Struct, frozen=True, eq=False):
    """A delivery that is ours to send until we say how it ended."""

    delivery: Delivery
    attempt: int
    """Which attempt this is, from 1."""
    token: object
    """What the spool needs to find it again. Of no meaning to anyone else."""


class Backlog(Struct, frozen=True):
    """What waits in one lane, held ones included."""

    waiting: int
    oldest_at: float
    """When the oldest of them was accepted, in unix seconds."""


class Spool(Protocol):
    """Every spool has these verbs. All raise `SpoolUnavailable` when the store cannot be reached or written."""

    async def put(self, deliveries: Sequence[Delivery]) -> int:
        """Make all of them durable, or none. Returns how many were repeats and so not stored again.

        A repeat has a non-empty fingerprint that was put within the duplicate window (contract: "What the gateway
        remembers"). The fingerprint is remembered in the same transaction that stores the delivery.
        """
        ...

    async def rejected_among(self, devices: Sequence[Device]) -> frozenset[int]:
        """Positions in `devices` whose (app_id, pushkey) is known to be dead.

        A device whose `pushkey_ts` is later than its rejection was registered anew: the rejection is forgotten and
        the device is not in the answer.
        """
        ...

    async def lease(self, lane: str, limit: int) -> Sequence[Lease]:
        """Between 1 and `limit` deliveries of the lane, oldest first. Waits until there is one. Safe to cancel."""
        ...

    async def ack(self, leases: Sequence[Lease]) -> None:
        """The provider accepted them: erase them."""
        ...

    async def nack(self, leases: Sequence[Lease], *, delay_s: float) -> None:
        """Lease them again, not before `delay_s` seconds from now, each with its attempt counted up."""
        ...

    async def reject(self, lease: Lease, rejected: Rejected) -> None:
        """The provider called the pushkey dead: remember that (a keyed hash, not the key) and erase the delivery.

        Its fingerprint is forgotten in the same transaction: nobody got it, so when it comes again, and the pushkey
        is not dead after all, it is sent.
        """
        ...

    async def forget_rejections(self, lane: str, *, since: float) -> int:
        """Forget the lane's rejections that were told from `since` (unix seconds) on. Returns how many there were.

        For the breaker: what turned out to be our fault must not cost anybody a registration.
        """
        ...

    async def bury(self, leases: Sequence[Lease]) -> None:
        """They will never be delivered: erase them. No copy is kept (A_27435)."""
        ...

    async def backlog(self) -> Mapping[str, Backlog]:
        """What waits, by lane. For metrics and for the warning about lanes that no app is configured for."""
        ...

    async def probe(self) -> None:
        """Find out whether anything could be put right now. Raises `SpoolUnavailable`.

        Cheap enough for every few seconds: it waits its turn like a put, writes one page and stores nothing.
        """
        ...

    def fingerprint(self, *parts: str) -> bytes:
        """What a repeat of these parts would share: 16 bytes, hashed with a key of this spool. Waits for nothing."""
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of the store. What is still leased will be leased again later."""
        ...
