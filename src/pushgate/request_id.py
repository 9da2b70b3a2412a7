"""The id of a request: the caller's own where it sends a good one, else ours. Every answer carries it.

`X-Request-Id` is a custom of HTTP services, `traceparent` that of W3C Trace Context. Whoever answers a request finds
what is known of it in `CURRENT`: for the lines that are logged meanwhile, and for the journal.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from itertools import count

from msgspec import Struct

HEADER = b"x-request-id"

_WELL_FORMED = re.compile(rb"(?!.*[0-9A-Fa-f]{64})[A-Za-z0-9._-]{1,128}").fullmatch
"""What is taken from a caller. So many hexadecimal digits anywhere in it could be the pushkey of a phone."""
_TRACE = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


class Entry(Struct):
    """One request on its way through the gateway: its id, who sent it, what it became."""

    request_id: bytes
    caller: str = ""
    traceparent: bytes = b""
    status: int = 0
    at: float = 0.0
    """When it was answered, in unix seconds."""
    ids: Sequence[str] = ()
    """Of its deliveries, with the lane of each beside it."""
    lanes: Sequence[str] = ()
    repeats: int = 0
    """How many of them were left out as repeats."""

    @property
    def trace_id(self) -> str:
        """The id of the trace that it is part of, or nothing (W3C Trace Context §3.2)."""
        found = _TRACE.fullmatch(self.traceparent)
        return "" if found is None or self.traceparent[:2] == b"ff" else found[1].decode()

    @property
    def trace_parent(self) -> tuple[int, int, bool] | None:
        """The caller's trace, its span in that, and whether it records it (W3C Trace Context §3.2.2)."""
        found = _TRACE.fullmatch(self.traceparent)
        if found is None or self.traceparent[:2] == b"ff":
            return None
        return int(found[1], 16), int(found[2], 16), bool(int(found[3], 16) & 1)


CURRENT: ContextVar[Entry | None] = ContextVar("CURRENT", default=None)
"""The request that is being answered."""


class RequestIds:
    """Gives every request its id. Ours begin with what tells this process from all others."""

    def __init__(self, *, entropy: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._ours = entropy(6).hex().encode() + b"-%x"
        self._next = count(1).__next__

    def begin(self, headers: Iterable[tuple[bytes, bytes]]) -> Entry:
        """Make the request with these headers the current one. Names are in lower case."""
        request_id = traceparent = b""
        for name, value in headers:
            if name == b"x-request-id":
                request_id = value
            elif name == b"traceparent":
                traceparent = value
        if not request_id or _WELL_FORMED(request_id) is None:
            request_id = self._ours % self._next()
        entry = Entry(request_id, "", traceparent)
        CURRENT.set(entry)
        return entry
