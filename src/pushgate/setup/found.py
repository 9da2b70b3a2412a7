"""What lies in a folder and can be used: signing keys of Apple, service accounts of Google, a stage of emulators."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from pushgate.errors import CredentialError, PushgateError
from pushgate.provider.key_files import read_service_account

LARGEST_ACCOUNT_BYTES = 32 * 1024
STAGE = "pushgate.toml"
"""What emulators write into their folder."""
_SIGNING_KEY = re.compile(r"AuthKey_([A-Z0-9]{10})\.p8")


class Unusable(PushgateError):  # noqa: N818 - what was found
    """Not what it should be: "what is wrong -> how to mend it"."""


class Found(Struct, frozen=True):
    """Files by what is known of them."""

    signing_keys: tuple[Path, ...] = ()
    accounts: tuple[tuple[Path, str], ...] = ()
    """Service accounts with their projects."""


def look(folder: Path) -> Found:
    """What can be used in a folder; nothing where there is none."""
    if not folder.is_dir():
        return Found()
    files = sorted(each for each in folder.iterdir() if each.is_file())
    accounts = [(each, project) for each in files if (project := _project_of(each))]
    return Found(tuple(each for each in files if key_id_of(each)), tuple(accounts))


def key_id_of(path: Path) -> str:
    """The id of a signing key, which Apple writes into the name of its file; empty where it does not stand there."""
    named = _SIGNING_KEY.fullmatch(path.name)
    return named[1] if named else ""


def _project_of(path: Path) -> str:
    """The project of a service account; empty where the file is none."""
    if path.suffix != ".json" or path.stat().st_size > LARGEST_ACCOUNT_BYTES:
        return ""
    try:
        return read_service_account(path).project_id
    except CredentialError:
        return ""


def project_of(account: Path) -> str:
    """The project of a service account. Raises `Unusable`."""
    try:
        return read_service_account(account).project_id
    except CredentialError as error:
        raise Unusable(str(error)) from error


def emulated_apps(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """The apps of what `pushgate emulate --folder` wrote, with paths that hold from everywhere. Raises `Unusable`."""
    mend = "start the emulators first: pushgate emulate --folder FOLDER, and name that folder"
    try:
        tables = tomllib.loads((folder / STAGE).read_text())
        apps = tables["apps"]
        return {app_id: _absolute(app, folder.resolve()) for app_id, app in apps.items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise Unusable(f"{folder} holds no emulators' configuration -> {mend}") from error


def _absolute(app: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return {key: str(folder / value) if key.endswith("_file") else value for key, value in app.items()}
