"""A listening socket that serves an ASGI application: uvicorn, set up the way the gateway needs it.

Adds three things to uvicorn: the caller's certificate in the scope (`extensions.tls.client_cert_der`), JSON for what is
not HTTP, and no signal handlers of its own.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pushgate import wire

BACKLOG = 2048
KEEP_ALIVE_S = 75
"""How long an idle connection is kept: longer than the pause between two requests of a busy caller."""


class _Protocol(HttpToolsProtocol):
    """One connection of a caller."""

    _extensions: dict[str, Any] | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if (tls := transport.get_extra_info("ssl_object")) is not None:
            self._extensions = {"tls": {"client_cert_der": tls.getpeercert(binary_form=True)}}

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._extensions is not None:
            cast(dict[str, Any], self.scope)["extensions"] = self._extensions

    def send_400_response(self, msg: str) -> None:
        body = wire.encode_error(wire.INVALID_FORMAT, {"path": "$", "reason": "not a valid HTTP request"})
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listener:
    """Serves one application on one address."""

    def __init__(self, application: Any, *, address: str, tls: ssl.SSLContext | None = None) -> None:
        config = uvicorn.Config(
            application,
            http=_Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=5,
        )
        config.load()
        config.ssl = tls
        self._server = _Server(config)
        self._socket = bind(address)
        self.port: int = self._socket.getsockname()[1]

    async def serve(self) -> None:
        """Answer requests until `stop`."""
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Take no new connection, answer what was asked, then end `serve`."""
        self._server.should_exit = True


def bind(address: str) -> socket.socket:
    """A listening socket at `host:port` (IPv6 in brackets). Raises `OSError` when the address cannot be had."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Said to be TCP in so many words: asyncio sets TCP_NODELAY on no other, and an answer would wait 40 ms for an ACK.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, int(port)))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def server_tls(cert_file: Path, key_file: Path, client_ca_file: Path | None) -> ssl.SSLContext:
    """TLS for callers: 1.2 and 1.3 (E-Rezept offers 1.2 only). A client certificate is asked for, not demanded."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.load_cert_chain(cert_file, key_file)
    tls.set_alpn_protocols(["http/1.1"])
    if client_ca_file is not None:
        tls.load_verify_locations(client_ca_file)
        tls.verify_mode = ssl.CERT_OPTIONAL
    return tls
