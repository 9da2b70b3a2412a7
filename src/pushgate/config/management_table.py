"""The table of the port for health and metrics, and who may use it.

A validator's error says "what is wrong -> how to mend it", and never what a token is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from pushgate.config.listen import MANAGEMENT_LISTEN, ListenOrOff, parse_listen
from pushgate.errors import ConfigError, ConfigFault
from pushgate.provider.fields import OptionalFile

MOST_JOURNAL = 10_000_000
"""Deliveries: 1.5 GB."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{20,512}=*")
"""What may stand behind `Authorization: Bearer` (RFC 6750 §2.1), and is long enough not to be guessed."""
_MEND = "make one: openssl rand -hex 32"


def _token_in(path: Path) -> bytes:
    """The first line of a file. Raises ValueError or OSError."""
    first, *rest = path.read_text("ascii", errors="replace").splitlines() or [""]
    if not _TOKEN.fullmatch(first) or any(rest):
        fault = f"{path} holds no token: one line of 20 letters and digits or more"
        raise ValueError(f"{fault} -> {_MEND} > {path}")
    return first.encode()


def _holds_a_token(path: Path | None) -> Path | None:
    if path is not None:
        _token_in(path)
    return path


class Management(BaseModel, frozen=True):
    """The port for health and metrics."""

    model_config = ConfigDict(extra="forbid", validate_default=True, hide_input_in_errors=True)

    listen: ListenOrOff = MANAGEMENT_LISTEN
    token_file: Annotated[OptionalFile, AfterValidator(_holds_a_token)] = None
    journal: Annotated[int, Field(ge=0, le=MOST_JOURNAL)] = 100_000

    @field_validator("token_file")
    @classmethod
    def _others_are_asked_for_a_token(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        listen = info.data.get("listen")
        if path is None and listen and not parse_listen(listen).is_loopback:
            mend = f"{_MEND} > token, and name the file here; or listen on 127.0.0.1"
            raise ValueError(f"missing: other machines can reach {listen} -> {mend}")
        return path

    def token(self) -> bytes:
        """What has to be shown; empty where nothing has. Raises `ConfigError` where the file has become unusable."""
        try:
            return b"" if self.token_file is None else _token_in(self.token_file)
        except (ValueError, OSError) as error:
            fault, _, mend = str(error).partition(" -> ")
            raise ConfigError([ConfigFault("management.token_file", fault, mend or "make it readable")]) from error
