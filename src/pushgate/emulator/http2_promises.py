"""What a connection's peer was told in SETTINGS, and which of it the peer has acknowledged (RFC 9113 §6.5.3).

What is not acknowledged yet may be overstepped; what is acknowledged may not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from h2.settings import SettingCodes
from hyperframe.frame import SettingsFrame
from msgspec import Struct

WINDOW_BYTES = 65_535
"""SETTINGS_INITIAL_WINDOW_SIZE while bodies are taken: what holds when nothing is said, and what h2 reckons with."""


class Promise(Struct, frozen=True):
    """What one SETTINGS frame allows."""

    max_streams: int
    window_open: bool


class Promises:
    """Every SETTINGS frame of a connection. Written past h2: it would end a connection that oversteps a limit."""

    def __init__(self) -> None:
        self.last: Promise | None = None
        """What was told last."""
        self._sent: deque[Promise] = deque()
        self._in_force: Promise | None = None

    def frame(self, promise: Promise, more: Mapping[int, int]) -> bytes:
        """The SETTINGS frame that tells this, and `more`."""
        settings = {**more, SettingCodes.MAX_CONCURRENT_STREAMS: promise.max_streams}
        if not promise.window_open or (self.last is not None and not self.last.window_open):
            settings[SettingCodes.INITIAL_WINDOW_SIZE] = WINDOW_BYTES if promise.window_open else 0
        self.last = promise
        self._sent.append(promise)
        return SettingsFrame(0, settings).serialize()

    def acknowledged(self) -> None:
        """The peer knows of one frame more."""
        if self._sent:
            self._in_force = self._sent.popleft()

    def allows_stream(self, open_streams: int) -> bool:
        """Whether one more stream is within what was told last."""
        return self.last is None or open_streams < self.last.max_streams

    def is_overstepped(self, open_streams: int) -> bool:
        """Whether the peer opens one more although it knows that it must not."""
        return self._in_force is not None and open_streams >= self._in_force.max_streams

    @property
    def forbid_bodies(self) -> bool:
        """Whether the peer knows that it must send no body: it was told so, and nothing else since."""
        closed = self.last is not None and not self.last.window_open
        return closed and self._in_force is not None and not self._in_force.window_open
