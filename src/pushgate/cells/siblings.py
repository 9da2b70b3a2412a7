"""What cells tell each other: repeats and rejections as they become durable, sums of the breakers, requests let in.

Each cell tells every other one directly. What is remembered is told before the caller has its answer, and those who
were away ask for what they missed. A sibling that reads nothing is not waited for: it gets the rest when it reads.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Protocol, assert_never

import structlog

from pushgate.cells.channel import Channel
from pushgate.cells.messages import BreakerOpened, CatchUp, CaughtUp, Forgo, Requests, Tally, ToSibling
from pushgate.errors import SpoolError
from pushgate.spool.sharing import Changes
from pushgate.spool.sibling_book import SiblingBook

log = structlog.get_logger(__name__)

TELL_EVERY_S = 0.1
NOTE_EVERY_S = 5.0
"""How often the file notes until when it knows everything."""
MARGIN_MS = 15_000
"""What a file may lack that lies so much before the time until when it knew everything: three times the above."""
CATCH_UP_WITHIN_S = 15.0
REPLAY_BYTES = 4 << 20
"""So much of what was asked for may wait for the one who asked."""
REPLAY_PAUSE_S = 0.01


class Lane(Protocol):
    """The part of a lane that concerns siblings."""

    def tally(self) -> tuple[int, int]:
        """How many pushkeys turned out alive and dead within the window of its breaker."""
        ...

    @property
    def is_disbelieving(self) -> bool:
        """Whether its breaker is open."""
        ...

    def hear_tally(self, alive: int, dead: int) -> None:
        """So many were alive and dead elsewhere."""
        ...

    def hear_opened(self) -> None:
        """The breaker of the same lane has opened elsewhere."""
        ...


class Allowances(Protocol):
    """The part of the callers' allowances that concerns siblings."""

    def take_used(self) -> Mapping[str, int]:
        """How many requests were let in since it was asked last, of callers that have a limit."""
        ...

    def use(self, caller: str, count: int) -> None:
        """So many were let in elsewhere."""
        ...


class _Link:
    """One sibling."""

    def __init__(self, cell: int, channel: Channel[ToSibling]) -> None:
        self.cell = cell
        self.channel = channel
        self.has_told_all = asyncio.Event()
        self.missed_ms = 0
        """Since when it was not told everything; 0 when it was."""
        self.tally: dict[str, tuple[int, int]] = {}


