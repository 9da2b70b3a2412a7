"""One connection to one NATS server: dialled, proven, kept alive, and its end told once."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from typing import Any, cast

from pushgate.errors import SpoolUnusable
from pushgate.spool.jetstream import protocol
from pushgate.spool.jetstream.cluster import Server, Tls
from pushgate.spool.jetstream.login import Login, connect_line
from pushgate.spool.jetstream.protocol import BadProtocol, Message, Parser

LOOK_EVERY_S = 1.0
QUIET_S = 3.0
"""After so long without a byte the server is asked whether it lives."""
DEAD_S = 3.0
"""It has so long to answer that."""
MOST_UNSENT_BYTES = 32 << 20


class Refused(SpoolUnusable):
    """The server does not let us in."""


class Connection(asyncio.Protocol):
    """Between `dial` and `lost`. What is sent in one turn of the loop leaves in one write."""

    def __init__(self, lost: Callable[[str], None], leave: Callable[[], None]) -> None:
        """`lost` is told why it has ended, once. `leave` is called when the server will go away soon."""
        loop = asyncio.get_running_loop()
        self.info: dict[str, Any] = {}
        self._lost = lost
        self._leave = leave
        self._parser = Parser(self)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._unsent_bytes = 0
        self._greeted: asyncio.Future[None] = loop.create_future()
        self._let_in: asyncio.Future[None] = loop.create_future()
        self._heard_at = loop.time()
        self._asked_at: float | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._why = "closed by the server"
        self._is_open = False
        self._is_lost = False
        self._loop = loop

    # --- its life

    async def dial(self, server: Server, *, tls: Tls, login: Login, name: str) -> None:
        """Connect and prove who we are. Raises `OSError`, or `Refused` with what to do about it."""
        context = tls.context() if tls.when != "no" else None
        first = context if tls.when == "first" else None
        try:
            await self._loop.create_connection(
                lambda: self, server.host, server.port, ssl=first, server_hostname=server.host if first else None
            )
            await self._greeted
            wants_tls = bool(self.info.get("tls_required"))
            if wants_tls and context is None:
                raise Refused(f'NATS at {server} wants TLS -> set spool.nats.tls = "yes"')
            if context is not None and first is None:
                if not (wants_tls or self.info.get("tls_available")):
                    raise Refused(f'NATS at {server} has no TLS -> give it some, or set spool.nats.tls = "no"')
                await self._start_tls(server, context)
            nonce = str(self.info.get("nonce", ""))
            self.send(connect_line(login, nonce=nonce, name=name, tls=context is not None) + protocol.PING)
            await self._let_in
        except ssl.SSLError as fault:
            self.end("TLS failed")
            raise Refused(
                f"TLS with NATS at {server}: {fault.reason or type(fault).__name__} -> see the files of [spool.nats]"
            ) from None
        except BaseException:
            self.end("not let in")
            raise
        if self._is_lost:  # since it let us in
            raise ConnectionResetError(self._why)
        self._is_open = True
        self._looking = self._loop.call_later(LOOK_EVERY_S, self._look)

    async def _start_tls(self, server: Server, context: ssl.SSLContext) -> None:
        assert self._transport is not None
        transport = await self._loop.start_tls(self._transport, self, context, server_hostname=server.host)
        if transport is None:
            raise ConnectionResetError("lost")
        self._transport = transport

    def end(self, why: str) -> None:
        """Give it up at once."""
        self._why = why
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Send what there is and end it."""
        self._why = "closed"
        self._flush()
        if self._transport is not None:
            self._transport.close()

    # --- out

    @property
    def is_choked(self) -> bool:
        """Whether so much is unsent that no more should be."""
        assert self._transport is not None
        return self._unsent_bytes + self._transport.get_write_buffer_size() > MOST_UNSENT_BYTES

    def send(self, data: bytes) -> None:
        """Send it with what else is sent in this turn."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)
        self._unsent_bytes += len(data)

    def subscribe(self, subject: str, number: bytes, handler: Callable[[Message], None]) -> None:
        """Have messages handed over, now and in the order in which they come."""
        self._parser.handlers[number] = handler
        self.send(protocol.subscribe(subject, number))

    def unsubscribe(self, number: bytes) -> None:
        """Have no more of them."""
        self._parser.handlers.pop(number, None)
        self.send(protocol.unsubscribe(number))

    def _flush(self) -> None:
        out, self._out, self._unsent_bytes = self._out, [], 0
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    # --- in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        try:
            self._parser.feed(data)
        except BadProtocol as fault:
            self.end(str(fault))

    def connection_lost(self, fault: Exception | None) -> None:
        self._is_lost = True
        if self._looking is not None:
            self._looking.cancel()
        why = self._why if fault is None else type(fault).__name__
        for waiting in (self._greeted, self._let_in):
            if not waiting.done():
                waiting.set_exception(ConnectionResetError(why))
                waiting.exception()  # it may be that nobody waits
        if self._is_open:
            self._is_open = False
            self._lost(why)

    def told_info(self, info: bytes) -> None:
        try:
            told = json.loads(info)
        except ValueError:
            raise BadProtocol("its INFO is not JSON") from None
        if not isinstance(told, dict):
            raise BadProtocol("its INFO is not an object")
        self.info.update(told)
        if not self._greeted.done():
            self._greeted.set_result(None)
        elif told.get("ldm"):
            self._leave()

    def told_error(self, text: str) -> None:
        lowered = text.lower()
        if not self._let_in.done():
            refused = Refused(f"NATS refuses us: {text} -> see the login in [spool.nats], and the server's users")
            self._let_in.set_exception(refused if "authoriz" in lowered or "authent" in lowered else OSError(text))
        self._why = text
        if self._is_open:
            self.complain(text)

    def complain(self, text: str) -> None:
        """The server found fault with something that we did, and goes on. To be replaced by whoever wants to know."""

    def pinged(self) -> None:
        self.send(protocol.PONG)

    def ponged(self) -> None:
        self._asked_at = None
        if not self._let_in.done():
            self._let_in.set_result(None)

    def _look(self) -> None:
        """Whether it still lives."""
        now = self._loop.time()
        if self._asked_at is not None and now - self._asked_at > DEAD_S and self._heard_at < self._asked_at:
            self.end("does not answer")
            return
        if self._asked_at is not None and self._heard_at >= self._asked_at:
            self._asked_at = None
        if self._asked_at is None and now - self._heard_at > QUIET_S:
            self._asked_at = now
            self.send(protocol.PING)
        self._looking = self._loop.call_later(LOOK_EVERY_S, self._look)
