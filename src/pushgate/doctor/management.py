"""A gateway that runs: does its management port answer, does it take notifications? Where none runs: can it listen?"""

from __future__ import annotations

import errno
import socket
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from pushgate.config.listen import parse_listen
from pushgate.doctor.finding import Check, Finding, not_checked, ok, said, wrong

ANSWER_WITHIN_S = 5.0
ABOUT = "management.listen"
IN_USE, DENIED = errno.EADDRINUSE, errno.EACCES
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - where such a port is reached


class Seen(Struct, frozen=True):
    """What was found, and whether a gateway has answered: one that takes nothing does so too."""

    finding: Finding
    is_gateway: bool = False


async def look(listen: str, *, transport: httpx.AsyncBaseTransport | None = None) -> Seen:
    """What `/health/ready` says. `transport`: another way than TCP."""
    start = "pushgate serve --config FILE starts one"
    if not listen:
        return Seen(not_checked(Check.GATEWAY, ABOUT, "off", next_step="set management.listen to see how a gateway is"))
    if not parse_listen(listen).port:
        seen = "port 0: another one after each start"
        mend = "the log of the gateway names it: see /health/ready there"
        return Seen(not_checked(Check.GATEWAY, ABOUT, seen, next_step=mend))
    host, _, port = listen.rpartition(":")
    url = f"http://{_EVERYWHERE.get(host, host)}:{port}/health/ready"
    try:
        async with httpx.AsyncClient(timeout=ANSWER_WITHIN_S, trust_env=False, transport=transport) as http:
            answer = await http.get(url)
    except httpx.ConnectError:
        seen = f"nobody listens at {listen}: no gateway runs"
        return Seen(not_checked(Check.GATEWAY, ABOUT, seen, next_step=start))
    except httpx.TimeoutException:
        mend = "is it overloaded or stopped (kill -STOP)? See its log"
        seen = f"{listen} does not answer within {ANSWER_WITHIN_S:g} s"
        return Seen(wrong(Check.GATEWAY, ABOUT, seen, next_step=mend))
    except httpx.HTTPError:
        return _stranger(listen)
    return _judge(listen, answer)


def _judge(listen: str, answer: httpx.Response) -> Seen:
    try:
        told = msgspec.json.decode(answer.content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _stranger(listen)
    match answer.status_code, told.get("status"):
        case 200, "ok":
            seen = f"a gateway runs at {listen} and takes notifications"
            return Seen(ok(Check.GATEWAY, ABOUT, seen), is_gateway=True)
        case 503, "not ready":
            seen = f"the gateway at {listen} takes nothing: {said(str(told.get('reason')))}"
            found = wrong(Check.GATEWAY, ABOUT, seen, next_step="mend what it says; its log says more")
            return Seen(found, is_gateway=True)
    return _stranger(listen)


def _stranger(listen: str) -> Seen:
    mend = "stop that program, or choose another management.listen"
    return Seen(wrong(Check.GATEWAY, ABOUT, f"another program listens at {listen}", next_step=mend))


def may_listen(listen: str) -> Finding:
    """Whether a gateway could take the port of the callers, where none runs. Takes it for a moment."""
    about, (host, port) = "api.listen", parse_listen(listen)
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except UnicodeError:
        return wrong(Check.LISTEN, about, f"{host} is no name of a host", next_step="name an address of this machine")
    except OSError as error:
        mend = {
            IN_USE: "stop the program that listens there, or choose another port",
            DENIED: "ports below 1024 need a right: AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit",
        }.get(error.errno or 0, "name an address of this machine, or 0.0.0.0 for all of them")
        return wrong(Check.LISTEN, about, f"{listen} cannot be had ({error.strerror})", next_step=mend)
    return ok(Check.LISTEN, about, f"{listen} can be had")
