"""What concerns several tables of a configuration: who may call with which `auth`, and ports that collide.

Works on the tables as they were written, so that a fault elsewhere hides none of these. What has the wrong type is
passed over: that is a fault already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

from pushgate.config.client_table import compared
from pushgate.config.listen import API_LISTEN, MANAGEMENT_LISTEN, parse_listen
from pushgate.errors import ConfigFault

IDENTITIES = ("san", "subject", "sha256", "spki_sha256")
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


def contradictions(tables: Mapping[str, Any]) -> Iterator[ConfigFault]:
    """Every rule that the tables break together."""
    yield from _ports(tables)
    yield from _processes(tables)
    listed = tables.get("clients")
    clients = [each if isinstance(each, dict) else {} for each in listed] if isinstance(listed, list) else []
    yield from _callers(_text(tables, "api", "auth", default="none"), clients)
    yield from _pins(tables.get("api"), clients)
    for key in ("name", *IDENTITIES):
        yield from _taken(key, clients)
    for position, client in enumerate(clients):
        yield from _identity(position, client)
        yield from _patterns(position, client, tables.get("apps"))


def _text(tables: Mapping[str, Any], table: str, key: str, *, default: str) -> str:
    """What stands at a key, or its default; empty for what is no text."""
    holder = tables.get(table, {})
    value = holder.get(key, default) if isinstance(holder, dict) else ""
    return value if isinstance(value, str) else ""


def _ports(tables: Mapping[str, Any]) -> Iterator[ConfigFault]:
    try:
        api = parse_listen(_text(tables, "api", "listen", default=API_LISTEN))
        management = parse_listen(_text(tables, "management", "listen", default=MANAGEMENT_LISTEN))
    except ValueError:
        return
    same_host = api.host == management.host or not {api.host, management.host}.isdisjoint(_EVERYWHERE)
    if api.port == management.port != 0 and same_host:
        yield ConfigFault("management.listen", "the same port as api.listen", "choose another port for one of them")


def _processes(tables: Mapping[str, Any]) -> Iterator[ConfigFault]:
    api = tables.get("api")
    processes = api.get("processes", 1) if isinstance(api, dict) else 1
    url = _text(tables, "spool", "url", default="")
    if processes != 1 and url.startswith("nats:"):
        mend = "take it out and start a gateway more for each core, each with ports of its own: they share the spool"
        yield ConfigFault("api.processes", "on NATS each gateway is one process", mend)
    if processes != 1 and url == "memory:":
        mend = 'use "sqlite:spool.db", or set api.processes = 1'
        yield ConfigFault("spool.url", "several processes have no memory in common", mend)


def _callers(auth: str, clients: Sequence[object]) -> Iterator[ConfigFault]:
    if auth == "none" and clients:
        mend = 'set auth = "mtls" or "proxy" in [api], or take the clients out'
        yield ConfigFault("clients", 'they do nothing: api.auth = "none" asks nobody who they are', mend)


def _pins(api: object, clients: Sequence[Mapping[str, Any]]) -> Iterator[ConfigFault]:
    """Certificates for servers are had by anybody who has a name in the DNS: only a fingerprint tells whose it is."""
    tls = api.get("tls") if isinstance(api, dict) else None
    if not isinstance(tls, dict) or tls.get("client_purpose") != "any":
        return
    mend = "name each caller's key or certificate by spki_sha256 or sha256"
    if not clients:
        yield ConfigFault("api.tls.client_purpose", '"any" lets in whoever has a certificate for a server', mend)
    for position, client in enumerate(clients):
        for key in ("san", "subject"):
            if client.get(key):
                fault = 'not enough with client_purpose = "any": servers of others have certificates too'
                yield ConfigFault(f"clients[{position}].{key}", fault, mend)


def _taken(key: str, clients: Sequence[Mapping[str, Any]]) -> Iterator[ConfigFault]:
    first: dict[str, int] = {}
    for position, client in enumerate(clients):
        written = client.get(key)
        if not isinstance(written, str) or not written:
            continue
        with suppress(ValueError):  # that is a fault already
            value = compared(key, written)
            if value in first:
                mend = "each client has a name and a certificate of its own"
                yield ConfigFault(f"clients[{position}].{key}", f"the same as clients[{first[value]}].{key}", mend)
            first.setdefault(value, position)


def _identity(position: int, client: Mapping[str, Any]) -> Iterator[ConfigFault]:
    given = [key for key in IDENTITIES if client.get(key, "") != ""]
    if len(given) != 1:
        fault = f"known by {' and '.join(given)}" if given else "nothing tells how its certificate is known"
        yield ConfigFault(f"clients[{position}]", fault, f"set exactly one of {', '.join(IDENTITIES)}")


def _patterns(position: int, client: Mapping[str, Any], apps: object) -> Iterator[ConfigFault]:
    patterns = client.get("apps", ["*"])
    if not isinstance(patterns, list) or not isinstance(apps, dict):
        return
    if not patterns:
        yield ConfigFault(
            f"clients[{position}].apps", "empty: it may send nothing", 'name apps, or write ["*"] for all'
        )
    for index, pattern in enumerate(patterns):
        if isinstance(pattern, str) and not any(fnmatchcase(name, pattern) for name in apps):
            fault = f"{pattern[:64]!a} matches no app that is configured"
            mend = "correct it (upper and lower case count), or take it out"
            yield ConfigFault(f"clients[{position}].apps[{index}]", fault, mend)
