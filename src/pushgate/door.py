"""Accepts connections from a listening socket and shakes hands with each, for a bounded time.

Not the event loop's own server: that tells nobody of a connection before its handshake is over, so that nobody could
count it or end it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import assert_never

import structlog

from pushgate.connections import Connections
from pushgate.tls import Failed, Shaken, Tls

ACCEPTED_A_TURN = 16
"""So many at most before those who are in have their turn."""
OUT_OF_FILES_S = 0.5
TELL_EVERY_S = 5.0

log = structlog.get_logger(__name__)

Count = Callable[[str], None]
"""Counts what became of a connection: one of `metrics.CONNECTIONS`."""


class Door:
    """Lets connections in from one socket."""

    def __init__(
        self,
        listening: socket.socket,
        *,
        tls: Tls | None,
        connections: Connections,
        meet: Callable[[Tls | None], asyncio.Protocol],
        count: Count,
    ) -> None:
        """`meet` makes the protocol of a connection, and is told with which context it was let in.

        A protocol says itself when it settles, and leaves, once its `connection_made` was called.
        """
        self._listening = listening
        self.tls = tls
        """May be replaced at any time: counts from the next connection on."""
        self._connections = connections
        self._meet = meet
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._is_open = False
        self._greeted: dict[asyncio.Task[None], socket.socket] = {}
        self._tell_again_at = 0.0
        self._untold = 0

    def open(self) -> None:
        """Begin to accept."""
        self._is_open = True
        self._loop.add_reader(self._listening.fileno(), self._accept)

    def close(self) -> None:
        """Accept nothing more and end all handshakes. The socket is not closed."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._listening.fileno())
        for accepted in self._greeted.values():
            _cut(accepted)

    async def wait_closed(self) -> None:
        """Wait until the handshakes have ended."""
        await asyncio.gather(*self._greeted)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_A_TURN):
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._loop.remove_reader(self._listening.fileno())
                self._loop.call_later(OUT_OF_FILES_S, self._accept_again)
                log.error("cannot accept connections", fault=error.strerror)
                return
            if self._connections.is_full and not self._connections.end_one_that_rests():
                accepted.close()
                self._count("too_many")
            else:
                self._let_in(accepted)

    def _accept_again(self) -> None:
        if self._is_open:
            self.open()

    def _let_in(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        self._count("accepted")
        guest = self._meet(self.tls)
        if self._connections.enter(guest, lambda: _cut(accepted)):
            self._count("too_slow")
        greeting = self._loop.create_task(self._greet(accepted, guest, self.tls))
        self._greeted[greeting] = accepted
        greeting.add_done_callback(self._greeted.pop)

    async def _greet(self, accepted: socket.socket, guest: asyncio.Protocol, tls: Tls | None) -> None:
        try:
            if tls is None:
                await self._loop.connect_accepted_socket(lambda: guest, accepted)
                return
            met = await tls.shake(accepted, guest)
        except BaseException:
            self._connections.leave(guest)
            raise
        match met:
            case Shaken():
                self._count("resumption" if met.is_resumed else "handshake")
            case Failed():
                self._connections.leave(guest)
                self._count("certificate_refused" if met.is_certificate else "handshake_failed")
                if met.reason:  # mere silence is no news
                    self._tell(met.reason)
            case _:
                assert_never(met)

    def _tell(self, reason: str) -> None:
        """Now and then: anybody may cause it."""
        self._untold += 1
        now = self._loop.time()
        if now >= self._tell_again_at:
            log.warning("handshakes failed", reason=reason, count=self._untold)
            self._untold, self._tell_again_at = 0, now + TELL_EVERY_S


def _cut(accepted: socket.socket) -> None:
    """End a connection, whoever reads from its socket: as if the other side had."""
    with suppress(OSError):  # it has ended
        accepted.shutdown(socket.SHUT_RDWR)
