"""Writes all files of a plan at once: first aside, where the configuration is loaded, then into place."""

from __future__ import annotations

import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from pushgate.config import load
from pushgate.errors import ConfigError, ConfigFault
from pushgate.setup import authority
from pushgate.setup.found import Unusable
from pushgate.setup.plan import Plan
from pushgate.setup.text import configuration

CONFIGURATION = "pushgate.toml"
SECRET, PUBLIC = 0o600, 0o644


class Written(Struct, frozen=True):
    """What is there now."""

    config_file: Path
    files: tuple[Path, ...]
    """All of them, the configuration first."""


def in_the_way(folder: Path, plan: Plan | None = None) -> list[Path]:
    """Files that are there and would be overwritten; before there is a plan, whether the configuration is."""
    names = [CONFIGURATION]
    if plan is not None and plan.dev_ca:
        names += [f"{authority.FOLDER}/{each}" for each in ("ca.pem", "ca.key", "server.pem", "server.key")]
        names += [f"{authority.FOLDER}/caller-{each}.{end}" for each in plan.callers for end in ("pem", "key")]
    return [folder / each for each in names if os.path.lexists(folder / each)]


def write(folder: Path, plan: Plan, *, now: datetime) -> Written:
    """Write the plan's files into the folder, which is made if need be. What is in the way is overwritten.

    Raises `ConfigError` where the configuration has faults, `Unusable`, and OSError; then nothing was written.
    """
    try:
        made = authority.make(hosts=_hosts(plan), callers=plan.callers, now=now) if plan.dev_ca else {}
    except ValueError as error:
        raise Unusable("a name that cannot stand in a certificate -> give --host and --caller in ASCII") from error
    files = {CONFIGURATION: configuration(plan, folder=folder).encode(), **made}
    is_new = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".pushgate-init-", dir=folder))
    try:
        for name, content in files.items():
            _put(aside / name, content)
        _link(aside, folder, files)
        _check(aside, folder)
        for name in files:
            (folder / name).parent.mkdir(mode=0o700, exist_ok=True)
            (aside / name).replace(folder / name)
        is_new = False
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if is_new:
            folder.rmdir()
    return Written(folder / CONFIGURATION, tuple(folder / each for each in files))


def _check(aside: Path, folder: Path) -> None:
    """Load it. Raises `ConfigError`, with paths as they will be."""
    try:
        load(aside / CONFIGURATION, environ={})
    except ConfigError as error:
        here, there = str(aside.absolute()), str(folder.absolute())
        faults = [(each.path, each.fault, each.mend) for each in error.faults]
        raise ConfigError([ConfigFault(*(text.replace(here, there) for text in each)) for each in faults]) from error


def _hosts(plan: Plan) -> list[str]:
    """The names of the gateway: those given, and where it listens, unless that is everywhere."""
    host = plan.listen.rpartition(":")[0].strip("[]")
    return [*plan.hosts, *([host] if host not in ("0.0.0.0", "::", "") else [])]  # noqa: S104 - compared with


def _put(path: Path, content: bytes) -> None:
    """A new file, which only its owner can read where it is a key."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    mode = PUBLIC if path.suffix in (".pem", ".toml") else SECRET
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)


def _link(aside: Path, folder: Path, files: Mapping[str, bytes]) -> None:
    """Make what the configuration names relative to itself be found from aside too."""
    for name in _named(tomllib.loads(files[CONFIGURATION].decode())):
        if name not in files and not Path(name).is_absolute():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).symlink_to((folder / name).absolute())


def _named(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _named(value)
        elif key.endswith("_file"):
            yield str(value)
