"""Bytes that no server should send."""

from __future__ import annotations

from hyperframe.frame import HeadersFrame

NO_FRAMES = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\nno\n"
"""The answer of a server that takes HTTP/2 for a broken HTTP/1.1 request."""

NO_HTTP1 = b"\x00\x00\x12\x04\x00\x00\x00\x00\x00 not what you asked for\r\n\r\n"
"""What is no HTTP/1.1 either."""

_STATUS = b"\x08\x03"
"""RFC 7541 §6.2.2: a literal with the name of entry 8, `:status`, and a value of three bytes."""
_BEYOND_ALL_TABLES = b"\xff" * 6 + b"\x00"
"""§6.1: an entry of a number that no table reaches."""


def broken_headers(stream_id: int, status: int) -> bytes:
    """A HEADERS frame that ends the stream: the status can be read, what follows can not."""
    block = _STATUS + str(status).encode() + _BEYOND_ALL_TABLES
    return HeadersFrame(stream_id, data=block, flags=["END_HEADERS", "END_STREAM"]).serialize()
