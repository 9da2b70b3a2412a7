"""Which fingerprints were put within the window. In memory, in the order of time; a spool may keep a log of them.

A fingerprint is claimed while its put is being written and kept when that is durable: a put that fails leaves no
trace, so that its repetition is not taken for a repeat. In the same way it is released and then forgotten.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence


class Repeats:
    """The window, counted from the put that was stored: a repeat does not prolong it."""

    def __init__(self, window_s: float) -> None:
        self._window_ms = int(window_s * 1000)
        self._kept: dict[bytes, int] = {}
        self._claimed: dict[bytes, int] = {}
        self._released: dict[bytes, None] = {}

    def claim(self, fingerprint: bytes, now_ms: int) -> bool:
        """Whether it is new. Then it is claimed. An empty one is always new and never claimed."""
        if not fingerprint or not self._window_ms:
            return True
        if fingerprint in self._claimed:
            return False
        if fingerprint not in self._released and self._kept.get(fingerprint, 0) > now_ms - self._window_ms:
            return False
        self._claimed[fingerprint] = now_ms
        return True

    def claim_all(self, fingerprints: Sequence[bytes], now_ms: int) -> Collection[int]:
        """Claim those that are new. Returns the positions of the others."""
        if len(fingerprints) == 1:
            return () if self.claim(fingerprints[0], now_ms) else (0,)
        claims = dict.fromkeys(fingerprints, now_ms)
        are_new = self._claimed.keys().isdisjoint(claims) and self._kept.keys().isdisjoint(claims)
        if are_new and self._window_ms and len(claims) == len(fingerprints) and b"" not in claims:  # as a rule
            self._claimed.update(claims)
            return ()
        return {n for n, fingerprint in enumerate(fingerprints) if not self.claim(fingerprint, now_ms)}

    def disclaim(self, fingerprint: bytes) -> None:
        """As if it had not been claimed."""
        self._claimed.pop(fingerprint, None)

    def release(self, fingerprint: bytes) -> None:
        """It can be claimed again, at once."""
        self._claimed.pop(fingerprint, None)
        if fingerprint in self._kept:
            self._released[fingerprint] = None

    @property
    def claimed(self) -> bytes:
        """What is claimed and not yet kept, joined."""
        return b"".join(self._claimed)

    @property
    def released(self) -> bytes:
        """What is released and not yet forgotten, joined. To be taken back before what is claimed is added."""
        return b"".join(self._released)

    def keep(self) -> None:
        """What was claimed and released is durable."""
        for fingerprint in self._released:
            self._kept.pop(fingerprint, None)
        self._released.clear()
        if not self._kept.keys().isdisjoint(self._claimed):
            for fingerprint in self._claimed:
                self._kept.pop(fingerprint, None)  # a lapsed one: its place in the order is the end again
        self._kept.update(self._claimed)
        self._claimed.clear()

    def drop(self) -> None:
        """What was claimed was not stored, and what was released is as it was."""
        self._claimed.clear()
        self._released.clear()

    def learn(self, fingerprint: bytes, at_ms: int) -> bool:
        """One that a sibling has claimed then. Whether that is news: it may be told again and again."""
        if self._kept.get(fingerprint, -self._window_ms) > at_ms - self._window_ms:
            return False
        self._kept.pop(fingerprint, None)  # its place in the order is the end
        self._kept[fingerprint] = at_ms
        return True

    def unlearn(self, fingerprint: bytes, at_ms: int) -> bool:
        """One that a sibling has released then. Whether that is news; not where it was claimed anew since."""
        if self._kept.get(fingerprint, at_ms + 1) > at_ms:
            return False
        del self._kept[fingerprint]
        return True

    def load(self, fingerprint: bytes, at_ms: int) -> None:
        """One that was kept by an earlier run. To be called in the order of time."""
        self._kept[fingerprint] = at_ms

    def unload(self, fingerprint: bytes) -> None:
        """One that was released by an earlier run."""
        self._kept.pop(fingerprint, None)

    def forget_lapsed(self, now_ms: int, limit: int) -> bool:
        """Forget at most so many that are out of the window. Returns whether there may be more."""
        lapsed: list[bytes] = []
        for fingerprint, at_ms in self._kept.items():
            if at_ms > now_ms - self._window_ms or len(lapsed) == limit:
                break
            lapsed.append(fingerprint)
        for fingerprint in lapsed:
            del self._kept[fingerprint]
        return len(lapsed) == limit

    def __len__(self) -> int:
        return len(self._kept)
