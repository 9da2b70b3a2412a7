"""What goes out: frames, cut and held back as the peer's windows and sizes demand (RFC 9113 §4.2, §5.2, §6.9)."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from pushgate.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    HEADERS,
    MAX_WINDOW,
    ErrorCode,
    PeerFault,
    frame,
    pack_header,
)
from pushgate.http2.headers import TABLE_SIZE_ZERO

FIRST_WINDOW = 65_535
"""Every window before anybody says otherwise (§6.9.2)."""


class Upload(Struct, eq=False, gc=False):
    """A stream as far as sending is concerned."""

    id: int
    window: int = 0
    """How many bytes of body the peer still allows; negative after it lowered INITIAL_WINDOW_SIZE (§6.9.2)."""
    unsent: memoryview | None = None


class Outgoing:
    """The frames to write next, the windows, and the streams whose bodies wait for one."""

    __slots__ = ("_begun", "_granted", "_held", "chunks", "frame_bytes", "initial_window", "window")

    def __init__(self) -> None:
        self.chunks: list[bytes | memoryview] = []
        """Written and cleared by whoever owns the transport."""
        self.window = FIRST_WINDOW
        self.initial_window = FIRST_WINDOW
        self.frame_bytes = FRAME_BYTES
        self._granted = FIRST_WINDOW
        self._held: dict[int, Upload] = {}
        self._begun = False

    @property
    def body_bytes(self) -> int:
        """How many bytes of body went out on this connection."""
        return self._granted - self.window

    def request(self, stream: Upload, head: bytes, body: bytes) -> None:
        """Queue a request: whole, where the windows allow it, else as much of it as they do."""
        size, head_size = len(body), len(head)
        if (
            0 < size <= self.window
            and size <= self.initial_window
            and size <= self.frame_bytes
            and head_size <= self.frame_bytes
            and self._begun
        ):
            stream.window = self.initial_window - size
            self.window -= size
            stream_id = stream.id
            self.chunks += (
                pack_header(head_size >> 8, head_size & 0xFF, HEADERS, END_HEADERS, stream_id),
                head,
                pack_header(size >> 8, size & 0xFF, DATA, END_STREAM, stream_id),
                body,
            )
            return
        if not self._begun:
            # Our blocks never use the dynamic table. Said once, no later change of its size needs an answer.
            self._begun = True
            head = TABLE_SIZE_ZERO + head
        self._put_head(stream.id, head, 0 if size else END_STREAM)
        stream.window = self.initial_window
        if size:
            stream.unsent = memoryview(body)
            self._held[stream.id] = stream
            self._put_body(stream)

    def drop(self, stream: Upload) -> None:
        """Forget what is unsent of a stream that has ended."""
        stream.unsent = None
        self._held.pop(stream.id, None)

    def widen(self, increment: int) -> None:
        """WINDOW_UPDATE of the connection."""
        self.window += increment
        self._granted += increment
        if self.window > MAX_WINDOW:
            raise PeerFault(ErrorCode.FLOW_CONTROL_ERROR, "connection window too large")
        self.pump()

    def widen_stream(self, stream: Upload, increment: int) -> bool:
        """WINDOW_UPDATE of a stream. False: larger than a window can be, the stream must end (§6.9.1)."""
        stream.window += increment
        if stream.window > MAX_WINDOW:
            return False
        if stream.unsent is not None:
            self._put_body(stream)
        return True

    def change_initial_window(self, size: int, streams: Iterable[Upload]) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE: every open stream's window moves by the difference (§6.9.2)."""
        difference = size - self.initial_window
        self.initial_window = size
        for stream in streams:
            stream.window += difference
            if stream.window > MAX_WINDOW:
                raise PeerFault(ErrorCode.FLOW_CONTROL_ERROR, "stream window too large")
        self.pump()

    def pump(self) -> None:
        """Send what the windows allow by now, the oldest request first."""
        for stream in list(self._held.values()):
            if self.window <= 0:
                return
            self._put_body(stream)

    def _put_head(self, stream_id: int, head: bytes, flags: int) -> None:
        kind, most = HEADERS, self.frame_bytes
        while len(head) > most:
            self.chunks.append(frame(kind, flags, stream_id, head[:most]))
            head, kind, flags = head[most:], CONTINUATION, 0
        self.chunks.append(frame(kind, flags | END_HEADERS, stream_id, head))

    def _put_body(self, stream: Upload) -> None:
        unsent = stream.unsent
        while unsent is not None and (room := min(self.window, stream.window, self.frame_bytes)) > 0:
            part = unsent[:room]
            size = len(part)
            unsent = unsent[size:] if size < len(unsent) else None
            flags = 0 if unsent is not None else END_STREAM
            self.chunks += (pack_header(size >> 8, size & 0xFF, DATA, flags, stream.id), part)
            self.window -= size
            stream.window -= size
            stream.unsent = unsent
        if unsent is None:
            self._held.pop(stream.id, None)
