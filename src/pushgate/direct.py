"""The short way of a usual request through uvicorn: its body in one piece, its 200 in one write.

uvicorn hands both over in messages, which are awaited and checked part by part, and writes head and body of an answer
apart. What is not quite usual is left to it: a connection that ends behind the answer, a caller that does not read, a
request behind which another one is in the queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def take_body(cycle: RequestResponseCycle, scope: Mapping[str, Any]) -> bytes | None:
    """See `scope.Direct`. `cycle` is the last that came on its connection, and all of its body has come."""
    if cycle.scope is not scope or cycle.disconnected:
        return None
    body, cycle.body = cycle.body, bytearray()
    return bytes(body)


def answer(cycle: RequestResponseCycle, scope: Mapping[str, Any], headers: bytes, body: bytes) -> bool:
    """See `scope.Direct`."""
    is_usual = cycle.scope is scope and cycle.keep_alive and not (cycle.response_started or cycle.disconnected)
    if not is_usual or cycle.flow.write_paused:
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    if not cycle.transport.is_closing():  # else nobody would get it
        cycle.transport.write(
            b"HTTP/1.1 200 OK\r\n%b%bcontent-length: %d\r\n\r\n%b"
            % (_lines(tuple(cycle.default_headers)), headers, len(body), body)
        )
    cycle.message_event.set()
    cycle.on_response()
    return True


@lru_cache(maxsize=4)
def _lines(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """The headers of every answer, which change with the second."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])
