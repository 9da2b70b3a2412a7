"""A provider that is as thin as can be: answers 200 to every request over TLS and HTTP/2, or nothing to none.

For benchmarks: it reads frames and no headers, and must not be what is measured. It tells how many requests it took,
and when those came whose token is 32 times "f" and a number in 32 hexadecimal digits.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import re
import ssl
import time
from multiprocessing.sharedctypes import Synchronized, SynchronizedArray
from typing import cast

import uvloop

MOST_ARRIVALS = 100_000
PREFACE_BYTES = 24
HEAD_BYTES = 9
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
ACK = END_STREAM = 1
ANSWER = b"\x00\x00\x01\x01\x05"
"""A HEADERS frame of one byte that ends stream and headers (RFC 9113 §6.2), but for its stream."""
STATUS_200 = b"\x88"
WIDE = (
    b"\x00\x00\x0c\x04\x00\x00\x00\x00\x00"  # SETTINGS: 1,000 streams, 1 MB for each
    b"\x00\x03\x00\x00\x03\xe8\x00\x04\x00\x10\x00\x00"
    b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\x00\x00\x00"  # WINDOW_UPDATE: nearly as much as can be
)
MORE = b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x10\x00\x00"
"""WINDOW_UPDATE of the connection by 1 MB."""
NUMBER = re.compile(rb"/3/device/f{32}([0-9a-f]{32})")


class Till:
    """What a provider and this process share."""

    def __init__(self) -> None:
        self.port = cast("Synchronized[int]", multiprocessing.Value(ctypes.c_int, 0))
        self.takes = cast("Synchronized[int]", multiprocessing.Value(ctypes.c_int, 1))
        self.count = cast("Synchronized[int]", multiprocessing.Value(ctypes.c_long, 0))
        self.arrivals = cast("SynchronizedArray[float]", multiprocessing.Array(ctypes.c_double, MOST_ARRIVALS))


class Peer(asyncio.Protocol):
    """As much of HTTP/2 as a provider needs that answers 200 to everything."""

    def __init__(self, till: Till) -> None:
        self._till = till
        self._left = bytearray()
        self._greeted = False
        self._owed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(WIDE)

    def data_received(self, data: bytes) -> None:
        left = self._left
        left += data
        if not self._greeted:
            if len(left) < PREFACE_BYTES:
                return
            del left[:PREFACE_BYTES]
            self._greeted = True
        out, at = [], 0
        while len(left) - at >= HEAD_BYTES:
            size = int.from_bytes(left[at : at + 3])
            end = at + HEAD_BYTES + size
            if len(left) < end:
                break
            out += self._frame(left[at + 3], left[at + 4], bytes(left[at + 5 : at + 9]), bytes(left[at + 9 : end]))
            at = end
        del left[:at]
        if out:
            self._transport.write(b"".join(out))

    def _frame(self, kind: int, flags: int, stream: bytes, body: bytes) -> list[bytes]:
        if kind == HEADERS and (found := NUMBER.search(body)) is not None:
            self._till.arrivals[int(found[1], 16)] = time.monotonic()
        if kind in (DATA, HEADERS):
            return self._taken(flags, stream, len(body))
        if kind == SETTINGS and not flags & ACK:
            return [b"\x00\x00\x00\x04\x01\x00\x00\x00\x00"]
        if kind == PING and not flags & ACK:
            return [b"\x00\x00\x08\x06\x01\x00\x00\x00\x00", body]
        return []

    def _taken(self, flags: int, stream: bytes, size: int) -> list[bytes]:
        out = []
        self._owed += size
        if self._owed > 1 << 20:
            self._owed -= 1 << 20
            out.append(MORE)
        if flags & END_STREAM and self._till.takes.value:
            self._till.count.value += 1
            out.append(ANSWER + stream + STATUS_200)
        return out


def provide(till: Till, certificate: str, key: str) -> None:
    """Be a provider until the process is ended."""

    async def serve() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols(["h2"])
        server = await asyncio.get_running_loop().create_server(lambda: Peer(till), "127.0.0.1", 0, ssl=context)
        till.port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    uvloop.run(serve())
