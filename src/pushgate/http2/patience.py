"""How much useless traffic a peer may send before it costs the connection (RFC 9113 §10.5)."""

from __future__ import annotations

from collections.abc import Callable

from pushgate.http2.frames import ErrorCode, PeerFault
from pushgate.http2.limits import Limits

FRAMES_PER_PROGRESS = 16


class Patience:
    """Counts frames that cost work and bring nothing: PING, SETTINGS, WINDOW_UPDATE, empty, stray and unknown ones.

    A burst is free. Beyond it, they must be outweighed by progress (requests, answers, kilobytes of body), or come
    slower than one burst in `patience_s`.
    """

    __slots__ = ("_burst", "_clock", "_period_s", "_progress", "_since", "_spent")

    def __init__(self, limits: Limits, clock: Callable[[], float], *, progress: int = 0) -> None:
        self._burst = limits.patience_frames
        self._period_s = limits.patience_s
        self._clock = clock
        self._since = clock()
        self._spent = 0
        self._progress = progress

    def spend(self, progress: int) -> None:
        """Count one useless frame. Raises PeerFault when it is one too many."""
        self._spent += 1
        if self._spent <= self._burst:
            return
        now = self._clock()
        earned = (progress - self._progress) * FRAMES_PER_PROGRESS
        if now - self._since < self._period_s and earned < self._spent:
            raise PeerFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames without use")
        self._since, self._spent, self._progress = now, 0, progress
