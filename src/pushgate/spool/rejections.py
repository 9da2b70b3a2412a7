"""What is remembered of a dead pushkey, how long it counts, how it is named, and a filter for "never heard of"."""

from __future__ import annotations

from string import hexdigits

from msgspec import Struct

from pushgate.model import Device
from pushgate.outcome import Rejected
from pushgate.spool import KnownRejection
from pushgate.spool.keyed import HASH_BYTES

NAME_DIGITS = 2 * HASH_BYTES
FIRST, LAST = bytes(HASH_BYTES), b"\xff" * HASH_BYTES
"""No name stands before the one and behind the other."""
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

    def known_as(self, name: bytes) -> KnownRejection:
        """What may be told of it."""
        since = None if self.since_ms is None else self.since_ms / 1000
        return KnownRejection(name.hex(), self.app_id, self.reason, since, self.at_ms / 1000)


class Span(Struct, frozen=True):
    """Names from `first` to `last`, both included."""

    first: bytes
    last: bytes

    @classmethod
    def of(cls, prefix: str, after: str = "") -> Span | None:
        """The names that begin with these hexadecimal digits and stand behind a name. None where there can be none."""
        if not (set(prefix + after) <= set(hexdigits) and len(prefix) <= NAME_DIGITS and len(after) <= NAME_DIGITS):
            return None
        first, last = (bytes.fromhex(prefix.ljust(NAME_DIGITS, digit)) for digit in "0f")
        if len(after) == NAME_DIGITS:
            first = max(first, _next(bytes.fromhex(after)))
        else:
            first = max(first, bytes.fromhex(after.ljust(NAME_DIGITS, "0")))
        return cls(first, last) if first <= last else None

    def behind(self, name: bytes) -> Span:
        """What of it stands behind a name."""
        return Span(_next(name), self.last)

    @property
    def is_whole(self) -> bool:
        """Whether it leaves no name out."""
        return (self.first, self.last) == (FIRST, LAST)

    def __contains__(self, name: bytes) -> bool:
        return self.first <= name <= self.last


def _next(name: bytes) -> bytes:
    """What comes right behind a name, in the order of bytes."""
    return name + b"\0"


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
