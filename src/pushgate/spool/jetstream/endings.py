"""Telling NATS how deliveries went on, many with one confirmation.

What is told while a confirmation is on its way goes out with the next one. NATS handles what comes over one connection
in its order, so the confirmation of the last word is that of all before it. A server that was killed may have forgotten
whom it gave a message, and says nothing then: what has ended is taken out of the stream by its number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from pushgate.errors import SpoolUnavailable
from pushgate.spool.jetstream.api import JetStream
from pushgate.spool.jetstream.held import ACK, TERM, Held

AT_ONCE = 500


class _Word(Struct, frozen=True, eq=False):
    held: Held
    word: bytes


class Endings:
    """Of one lane: of one consumer."""

    def __init__(self, js: JetStream, stream: str, *, request_s: float) -> None:
        self._js = js
        self._link = js.link
        self._stream = stream
        self._request_s = request_s
        self._next: list[_Word] = []
        self._told: asyncio.Future[None] | None = None
        """Done when what is in `_next` is told."""
        self._telling: asyncio.Task[None] | None = None

    async def tell(self, held: Sequence[Held], word: bytes) -> None:
        """Returns when NATS has heard it. Raises `SpoolUnavailable` when that is not certain."""
        self._next += [_Word(each, word) for each in held]
        if self._told is None:
            self._told = asyncio.get_running_loop().create_future()
        told = self._told
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell_all(), name="telling nats")
        await asyncio.shield(told)

    async def close(self) -> None:
        """Wait until what was begun is told."""
        if self._telling is not None:
            await asyncio.gather(self._telling, return_exceptions=True)

    async def _tell_all(self) -> None:
        try:
            while self._told is not None:
                await asyncio.sleep(0)  # what else is told in this turn goes along
                words, told = self._next, self._told
                self._next, self._told = [], None
                try:
                    for begin in range(0, len(words), AT_ONCE):
                        await self._tell(words[begin : begin + AT_ONCE])
                except Exception as fault:  # noqa: BLE001 - whoever waits is told
                    told.set_exception(fault)
                    told.exception()  # it may be that nobody waits any more
                else:
                    told.set_result(None)
        finally:
            self._telling = None

    async def _tell(self, words: Sequence[_Word]) -> None:
        """An end comes last, so that it is what is confirmed."""
        ordered = sorted(words, key=lambda each: each.word in (ACK, TERM))
        for each in ordered[:-1]:
            self._link.send(each.held.reply, each.word)
        try:
            heard = await self._link.request(ordered[-1].held.reply, ordered[-1].word, within_s=self._request_s)
            if not heard.status:
                return
        except SpoolUnavailable:
            if not self._link.is_connected:
                raise
        await self._js.erase(self._stream, [each.held.seq for each in words if each.word in (ACK, TERM)])
