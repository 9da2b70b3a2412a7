"""Load on a gateway: requests out of a template, over connections that are kept, and how soon each was answered."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import ssl
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self, cast

from msgspec import Struct

from pushgate.model import CIPHERTEXT_CHARS

NUMBER = b"\0" * 16
"""In a part of a template: here go 16 digits that differ with each notification. No JSON text holds such bytes."""
PUSHKEY_CHARS = 64
RECONNECT_S = 0.1
"""Between two attempts to connect on behalf of the same connection."""

Clock = Callable[[], float]
"""Monotonic seconds."""


class Template:
    """Requests that differ in a few digits only, so that the next one costs next to nothing."""

    def __init__(self, path: str, *, host: str, parts: Sequence[bytes]) -> None:
        """`parts` make the body, each holds one notification; `NUMBER` in one stands for that notification's number."""
        body = b"".join(parts)
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        start = f"{head}Content-Length: {len(body)}\r\n\r\n".encode()
        self.notifications = len(parts)
        self._buffer = bytearray(start + body)
        self._holes: list[list[slice]] = []
        position = len(start)
        for part in parts:
            self._holes.append([slice(at, at + len(NUMBER)) for at in _places(part, position)])
            position += len(part)

    def fill(self, number: int) -> bytes:
        """The request whose first notification has this number, the next one the next, and so on."""
        for position, holes in enumerate(self._holes, number):
            digits = b"%016x" % position
            for hole in holes:
                self._buffer[hole] = digits
        return bytes(self._buffer)


def _places(part: bytes, offset: int) -> Iterator[int]:
    at = part.find(NUMBER)
    while at >= 0:
        yield offset + at
        at = part.find(NUMBER, at + len(NUMBER))


def sealed_parts(app_ids: Sequence[str], *, mark: str, filler: str, month: str) -> list[bytes]:
    """The parts of a batch of sealed notifications, one to a device of each of these apps.

    `mark` is what all pushkeys begin with, at most 48 hexadecimal digits; `filler` is what all ciphertexts end with.
    """
    pushkey = mark.ljust(PUSHKEY_CHARS - len(NUMBER), "0").encode() + NUMBER
    ciphertext = NUMBER + filler[: CIPHERTEXT_CHARS - len(NUMBER)].ljust(CIPHERTEXT_CHARS - len(NUMBER), "A").encode()
    items = [
        b'{"id":"%d","notification":{"ciphertext":"%b","time_message_encrypted":"%b","key_identifier":"load",'
        b'"prio":"high","device":{"app_id":%b,"pushkey":"%b","pushkey_ts":1760000000}}}'
        % (position, ciphertext, month.encode(), json.dumps(app_id).encode(), pushkey)
        for position, app_id in enumerate(app_ids)
    ]
    begins = [b'{"notifications":[', *[b","] * (len(items) - 1)]
    ends = [*[b""] * (len(items) - 1), b"]}"]
    return [begin + item + end for begin, item, end in zip(begins, items, ends, strict=True)]


class Peer(Struct, frozen=True):
    """Where a gateway listens."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


class Answer(Struct, frozen=True):
    """What a gateway said."""

    status: int
    body: bytes

    def __repr__(self) -> str:
        return f"Answer({self.status})"


class Line(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._left = b""
        self.is_open = True

    @classmethod
    async def open(cls, peer: Peer) -> Self:
        """Connect. Raises `OSError` where nobody is, or TLS fails."""
        loop = asyncio.get_running_loop()
        name = peer.host if peer.tls is not None else None
        _, line = await loop.create_connection(cls, peer.host, peer.port, ssl=peer.tls, server_hostname=name)
        return line

    async def ask(self, request: bytes) -> Answer:
        """Send a whole request and wait for its answer. Raises `ConnectionError` where it does not come."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Let go of it."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio."""
        self.is_open = False
        self._give(exc or ConnectionResetError("closed without an answer"))

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        data = self._left + data
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self._left = data
            return
        head = data[:end].lower()
        size = head.partition(b"\r\ncontent-length:")[2].partition(b"\r")[0].strip()
        if not (head[9:12].isdigit() and size.isdigit()):
            self.close()  # it would be a gateway behind something that changes answers
            return
        if len(data) < end + int(size):
            self._left = data
            return
        self._left = b""
        if b"\r\nconnection: close" in head:
            self.close()
        self._give(Answer(int(head[9:12]), data[end:]))

    def _give(self, what: Answer | Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is None or answer.done():
            return
        if isinstance(what, Answer):
            answer.set_result(what)
        else:
            answer.set_exception(what)


class Schedule(Protocol):
    """When requests are due."""

    async def next(self) -> float | None:
        """Wait for the next request to be due: since when it is, by the clock. None: there is no further one."""
        ...


class AtOnce:
    """Each connection asks again as soon as it is answered."""

    def __init__(self, *, until: float = math.inf, clock: Clock = time.perf_counter) -> None:
        self._until = until
        self._clock = clock

    async def next(self) -> float | None:
        """See `Schedule`."""
        now = self._clock()
        return now if now < self._until else None


class Steady:
    """So many requests a second, however slow the answers are: what waits for a connection counts as waiting.

    What could not even be sent in time is left out.
    """

    def __init__(self, per_s: float, *, begin: float, until: float, clock: Clock = time.perf_counter) -> None:
        self._slots = (begin + number / per_s for number in itertools.count())
        self._until = until
        self._clock = clock
        self.late_s = array("d")
        """How late this process itself was, for each request that it slept for."""

    async def next(self) -> float | None:
        """See `Schedule`."""
        due, now = next(self._slots), self._clock()
        if max(due, now) >= self._until:
            return None
        if (early_s := due - now) <= 0:
            return due  # every connection was taken
        await asyncio.sleep(early_s)
        now = self._clock()
        self.late_s.append(max(now - due, 0.0))
        return now


class Load:
    """Requests until there are no more, or until they are not due any more."""

    def __init__(
        self,
        peer: Peer,
        requests: Iterator[bytes],
        told: Callable[[Answer | OSError, float], None],
        *,
        clock: Clock = time.perf_counter,
    ) -> None:
        """`told` gets each answer, or why there is none, and after how many seconds."""
        self._peer = peer
        self._requests = requests
        self._told = told
        self._clock = clock

    async def run(self, schedule: Schedule, *, connections: int, within_s: float) -> int:
        """Ask over so many connections. Returns how many requests were still without an answer when time was up."""
        asking = [asyncio.create_task(self._keep_asking(schedule)) for _ in range(connections)]
        try:
            done, late = await asyncio.wait(asking, timeout=within_s, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for each in asking:
                each.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        for each in done:
            each.result()
        return len(late)

    async def _keep_asking(self, schedule: Schedule) -> None:
        line: Line | None = None
        try:
            while (due := await schedule.next()) is not None and (request := next(self._requests, None)) is not None:
                try:
                    if line is None or not line.is_open:
                        line = await Line.open(self._peer)
                    said: Answer | OSError = await line.ask(request)
                except OSError as error:
                    said = error
                self._told(said, self._clock() - due)
                if isinstance(said, OSError):
                    await asyncio.sleep(RECONNECT_S)
        finally:
            if line is not None:
                line.close()


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed; 0 of none."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0
