"""Who may ask on the management port: whoever shows its token, where it has one.

About rejections only programs on this machine may ask: no browser, no stranger, nobody behind a proxy.
A page in a browser can send requests to any port of the machine it runs on. It cannot leave out `Origin` when it posts,
cannot send JSON to a foreign port without asking first, and the name that it was lured by stands in `Host` (DNS
rebinding). Who comes from elsewhere is known by the address.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pushgate.errors import RequestError

MAX_BODY_BYTES = 4096
BODY_WITHIN_S = 10.0

_PROXIES = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via"})
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:]+))(?::[0-9]{1,5})?")


class Guard:
    """Lets through who may ask on one port. Raises `RequestError`."""

    def __init__(self, address: str, *, token: bytes) -> None:
        """`address` is where the port listens: `host:port`, IPv6 in brackets."""
        self.token = token
        """What has to be shown; nothing where it is empty. May be replaced at any time."""
        host = _host_in(address)
        self._own_host = "" if host in ("0.0.0.0", "::") else host  # noqa: S104 - as a name it is nobody's

    def check_token(self, scope: Mapping[str, Any]) -> None:
        """Raises `RequestError` 401 where the token is not shown (RFC 6750 §2.1).

        Where there is none, 403 for a `Host` that is not ours: by another name a page in a browser could read it.
        """
        if not self.token:
            self._check_host(scope)
            return
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, credentials = shown[0].partition(b" ") if len(shown) == 1 else (b"", b"", b"")
        fits = hmac.compare_digest(credentials.strip(), self.token)
        if not (fits and scheme.lower() == b"bearer"):
            raise RequestError(401, "This port wants its token: send Authorization: Bearer, then what its file holds.")

    def check_reader(self, scope: Mapping[str, Any]) -> None:
        """For what a browser may show. Raises `RequestError` 401, or 403 with the reason.

        A browser cannot send Bearer by itself: the token is also taken as the password of Basic, with any user (RFC
        7617). Where there is no token, no page from elsewhere may ask by way of a browser on this machine.
        """
        if self.token:
            shown = [value for name, value in scope["headers"] if name == b"authorization"]
            if len(shown) != 1 or not hmac.compare_digest(_password_in(shown[0]), self.token):
                self.check_token(scope)
            return
        host = self._check_host(scope)
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if any(each.partition(b"//")[2] != host for each in origins):
            raise RequestError(403, "This came from a page of another origin.")

    def check(self, scope: Mapping[str, Any]) -> None:
        """Raises `RequestError` 403 with the reason."""
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        names = {name for name, _ in headers}
        if not _is_of_this_machine(scope):
            raise RequestError(403, "Only this machine may ask: run the command where the gateway runs.")
        if names & _PROXIES:
            raise RequestError(403, "This came through a proxy: only this machine may ask.")
        if b"origin" in names:
            raise RequestError(403, "This came from a page in a browser.")
        self._check_host(scope)

    async def json_body(self, scope: Mapping[str, Any], receive: Callable[[], Awaitable[Mapping[str, Any]]]) -> bytes:
        """The body of a request that says that it is JSON. Raises `RequestError` 400, 413 or 415."""
        types = [value for name, value in scope["headers"] if name == b"content-type"]
        if len(types) != 1 or types[0].partition(b";")[0].strip().lower() != b"application/json":
            raise RequestError(415, "The body must be JSON: send Content-Type: application/json.")
        body, more = b"", True
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                while more:
                    message = await receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > MAX_BODY_BYTES:
                        raise RequestError(413, f"The body is longer than {MAX_BODY_BYTES} bytes.")
        except TimeoutError:
            raise RequestError(408, "The body did not arrive in time.") from None
        return body

    def _check_host(self, scope: Mapping[str, Any]) -> bytes:
        """What stands in `Host`. Raises `RequestError` 403 where that is not this port."""
        hosts: list[bytes] = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or not self._is_ours(_host_in(hosts[0].decode("latin-1"))):
            raise RequestError(403, "The Host header must be that of this port: 127.0.0.1, [::1] or localhost.")
        return hosts[0]

    def _is_ours(self, host: str) -> bool:
        return bool(host) and (host in ("localhost", self._own_host) or _is_loopback(host))


def _is_of_this_machine(scope: Mapping[str, Any]) -> bool:
    """Whoever comes from a loopback address, or from the very address that was asked."""
    peer, own = scope.get("client"), scope.get("server")
    return peer is not None and (_is_loopback(peer[0]) or (own is not None and peer[0] == own[0]))


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _password_in(authorization: bytes) -> bytes:
    """The password of Basic credentials; empty where there is none."""
    scheme, _, credentials = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except ValueError:
        return b""


def _host_in(authority: str) -> str:
    """The host of `host:port`, in lower case; empty where there is none."""
    found = _HOST.fullmatch(authority)
    return "" if found is None else (found["v6"] or found["host"]).lower()
