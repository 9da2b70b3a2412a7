"""The port that all cells share: kept by the supervisor, listened to by the cells."""

from __future__ import annotations

import asyncio
import errno
import socket

from pushgate.listener import bind

AGAIN_S = 0.1


class Port:
    """Bound for as long as the supervisor lives, and never listened to: so no connection ever waits for a dead cell."""

    def __init__(self, reserved: socket.socket) -> None:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # only now: nobody else had it
        self._reserved = reserved
        self.number: int = reserved.getsockname()[1]

    @classmethod
    async def reserve(cls, address: str, *, within_s: float) -> Port:
        """Have the address, which cells of before may still use for so long. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while True:
            try:
                return cls(bind(address, listens=False))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or loop.time() >= until:
                    raise
            await asyncio.sleep(AGAIN_S)

    def one_more(self) -> socket.socket:
        """A socket for one more cell: bound, and not listening yet."""
        made = socket.socket(self._reserved.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(self._reserved.getsockname())
            made.setblocking(False)
        except OSError:
            made.close()
            raise
        return made

    def close(self) -> None:
        """Let go of it."""
        self._reserved.close()
