"""The configuration as a text that explains itself: what was chosen, and where the rest stands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pushgate.setup.authority import FOLDER
from pushgate.setup.plan import Plan

_HEAD = """\
# A Push Gateway between services and Apple or Google. Here stands what was chosen; every other key has its default.
# All keys with their meaning: docs/reference/configuration.md, config.default.toml. Paths are relative to this file.
# After a change: "pushgate check-config" finds every fault, "pushgate doctor" asks the providers too.

# The port that callers use.
[api]
"""
_MUTUAL = """\
# Callers prove who they are by a client certificate: [[clients]] below. More: docs/how-to/who-may-call.md
auth = "mtls"
"""
_OPEN = """\
# Anybody who reaches the port can send. That is for trials on this machine: with auth = "mtls" or "proxy" callers prove
# who they are, see docs/how-to/who-may-call.md
auth = "none"
"""
_SPOOL = """\
# Where deliveries wait until Apple or Google has taken them. Put it on a disk that you trust, never on a network share.
# encryption_key_file encrypts what is in it: "openssl rand -hex 32" makes a key.
[spool]
url = "sqlite:spool.db"

# Health and metrics, for this machine only: /health/ready, /metrics.
[management]
listen = "127.0.0.1:8081"
"""
_ABOUT = {
    "apns": "# An app on Apple's platforms. The name in quotes is the app_id that callers send.\n"
    '# environment "sandbox" is for builds from Xcode: a wrong one makes every pushkey look dead.',
    "fcm": "# An app on Android. The name in quotes is the app_id that callers send.",
}


def configuration(plan: Plan, *, folder: Path) -> str:
    """The whole text for a file in this folder. Files below the folder are written relative to it."""
    return "\n".join(_parts(plan, folder))


def _parts(plan: Plan, folder: Path) -> Iterator[str]:
    yield f"{_HEAD}listen = {value(plan.listen)}\n{_MUTUAL if plan.is_mutual else _OPEN}"
    if plan.is_mutual:
        yield _tls(plan, folder)
    yield _SPOOL
    for app_id, app in plan.apps.items():
        yield _app(app_id, app, folder)
    for each in plan.callers if plan.is_mutual else ():
        yield _caller(each)


def _tls(plan: Plan, folder: Path) -> str:
    if plan.dev_ca:
        files = {"cert_file": "server.pem", "key_file": "server.key", "client_ca_file": "ca.pem"}
        told = f"# A development CA ({FOLDER}/ca.key is its key): replace it before anybody relies on this gateway.\n"
        pairs = {key: f"{FOLDER}/{name}" for key, name in files.items()}
    else:
        told = "# The server's certificate with its chain, its key, and who issues to callers.\n"
        given = {"cert_file": plan.cert_file, "key_file": plan.key_file, "client_ca_file": plan.client_ca_file}
        pairs = {key: str(path) for key, path in given.items()}
    return f"{told}[api.tls]\n" + _lines(pairs, folder)


def _caller(name: str) -> str:
    told = "# Who may call: whoever shows a certificate with this name in it, of an authority in client_ca_file."
    return f"{told}\n[[clients]]\nname = {value(name)}\nsan = {value(name)}\n"


def _app(app_id: str, app: Mapping[str, Any], folder: Path) -> str:
    return f"{_ABOUT[app['provider']]}\n[apps.{value(app_id)}]\n{_lines(app, folder)}"


def _lines(table: Mapping[str, Any], folder: Path) -> str:
    return "".join(
        f"{key} = {value(near(each, folder) if key.endswith('_file') else each)}\n" for key, each in table.items()
    )


def near(path: str, folder: Path) -> str:
    """A path as it is written: relative where the file lies below the folder, else absolute."""
    if path.startswith(f"{FOLDER}/"):
        return path
    whole = Path(path).absolute()
    base = folder.absolute()
    return str(whole.relative_to(base)) if whole.is_relative_to(base) else str(whole)


def value(each: Any) -> str:
    """A value in TOML: texts, numbers, truth, lists and tables of them."""
    match each:
        case bool():
            return "true" if each else "false"
        case str():
            return json.dumps(each, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(map(value, each))}]"
        case dict():
            return f"{{ {', '.join(f'{value(key)} = {value(inner)}' for key, inner in each.items())} }}"
    return repr(each)
