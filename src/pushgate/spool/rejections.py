"""What is remembered of a dead pushkey, how long it counts, and a filter that answers "never heard of" at once."""

from __future__ import annotations

from msgspec import Struct

from pushgate.model import Device
from pushgate.outcome import Rejected
from pushgate.spool.keyed import HASH_BYTES

FILTER_BITS = 1 << 26
_MASK = FILTER_BITS - 1


class Rejection(Struct, frozen=True):
    """A provider called a pushkey dead. The key itself is not in it."""

    app_id: str
    reason: str
    since_ms: int | None
    """Since when, where the provider said so."""
    at_ms: int
    """When we were told."""

    @classmethod
    def of(cls, app_id: str, rejected: Rejected, at_ms: int) -> Rejection:
        """What is remembered of a provider's answer."""
        return cls(app_id, rejected.reason, rejected.since_ms, at_ms)

    def lapsed(self, now_ms: int, remember_s: float) -> bool:
        """Whether its time is up."""
        return self.at_ms + remember_s * 1000 <= now_ms

    def undone_by(self, device: Device) -> bool:
        """Whether the device was registered anew after it."""
        died_ms = self.at_ms if self.since_ms is None else self.since_ms
        return device.pushkey_ts is not None and device.pushkey_ts * 1000 > died_ms


class Presence:
    """A set of hashes that may err in one direction: what it does not hold was certainly never added.

    Three bits of a hash, in 8 MB whatever happens: with 1,000,000 hashes, 1 in 10,000 others is mistaken for one of
    them and costs a look at the disk. A set of them would take 100 MB.
    """

    def __init__(self) -> None:
        self._bits = bytearray(FILTER_BITS >> 3)
        self._empty = True

    def add(self, key: bytes) -> None:
        """Add a hash."""
        self._empty = False
        number = int.from_bytes(key, "big")
        for _ in range(3):
            self._bits[(number & _MASK) >> 3] |= 1 << (number & 7)
            number >>= 26

    def __contains__(self, key: bytes) -> bool:
        number = int.from_bytes(key, "big")
        bits = self._bits
        return bool(
            bits[(number & _MASK) >> 3] >> (number & 7) & 1
            and bits[(number >> 26 & _MASK) >> 3] >> (number >> 26 & 7) & 1
            and bits[(number >> 52 & _MASK) >> 3] >> (number >> 52 & 7) & 1
        )

    def __bool__(self) -> bool:
        return not self._empty


assert HASH_BYTES * 8 >= 3 * 26, "a hash gives three places in the filter"
