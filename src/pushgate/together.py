"""A transport that sends what is written in one turn of the event loop as one piece.

uvicorn writes the head of an answer, then its body. An event loop hands each of them to the system at once (uvloop) or
encrypts each as a record of its own (TLS): half of what it costs to answer a small request.
"""

from __future__ import annotations

import asyncio
from typing import Any


class Together(asyncio.Transport):
    """Stands before another transport, which it closes and aborts as it is closed and aborted itself."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._call_soon = asyncio.get_running_loop().call_soon
        self._held: list[bytes] = []

    def write(self, data: Any) -> None:
        """Send it before the loop does anything else that it does not know of yet."""
        if not self._held:
            self._call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Send what was written, then close."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """End it now."""
        self._held = []
        self._transport.abort()

    def is_closing(self) -> bool:
        """See `asyncio.BaseTransport`."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See `asyncio.BaseTransport`."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        self._transport.resume_reading()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))
