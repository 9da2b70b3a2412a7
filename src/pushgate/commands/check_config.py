"""`pushgate check-config`: is this configuration usable, and what would run?"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from pushgate import cli
from pushgate.config import Settings, load, summary
from pushgate.errors import ConfigError, ConfigFault


def check_config(
    *,
    config: Annotated[Path, Parameter(help="The configuration (TOML).")],
    json: Annotated[bool, Parameter(help="Answer as JSON.")] = False,
    role: Annotated[
        Literal["all", "api", "worker"],
        Parameter(help="As that of `serve`: for `api` the files that `[apps]` names are not looked at."),
    ] = "all",
) -> int:
    """Check a configuration without starting anything.

    Prints what would run, or every fault with its place and the way to mend it. A certificate that has expired keeps
    its app from sending and nobody from starting: it is told, and the exit code is 1.
    """
    try:
        settings = load(config, environ=os.environ, sends=role != "api")
    except ConfigError as error:
        if json:
            print(msgspec.json.encode({"ok": False, "faults": error.faults}).decode())
        else:
            _explain(config, error)
        return cli.USAGE
    looked_at = settings if role != "api" else settings.model_copy(update={"apps": {}})
    late = summary.overdue(looked_at, now=time.time())
    if json:
        print(msgspec.json.encode({"ok": not late, "faults": late}).decode())
    else:
        print(settings.describe())
        _list(late)
    return cli.FAILED if late else cli.DONE


def load_or_explain(config: Path, *, sends: bool = False) -> Settings | None:
    """The settings, or None after every fault was printed. The files of `[apps]` are looked at for who sends."""
    try:
        return load(config, environ=os.environ, sends=sends)
    except ConfigError as error:
        _explain(config, error)
        return None


def _explain(config: Path, error: ConfigError) -> None:
    count = len(error.faults)
    print(f"{config}: {count} fault{'s' if count > 1 else ''}", file=sys.stderr)
    _list(error.faults)


def _list(faults: Sequence[ConfigFault]) -> None:
    for fault in faults:
        print(f"\n  {fault.path}\n    {fault.fault}\n    -> {fault.mend}", file=sys.stderr)
