"""Sends bytes that somebody thought of with care to a running API, and tells what became of them.

A `Case` is one message: sound, or so that two readers could take it for different things. It is sent whole, in small
pieces, and behind a valid request; a request for `/after` always follows it. Many cases hold a second request in their
body, the *stowaway*: nobody may ever see that one.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from typing import Any

from msgspec import Struct

from pushgate.model import Caller
from tests.api import Api, serving
from tests.samples import APNS_APP, body, device, plain

KEY, STOWAWAY_KEY = "aa" * 32, "5e" * 32
BODY = body({"notification": plain(device(pushkey=KEY))})
AFTER = b"GET /after HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
PIECES = 7
AT_ONCE = 24
ENDS_WITHIN_S = 15.0
SILENCE = 0
"""In place of a status: closed without an answer."""


def head(*lines: bytes, start: bytes = b"POST /push/v1/notify HTTP/1.1", host: bytes | None = b"Host: x") -> bytes:
    """The head of a request."""
    return b"\r\n".join([start, *([] if host is None else [host]), *lines]) + b"\r\n\r\n"


def length(of: bytes = b"") -> bytes:
    """The header that tells how long a body is: of `BODY` where none is given."""
    return b"Content-Length: %d" % len(of or BODY)


_STOWED = body({"notification": plain(device(pushkey=STOWAWAY_KEY), event_id="$stowaway")})
STOWAWAY = head(b"X-Stowaway: 1", length(_STOWED)) + _STOWED
VALID = head(length()) + BODY


class End(StrEnum):
    """What has to become of a case."""

    TAKEN = "taken"
    """It is one request, it is answered, and the next one is served."""
    REFUSED = "refused"
    """It is one request, it is answered, and the connection goes on or not."""
    CLOSED = "closed"
    """It is answered once at most, and whatever follows it on the connection is nobody's request."""


class Case(Struct, frozen=True):
    """One message, what must become of it, and what it may be answered with."""

    name: str
    sent: bytes
    end: End
    statuses: frozenset[int]


class Way(StrEnum):
    """How a case is sent."""

    WHOLE = "whole"
    IN_PIECES = "in pieces"
    BEHIND = "behind a valid request"


class Seen(Struct, frozen=True):
    """A request as the application sees it."""

    method: str
    path: str
    is_stowaway: bool


class Watch:
    """Who asked for what, by the port it came from."""

    def __init__(self) -> None:
        self.seen: dict[int, list[Seen]] = defaultdict(list)

    def identify(self, scope: Any) -> Caller:
        is_stowaway = any(name == b"x-stowaway" for name, _ in scope["headers"])
        self.seen[scope["client"][1]].append(Seen(scope["method"], scope["path"], is_stowaway))
        return Caller("anyone")

    @property
    def stowaways(self) -> int:
        return sum(each.is_stowaway for requests in self.seen.values() for each in requests)


@asynccontextmanager
async def watched(**how: Any) -> AsyncIterator[tuple[Api, Watch]]:
    """A running API that notes every request. At the end nothing of a stowaway may be stored."""
    watch = Watch()
    async with serving(identify=watch.identify, **{"request_timeout_s": 2, **how}) as api:
        yield api, watch
        if await api.waiting():
            stored = {lease.delivery.device.pushkey for lease in await api.spool.lease(APNS_APP, 10_000)}
            assert STOWAWAY_KEY not in stored
    assert watch.stowaways == 0


