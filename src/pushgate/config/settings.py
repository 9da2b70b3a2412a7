"""Settings from one TOML file and the environment, checked whole before anything runs.

`load` gives settings that can be used, or a `ConfigError` with every fault. It opens no socket and no database.
What each key means stands in `config.default.toml`, which is tested against this module.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from pushgate.config import environment, rules, summary
from pushgate.config import faults as fault_finding
from pushgate.config.api_table import Api
from pushgate.config.client_table import Client
from pushgate.config.keys import written
from pushgate.config.management_table import Management
from pushgate.config.spool_table import DAY_S, DEFAULT_SPOOL, Spool
from pushgate.config.tracing_table import Tracing
from pushgate.errors import ConfigError, ConfigFault
from pushgate.provider import apns_settings, fcm_settings
from pushgate.provider.fields import NamedFile, NamedLoginFile

DEEPEST_TABLE = 8
"""Deeper than any key: what nests deeper is refused before anything walks it."""


class _Table(BaseModel, frozen=True):
    """What the tables have in common. Validators look at fields, not at whole tables: no fault hides another."""

    model_config = ConfigDict(extra="forbid", validate_default=True, hide_input_in_errors=True)


class Pacing(_Table, frozen=True):
    """How fast deliveries are tried again, and how long a stop waits for them."""

    drain_s: float = Field(default=20, ge=0, le=600)
    retry_scale: float = Field(default=1.0, gt=0, le=10)


class Dedup(_Table, frozen=True):
    """How long a repeat of a notification is known as one."""

    window_s: int = Field(default=600, ge=0, le=DAY_S)


class Rejections(_Table, frozen=True):
    """What is remembered of dead pushkeys, and when so many of them are our fault."""

    remember_s: int = Field(default=30 * DAY_S, ge=1, le=365 * DAY_S)
    breaker_share: float = Field(default=0.2, gt=0, le=1)
    breaker_count: int = Field(default=50, ge=1, le=1_000_000)
    breaker_window_s: int = Field(default=300, ge=1, le=DAY_S)


class Log(_Table, frozen=True):
    """What is written to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


AppSettings = Annotated[apns_settings.Settings | fcm_settings.Settings, Field(discriminator="provider")]
AppId = Annotated[str, Field(min_length=1, max_length=64)]
"""At most 64 characters (A_27168)."""


class Settings(_Table, frozen=True):
    """Everything that can be configured. `rules` holds what concerns several tables."""

    api: Api = Api()
    management: Management = Management()
    spool: Spool = Spool.model_construct()
    delivery: Pacing = Pacing()
    apps: Mapping[AppId, AppSettings] = {}
    dedup: Dedup = Dedup()
    rejections: Rejections = Rejections()
    log: Log = Log()
    tracing: Tracing = Tracing()
    clients: tuple[Client, ...] = ()

    def describe(self) -> str:
        """What will run, in words and without secrets."""
        return summary.describe(self)


