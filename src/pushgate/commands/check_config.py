"""`pushgate check-config`: is this configuration usable, and what would run?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from pushgate import cli
from pushgate.config import Settings, load
from pushgate.errors import ConfigError


def check_config(
    *,
    config: Annotated[Path, Parameter(help="The configuration (TOML).")],
    json: Annotated[bool, Parameter(help="Answer as JSON.")] = False,
) -> int:
    """Check a configuration without starting anything.

    Prints what would run, or every fault with its place and the way to mend it.
    """
    try:
        settings = load(config, environ=os.environ)
    except ConfigError as error:
        if json:
            print(msgspec.json.encode({"ok": False, "faults": error.faults}).decode())
        else:
            _explain(config, error)
        return cli.USAGE
    print(msgspec.json.encode({"ok": True, "faults": []}).decode() if json else settings.describe())
    return cli.DONE


def load_or_explain(config: Path) -> Settings | None:
    """The settings, or None after every fault was printed."""
    try:
        return load(config, environ=os.environ)
    except ConfigError as error:
        _explain(config, error)
        return None


def _explain(config: Path, error: ConfigError) -> None:
    count = len(error.faults)
    print(f"{config}: {count} fault{'s' if count > 1 else ''}", file=sys.stderr)
    for fault in error.faults:
        print(f"\n  {fault.path}\n    {fault.fault}\n    -> {fault.mend}", file=sys.stderr)
