"""Which NATS we use and how: servers, proof, TLS, names, as the configuration says it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Literal

from msgspec import Struct

from pushgate.errors import SpoolUnusable
from pushgate.spool.jetstream.login import Login

PORT = 4222


class Server(Struct, frozen=True):
    """One server of a cluster."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def of(cls, text: str) -> Server:
        """`host`, `host:port` or `[::1]:port`. Raises ValueError."""
        host, colon, port = text.rpartition(":")
        if not colon or host.count(":") != host.count("[") * host.count(":") or text.endswith("]"):
            host, port = text, str(PORT)
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError("not a server")
        return cls(host, int(port))


class Tls(Struct, frozen=True):
    """How the connection is protected."""

    when: Literal["no", "yes", "first"] = "no"
    """`first`: before the server has said anything (its `handshake_first`)."""
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Made anew for each connection: certificates are renewed. Raises `SpoolUnusable`."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ValueError) as fault:
            files = ", ".join(str(each) for each in (self.ca_file, self.cert_file, self.key_file) if each is not None)
            raise SpoolUnusable(f"TLS to NATS: {type(fault).__name__} in {files} -> see that they are PEM") from None
        return context


class Cluster(Struct, frozen=True):
    """See `config.spool_table` for what each means."""

    servers: tuple[Server, ...]
    login: Login = Login()
    tls: Tls = Tls()
    name: str = "pushgate"
    """How the stream is called, and how subjects and buckets begin."""
    replicas: int = 0
    """0: three where there are as many servers, else one."""
    manage: bool = True
    """Whether we make and change the stream and the buckets, or only look whether they are as they should be."""
    ack_wait_s: float = 30.0
    """After so long without a word of the worker that has it, a delivery is given to another one."""
    patience_s: float = 30.0
    """How long a start waits for NATS to be there."""
    request_s: float = 5.0
    """How long an answer of NATS may take."""
