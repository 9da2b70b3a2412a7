"""A gateway that runs: does it take notifications, do all its processes? Where none runs: can it listen?"""

from __future__ import annotations

import errno
import re
import socket
from typing import Any, Literal

import httpx
import msgspec
from msgspec import Struct

from pushgate.config.listen import parse_listen
from pushgate.doctor.finding import Check, Finding, not_checked, ok, said, warning, wrong

ANSWER_WITHIN_S = 5.0
ABOUT = "management.listen"
IN_USE, DENIED = errno.EADDRINUSE, errno.EACCES
_CELLS = re.compile(r'^pushgate_cells\{state="(\w+)"\} ([0-9.]+)', re.M)
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
    try:
        async with httpx.AsyncClient(timeout=ANSWER_WITHIN_S, trust_env=False, transport=transport) as http:
            answer = await http.get(f"{_address(listen)}/health/ready")
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


async def processes(
    listen: str, wanted: int | Literal["auto"], *, token: bytes, transport: httpx.AsyncBaseTransport | None = None
) -> Finding:
    """What the processes of a gateway do that answers there. `token`: what its port wants to be shown."""
    about, shown = "api.processes", {"Authorization": f"Bearer {token.decode()}"} if token else {}
    try:
        async with httpx.AsyncClient(timeout=ANSWER_WITHIN_S, trust_env=False, transport=transport) as http:
            answer = await http.get(f"{_address(listen)}/metrics", headers=shown)
    except httpx.HTTPError:
        return not_checked(Check.GATEWAY, about, "the metrics do not answer", next_step="run it again")
    if answer.status_code != 200:
        seen = f"the metrics answer {answer.status_code}"
        return not_checked(Check.GATEWAY, about, seen, next_step="is management.token_file that of this gateway?")
    counts = {state: int(float(count)) for state, count in _CELLS.findall(answer.text)}
    return _judge_processes(about, counts, wanted)


def _judge_processes(about: str, counts: dict[str, int], wanted: int | Literal["auto"]) -> Finding:
    taking = counts.get("taking", 0)
    there = taking + counts.get("not_taking", 0) + counts.get("dead", 0)
    if not there or wanted not in ("auto", there):
        seen = f"{there or 1} run, and the configuration says {wanted}"
        return warning(Check.GATEWAY, about, seen, next_step="restart the gateway: nothing else changes their number")
    if taking < there:
        seen = f"{taking} of {there} take notifications"
        mend = "its log says why (cell): a process that has ended is started again by itself"
        return warning(Check.GATEWAY, about, seen, next_step=mend)
    return ok(Check.GATEWAY, about, f"{there} take notifications")


def _address(listen: str) -> str:
    host, _, port = listen.rpartition(":")
    return f"http://{_EVERYWHERE.get(host, host)}:{port}"


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