class Siblings:
    """The other cells, as one sees them. Those that come before the spool is open have to wait for it."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._links: dict[int, _Link] = {}
        self._arrived: dict[int, socket.socket] = {}
        self._book: SiblingBook | None = None
        self._lanes: Mapping[str, Lane] = {}
        self._allowances: Allowances | None = None
        self._knows_all = False
        self.is_ending = False
        """Whether the spool may be closed at any time."""
        self._told: dict[str, tuple[int, int]] = {}
        self._open: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, cell: int, end: socket.socket) -> None:
        """There is a new one, or one has come back."""
        if (before := self._arrived.pop(cell, None)) is not None:
            before.close()
        if self._book is None:
            self._arrived[cell] = end
        else:
            self._connect(cell, end, self._book)

    async def join(self, book: SiblingBook, lanes: Mapping[str, Lane], allowances: Allowances) -> None:
        """Tell them what they ask from now on, and wait until they have told us everything."""
        self._book, self._lanes, self._allowances = book, lanes, allowances
        for cell, end in self._arrived.items():
            self._connect(cell, end, book)
        self._arrived.clear()
        asked = list(self._links.values())
        try:
            async with asyncio.timeout(CATCH_UP_WITHIN_S):
                for link in asked:
                    await link.has_told_all.wait()
        except TimeoutError:
            log.warning("siblings do not tell what they remember", cells=[each.cell for each in asked])
        self._knows_all = True

    async def run(self) -> None:
        """Tell what adds up, for ever."""
        note_at = 0.0
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            try:
                self._tell_sums()
                self._tell_what_was_missed()
                if (now := asyncio.get_running_loop().time()) >= note_at:
                    note_at = now + NOTE_EVERY_S
                    await self._note_known()
            except Exception as fault:  # noqa: BLE001 - a bug must not keep siblings from hearing of repeats
                log.error("telling siblings failed unexpectedly", fault=type(fault).__name__)

    async def _note_known(self) -> None:
        with suppress(SpoolError):  # others tell of it; what we lack then is asked for again
            assert self._book is not None
            await self._book.note_known()

    def _tell_what_was_missed(self) -> None:
        for link in list(self._links.values()):
            if link.missed_ms and not link.channel.waiting_bytes:
                since_ms, link.missed_ms = link.missed_ms - MARGIN_MS, 0
                self._spawn(self._replay(link, since_ms, since_ms))

    @property
    def is_quiet(self) -> bool:
        """Whether everything was told."""
        return not self._tasks and not any(
            link.channel.waiting_bytes or link.missed_ms for link in self._links.values()
        )

    def tell(self, changes: Changes) -> None:
        """See `spool.sharing.Sharing.tell`."""
        for link in list(self._links.values()):
            if not link.channel.send(changes) and not link.missed_ms:
                link.missed_ms = changes.at_ms

    def close(self) -> None:
        """Let go of all of them."""
        for task in self._tasks:
            task.cancel()
        for link in list(self._links.values()):
            link.channel.close()
        for end in self._arrived.values():
            end.close()

    # --- one sibling

    def _connect(self, cell: int, end: socket.socket, book: SiblingBook) -> None:
        if (before := self._links.pop(cell, None)) is not None:
            before.channel.close()
            before.has_told_all.set()
        channel: Channel[ToSibling] = Channel(
            end,
            ToSibling,
            on_message=lambda message, _: self._hear(link, message, book),
            on_end=lambda: self._lost(link),
        )
        link = self._links[cell] = _Link(cell, channel)
        self._told.clear()  # it does not know them
        channel.send(CatchUp(self._known_ms(book)))

    def _lost(self, link: _Link) -> None:
        link.has_told_all.set()  # nothing more comes
        if self._links.get(link.cell) is link:
            del self._links[link.cell]
            self._hear_sums()

    def _hear(self, link: _Link, message: ToSibling, book: SiblingBook) -> None:
        match message:
            case Changes():
                book.learn(message)
            case CatchUp():
                self._spawn(self._tell_missed(link, message.known_ms, book))
            case CaughtUp():
                link.has_told_all.set()
            case Forgo():
                book.forgo(message.until_ms)
            case Tally():
                link.tally.update(message.lanes)
                self._hear_sums()
            case Requests():
                if self._allowances is not None:
                    for caller, count in message.callers.items():
                        self._allowances.use(caller, count)
            case BreakerOpened():
                self._open.add(message.lane)
                if (lane := self._lanes.get(message.lane)) is not None:
                    lane.hear_opened()
            case _:
                assert_never(message)

    # --- those who were away

    def _known_ms(self, book: SiblingBook) -> int:
        """Until when we know everything."""
        return int(self._clock() * 1000) if self._knows_all else book.known_ms

    async def _tell_missed(self, link: _Link, known_ms: int, book: SiblingBook) -> None:
        """Whoever was away for long may hold rejections that were taken back meanwhile: it gets all that count."""
        since_ms = dead_since_ms = max(known_ms - MARGIN_MS, 0)
        if known_ms and self._known_ms(book) > known_ms + MARGIN_MS:
            link.channel.send(Forgo(known_ms))
            dead_since_ms = 0
        await self._replay(link, since_ms, dead_since_ms)
        link.channel.send(CaughtUp())

    async def _replay(self, link: _Link, since_ms: int, dead_since_ms: int) -> None:
        assert self._book is not None
        try:
            async for changes in self._book.told_since(since_ms, dead_since_ms):
                while link.channel.waiting_bytes > REPLAY_BYTES:  # noqa: ASYNC110 - at most every now and then
                    await asyncio.sleep(REPLAY_PAUSE_S)
                if not link.channel.send(changes):
                    return
        except SpoolError as fault:
            if not self.is_ending:
                log.error("spool cannot tell siblings what it remembers", fault=str(fault))

    def _spawn(self, telling: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(telling)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- what adds up

    def _tell_sums(self) -> None:
        if self._allowances is not None and (used := self._allowances.take_used()):
            self._tell_all(Requests(used))
        changed = {}
        for name, lane in self._lanes.items():
            if lane.is_disbelieving:
                if name not in self._open:
                    self._open.add(name)
                    self._tell_all(BreakerOpened(name))
            else:
                self._open.discard(name)
            if (tally := lane.tally()) != self._told.get(name, (0, 0)):
                changed[name] = self._told[name] = tally
        if changed:
            self._tell_all(Tally(changed))
        self._hear_sums()

    def _tell_all(self, message: ToSibling) -> None:
        for link in list(self._links.values()):
            link.channel.send(message)

    def _hear_sums(self) -> None:
        alive: Counter[str] = Counter()
        dead: Counter[str] = Counter()
        for link in list(self._links.values()):
            for name, (living, died) in link.tally.items():
                alive[name] += living
                dead[name] += died
        for name, lane in self._lanes.items():
            lane.hear_tally(alive[name], dead[name])