class _TakenApns(apns_settings.Settings, frozen=True):
    """An app of a gateway that never sends: the same keys, whose files nobody looks at."""

    key_file: NamedFile = None
    certificate_key_file: NamedFile = None
    password_file: NamedFile = None
    certificate_file: NamedFile = None
    ca_file: NamedFile = None
    proxy_login_file: NamedLoginFile = None

    @field_validator("key_file")
    @classmethod
    def _key_can_sign(cls, path: Path | None) -> Path | None:
        return path

    @field_validator("certificate_file")
    @classmethod
    def _certificate_can_be_shown(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return path


class _TakenFcm(fcm_settings.Settings, frozen=True):
    """The same for FCM."""

    credentials_file: NamedFile = None
    ca_file: NamedFile = None
    proxy_login_file: NamedLoginFile = None

    @field_validator("credentials_file")
    @classmethod
    def _account_belongs_to_the_project(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return path


class _Taking(Settings, frozen=True):
    """Those of a gateway that takes and never sends."""

    apps: Mapping[AppId, Annotated[_TakenApns | _TakenFcm, Field(discriminator="provider")]] = {}


def load(path: Path, *, environ: Mapping[str, str], content: bytes | None = None, sends: bool = True) -> Settings:
    """The settings of a TOML file, with what the environment's `PUSHGATE_…` sets over it.

    Relative paths are relative to the file, wherever they were set. Where the content of the file is given it is not
    read. Who never sends needs none of the files that `[apps]` names: they are not looked at. Raises `ConfigError`
    with every fault.
    """
    kind = Settings if sends else _Taking
    tables = _parse(path, content)
    overlay = environment.overlay(tables, environ, Settings)
    if _nests_deeper_than(DEEPEST_TABLE, tables):
        raise ConfigError([ConfigFault(str(path), f"tables nested over {DEEPEST_TABLE} deep", "no key is so deep")])
    dates: list[ConfigFault] = []
    tables = _settled(tables, base=path.absolute().parent, at=(), dates=dates)
    _place_spool(tables, path.absolute().parent)
    faults = [*overlay.faults, *dates]
    try:
        settings = kind.model_validate_json(json.dumps(tables), strict=True)
    except ValidationError as error:
        found = fault_finding.faults_in(error, settings=kind, tables=tables, origins=overlay.origins)
        named = {each.path for each in dates}
        faults += [each for each in found if each.path not in named]
    faults += rules.contradictions(tables)
    if faults:
        raise ConfigError(fault_finding.mask(faults, tables))
    return settings


def read(path: Path) -> bytes:
    """What a file holds. Raises `ConfigError`."""
    try:
        return path.read_bytes()
    except OSError as error:
        fault = f"cannot read it ({error.strerror})"
        raise ConfigError([ConfigFault(str(path), fault, "correct the path, or make the file readable")]) from error


def _parse(path: Path, content: bytes | None) -> dict[str, Any]:
    """The tables of a TOML file. Raises `ConfigError` with line and column."""
    try:
        return tomllib.loads((read(path) if content is None else content).decode())
    except UnicodeDecodeError as error:
        place = f"{path}, byte {error.start}"
        raise ConfigError([ConfigFault(place, "not UTF-8", "save the file in UTF-8")]) from error
    except (ValueError, RecursionError) as error:
        fault, _, place = str(error).removesuffix(")").partition(" (at ")
        at = f"{path}, {place}" if place else str(path)
        mend = "TOML wants key = value: texts in quotes, names with dots in quotes too (toml.io)"
        raise ConfigError([ConfigFault(at, f"not TOML: {fault}", mend)]) from error


def _nests_deeper_than(depth: int, tables: object) -> bool:
    level = [tables]
    for _ in range(depth):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return any(isinstance(each, dict | list) for each in level)


def _settled(value: Any, *, base: Path, at: tuple[str | int, ...], dates: list[ConfigFault]) -> Any:
    """The same with the paths of files made absolute and without dates, which no key wants."""
    match value:
        case dict():
            return {key: _settled(each, base=base, at=(*at, key), dates=dates) for key, each in value.items()}
        case list():
            return [_settled(each, base=base, at=(*at, n), dates=dates) for n, each in enumerate(value)]
        case date() | time():
            dates.append(
                ConfigFault(written(at), "a date or time", "no key wants one: put it in quotes, or take it out")
            )
            return value.isoformat()
        case str() if value and str(at[-1]).endswith("_file"):
            return str(base / value)
    return value


def _place_spool(tables: dict[str, Any], base: Path) -> None:
    """Make the path of the spool absolute, the default's too."""
    spool = tables.setdefault("spool", {})
    if isinstance(spool, dict):
        scheme, _, rest = str(spool.setdefault("url", DEFAULT_SPOOL)).partition(":")
        if scheme == "sqlite" and rest and not rest.startswith(("//", ":")):
            spool["url"] = f"sqlite:{base / rest}"
