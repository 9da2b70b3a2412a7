"""A `requests` session that no endpoint can hold up or fill: one deadline, so many bytes, nothing unpacked.

A timeout of `requests` begins anew with each byte that arrives and counts none of them. The environment has no say:
neither in the way (HTTPS_PROXY), nor in the trust (REQUESTS_CA_BUNDLE), nor in a login (.netrc), and SSLKEYLOGFILE
gets no secrets.
"""

from __future__ import annotations

import functools
import io
import socket
import ssl
import time
from http.client import HTTPResponse
from typing import Any

import requests

READ_TIMEOUT_S = 5
"""Of one read."""


def bounded_session(*, deadline_s: float, max_bytes: int, tls: ssl.SSLContext) -> requests.Session:
    """A session for one fetch, which ends by the deadline and reads no more than that many bytes, heads included.

    `tls` says whom to trust, alone: what `requests` calls `verify` changes nothing.
    """
    session = requests.Session()
    session.trust_env = False
    adapter = _BoundedAdapter(deadline_s, max_bytes, tls)
    session.mount("https://", adapter)
    session.mount("http://", adapter)  # of a metadata server
    session.headers["Accept-Encoding"] = "identity"
    return session


class _ExcessError(Exception):
    """The endpoint says more than it may. Not an OSError: it was reached."""


class _BoundedAdapter(requests.adapters.HTTPAdapter):
    """Meters all that comes from the network. A timeout alone begins anew with each byte, and counts none."""

    def __init__(self, deadline_s: float, max_bytes: int, tls: ssl.SSLContext) -> None:
        super().__init__()
        self._deadline = time.monotonic() + deadline_s
        self._room_bytes = max_bytes
        self._tls = tls

    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        """The answer to one request. Raises what `requests` raises, and _ExcessError."""
        self._left_s()
        response = super().send(request, *args, **more)
        if response.headers.get("content-encoding", "identity") != "identity":
            response.close()
            raise _ExcessError("an answer that unpacks to any length")
        return response

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Our TLS in place of what `requests` would make of its arguments."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"ssl_context": self._tls}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing is added to what our TLS trusts."""

    def get_connection_with_tls_context(self, *args: Any, **more: Any) -> Any:
        """A pool of `requests`, whose connections read through the meter: the answer of a proxy too."""
        pool: Any = super().get_connection_with_tls_context(*args, **more)
        make = type(pool).ConnectionCls

        def connection(**how: Any) -> Any:
            made = make(**how)
            made.response_class = functools.partial(_MeteredResponse, adapter=self)
            return made

        pool.ConnectionCls = connection
        return pool

    def read(self, plain: socket.socket, file: io.RawIOBase, into: memoryview) -> int | None:
        """Read once, as much as there is room and time for. Raises requests.Timeout and _ExcessError."""
        if self._room_bytes <= 0:
            raise _ExcessError("more bytes than a token needs")
        plain.settimeout(min(self._left_s(), READ_TIMEOUT_S))
        count: int | None = file.readinto(into[: self._room_bytes])
        self._room_bytes -= count or 0
        return count

    def _left_s(self) -> float:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise requests.exceptions.Timeout
        return left_s


class _MeteredResponse(HTTPResponse):
    """What http.client makes of an answer, with the meter between it and the socket."""

    def __init__(self, sock: socket.socket, *args: Any, adapter: _BoundedAdapter, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp = io.BufferedReader(_MeteredFile(sock, self.fp.detach(), adapter))


class _MeteredFile(io.RawIOBase):
    def __init__(self, plain: socket.socket, file: io.RawIOBase, adapter: _BoundedAdapter) -> None:
        self._plain = plain
        self._file = file
        self._adapter = adapter

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int | None:
        return self._adapter.read(self._plain, self._file, memoryview(into))

    def close(self) -> None:
        self._file.close()
        super().close()
