"""What spools of several processes on one machine tell each other, so that repeats and rejections hold across them.

Keyed hashes with times and reasons; nothing else leaves a process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from msgspec import Struct

from pushgate.spool.keyed import HASH_BYTES
from pushgate.spool.rejections import Rejection

MOST_DOUBTS = 100_000
"""Names that a sibling has forgotten and that we never heard of: so many are kept, 15 MB at most."""


Dead = tuple[bytes, Rejection]
"""The name of a pushkey, and what is remembered of it."""


class Changes(Struct, frozen=True, tag=True, omit_defaults=True):
    """What one transaction has changed of what is remembered."""

    at_ms: int
    claimed: bytes = b""
    """Fingerprints that are repeats from now on, joined."""
    released: bytes = b""
    """Fingerprints that are none any more, joined. Before those that are claimed."""
    dead: Sequence[Dead] = ()
    alive: Sequence[bytes] = ()
    """Names of pushkeys whose rejections of until then do not count any more."""

    def __bool__(self) -> bool:
        return bool(self.claimed or self.released or self.dead or self.alive)


class Sharing(Protocol):
    """The siblings of a spool, as it sees them."""

    @property
    def is_left_over(self) -> bool:
        """Whether this spool is only opened to send what waits in it: it must have been one of siblings before."""
        ...

    def agree(self, secret: bytes, *, is_binding: bool) -> bytes:
        """The key of the hashes that all use. `is_binding`: something is remembered under ours. Called in a thread.

        Raises `SpoolUnusable`.
        """
        ...

    def tell(self, changes: Changes) -> None:
        """Something has become durable, of which nobody was told yet. Called on the event loop."""
        ...


def each_in(joined: bytes) -> Iterator[bytes]:
    """The hashes in a row of them."""
    return (joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES))


class Doubts:
    """Rejections that a sibling took back before we were told of them by another: they may still be on their way."""

    def __init__(self, most: int = MOST_DOUBTS) -> None:
        self._most = most
        self._until_ms: dict[bytes, int] = {}

    def add(self, names: Iterable[bytes], until_ms: int) -> None:
        """What was told of these names until then does not count."""
        for name in names:
            self._until_ms.pop(name, None)
            self._until_ms[name] = until_ms
        while len(self._until_ms) > self._most:
            del self._until_ms[next(iter(self._until_ms))]

    def concern(self, name: bytes, told_ms: int) -> bool:
        """Whether what was told then does not count any more."""
        return told_ms <= self._until_ms.get(name, -1)
