"""The table of traces: where spans go, and how many.

A validator's error says "what is wrong -> how to mend it", and never what a header is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from pushgate.errors import ConfigError, ConfigFault
from pushgate.provider.fields import CaFile, OptionalFile, is_given

_HEADER = re.compile(r"([A-Za-z0-9-]{1,64}):[ \t]*([!-~](?:[ -~]{0,8190}[!-~])?)[ \t]*")
_OURS = frozenset({"content-type", "content-length", "content-encoding", "transfer-encoding", "host", "connection"})
_ENDPOINT = re.compile(r"https?://[!-~]+")
_MEND = "write each as a line: name: value"


def _endpoint(url: str) -> str:
    if not url:
        return url
    try:
        parts = urlsplit(url)
        is_fine = bool(_ENDPOINT.fullmatch(url) and parts.hostname) and parts.port != 0
    except ValueError:
        is_fine = False
    if not is_fine or parts.fragment or parts.username is not None or parts.password is not None:
        login = ", without a login: that belongs in headers_file" if "@" in url else ""
        raise ValueError(f"not the address of a collector -> write https://host:4318/v1/traces{login}")
    if parts.path in ("", "/"):
        raise ValueError("no path -> write all of it, as a rule https://host:4318/v1/traces")
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.proto") is None:
        mend = "install it beside pushgate (pipx inject pushgate opentelemetry-proto), or leave endpoint empty"
        raise ValueError(f"traces need opentelemetry-proto, which is not installed -> {mend}")
    return url


def _headers_in(path: Path) -> dict[str, str]:
    """The headers in a file. Raises ValueError or OSError."""
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text("ascii", errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        header = _HEADER.fullmatch(line)
        if header is None or header[1].lower() in _OURS:
            raise ValueError(f"line {number} of {path} is no header that can be set -> {_MEND}")
        found[header[1]] = header[2]
    return found


def _holds_headers(path: Path | None) -> Path | None:
    if path is not None:
        _headers_in(path)
    return path


class Tracing(BaseModel, frozen=True):
    """Where spans go, and how many."""

    model_config = ConfigDict(extra="forbid", validate_default=True, hide_input_in_errors=True)

    endpoint: Annotated[str, AfterValidator(_endpoint)] = ""
    headers_file: Annotated[OptionalFile, AfterValidator(_holds_headers)] = None
    ca_file: CaFile = None
    sample: float = Field(default=1.0, ge=0, le=1)
    timeout_s: float = Field(default=5, ge=0.1, le=60)

    @field_validator("headers_file", "ca_file")
    @classmethod
    def _goes_with_an_endpoint(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and not is_given("endpoint", info):
            raise ValueError("does nothing without endpoint -> set tracing.endpoint, or take it out")
        return path

    def headers(self) -> Mapping[str, str]:
        """What is sent with each batch. Raises `ConfigError` where the file has become unusable."""
        try:
            return {} if self.headers_file is None else _headers_in(self.headers_file)
        except (ValueError, OSError) as error:
            fault, _, mend = str(error).partition(" -> ")
            raise ConfigError([ConfigFault("tracing.headers_file", fault, mend or "make it readable")]) from error
