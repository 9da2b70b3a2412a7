"""The log of fingerprints on disk, as the writing thread sees it. Which of them count is known in memory: `repeats`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from sqlite3 import Cursor

from pushgate.spool.keyed import HASH_BYTES
from pushgate.spool.repeats import Repeats

FORGET_AT_ONCE = 2000
RELEASED = b"-"
"""Stands before fingerprints that are taken back by this row of the log."""


class RepeatLog:
    """One row for what a transaction put, and one for what it took back."""

    def __init__(self, execute: Callable[..., Cursor], *, clock_ms: Callable[[], int], window_s: float) -> None:
        self._execute = execute
        self._clock_ms = clock_ms
        self._window_ms = int(window_s * 1000)
        self._repeats = Repeats(window_s)

    def claim(self, fingerprints: Sequence[bytes]) -> Collection[int]:
        """Claim those that are new. Returns the positions of the others."""
        now_ms = self._clock_ms()
        return {n for n, fingerprint in enumerate(fingerprints) if not self._repeats.claim(fingerprint, now_ms)}

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
                self._execute("INSERT INTO repeats (at_ms, fingerprints) VALUES (?, ?)", (self._clock_ms(), joined))

    def keep(self) -> None:
        """What was written is durable."""
        self._repeats.keep()

    def drop(self) -> None:
        """What was written is undone."""
        self._repeats.drop()

    def forget_lapsed(self) -> bool:
        """Forget some whose time is up. Returns whether there may be more."""
        now_ms = self._clock_ms()
        more = self._repeats.forget_lapsed(now_ms, FORGET_AT_ONCE * 10)
        oldest = self._execute("SELECT id, at_ms FROM repeats ORDER BY id LIMIT ?", (FORGET_AT_ONCE,)).fetchall()
        lapsed = [number for number, at_ms in oldest if at_ms <= now_ms - self._window_ms]
        if lapsed:
            self._execute("DELETE FROM repeats WHERE id <= ?", (max(lapsed),))
        return more or len(lapsed) == FORGET_AT_ONCE

    def load(self) -> None:
        """Read the fingerprints of the window."""
        since_ms = self._clock_ms() - self._window_ms
        for at_ms, joined in self._execute("SELECT at_ms, fingerprints FROM repeats ORDER BY id"):
            released = len(joined) % HASH_BYTES == len(RELEASED)
            for start in range(len(RELEASED) if released else 0, len(joined), HASH_BYTES):
                fingerprint = joined[start : start + HASH_BYTES]
                if released:
                    self._repeats.unload(fingerprint)
                elif at_ms > since_ms:
                    self._repeats.load(fingerprint, at_ms)
