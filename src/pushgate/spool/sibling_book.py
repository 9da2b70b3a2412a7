"""What the SQLite spool learns from its siblings, and tells them when they ask: on the event loop, in small steps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from pushgate.spool.committer import Committer, Job
from pushgate.spool.rejections import Presence
from pushgate.spool.sharing import Changes, Dead
from pushgate.spool.store import Store


class SiblingBook:
    """Repeats and rejections of others, in the file of this spool."""

    def __init__(self, committer: Committer, *, presence: Presence, known_ms: int) -> None:
        self._committer = committer
        self._presence = presence
        self.known_ms = known_ms
        """Until when this file held whatever siblings had told, when it was opened; 0 where it never did."""

    def learn(self, changes: Changes) -> None:
        """What a sibling has changed. Counts for whatever is put from now on. Raises `SpoolUnavailable` when closed."""
        for name, _ in changes.dead:
            self._presence.add(name)
        self._committer.submit(Job(lambda store: store.learn(changes)))

    async def told_since(self, since_ms: int, dead_since_ms: int) -> AsyncIterator[Changes]:
        """Every repeat that was remembered since then, and every rejection since then, whoever told it."""
        number = 0
        while True:
            number, told = await self._committer.perform(partial(_repeats_after, number, since_ms))
            for changes in told:
                yield changes
            if not number:
                break
        seen = (dead_since_ms, b"\xff" * 16)
        while dead := await self._committer.perform(partial(_rejections_after, seen)):
            yield Changes(dead[-1][1].at_ms, dead=dead)
            seen = (dead[-1][1].at_ms, dead[-1][0])

    def forgo(self, until_ms: int) -> None:
        """Forget the rejections that were told until then. What is learned behind it stays."""
        self._committer.submit(Job(lambda store: store.rejections.forgo(until_ms)))

    async def note_known(self) -> None:
        """Write down that the file holds everything that siblings have told by now."""
        await self._committer.perform(Store.note_known)


def _repeats_after(number: int, since_ms: int, store: Store) -> tuple[int, list[Changes]]:
    return store.repeats_after(number, since_ms)


def _rejections_after(seen: tuple[int, bytes], store: Store) -> list[Dead]:
    return store.rejections.told_after(*seen)
