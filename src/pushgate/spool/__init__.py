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


class Lease:
    """A delivery that is ours to send until we say how it ended. A spool may have a kind of its own."""

    __slots__ = ("attempt", "delivery", "token")

    def __init__(self, delivery: Delivery, attempt: int, token: object = None) -> None:
        self.delivery = delivery
        self.attempt = attempt
        """Which attempt this is, from 1."""
        self.token = token
        """What the spool needs to find it again. Of no meaning to anyone else."""


class Backlog(Struct, frozen=True):
    """What waits in one lane, held ones included."""

    waiting: int
    oldest_at: float
    """When the oldest of them was accepted, in unix seconds."""


class KnownRejection(Struct, frozen=True):
    """A pushkey that is remembered as dead, without the pushkey."""

    name: str
    """The keyed hash of app_id and pushkey: 32 hexadecimal digits."""
    app_id: str
    reason: str
    since: float | None
    """Since when it is dead, where the provider said so, in unix seconds."""
    told_at: float
    """When the provider told us, in unix seconds."""


class Spool(Protocol):
    """Every spool has these verbs. All raise `SpoolUnavailable` when the store cannot be reached or written."""

    async def put(self, deliveries: Sequence[Delivery]) -> int:
        """Make all of them durable, or none. Returns how many were repeats and so not stored again.

        A repeat has a non-empty fingerprint that was put within the duplicate window (contract: "What the gateway
        remembers"). The fingerprint is remembered in the same transaction that stores the delivery.

        Raises `SpoolFull` where there is no room for all that are new: then none is stored or remembered. Every other
        verb works in a full spool as in any.
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

    async def forget_rejections(self, lane: str, *, since: float = 0, prefix: str = "") -> int:
        """Forget the lane's rejections that were told from `since` (unix seconds) on. Returns how many there were.

        With `prefix` only those whose name begins with these hexadecimal digits. For the breaker, and for operators:
        what turned out to be our fault must not cost anybody a registration.
        """
        ...

    async def rejections(
        self, *, app_id: str = "", prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[KnownRejection]:
        """What is remembered, in the order of names, from behind the name `after` on, at most `limit`.

        Of one app, or of those whose name begins with the digits of `prefix`, where these are given. Lapsed ones are
        left out.
        """
        ...

    async def count_rejections(self) -> Mapping[tuple[str, str], int]:
        """How many are remembered, by app_id and reason."""
        ...

    async def hasten(self, lane: str) -> int:
        """What was deferred in the lane is due now. Returns how many there were.

        For when what held the lane up was mended. A spool that cannot do it gives 0: they come when they are due.
        """
        ...

    async def bury(self, leases: Sequence[Lease]) -> None:
        """They will never be delivered: erase them. No copy is kept (A_27435)."""
        ...

    def is_crowded(self, lane: str) -> bool:
        """Whether the lane holds its share of the room already. Nothing more should be put into it: others need some.

        Waits for nothing.
        """
        ...

    async def backlog(self) -> Mapping[str, Backlog]:
        """What waits, by lane. For metrics and for the warning about lanes that no app is configured for."""
        ...

    async def probe(self) -> None:
        """Find out whether anything could be put right now. Raises `SpoolUnavailable`, so `SpoolFull` too.

        Cheap enough for every few seconds: it waits its turn like a put, writes one page and stores nothing.
        """
        ...

    def fingerprint(self, *parts: str) -> bytes:
        """What a repeat of these parts would share: 16 bytes, hashed with a key of this spool. Waits for nothing."""
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of the store. What is still leased will be leased again later."""
        ...
