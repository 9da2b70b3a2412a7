"""The log of fingerprints on disk, as the writing thread sees it. Which of them count is known in memory: `repeats`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from sqlite3 import Cursor

from pushgate.spool.keyed import HASH_BYTES
from pushgate.spool.repeats import Repeats
from pushgate.spool.sharing import each_in

FORGET_AT_ONCE = 2000
LOOK_AT_ONCE = 500
JOINED_MS = 1000
MOST_LEARNED = 20_000
"""What siblings have told and cannot be written, while the disk is full."""
RELEASED = b"-"
"""Stands before fingerprints that are taken back by this row of the log."""


class RepeatLog:
    """One row for what a transaction put, and one for what it took back."""

    def __init__(self, execute: Callable[..., Cursor], *, clock_ms: Callable[[], int], window_s: float) -> None:
        self._execute = execute
        self._clock_ms = clock_ms
        self._window_ms = int(window_s * 1000)
        self._repeats = Repeats(window_s)
        self._learned: list[tuple[int, bytes]] = []
        """What siblings have told and is not written yet: it waits for a transaction that writes anyhow."""
        self._is_to_be_flushed = False

    def claim(self, fingerprints: Sequence[bytes]) -> Collection[int]:
        """Claim those that are new. Returns the positions of the others."""
        return self._repeats.claim_all(fingerprints, self._clock_ms())

    def disclaim(self, fingerprints: Sequence[bytes], *, repeats: Collection[int]) -> None:
        """As if they had not been claimed, but for those that were none of this claim's: `repeats`."""
        for position, fingerprint in enumerate(fingerprints):
            if position not in repeats:
                self._repeats.disclaim(fingerprint)

    def release(self, fingerprint: bytes) -> None:
        """It can be claimed again."""
        self._repeats.release(fingerprint)

    def write(self) -> None:
        """Append what was released and claimed in this transaction."""
        released, claimed = self._repeats.released, self._repeats.claimed
        for joined in (RELEASED + released if released else b"", claimed):
            if joined:
                self._append(self._clock_ms(), joined)
        if released or claimed or self._is_to_be_flushed:
            for at_ms, joined in self._learned:
                self._append(at_ms, joined)
            self._is_to_be_flushed = True  # and so to be cleared, once this is durable

    @property
    def claimed(self) -> bytes:
        """What was claimed in this transaction, joined."""
        return self._repeats.claimed

    @property
    def released(self) -> bytes:
        """What was released in this transaction, joined."""
        return self._repeats.released

    def learn(self, claimed: bytes, released: bytes, at_ms: int) -> None:
        """What a sibling has claimed and released. Counts at once, whatever becomes of this transaction."""
        released = b"".join([each for each in each_in(released) if self._repeats.unlearn(each, at_ms)])
        claimed = b"".join([each for each in each_in(claimed) if self._repeats.learn(each, at_ms)])
        for joined in (RELEASED + released if released else b"", claimed):
            if joined:
                self._learned.append((at_ms, joined))
        del self._learned[:-MOST_LEARNED]

    def flush(self) -> None:
        """Write in this transaction what siblings have told."""
        self._is_to_be_flushed = True

    def told_after(self, number: int, since_ms: int) -> tuple[int, Sequence[tuple[int, bytes, bytes]]]:
        """Look at the next `LOOK_AT_ONCE` rows behind an id: the last id seen, and what is not older than that.

        Each with its time, what was claimed and what was released; those of a second are joined. The id is 0 where no
        row is left to look at.
        """
        rows = self._execute(
            "SELECT id, at_ms, fingerprints FROM repeats WHERE id > ? ORDER BY id LIMIT ?", (number, LOOK_AT_ONCE)
        ).fetchall()
        told: list[tuple[int, bytes, bytes]] = []
        for _, at_ms, joined in rows:
            if at_ms <= since_ms:
                continue
            claimed, released = _told(joined)
            if told and claimed and told[-1][1] and 0 <= at_ms - told[-1][0] < JOINED_MS:
                told[-1] = (told[-1][0], told[-1][1] + claimed, b"")
            else:
                told.append((at_ms, claimed, released))
        return rows[-1][0] if len(rows) == LOOK_AT_ONCE else 0, told

    def keep(self) -> None:
        """What was written is durable."""
        self._repeats.keep()
        if self._is_to_be_flushed:
            self._learned.clear()
            self._is_to_be_flushed = False

    def drop(self) -> None:
        """What was written is undone."""
        self._repeats.drop()

    def forget_lapsed(self) -> bool:
        """Forget some whose time is up. Returns whether there may be more."""
        now_ms = self._clock_ms()
        more = self._repeats.forget_lapsed(now_ms, FORGET_AT_ONCE * 10)
        oldest = self._execute("SELECT id, at_ms FROM repeats ORDER BY id LIMIT ?", (FORGET_AT_ONCE,)).fetchall()
        lapsed = [number for number, at_ms in oldest if at_ms <= now_ms - self._window_ms]
        in_order = [number for number, (first, _) in zip(lapsed, oldest, strict=False) if number == first]
        if in_order:
            self._execute("DELETE FROM repeats WHERE id <= ?", (in_order[-1],))
        for number in lapsed[len(in_order) :]:  # what siblings have told is not quite in the order of time
            self._execute("DELETE FROM repeats WHERE id = ?", (number,))
        return more or len(lapsed) == FORGET_AT_ONCE

    def load(self) -> None:
        """Read the fingerprints of the window."""
        since_ms = self._clock_ms() - self._window_ms
        for at_ms, joined in self._execute("SELECT at_ms, fingerprints FROM repeats ORDER BY id"):
            claimed, released = _told(joined)
            for fingerprint in each_in(released):
                self._repeats.unload(fingerprint)
            if at_ms > since_ms:
                for fingerprint in each_in(claimed):
                    self._repeats.load(fingerprint, at_ms)

    def _append(self, at_ms: int, joined: bytes) -> None:
        self._execute("INSERT INTO repeats (at_ms, fingerprints) VALUES (?, ?)", (at_ms, joined))


def _told(joined: bytes) -> tuple[bytes, bytes]:
    """What a row of the log has claimed, and what it has released."""
    is_released = len(joined) % HASH_BYTES == len(RELEASED)
    return (b"", joined[len(RELEASED) :]) if is_released else (joined, b"")
