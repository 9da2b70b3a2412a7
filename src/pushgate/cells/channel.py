"""Messages over a Unix stream socket, on the event loop: each behind its length, some with an open file.

Both ends are processes of one gateway: what comes is trusted to be well formed.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

READ_BYTES = 1 << 18
LENGTH_BYTES = 4
LOOK_EVERY_S = 0.01
MOST_FILES = 16
"""Open files in one read."""
MOST_WAITING_BYTES = 32 << 20
"""What may wait for a reader that does not read."""

T = TypeVar("T")
_encode = msgspec.msgpack.Encoder().encode


class Channel(Generic[T]):
    """One end. `on_message` gets each message of the other, and the file that came with it."""

    def __init__(
        self,
        end: socket.socket,
        kind: Any,
        *,
        on_message: Callable[[T, socket.socket | None], None],
        on_end: Callable[[], None],
        most_waiting_bytes: int = MOST_WAITING_BYTES,
    ) -> None:
        """`kind` is the union of what the other end says. `on_end` is called once, unless we close ourselves."""
        end.setblocking(False)
        self._end = end
        self._decode: Callable[[bytes | memoryview], T] = msgspec.msgpack.Decoder(kind).decode
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._most_waiting_bytes = most_waiting_bytes
        self._unread = bytearray()
        self._files: deque[int] = deque()
        self._unsent: deque[tuple[memoryview, socket.socket | None]] = deque()
        self.waiting_bytes = 0
        """What the other end has not taken yet."""
        self.is_open = True
        self._loop.add_reader(end.fileno(), self._read)

    def send(self, message: object, file: socket.socket | None = None) -> bool:
        """Say it, in order. False where it cannot be said: the end is gone, or too much waits already.

        `file` goes with it and is closed here. A message that has a file names it by a field `has_file`.
        """
        raw = _encode(message)
        frame = len(raw).to_bytes(LENGTH_BYTES, "big") + raw
        if not self.is_open or self.waiting_bytes + len(frame) > self._most_waiting_bytes:
            if file is not None:
                file.close()
            return False
        self._unsent.append((memoryview(frame), file))
        self.waiting_bytes += len(frame)
        if len(self._unsent) == 1:
            self._write()
        return self.is_open

    async def flushed(self, *, within_s: float) -> None:
        """Wait until the other end has taken everything, at most so long."""
        until = self._loop.time() + within_s
        while self.waiting_bytes and self._loop.time() < until:  # noqa: ASYNC110 - once, at the end of a process
            await asyncio.sleep(LOOK_EVERY_S)

    def close(self) -> None:
        """Let go. What waits is lost."""
        if not self.is_open:
            return
        self.is_open = False
        self._loop.remove_reader(self._end.fileno())
        self._loop.remove_writer(self._end.fileno())
        self._end.close()
        for _, file in self._unsent:
            if file is not None:
                file.close()
        for each in self._files:
            socket.close(each)
        self._unsent.clear()
        self._files.clear()
        self.waiting_bytes = 0

    def _write(self) -> None:
        try:
            while self._unsent:
                frame, file = self._unsent[0]
                if file is None:
                    sent = self._end.send(frame)
                else:
                    sent = socket.send_fds(self._end, [frame], [file.fileno()])
                    file.close()
                self.waiting_bytes -= sent
                if sent < len(frame):
                    self._unsent[0] = (frame[sent:], None)
                else:
                    self._unsent.popleft()
        except (BlockingIOError, InterruptedError):
            self._loop.add_writer(self._end.fileno(), self._write)
        except OSError:
            self._ended()
        else:
            self._loop.remove_writer(self._end.fileno())

    def _read(self) -> None:
        try:
            data, files, _, _ = socket.recv_fds(self._end, READ_BYTES, MOST_FILES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, files = b"", []
        self._files += files
        if not data:
            self._ended()
            return
        self._unread += data
        self._take_messages()

    def _take_messages(self) -> None:
        at, unread = 0, self._unread
        messages: list[T] = []
        while len(unread) >= at + LENGTH_BYTES:
            begin = at + LENGTH_BYTES
            end = begin + int.from_bytes(unread[at:begin], "big")
            if len(unread) < end:
                break
            messages.append(self._decode(bytes(unread[begin:end])))
            at = end
        del unread[:at]
        for message in messages:
            if self.is_open:
                self._on_message(message, self._file() if getattr(message, "has_file", False) else None)

    def _file(self) -> socket.socket:
        return socket.socket(fileno=self._files.popleft())

    def _ended(self) -> None:
        if self.is_open:
            self.close()
            self._on_end()
