"""The table of the spool: where deliveries wait, how many, and with which keys they are sealed on disk.

A validator's error says "what is wrong -> how to mend it", and never what a key is.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretBytes,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from pushgate.config.nats_table import SCHEME, Nats, servers
from pushgate.errors import SpoolUnusable
from pushgate.provider.fields import OptionalFile, is_given

DAY_S = 86_400
DEFAULT_SPOOL = "sqlite:spool.db"
KEY_BYTES = 32
FEWEST_DIFFERENT_BYTES = 16
"""Of 32 random ones fewer are different once in 10^16 keys: such a key was typed, or is a sample."""

_HEX = re.compile(r"[0-9A-Fa-f]{64}")
_BASE64 = re.compile(r"[0-9A-Za-z+/_-]{43}=?")
_FROM_URLSAFE = str.maketrans("-_", "+/")
_MEND = "make one: openssl rand -hex 32"


def _spool_url(url: str) -> str:
    scheme, _, rest = url.partition(":")
    if url == "memory:":
        return url
    if url.startswith(SCHEME):
        servers(url)
        return url
    if scheme != "sqlite" or not rest or rest.startswith(("//", ":")):
        raise ValueError('not a spool -> write "sqlite:spool.db", "nats://host:4222" or "memory:"')
    _file(Path(rest))
    return url


def _file(path: Path) -> None:
    """Raises ValueError for what no file can be made at."""
    try:
        if not path.parent.is_dir():
            raise ValueError(f"no such directory: {path.parent} -> create it, or correct the path")
        if path.is_dir():
            raise ValueError(f"{path} is a directory -> name a file in it: sqlite:{path}/spool.db")
    except PermissionError as error:
        mend = "let the user that runs the gateway search the folders on the way and write into the last (chown, chmod)"
        raise ValueError(f"{path.parent} cannot be searched ({error.strerror}) -> {mend}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be ({error.strerror}) -> correct the path") from error


def _key(text: str) -> bytes:
    """The 32 bytes that a text stands for. Raises ValueError, which does not repeat it."""
    if _HEX.fullmatch(text):
        key = bytes.fromhex(text)
    elif _BASE64.fullmatch(text):
        key = base64.b64decode(text.translate(_FROM_URLSAFE).rstrip("=") + "=")
    else:
        raise ValueError(f"not a key of {KEY_BYTES} bytes, in 64 hexadecimal digits or base64 -> {_MEND}")
    if len(set(key)) < FEWEST_DIFFERENT_BYTES:
        raise ValueError(f"not random -> {_MEND}")
    return key


def _keys_in(path: Path) -> tuple[bytes, ...]:
    """The keys of a file, one a line. Raises ValueError or OSError."""
    keys = []
    for number, line in enumerate(path.read_text("ascii", errors="replace").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            try:
                keys.append(_key(line.strip()))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
    if not keys:
        raise ValueError(f"no key in {path} -> {_MEND} > {path}")
    return tuple(keys)


def _holds_keys(path: Path | None) -> Path | None:
    if path is not None:
        _keys_in(path)
    return path


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


def _is_key(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None:
        _key(secret.get_secret_value().strip())
    return secret


class Spool(BaseModel, frozen=True):
    """Where deliveries wait."""

    model_config = ConfigDict(extra="forbid", validate_default=True, hide_input_in_errors=True)

    url: Annotated[str, AfterValidator(_spool_url)] = DEFAULT_SPOOL
    max_age_s: int = Field(default=DAY_S, ge=1, le=DAY_S)
    max_mb: int = Field(default=8192, ge=0, le=16_777_216)
    max_waiting: int = Field(default=5_000_000, ge=0, le=1_000_000_000)
    max_share_per_app: float = Field(default=0.5, gt=0, le=1)
    nats: Nats | None = None
    encryption_key_file: Annotated[OptionalFile, AfterValidator(_holds_keys)] = None
    encryption_key: Annotated[SecretStr | None, BeforeValidator(_none_if_empty), AfterValidator(_is_key)] = None

    @field_validator("encryption_key_file", "encryption_key")
    @classmethod
    def _keys_go_with_the_rest(cls, given: Path | SecretStr | None, info: ValidationInfo) -> Path | SecretStr | None:
        if given is not None and info.data.get("url") == "memory:":
            raise ValueError('does nothing: a spool in memory writes nothing -> take it out, or use "sqlite:spool.db"')
        if given is not None and info.field_name == "encryption_key" and is_given("encryption_key_file", info):
            raise ValueError("beside encryption_key_file -> take one of the two out")
        return given

    @field_validator("nats")
    @classmethod
    def _goes_with_the_url(cls, nats: Nats | None, info: ValidationInfo) -> Nats | None:
        if nats is not None and not info.data.get("url", SCHEME).startswith(SCHEME):
            raise ValueError('does nothing with this spool.url -> set url = "nats://host:4222", or take the table out')
        return nats

    @property
    def is_shared(self) -> bool:
        """Whether several machines may use it at a time."""
        return self.url.startswith(SCHEME)

    def nats_servers(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each server of a spool on NATS."""
        return servers(self.url)

    @property
    def sqlite_path(self) -> Path | None:
        """The database file, or None for a spool elsewhere."""
        return Path(self.url.removeprefix("sqlite:")) if self.url.startswith("sqlite:") else None

    @property
    def is_encrypted(self) -> bool:
        """Whether payloads are sealed on disk."""
        return self.encryption_key_file is not None or self.encryption_key is not None

    def encryption_keys(self) -> tuple[SecretBytes, ...]:
        """The keys: the first seals, all of them open. Raises `SpoolUnusable` where the file has become unusable."""
        try:
            keys = _keys_in(self.encryption_key_file) if self.encryption_key_file else ()
        except (ValueError, OSError) as error:
            raise SpoolUnusable(f"spool.encryption_key_file: {error}") from None
        if self.encryption_key is not None:
            keys = (_key(self.encryption_key.get_secret_value().strip()),)
        return tuple(map(SecretBytes, keys))
