"""The verbs about dead pushkeys of the SQLite spool, on the event loop: in small steps, so that nobody waits long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pushgate.model import Device
from pushgate.spool import KnownRejection
from pushgate.spool.committer import Committer
from pushgate.spool.keyed import KeyedHash
from pushgate.spool.rejection_table import Counted, Forgotten
from pushgate.spool.rejections import Presence, Rejection, Span
from pushgate.spool.store import Store


class RejectionBook:
    """Knows by a filter in memory of nearly every living pushkey that the table does not hold it."""

    def __init__(self, committer: Committer, *, name_of: KeyedHash, presence: Presence) -> None:
        self._committer = committer
        self._name_of = name_of
        self._presence = presence

    def entry(self, device: Device, rejection: Rejection, *, fingerprint: bytes) -> Callable[[Store], None]:
        """What writes it down, in the transaction that erases the delivery with this fingerprint."""
        name = self._name_of(device.app_id, device.pushkey)
        self._presence.add(name)
        return lambda store: store.remember(name, rejection, fingerprint=fingerprint)

    async def among(self, devices: Sequence[Device]) -> frozenset[int]:
        """See `spool.Spool.rejected_among`."""
        if not self._presence:
            return frozenset()
        names = [self._name_of(device.app_id, device.pushkey) for device in devices]
        known = [(position, name, devices[position]) for position, name in enumerate(names) if name in self._presence]
        if not known:
            return frozenset()
        return await self._committer.perform(lambda store: store.rejections.dead_among(known))

    async def page(self, *, app_id: str, prefix: str, after: str, limit: int) -> Sequence[KnownRejection]:
        """See `spool.Spool.rejections`."""
        if (span := Span.of(prefix, after)) is None:
            return []
        return await self._committer.perform(lambda store: store.rejections.page(app_id, span, limit))

    async def count(self) -> Mapping[tuple[str, str], int]:
        """See `spool.Spool.count_rejections`."""
        counts: Counter[tuple[str, str]] = Counter()
        seen: bytes | None = b""
        while seen is not None:
            counted = await self._committer.perform(partial(_count_after, seen))
            counts += counted.counts
            seen = counted.seen
        return counts

    async def forget(self, app_id: str, *, since: float, prefix: str) -> int:
        """See `spool.Spool.forget_rejections`."""
        if (span := Span.of(prefix)) is None:
            return 0
        since_ms = int(since * 1000)
        count, seen = 0, None
        while True:
            forgotten = await self._committer.perform(partial(_forget, app_id, span, since_ms, seen))
            count, seen = count + forgotten.count, forgotten.seen
            if seen is None:
                return count


def _count_after(seen: bytes, store: Store) -> Counted:
    return store.rejections.count_after(seen)


def _forget(app_id: str, span: Span, since_ms: int, seen: tuple[int, bytes] | None, store: Store) -> Forgotten:
    return store.rejections.forget(app_id, span, since_ms=since_ms, seen=seen)
