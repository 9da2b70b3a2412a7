"""A provider as the peer of connections: its address, the proxy on the way, TLS (always verified), and the line."""

from __future__ import annotations

import asyncio
import base64
import math
import os
import secrets
import ssl
import tempfile
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import serialization

from pushgate.errors import Http2Error, NotSent
from pushgate.http2 import Call
from pushgate.http2.target import Proxy, Target
from pushgate.outcome import Cause, Deferred
from pushgate.provider.answer import CONNECT, RESET, TIMEOUT
from pushgate.provider.fields import split_url
from pushgate.provider.key_files import ClientCertificate, ProxyLogin

RENEW_EVERY_S = 30.0
"""Not more often: a peer that refuses all connections must not be flooded with them."""


def target(default_host: str, *, endpoint: str, proxy: ProxyLogin | None, tls: ssl.SSLContext) -> Target:
    """Where to connect: to `endpoint` (https://host[:port]) where there is one, else to `default_host`."""
    parts = split_url(endpoint or f"https://{default_host}", schemes=("https",))
    assert parts.hostname is not None
    return Target(parts.hostname, parts.port or 443, tls, proxy=_http2_proxy(proxy) if proxy else None)


def _http2_proxy(proxy: ProxyLogin) -> Proxy:
    login = base64.b64encode(proxy.login.encode()).decode()
    return Proxy(proxy.host, proxy.port, f"Basic {login}" if login else "")


def tls_context(*, ca_file: Path | None, certificate: ClientCertificate | None = None) -> ssl.SSLContext:
    """TLS 1.2 at least, HTTP/2 by ALPN. Trusts the CAs in `ca_file`, else the system's, and shows `certificate`.

    Chain and name are verified. No secrets of a connection are written, whatever SSLKEYLOGFILE says: that is why it is
    not `ssl.create_default_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    context.set_alpn_protocols(["h2"])
    if certificate is not None:
        _show(context, certificate)
    return context


def _show(context: ssl.SSLContext, certificate: ClientCertificate) -> None:
    """OpenSSL takes a key only from a file: it gets one in memory, sealed with a password that is used once."""
    password = secrets.token_hex(32)
    key_pem = certificate.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password.encode()),
    )
    with _private_file(certificate.chain_pem + key_pem) as path:
        context.load_cert_chain(path, password=password)


@contextmanager
def _private_file(content: bytes) -> Iterator[str]:
    """A file that only this process can open: in memory, or where the system has no such, a temporary one (0600)."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:  # pragma: no cover - not on Linux
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name


class Asker(Protocol):
    """What is needed of an `http2.Pool`."""

    def join(self, owner: Hashable) -> object:
        """Make an owner known, so that streams are kept free for it."""
        ...

    def leave(self, owner: Hashable) -> None:
        """This owner makes no more requests."""
        ...

    def waiting_of(self, owner: Hashable) -> int:
        """How many of this owner's requests wait for a free stream."""
        ...

    def send(self, call: Call, *, owner: Hashable) -> None:
        """Send it, and tell it the answer, NotSent or Unanswered."""
        ...

    def renew(self) -> None:
        """Take new connections for what waits and what comes; await what is in flight on the old ones."""
        ...

    async def close(self, timeout_s: float = 0.0) -> None:
        """Take no more requests, wait for those in flight, close every connection."""
        ...


class Line:
    """The line to a peer: a pool of connections, which are replaced when the peer wants other ones.

    Providers share it, each under its own name as an owner: one whose requests hang takes the line from no other.
    """

    def __init__(self, open_pool: Callable[[], Asker], *, peer: str = "") -> None:
        """`peer` is its address, for metrics."""
        self.peer = peer
        self._pool = open_pool()
        self._renewed_at = -math.inf

    @property
    def pool(self) -> Asker:
        """Its connections."""
        return self._pool

    def join(self, owner: Hashable) -> None:
        """Say that requests of this owner will come."""
        self._pool.join(owner)

    def leave(self, owner: Hashable) -> None:
        """Say that no more will."""
        self._pool.leave(owner)

    def waiting(self, owner: Hashable) -> int:
        """How many requests of this owner wait for a free stream."""
        return self._pool.waiting_of(owner)

    def send(self, call: Call, *, owner: Hashable) -> None:
        """Have it sent. Its end is told to it: `unanswered` says what an end without an answer means."""
        self._pool.send(call, owner=owner)

    def renew(self) -> None:
        """What waits or comes takes new connections; the old ones close when they have answered.

        No effect within `RENEW_EVERY_S` of the last time.
        """
        now = asyncio.get_running_loop().time()
        if now - self._renewed_at >= RENEW_EVERY_S:
            self._renewed_at = now
            self._pool.renew()

    async def close(self) -> None:
        """Close the connections, old and new. Nothing is in flight any more."""
        await self._pool.close()


def unanswered(call: Call, end: Http2Error) -> Deferred:
    """What it means that a call has no answer."""
    if isinstance(end, NotSent):
        return Deferred(Cause.CONNECTION, CONNECT)
    return Deferred(Cause.CONNECTION, TIMEOUT if asyncio.get_running_loop().time() >= call.deadline else RESET)
