"""`pushgate health`: does the gateway on this machine live, is it ready? For supervisors that run a command."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter

from pushgate import cli

DEFAULT_URL = "http://127.0.0.1:8081"
"""Where `management.listen` is when nobody has said anything."""
ANSWER_WITHIN_S = 2.0
MOST_BYTES = 4096
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where such a port is reached from here


def health(
    *,
    config: Annotated[
        Path | None, Parameter(help="The configuration (TOML) of the gateway: asks at its management.listen.")
    ] = None,
    url: Annotated[str, Parameter(help="The management port itself, in place of --config.")] = DEFAULT_URL,
    ready: Annotated[bool, Parameter(help="Ask whether it takes notifications, not only whether it lives.")] = False,
) -> int:
    """Ask a running gateway how it is.

    Exits 0 when it is well, and 1 when it is not or does not answer within 2 seconds. It needs no token, and of the
    configuration it reads the address alone: one with faults elsewhere makes no running gateway ill.
    """
    try:
        if config is not None and url != DEFAULT_URL:
            raise ValueError("--config and --url contradict each other -> give one of them")
        host, port = _address_in(url) if config is None else _configured(config)
    except ValueError as error:
        fault, _, mend = str(error).partition(" -> ")
        print(f"cannot ask: {fault}\n  -> {mend}", file=sys.stderr)
        return cli.USAGE
    trouble = _trouble(host, port, "/health/ready" if ready else "/health/live")
    if trouble:
        print(trouble, file=sys.stderr)
        return cli.FAILED
    print("ready" if ready else "live")
    return cli.DONE


def _address_in(url: str) -> tuple[str, int]:
    """Raises ValueError: what is wrong -> how to mend it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme != "http" or not host or not port or parts.path.strip("/"):
        raise ValueError(f"--url is no address of a management port -> write it like {DEFAULT_URL}")
    return _HERE.get(host, host), port


def _configured(config: Path) -> tuple[str, int]:
    """Where the gateway with this configuration listens. Raises ValueError: what is wrong -> how to mend it."""
    from pushgate.config import Settings, environment  # takes longer than all the rest: only who names a file pays
    from pushgate.config.listen import MANAGEMENT_LISTEN, parse_listen

    try:
        tables = tomllib.loads(config.read_bytes().decode())
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else "not TOML"
        raise ValueError(f"{config}: {told} -> pushgate check-config --config {config}") from error
    environment.overlay(tables, os.environ, Settings)
    table = tables.get("management", {})
    listen = table.get("listen", MANAGEMENT_LISTEN) if isinstance(table, dict) else None
    if not isinstance(listen, str) or not listen:
        raise ValueError("management.listen is off -> give it an address, 127.0.0.1:8081 for example")
    address = parse_listen(listen)
    if not address.port:
        raise ValueError("management.listen takes any port -> choose one, or give --url")
    return _HERE.get(address.host, address.host), address.port


def _trouble(host: str, port: int, path: str) -> str:
    """What is wrong with the gateway; empty where nothing is."""
    connection = HTTPConnection(host, port, timeout=ANSWER_WITHIN_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        status, body = answer.status, answer.read(MOST_BYTES)
    except (OSError, HTTPException) as error:
        told = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        return f"no answer from port {port} of {host}: {told}"
    finally:
        connection.close()
    return "" if status == 200 else f"not well: {status} {_reason(body)}".rstrip()


def _reason(body: bytes) -> str:
    """What the page says, in characters that a terminal can be shown."""
    try:
        reason = str(json.loads(body)["reason"])
    except (ValueError, KeyError, TypeError):
        return ""
    return "".join(each if each.isprintable() else "?" for each in reason)
