"""The link to NATS: one connection at a time, to whichever server is there; a new one by itself when it is lost.

What was asked and not answered when a connection was lost is told so, and nothing is sent a second time: only whoever
asked knows whether that would do harm.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import structlog

from pushgate.errors import SpoolUnavailable, SpoolUnusable
from pushgate.spool.jetstream import protocol
from pushgate.spool.jetstream.cluster import Cluster, Server
from pushgate.spool.jetstream.connection import Connection, Refused
from pushgate.spool.jetstream.lasting import for_ever
from pushgate.spool.jetstream.protocol import Message

log = structlog.get_logger(__name__)

Answered = Callable[[Message | None], None]
"""Gets an answer, or None when the connection was lost before it came."""

DIAL_S = 3.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
LASTS_S = 5.0
"""A connection that was lost sooner counts as an attempt: what follows is not tried at once."""
MOST_LEARNED = 16
TELL_EVERY_S = 5.0
LEAVE_WITHIN_S = 2.0
_INBOX = b"1"


class NoAnswer(SpoolUnavailable):
    """Asked, and nothing came in time."""


class Link:
    """See above. Made by `open`."""

    def __init__(self, cluster: Cluster, *, client: str) -> None:
        self._cluster = cluster
        self._client = client
        self._learned: list[Server] = []
        """Those of the cluster that nobody has named, as the last connection told them."""
        self._connection: Connection | None = None
        self._server: Server | None = None
        """To which it goes, or went last."""
        self._shunned: Server | None = None
        """Tried last: JetStream did not answer there."""
        self._prefix = f"_INBOX.{secrets.token_hex(11)}"
        self._skip = len(self._prefix) + 1
        self._awaited: dict[str, Answered] = {}
        self._subscriptions: dict[bytes, tuple[str, Callable[[Message], None]]] = {}
        self._number = 1
        self._token = 0
        self._gone = asyncio.Event()
        self._there = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._told_at = 0.0
        self._connected_at = -LASTS_S
        self._pause_s = FIRST_PAUSE_S
        self._closing = False
        self.came_back: Callable[[], None] = lambda: None
        """Called after each connection but the first."""

    async def open(self) -> None:
        """Connect. Raises `SpoolUnusable` when nobody answers for as long as a start may wait, or we are refused."""
        until = time.monotonic() + self._cluster.patience_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await self._connect()
                break
            except OSError as fault:
                if time.monotonic() + pause_s > until:
                    named = ", ".join(map(str, self._cluster.servers))
                    told = f"no NATS at {named} ({fault}) -> start it, or correct spool.url"
                    raise SpoolUnusable(told) from fault
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self._keeping = asyncio.create_task(for_ever(self._keep, work="link"), name="link to nats")

    async def close(self) -> None:
        """Send what there is, and end it."""
        self._closing = True
        for task in (self._keeping, self._leaving):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        self._subscriptions.clear()
        if self._connection is not None:
            await self._connection.close()
        self._lose()

    def drop(self) -> None:
        """As if this process had died: nothing more is sent, nobody is told."""
        for task in (self._keeping, self._leaving):
            if task is not None:
                task.cancel()
        if self._connection is not None:
            self._connection.end("dropped")

    def move_on(self) -> None:
        """Leave this server for another one, where there is another: what is asked here is not answered."""
        if self._connection is not None and len(self._in_turn()) > 1:
            self._shunned = self._server
            self._connection.end("JetStream does not answer there")

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    @property
    def info(self) -> Mapping[str, Any]:
        """What the server says of itself."""
        return self._connection.info if self._connection else {}

    @property
    def version(self) -> tuple[int, ...]:
        """That of the server, as (2, 12, 1)."""
        text = str(self._connection.info.get("version", "")) if self._connection else ""
        numbers = text.partition("-")[0].split(".")
        return tuple(int(each) for each in numbers if each.isdecimal())

    @property
    def max_payload(self) -> int:
        """How large a message may be, in bytes."""
        return int(self._connection.info.get("max_payload", 1 << 20)) if self._connection else 1 << 20

    async def until_connected(self, within_s: float) -> None:
        """Wait for a connection, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._there.wait()

    # --- what goes out

    def send(self, subject: str, payload: bytes, *, reply: str = "", header: bytes = b"") -> None:
        """Send a message. Raises `SpoolUnavailable` when there is no connection."""
        connection = self._connection
        if connection is None:
            raise SpoolUnavailable("not connected to NATS")
        if connection.is_choked:
            raise SpoolUnavailable("NATS takes nothing")
        connection.send(protocol.publish(subject, payload, reply=reply, header=header))

    def expect(self, answered: Answered) -> str:
        """Where an answer is to be sent. It is handed over, and awaited until then or until `forget`."""
        self._token += 1
        token = str(self._token)
        self._awaited[token] = answered
        return f"{self._prefix}.{token}"

    def forget(self, reply: str) -> None:
        """That answer is of no use any more."""
        self._awaited.pop(reply[self._skip :], None)

    async def request(
        self, subject: str, payload: bytes = b"", *, header: bytes = b"", within_s: float | None = None
    ) -> Message:
        """Ask and await the answer. Raises `SpoolUnavailable` when none comes."""
        future: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        reply = self.expect(lambda answer: None if future.done() else future.set_result(answer))
        try:
            self.send(subject, payload, reply=reply, header=header)
            async with asyncio.timeout(within_s or self._cluster.request_s):
                answer = await future
        except TimeoutError:
            raise NoAnswer("NATS does not answer in time") from None
        finally:
            self.forget(reply)
        if answer is None:
            raise SpoolUnavailable("the connection to NATS was lost")
        return answer

    async def gather(
        self, subject: str, payload: bytes, *, more: Callable[[Message], bool], within_s: float | None = None
    ) -> None:
        """Ask what has several answers: `more` gets each and says whether another one follows, so soon."""
        queue: asyncio.Queue[Message | None] = asyncio.Queue()
        reply = f"{self._prefix}.{self._token + 1}"

        def answered(answer: Message | None) -> None:
            queue.put_nowait(answer)
            if answer is not None:
                self._awaited[reply[self._skip :]] = answered

        reply = self.expect(answered)
        try:
            self.send(subject, payload, reply=reply)
            while True:
                async with asyncio.timeout(within_s or self._cluster.request_s):
                    answer = await queue.get()
                if answer is None:
                    raise SpoolUnavailable("the connection to NATS was lost")
                if not more(answer):
                    return
        except TimeoutError:
            raise NoAnswer("NATS does not answer in time") from None
        finally:
            self.forget(reply)

    def subscribe(self, handler: Callable[[Message], None]) -> str:
        """A subject of ours for as long as the link lives; what is sent to one below it is handed over."""
        subject = f"{self._prefix}-{self._number + 1}"
        self.listen(f"{subject}.*", handler)
        return subject

    def listen(self, subject: str, handler: Callable[[Message], None]) -> None:
        """Have what is sent there handed over, for as long as the link lives."""
        self._number += 1
        number = str(self._number).encode()
        self._subscriptions[number] = (subject, handler)
        if self._connection is not None:
            self._connection.subscribe(subject, number, handler)

    def unsubscribe(self) -> None:
        """All of these: what is given from now on is not given to us."""
        for number in self._subscriptions:
            if self._connection is not None:
                self._connection.unsubscribe(number)
        self._subscriptions.clear()

    # --- the connection

    async def _connect(self) -> None:
        """To the first server that lets us in. Raises what the last one said."""
        fault: Exception = OSError("no server")
        for server in self._in_turn():
            connection = Connection(self._was_lost, self._leave)
            try:
                async with asyncio.timeout(DIAL_S):
                    await connection.dial(server, tls=self._cluster.tls, login=self._cluster.login, name=self._client)
            except TimeoutError:
                fault = OSError(f"{server} does not answer")
                continue
            except (OSError, Refused) as refused:
                fault = refused
                continue
            except UnicodeError:  # from the resolver
                fault = OSError(f"{server} is no name of a server")
                continue
            connection.complain = self._complained  # type: ignore[method-assign]  # made to be replaced
            self._learn(connection)
            self._gone.clear()
            self._connection, self._server, self._shunned = connection, server, None
            self._there.set()
            connection.subscribe(f"{self._prefix}.*", _INBOX, self._answer)
            for number, (subject, handler) in self._subscriptions.items():
                connection.subscribe(subject, number, handler)
            log.info("nats connected", server=str(server), version=".".join(map(str, self.version)))
            return
        raise fault

    def _in_turn(self) -> list[Server]:
        """Those that are named, then those of which one of them has told. Each gateway has an order of its own."""
        named = list(self._cluster.servers)
        learned = [each for each in self._learned if each not in named]
        random.shuffle(named)
        random.shuffle(learned)
        return sorted([*named, *learned], key=lambda each: each == self._shunned)

    def _learn(self, connection: Connection) -> None:
        learned = []
        for each in (connection.info.get("connect_urls") or ())[:MOST_LEARNED]:
            with suppress(ValueError):
                learned.append(Server.of(str(each)))
        self._learned = learned

    async def _keep(self) -> None:
        """A new connection when one is lost: at once, but where the last ones did not last."""
        await self._gone.wait()
        if time.monotonic() - self._connected_at > LASTS_S:
            self._pause_s = FIRST_PAUSE_S
        else:
            await self._pause()
        while True:
            try:
                await self._connect()
                break
            except (OSError, SpoolUnusable) as fault:
                self._tell(str(fault), refused=isinstance(fault, SpoolUnusable))
            await self._pause()
        self._connected_at = time.monotonic()
        self.came_back()

    async def _pause(self) -> None:
        await asyncio.sleep(self._pause_s * random.uniform(0.5, 1))  # noqa: S311 - spreads those who come back
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _tell(self, fault: str, *, refused: bool) -> None:
        now = time.monotonic()
        if now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            if refused:
                log.error("nats refuses us", fault=fault)
            else:
                log.error("nats cannot be reached", fault=fault)

    def _complained(self, text: str) -> None:
        if "permission" in text.lower():
            self._tell(text, refused=True)

    def _was_lost(self, why: str) -> None:
        if not self._closing:
            log.warning("nats connection lost", fault=why)
        self._lose()

    def _lose(self) -> None:
        self._connection = None
        self._there.clear()
        self._gone.set()
        awaited, self._awaited = self._awaited, {}
        for answered in awaited.values():
            answered(None)

    def _leave(self) -> None:
        """The server is about to go: finish what was asked, then look for another one."""
        if self._leaving is None or self._leaving.done():
            self._leaving = asyncio.create_task(self._go_elsewhere(), name="leaving nats server")

    async def _go_elsewhere(self) -> None:
        connection, until = self._connection, time.monotonic() + LEAVE_WITHIN_S
        while self._awaited and time.monotonic() < until:  # noqa: ASYNC110 - rare, and soon over
            await asyncio.sleep(0.02)
        if connection is not None:
            connection.end("the server goes away")

    def _answer(self, message: Message) -> None:
        if (answered := self._awaited.pop(message.subject[self._skip :], None)) is not None:
            answered(message)