class Answer(Struct, frozen=True):
    """One answer off the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes


_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [A-Za-z ]*\r\n")


def answers(stream: bytes, *, to_head: bool = False) -> list[Answer]:
    """The final answers that make up a stream; 1xx are left out. Raises ValueError for what is not framed so."""
    found = []
    while stream:
        begin, end, rest = stream.partition(b"\r\n\r\n")
        line = _STATUS_LINE.match(begin + b"\r\n")
        if line is None or not end:
            raise ValueError(f"no answer begins with {stream[:80]!r}")
        pairs = [field.split(b": ", 1) for field in begin.split(b"\r\n")[1:]]
        headers = {name.decode().lower(): value.decode() for name, value in pairs}
        status = int(line[1])
        size = 0 if status < 200 or to_head else int(headers["content-length"])
        if len(headers) != len(pairs) or len(rest) < size:
            raise ValueError(f"an answer {status} is cut, or says a thing twice")
        if status >= 200:
            found.append(Answer(status, headers, rest[:size]))
        stream = rest[size:]
    return found


class Heard(Struct):
    """What came back on a connection from this port, and whether it was closed from the other side."""

    port: int
    stream: bytes = b""
    is_closed: bool = False


async def converse(port: int, *pieces: bytes, pause_s: float = 0.002, within_s: float = ENDS_WITHIN_S) -> Heard:
    """Write these pieces, and hear all that is answered until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard = Heard(writer.get_extra_info("sockname")[1])

    async def listen() -> None:
        with suppress(ConnectionError):  # closed all the same
            while chunk := await reader.read(65_536):
                heard.stream += chunk
        heard.is_closed = True

    listening = asyncio.create_task(listen())
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            for piece in pieces:
                if not listening.done():
                    writer.write(piece)
                    await asyncio.sleep(pause_s)
            await listening
    listening.cancel()
    writer.transport.abort()
    return heard


def pieces_of(case: Case, way: Way) -> Sequence[bytes]:
    """What is written one after the other."""
    match way:
        case Way.WHOLE:
            return [case.sent + AFTER]
        case Way.BEHIND:
            return [VALID + case.sent + AFTER]
        case Way.IN_PIECES:
            step = max(1, len(case.sent) // PIECES)
            return [*(case.sent[at : at + step] for at in range(0, len(case.sent), step)), AFTER]


async def fault_of(port: int, watch: Watch, case: Case, way: Way) -> str | None:
    """What is wrong with what became of a case, or None."""
    heard = await converse(port, *pieces_of(case, way))
    seen = watch.seen.pop(heard.port, [])
    try:
        statuses = [each.status for each in answers(heard.stream)]
    except ValueError as error:
        return str(error)
    told = f"answers {statuses}, seen {[(each.method, each.path) for each in seen]}"
    was_after_seen = any(each.path == "/after" for each in seen)
    first = [200] if way is Way.BEHIND else []
    if not heard.is_closed:
        return f"not closed: {told}"
    if any(each.is_stowaway for each in seen):
        return f"a body was taken for a request: {told}"
    if any(status >= 500 for status in statuses):
        return f"5xx: {told}"
    if case.end is End.TAKEN or (case.end is End.REFUSED and was_after_seen):
        is_well = statuses[:-2] == first and statuses[-2] in case.statuses and statuses[-1] == 404 and was_after_seen
        return None if is_well else told
    # Who sends ahead of what is no message may lose an answer, and so may who is closed while it still writes.
    own = statuses[1:] if way is Way.BEHIND and statuses[:1] == first else statuses
    may_be_lost = way is not Way.WHOLE or SILENCE in case.statuses
    is_well = not was_after_seen and case.statuses.issuperset(own) and (len(own) == 1 or (may_be_lost and not own))
    return None if is_well else told


async def faults(cases: Iterable[Case], way: Way) -> dict[str, str]:
    """Send every case, each over a connection of its own. What is wrong, by name."""
    found: dict[str, str] = {}
    gate = asyncio.Semaphore(AT_ONCE)
    async with watched() as (api, watch):

        async def one(case: Case) -> None:
            async with gate:
                if (fault := await fault_of(api.port, watch, case, way)) is not None:
                    found[case.name] = fault

        async with asyncio.TaskGroup() as tasks:
            for case in cases:
                tasks.create_task(one(case))
    return found
