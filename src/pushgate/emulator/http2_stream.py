"""One request on its way in, and its answer on its way out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from pushgate.emulator.exchange import Request


class Stream:
    """What an emulator knows of one open stream."""

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        pseudo = {name: value for name, value in fields if name.startswith(":")}
        self.method = pseudo.get(":method", "")
        self.path = pseudo.get(":path", "")
        self.headers = tuple(field for field in fields if not field[0].startswith(":"))
        self.body = bytearray()
        self.body_bytes = 0
        self.timer: asyncio.TimerHandle | None = None
        self.unsent = memoryview(b"")

    def request(self) -> Request:
        """The request, when all of it is here."""
        return Request(
            method=self.method,
            path=self.path,
            headers=self.headers,
            body=bytes(self.body),
            body_bytes=self.body_bytes,
        )
