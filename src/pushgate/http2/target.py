"""Where a connection goes, by which way, and whom it trusts."""

from __future__ import annotations

import ssl
from typing import Any

from msgspec import Struct


class Proxy(Struct, frozen=True):
    """An HTTP proxy that opens a tunnel (CONNECT, RFC 9110 §9.3.6). The way to the proxy itself is plain TCP."""

    host: str
    port: int
    authorization: str = ""
    """The value of Proxy-Authorization, where the proxy wants one."""

    def __repr__(self) -> str:
        return f"Proxy(host={self.host!r}, port={self.port})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("host", self.host), ("port", self.port)]


class Target(Struct, frozen=True):
    """A peer: host and port to connect to, and the TLS context (verification, ALPN h2, client certificate) to use."""

    host: str
    """A name or an IP address, the latter without brackets. The certificate must carry it."""
    port: int
    tls: ssl.SSLContext
    server_name: str = ""
    """The name the certificate must carry, where it differs from `host`."""
    proxy: Proxy | None = None

    @property
    def authority(self) -> str:
        """Host and port as the `:authority` header has them: an IPv6 address in brackets (RFC 3986 §3.2.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"
