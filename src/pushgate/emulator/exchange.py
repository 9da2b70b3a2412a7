"""What the servers and the emulators say to each other: a request, an answer, and the rules of a connection."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta, Struct

MAX_BODY_BYTES = 256 * 1024
"""More of a body than this is counted but not kept. APNs and FCM take 4 to 5 KiB; the rest is for scripts."""
MAX_SETTING = 2**31 - 1

_log = logging.getLogger(__name__)


class Fault(StrEnum):
    """Ways to give no answer, or half of one."""

    NONE = "none"
    HANG = "hang"
    """The stream stays open for ever."""
    RESET = "reset"
    """RST_STREAM with the step's `error_code`: the request may have been processed (RFC 9113 §8.7)."""
    REFUSE = "refuse"
    """RST_STREAM with REFUSED_STREAM: the request was certainly not processed."""
    GOAWAY = "goaway"
    """GOAWAY whose last stream is below this one: not processed; streams below are answered, then the end."""
    DISCONNECT = "disconnect"
    """The TCP connection breaks."""
    RESET_MIDWAY = "reset-midway"
    """Status, headers and half of the body, then RST_STREAM with the step's `error_code`."""
    BREAK_MIDWAY = "break-midway"
    """Status, headers and half of the body, then the TCP connection breaks."""
    GARBAGE = "garbage"
    """Bytes that are no HTTP/2 frame in place of the answer, as of a server for something else."""
    GARBAGE_HEADERS = "garbage-headers"
    """The step's status in a header block that nobody can decode after it (RFC 7541)."""

    @property
    def begins(self) -> bool:
        """Whether the answer begins."""
        return self in (Fault.RESET_MIDWAY, Fault.BREAK_MIDWAY)


class Door(StrEnum):
    """What a new connection finds."""

    OPEN = "open"
    CLOSED = "closed"
    """Nobody listens: the connection is refused."""
    DEAF = "deaf"
    """TCP is accepted, TLS never answered."""
    MUTE = "mute"
    """TCP and TLS are accepted, then comes nothing."""
    GARBAGE = "garbage"
    """TCP and TLS are accepted, then come bytes that are no HTTP/2 frame."""


class ConnectionRules(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits and faults of whole connections."""

    max_streams: Annotated[int, Meta(ge=0, le=MAX_SETTING)] = 1000
    """SETTINGS_MAX_CONCURRENT_STREAMS, told to living connections at once. APNs: 1 until the first valid token."""
    window_open: bool = True
    """False: SETTINGS_INITIAL_WINDOW_SIZE is 0 and no stream gets more. No body comes until it is true again."""
    goaway_after: Annotated[int, Meta(ge=0)] = 0
    """After so many requests on a connection, or at its next: GOAWAY; open streams are still answered. 0: never."""
    goaway_reason: str = "Shutdown"
    """The `reason` in the JSON that APNs puts into a GOAWAY frame."""
    idle_s: Annotated[float, Meta(gt=0)] = 3600.0
    """A connection silent for so long gets GOAWAY with IdleTimeout."""
    max_connections: Annotated[int, Meta(ge=0)] = 2000
    """Connections above this are closed at once."""


class Peer(Struct, frozen=True):
    """Who is at the other end of a connection."""

    http2: bool
    certificate_der: bytes = b""
    """The client certificate that TLS has verified; empty without one."""


class Request(Struct, frozen=True):
    """One request. Header names are lower-case, pseudo-headers are left out."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    body_bytes: int
    """The length on the wire, also of what `MAX_BODY_BYTES` cut off."""

    def values(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value for known, value in self.headers if known == name]

    def value(self, name: str) -> str:
        """The first value of a header, or the empty string."""
        return next(iter(self.values(name)), "")


class Answer(Struct, frozen=True):
    """What happens to a request: an answer after `delay_s`, or a fault."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    delay_s: float = 0.0
    fault: Fault = Fault.NONE
    error_code: int = 2
    """For Fault.RESET (RFC 9113 §7); 2 is INTERNAL_ERROR."""


class Session(Protocol):
    """One connection as an emulator sees it."""

    @property
    def rules(self) -> ConnectionRules:
        """The rules as they are now."""
        ...

    @property
    def max_streams(self) -> int:
        """How many streams the peer may have open now; read again after every answer and every change of `rules`."""
        ...

    def answer(self, request: Request) -> Answer:
        """Decide. Takes no time and never raises for anything that a request holds."""
        ...


def json_answer(status: int, value: object, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """An answer with a compact JSON body."""
    body = msgspec.json.encode(value)
    return Answer(status=status, headers=(*headers, ("content-type", "application/json")), body=body)


def decide(session: Session, request: Request, *, count: Callable[[str], None]) -> Answer:
    """The session's answer; 500 where the emulator itself fails, so that a bug does not look like a dead provider."""
    try:
        return session.answer(request)
    except Exception:  # noqa: BLE001 - whatever it is, the connection goes on
        _log.exception("an emulator failed to answer")
        count("internal_errors")
        return Answer(status=500)
