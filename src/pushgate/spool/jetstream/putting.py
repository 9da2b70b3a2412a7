"""Into the stream: all of a request at once, each confirmed by itself, and again what was not confirmed.

Each has an id by which NATS knows it, so that none is stored twice.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import sys
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from pushgate.errors import SpoolFull, SpoolUnavailable
from pushgate.model import Delivery
from pushgate.spool.jetstream import protocol
from pushgate.spool.jetstream.again import Again
from pushgate.spool.jetstream.api import FULL_BYTES, FULL_MESSAGES, JetStream, Published, Refusal, Stored
from pushgate.spool.jetstream.layout import Layout
from pushgate.spool.jetstream.wrapping import Wrapping
from pushgate.spool.limits import Limits

RECONNECTS_WITHIN_S = 1.0
"""So long a put waits for a connection that was just lost, before it says no."""
AGAIN_S = 0.1
"""How long a put waits before it tries again what NATS could not store just now."""
ATTEMPT_S = 1.5
"""What was not confirmed after so long may have been lost with a leader: it is published again."""


class Row(Struct, frozen=True, eq=False):
    """A delivery on its way into the stream."""

    lane: str
    subject: str
    payload: bytes
    header: bytes
    fingerprint: bytes
    """Empty where repeats of it are not looked for."""
    number: int
    """See `Again`: part of its id."""

    def __repr__(self) -> str:
        """Without what is in it."""
        return f"Row({self.lane!r}, {len(self.payload)} bytes)"


class Putting:
    """Of one gateway."""

    def __init__(
        self,
        js: JetStream,
        layout: Layout,
        wrapping: Wrapping,
        again: Again,
        *,
        limits: Limits,
        window_s: float,
        request_s: float,
    ) -> None:
        self._js = js
        self._layout = layout
        self._wrapping = wrapping
        self._again = again
        self._limits = limits
        self._window_s = window_s
        self._request_s = request_s
        self._nonce, self._numbers = secrets.token_hex(8), itertools.count()
        """Make ids by which what is published a second time is known."""

    def knows(self, delivery: Delivery) -> bool:
        """Whether repeats of it are looked for."""
        return bool(self._window_s and delivery.fingerprint)

    def row(self, delivery: Delivery) -> Row:
        """What is published."""
        subject, payload = self._layout.lane(delivery.lane), self._wrapping.wrap(delivery)
        if self.knows(delivery):
            number = self._again.number_of(delivery.fingerprint)
            header = _header(delivery.fingerprint, number)
            return Row(delivery.lane, subject, payload, header, delivery.fingerprint, number)
        header = protocol.headers({"Nats-Msg-Id": f"{self._nonce}{next(self._numbers):x}"})
        return Row(delivery.lane, subject, payload, header, b"", 0)

    async def publish(self, rows: list[Row], stored: set[int], full: SpoolFull | None) -> int:
        """Publish all of them; what is stored stands in `stored`, by position. Returns how many were repeats.

        Raises `SpoolUnavailable`: `full`, where that is given, when NATS refuses one.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._request_s
        repeats, left = 0, list(range(len(rows)))
        tried: set[int] = set()
        """What may be stored under its id by our own attempt before."""
        while left:
            answers = await self._publish_once([rows[number] for number in left], min(ATTEMPT_S, until - loop.time()))
            again: list[int] = []
            doubles: list[int] = []
            why = "NATS does not say in time that it has stored it"
            for number, answer in zip(left, answers, strict=True):
                if answer is None or answer.is_open:
                    again.append(number)
                    why = why if answer is None or answer.error is None else answer.error.description
                elif answer.error is not None:
                    raise full or self._refusal(answer.error)
                elif answer.duplicate:
                    doubles.append(number)
                else:
                    stored.add(number)
            if stored:
                self._js.works()
            renewed = await self._renew(rows, doubles)
            repeated = [number for number in doubles if number not in renewed and number not in tried]
            repeats += len(repeated)
            stored.update(set(doubles) - renewed - set(repeated))
            tried = (tried | set(again)) - renewed
            left = [*again, *renewed]
            if left and loop.time() >= until:
                self._js.fails()
                raise SpoolUnavailable(f"not stored: {why}")
            if again:
                await asyncio.sleep(AGAIN_S)
        return repeats

    async def _renew(self, rows: list[Row], doubles: Sequence[int]) -> set[int]:
        """Those that NATS takes for repeats and that are none: their pushkey was called dead since. A new id each."""
        known = [number for number in doubles if rows[number].fingerprint]
        if not known:
            return set()
        await self._again.look_up([rows[number].fingerprint for number in known])
        renewed = set()
        for each in known:
            row = rows[each]
            if (number := self._again.number_of(row.fingerprint)) > row.number:
                rows[each] = replace(row, header=_header(row.fingerprint, number), number=number)
                renewed.add(each)
        return renewed

    async def _publish_once(self, rows: Sequence[Row], within_s: float) -> Sequence[Stored | None]:
        """What NATS says of each, None where it says nothing in time."""
        await self._js.link.until_connected(RECONNECTS_WITHIN_S)
        published = Published(self._js.link, len(rows))
        try:
            for position, row in enumerate(rows):
                published.send(position, row.subject, row.payload, row.header)
            await published.wait(max(within_s, AGAIN_S))
        finally:
            published.forget()
        return published.answers

    def _refusal(self, error: Refusal) -> SpoolUnavailable:
        """What a caller is told when NATS does not store something."""
        most = sys.maxsize
        waiting, taken_bytes = (most if error.err_code == code else 0 for code in (FULL_MESSAGES, FULL_BYTES))
        full = self._limits.refusal(waiting=waiting, taken_bytes=taken_bytes)
        return full or SpoolUnavailable(f"NATS did not store it: {error.description}")


def _header(fingerprint: bytes, number: int) -> bytes:
    name = f"{fingerprint.hex()}.{number}" if number else fingerprint.hex()
    return protocol.headers({"Nats-Msg-Id": name})
