"""Random bytes, drawn many at a time: a draw costs as much as a whole notification's worth of them."""

from __future__ import annotations

from collections.abc import Callable

AHEAD_BYTES = 16_384


class DrawnAhead:
    """Random bytes, each given once, drawn many at a time.

    Each draw lets go of the interpreter, and so the writing thread would begin a commit in the middle of puts that are
    to share one.
    """

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._drawn = b""
        self._given = 0

    def __call__(self, size: int) -> bytes:
        """So many."""
        if self._given + size > len(self._drawn):
            self._drawn, self._given = self._entropy(max(size, AHEAD_BYTES)), 0
        self._given += size
        return self._drawn[self._given - size : self._given]
