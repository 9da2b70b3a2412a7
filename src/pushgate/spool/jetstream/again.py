"""Which notifications may be put again although they were put lately: those whose pushkey was called dead.

A server cannot be told to forget an id. So a rejection writes an entry with the fingerprint into the bucket of the
dead, and the number of that entry is part of the next id. Where a gateway has not read it yet, NATS takes what it puts
for a repeat: then it is looked up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pushgate.spool.jetstream import protocol
from pushgate.spool.jetstream.api import JetStream, sequence_of
from pushgate.spool.jetstream.layout import Layout


class Again:
    """What this gateway knows of these entries."""

    def __init__(self, js: JetStream, layout: Layout, *, window_s: float) -> None:
        self._js = js
        self._layout = layout
        self._window_s = window_s
        self._known: dict[str, tuple[int, float]] = {}
        """By fingerprint, in hexadecimal digits: the number of the entry, and until when it counts."""

    def __len__(self) -> int:
        return len(self._known)

    def number_of(self, fingerprint: bytes) -> int:
        """The number of the last entry of a fingerprint, 0 where none is known."""
        return self._known.get(fingerprint.hex(), (0, 0.0))[0]

    async def allow(self, fingerprint: bytes) -> None:
        """A delivery with this fingerprint is no repeat."""
        if not (fingerprint and self._window_s):
            return
        lifetime = protocol.headers({"Nats-TTL": f"{int(2 * self._window_s) + 1}s"})
        stored = await self._js.publish(self._layout.again(fingerprint), b"", header=lifetime)
        self.note(fingerprint.hex(), stored.seq)

    async def look_up(self, fingerprints: Sequence[bytes]) -> None:
        """Read the entries of these."""
        keys = [self._layout.again(each) for each in dict.fromkeys(fingerprints)]
        for key, message in (await self._js.last_of(self._layout.dead_bucket, keys)).items():
            self.note(key.rpartition(".")[2], sequence_of(message))

    def note(self, fingerprint: str, number: int) -> None:
        """There is such an entry."""
        now = asyncio.get_running_loop().time()
        if number > self._known.get(fingerprint, (0, 0.0))[0]:
            self._known.pop(fingerprint, None)
            self._known[fingerprint] = (number, now + 2 * self._window_s)
        while self._known:
            first = next(iter(self._known))
            if self._known[first][1] > now:
                break
            del self._known[first]
