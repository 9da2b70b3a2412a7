"""A listening socket that serves an ASGI application: uvicorn, set up the way the gateway needs it.

Adds to uvicorn what stands between it and callers that nobody knows yet: limits of bytes and of time for the head of a
request, of requests sent ahead and (`door`, `connections`) of connections and handshakes; JSON for what is not HTTP;
`Upgrade` is ignored (RFC 9110 §7.8: a server may) instead of losing the body; a target in absolute form says itself
whose it is. The caller's certificate stands in the scope: `extensions.tls.client_cert_der`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
from collections.abc import Iterator, Mapping
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from pushgate import direct, wire
from pushgate.connections import Connections, most_connections, nobody
from pushgate.door import Count, Door
from pushgate.scope import DIRECT
from pushgate.tls import Tls

BACKLOG = 2048
KEEP_ALIVE_S = 75
"""How long an idle connection is kept: longer than the pause between two requests of a busy caller."""
HEAD_WITHIN_S = 10.0
"""So soon the head of a request must be there: after connecting, or after its first byte."""
MAX_HEAD_BYTES = 32 * 1024
MAX_SENT_AHEAD = 16
"""Requests that may wait for the answer of the one before them (pipelining)."""

SENT_WITHIN_S = 30.0
"""So soon a caller must take what it is owed: what the system does not hold of it waits in memory."""

_VERSIONS = ("1.0", "1.1")
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
"""What may stand in `Host` (RFC 9110 §7.2): no blank, no slash, no login."""
_ABSOLUTE = re.compile(rb"(?i)https?://([^/?#]+)(.*)", re.DOTALL)
_UPGRADE = re.compile(rb"(?i)\r\n(upgrade|http2-settings):[^\r\n]*")
_METHODS = "GET, HEAD, POST"
_NO_TUNNEL = wire.encode_error(f"There is no tunnel here: this port takes {_METHODS} only.", {"allow": _METHODS})


class _Protocol(HttpToolsProtocol):
    """One connection of a caller."""

    _extensions: dict[str, Any] | None = None
    _in_head = True
    _head = b""
    """The beginning of a head that the parser has not seen: it gets heads whole."""
    _has_begun = False
    """Whether the parser has seen the beginning of a message: also of a head that came behind another request."""
    _sent_ahead_bytes = 0
    _bodiless_bytes = 0
    """What came inside a message and was no body: trailers, sizes of chunks."""
    _head_timer: asyncio.TimerHandle | None = None
    _sent_timer: asyncio.TimerHandle | None = None
    _idle_timer: asyncio.TimerHandle | None = None
    _answered_at = 0.0
    _host = b""
    """What was last found to be well-formed."""
    _is_tunnel = False
    """Whether it wanted one: it was refused, and what follows is nobody's."""
    home: _Server
    accepted_with: Tls | None = None
    """What let the caller in."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if (tls := transport.get_extra_info("ssl_object")) is not None:
            self._extensions = {"tls": {"client_cert_der": tls.getpeercert(binary_form=True)}}
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        self._is_read_again()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self.home.places.leave(self)
        super().connection_lost(exc)
        if self.scope is not None:
            cast(dict[str, Any], self.scope).pop(DIRECT, None)  # each would keep the other

    def data_received(self, data: bytes) -> None:
        if self._in_head and not self._has_begun:
            data = (self._head + data).lstrip(b"\r\n")
            end = data.find(b"\r\n\r\n")
            if end > MAX_HEAD_BYTES or (end < 0 and len(data) > MAX_HEAD_BYTES):
                self.send_400_response("the head of the request is too large")
                return
            if end < 0 and (not data or data[:1].isalpha()):
                self._head = data
                if data:
                    self._expect_head()
                return
            self._head = b""
            if end >= 0 and b"upgrade" in data[:end].lower():
                data = _UPGRADE.sub(b"", data[:end]) + data[end:]
        self._bodiless_bytes += len(data)
        super().data_received(data)
        if self._in_head:
            self._bodiless_bytes = 0
        elif self._bodiless_bytes > 2 * MAX_HEAD_BYTES:
            self.transport.abort()
        if not (self._in_head and self._has_begun):
            self._sent_ahead_bytes = 0
            return
        self._expect_head()
        self._sent_ahead_bytes += len(data)
        if self._sent_ahead_bytes > 2 * MAX_HEAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._has_begun = True
        super().on_message_begin()
        if self._extensions is not None:
            cast(dict[str, Any], self.scope)["extensions"] = self._extensions

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._sent_timer is None:
            self._sent_timer = self.loop.call_later(SENT_WITHIN_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_read_again()

    @property
    def rests(self) -> bool:
        """Whether it is between two requests, and its caller reads its answers."""
        cycle = cast(RequestResponseCycle | None, self.cycle)
        is_answered = cycle is not None and cycle.response_complete and not self.pipeline
        return is_answered and self._in_head and self._sent_timer is None

    def on_headers_complete(self) -> None:
        self._require_http_1()
        self._in_head = False
        self._head_is_here()
        self.home.places.settle(self)
        if self.parser.get_method() == b"CONNECT":
            self._is_tunnel = True
            self._refuse(b"405 Method Not Allowed", _NO_TUNNEL, b"allow: %b\r\n" % _METHODS.encode())
            return
        if not self.url.startswith(b"/"):
            self._take_authority()
        super().on_headers_complete()
        self.headers = []  # the scope has them: trailers go with these
        if self.accepted_with is not self.home.tls and self.cycle is not None:
            self.cycle.keep_alive = False  # not closed before: a request might have been on its way
        if len(self.pipeline) > MAX_SENT_AHEAD or self.parser.should_upgrade():
            self.transport.abort()  # an Upgrade that came behind another request: the caller has to ask again

    def on_body(self, body: bytes) -> None:
        self._bodiless_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head, self._has_begun = True, False
        if not self._is_tunnel:
            cast(dict[str, Any], self.scope)[DIRECT] = self
            super().on_message_complete()

    def take_body(self, scope: Mapping[str, Any]) -> bytes | None:
        """See `scope.Direct`."""
        return direct.take_body(self.cycle, scope)

    def answer(self, scope: Mapping[str, Any], headers: bytes, body: bytes) -> bool:
        """See `scope.Direct`."""
        return direct.answer(self.cycle, scope, headers, body)

    def on_response_complete(self) -> None:
        """As uvicorn does it, but with one timer for all pauses of a connection: a timer costs as much as a parser."""
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._answered_at = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(KEEP_ALIVE_S, self._end_if_idle)

    def _end_if_idle(self) -> None:
        self._idle_timer = None
        cycle = cast(RequestResponseCycle | None, self.cycle)
        is_busy = bool(self.pipeline) or cycle is None or not cycle.response_complete
        left_s = KEEP_ALIVE_S if is_busy else self._answered_at + KEEP_ALIVE_S - self.loop.time()
        if left_s > 0:
            self._idle_timer = self.loop.call_later(left_s, self._end_if_idle)
        elif not self.transport.is_closing():
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Nobody is told how to install WebSockets."""

    def send_400_response(self, msg: str) -> None:
        reason = msg if msg.startswith("the ") else "not a valid HTTP request"
        self._refuse(b"400 Bad Request", wire.encode_error(wire.INVALID_FORMAT, {"path": "$", "reason": reason}))

    def _refuse(self, status: bytes, body: bytes, more: bytes = b"") -> None:
        """Answer and close; an answer that is owed to a request before this one comes first, and is the last."""
        self._head_is_here()
        if self.pipeline:
            self.transport.abort()  # an answer now would be taken for that of a request before it
            return
        before = cast(RequestResponseCycle | None, self.cycle)
        if before is not None and before.response_started and not before.response_complete:
            self.transport.close()  # it was refused, and has its answer: a second one would be for no request
            return
        if before is not None and not before.response_complete and not before.more_body:
            before.keep_alive = False  # the request before it is valid: it gets its answer, then we close
            self.flow.pause_reading()
            return
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\nconnection: close\r\n%b"
            b"content-length: %d\r\n\r\n%b" % (status, more, len(body), body)
        )
        self.transport.close()

    def _take_authority(self) -> None:
        """What stands in a target in absolute form counts, and no `Host` (RFC 9112 §3.2.2).

        Raises `ValueError`, or that of the parser, for what is no such target.
        """
        if self.url == b"*":
            return
        httptools.parse_url(self.url)
        found = _ABSOLUTE.fullmatch(self.url)
        if found is None or _HOST.fullmatch(found[1]) is None:
            raise ValueError("not a target")
        self.headers[:] = [(b"host", found[1]), *(each for each in self.headers if each[0] != b"host")]
        self.url = found[2] if found[2].startswith(b"/") else b"/" + found[2]

    def _require_http_1(self) -> None:
        """Raises `ValueError` for what is no request of HTTP/1.1 or 1.0: the parser takes more (RFC 9112 §3.2)."""
        version = self.parser.get_http_version()
        hosts = [value for name, value in self.headers if name == b"host"]
        if version not in _VERSIONS or len(hosts) > 1 or (not hosts and version == "1.1"):
            raise ValueError("not HTTP/1")
        if hosts and hosts[0] != self._host:
            if _HOST.fullmatch(hosts[0]) is None:
                raise ValueError("not a host")
            self._host = hosts[0]
        if version == "1.0":
            self.expect_100_continue = False  # RFC 9110 §10.1.1

    def _is_read_again(self) -> None:
        if self._sent_timer is not None:
            self._sent_timer.cancel()
            self._sent_timer = None

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_WITHIN_S, self._head_is_late)

    def _head_is_late(self) -> None:
        """Close, unless an answer is still owed on this connection: then we may have stopped reading ourselves."""
        self._head_timer = None
        cycle = cast(RequestResponseCycle | None, self.cycle)
        if self.pipeline or (cycle is not None and not cycle.response_complete):
            self._expect_head()
        else:
            self.transport.abort()

    def _head_is_here(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, *, tls: Tls | None, count: Count, places: Connections) -> None:
        super().__init__(config)
        self.tls = tls
        self.places = places
        self._count = count
        self._door: Door | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections from the socket by a door of our own."""
        await self.lifespan.startup()
        assert sockets is not None
        (listening,) = sockets
        self._door = Door(listening, tls=self.tls, connections=self.places, meet=self._meet, count=self._count)
        self._door.open()
        self.servers = [cast(asyncio.Server, self._door)]  # it is closed, and waited for, like one
        self.started = True

    def change_tls(self, tls: Tls) -> None:
        """New connections get this context; those that are open are closed behind their next answer."""
        self.tls = tls
        if self._door is not None:
            self._door.tls = tls

    def _meet(self, tls: Tls | None) -> asyncio.Protocol:
        made = _Protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        made.accepted_with, made.home = tls, self
        return made


class Listener:
    """Serves one application on one address."""

    def __init__(
        self,
        application: Any,
        *,
        address: str,
        tls: Tls | None = None,
        count: Count = lambda event: None,
        most: int | None = None,
        idle_make_way: bool = False,
        bound: socket.socket | None = None,
    ) -> None:
        """`count` is told what becomes of connections (`metrics.CONNECTIONS`), `most` is how many there may be.

        With `idle_make_way` one that is between two requests is ended for another one that comes when all places are
        taken: for a port where whoever asks is not known. `bound` is a socket that has the address already, and listens
        as soon as it is served.
        """
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
        places = Connections(most_connections() if most is None else most, rests=_rests if idle_make_way else nobody)
        self._server = _Server(config, tls=tls, count=count, places=places)
        self._socket = bind(address) if bound is None else bound
        self.port: int = self._socket.getsockname()[1]

    async def serve(self) -> None:
        """Answer requests until `stop`."""
        self._socket.listen(BACKLOG)  # it may do so already
        await self._server.serve(sockets=[self._socket])

    def change_tls(self, tls: Tls) -> None:
        """Go on with another context, without losing a request. Connections of before end with their next answer."""
        self._server.change_tls(tls)

    def stop(self) -> None:
        """Take no new connection, answer what was asked, then end `serve`."""
        self._server.should_exit = True


def _rests(who: object) -> bool:
    return isinstance(who, _Protocol) and who.rests


def bind(address: str, *, listens: bool = True) -> socket.socket:
    """A socket at `host:port` (IPv6 in brackets), which listens. Raises `OSError`, which says how to mend it."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Said to be TCP in so many words: asyncio sets TCP_NODELAY on no other, and an answer would wait 40 ms for an ACK.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, int(port)))
        if listens:
            listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        mend = "stop what listens there, or choose another" if error.errno == errno.EADDRINUSE else "choose another"
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror} -> {mend} port or address") from error
    return listening
