"""Settings from one TOML file and the environment, checked whole before anything runs.

`load` gives settings that can be used, or a `ConfigError` with every fault. It opens no socket and no database.
What each key means stands in `config.default.toml`, which is tested against this module.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any, Literal

from cryptography import x509
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from pushgate.config import environment, rules, summary
from pushgate.config import faults as fault_finding
from pushgate.config.keys import written
from pushgate.config.listen import API_LISTEN, MANAGEMENT_LISTEN, Listen, ListenOrOff, Tls, parse_listen
from pushgate.config.spool_table import DAY_S, DEFAULT_SPOOL, Spool
from pushgate.errors import ConfigError, ConfigFault
from pushgate.provider import apns_settings, fcm_settings

DEEPEST_TABLE = 8
"""Deeper than any key: what nests deeper is refused before anything walks it."""

_BASE_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")
_CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class _Table(BaseModel, frozen=True):
    """What the tables have in common. Validators look at fields, not at whole tables: no fault hides another."""

    model_config = ConfigDict(extra="forbid", validate_default=True, hide_input_in_errors=True)


def _base_path(path: str) -> str:
    if not _BASE_PATH.fullmatch(path):
        mend = 'leave it empty, or write "/name": letters, digits and . _ ~ -, no slash at the end'
        raise ValueError(f"not a path prefix -> {mend}")
    return path


def _one_process(count: object) -> object:
    if count == "auto" or (type(count) is int and count != 1):
        raise ValueError("several processes are not available yet -> set 1")
    return count


class Api(_Table, frozen=True):
    """The port that callers use."""

    listen: Listen = API_LISTEN
    base_path: Annotated[str, AfterValidator(_base_path)] = ""
    allow_unauthenticated: bool = False
    tls: Tls | None = None
    auth: Literal["none", "mtls", "proxy"] = "none"
    max_request_kb: int = Field(default=1024, ge=256, le=16_384)
    max_notification_kb: int = Field(default=64, ge=3, le=16_384)
    request_timeout_s: float = Field(default=10, gt=0, le=300)
    processes: Annotated[int, BeforeValidator(_one_process)] = 1

    @field_validator("auth")
    @classmethod
    def _auth_goes_with_the_rest(cls, auth: str, info: ValidationInfo) -> str:
        """Fields that are at fault themselves are not in `info.data`: nothing is said about them here."""
        tls, listen = info.data.get("tls", ...), info.data.get("listen")
        open_to_all = info.data.get("allow_unauthenticated", ...)
        if auth == "proxy":
            raise ValueError('a proxy that vouches for callers is not available yet -> set "mtls" or "none"')
        if auth == "mtls":
            if tls is None or (isinstance(tls, Tls) and tls.client_ca_file is None):
                mend = "add [api.tls] with cert_file, key_file and client_ca_file"
                raise ValueError(f'"mtls" without a client_ca_file in [api.tls] -> {mend}')
            if open_to_all is True:
                raise ValueError('"mtls" with allow_unauthenticated = true -> take one of the two out')
            return auth
        if isinstance(tls, Tls) and tls.client_ca_file is not None:
            mend = 'set auth = "mtls", or take client_ca_file out'
            raise ValueError(f'"none" asks for no client certificate, so client_ca_file does nothing -> {mend}')
        if listen is not None and not parse_listen(listen).is_loopback and open_to_all is False:
            mend = 'set auth = "mtls", listen on 127.0.0.1, or set allow_unauthenticated = true'
            raise ValueError(f'"none" lets everybody send who reaches this address -> {mend}')
        return auth

    @field_validator("max_notification_kb")
    @classmethod
    def _notification_fits_in_request(cls, limit_kb: int, info: ValidationInfo) -> int:
        if limit_kb > info.data.get("max_request_kb", limit_kb):
            raise ValueError("larger than max_request_kb -> set it to max_request_kb at most")
        return limit_kb


class Management(_Table, frozen=True):
    """The port for health and metrics."""

    listen: ListenOrOff = MANAGEMENT_LISTEN


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


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if text and not _FINGERPRINT.fullmatch(digits):
        raise ValueError("not a SHA-256 fingerprint -> write its 64 hexadecimal digits")
    return digits


def _client_name(name: str) -> str:
    if not _CLIENT_NAME.fullmatch(name):
        mend = "write 1 to 64 letters, digits and . _ -, as it shall stand in logs and metrics"
        raise ValueError(f"not a name -> {mend}")
    return name


def _subject(subject: str) -> str:
    try:
        return x509.Name.from_rfc4514_string(subject).rfc4514_string()
    except ValueError as error:
        mend = 'write it as in RFC 4514, for example "CN=erp.example.de,O=Example,C=DE"'
        raise ValueError(f"not the subject of a certificate -> {mend}") from error


def _no_rate_yet(rate: object) -> object:
    if isinstance(rate, int | float) and rate > 0:
        raise ValueError("a limit for each caller is not available yet -> set 0")
    return rate


Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
ClientName = Annotated[str, AfterValidator(_client_name)]
Subject = Annotated[str, AfterValidator(_subject)]


class Client(_Table, frozen=True):
    """One caller: how its certificate is known, and what it may do."""

    name: ClientName
    san: str = ""
    subject: Subject = ""
    sha256: Fingerprint = ""
    spki_sha256: Fingerprint = ""
    apps: tuple[str, ...] = ("*",)
    plain: bool = True
    rate_per_s: Annotated[float, BeforeValidator(_no_rate_yet)] = Field(default=0, ge=0)


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
    clients: tuple[Client, ...] = ()

    def describe(self) -> str:
        """What will run, in words and without secrets."""
        return summary.describe(self)


def load(path: Path, *, environ: Mapping[str, str]) -> Settings:
    """The settings of a TOML file, with what the environment's `PUSHGATE_…` sets over it.

    Relative paths are relative to the file, wherever they were set. Raises `ConfigError` with every fault.
    """
    tables = _parse(path)
    overlay = environment.overlay(tables, environ, Settings)
    if _nests_deeper_than(DEEPEST_TABLE, tables):
        raise ConfigError([ConfigFault(str(path), f"tables nested over {DEEPEST_TABLE} deep", "no key is so deep")])
    dates: list[ConfigFault] = []
    tables = _settled(tables, base=path.absolute().parent, at=(), dates=dates)
    _place_spool(tables, path.absolute().parent)
    faults = [*overlay.faults, *dates]
    try:
        settings = Settings.model_validate_json(json.dumps(tables), strict=True)
    except ValidationError as error:
        found = fault_finding.faults_in(error, settings=Settings, tables=tables, origins=overlay.origins)
        named = {each.path for each in dates}
        faults += [each for each in found if each.path not in named]
    faults += rules.contradictions(tables)
    if faults:
        raise ConfigError(fault_finding.mask(faults, tables))
    return settings


def _parse(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises `ConfigError` with line and column."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        fault = f"cannot read it ({error.strerror})"
        raise ConfigError([ConfigFault(str(path), fault, "correct the path, or make the file readable")]) from error
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
