"""Kinds of setting that several providers have: files that must be readable, trust, addresses.

A validator's error says "what is wrong -> how to mend it", and never what a secret file holds.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")


def split_url(url: str, *, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of a URL that is nothing but scheme, host and port. Raises ValueError for any other."""
    parts = urlsplit(url)
    port = parts.port
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password
    if parts.scheme not in schemes or extra or port == 0 or not _HOST.fullmatch(parts.hostname or ""):
        raise ValueError
    return parts


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


def _readable(path: Path | None) -> Path | None:
    if path is not None:
        try:
            path.open("rb").close()
        except OSError as error:
            mend = "correct the path, or make the file readable for the user that runs pushgate"
            raise ValueError(f"cannot read {path} ({error.strerror}) -> {mend}") from error
    return path


def _holds_certificates(path: Path | None) -> Path | None:
    if path is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
        except (ssl.SSLError, OSError) as error:
            mend = "name a file of CA certificates in PEM form"
            raise ValueError(f"no certificate in {path} -> {mend}") from error
    return path


def _https_origin(url: str) -> str:
    if url:
        try:
            split_url(url, schemes=("https",))
        except ValueError as error:
            mend = "write https://host or https://host:port, or leave it empty"
            raise ValueError(f"not an https address -> {mend}") from error
    return url


def _proxy_address(url: str) -> str:
    if url:
        try:
            split_url(url, schemes=("http",))
        except ValueError as error:
            mend = "write http://host:port; a user and password go into proxy_login_file"
            raise ValueError(f"not the address of an HTTP proxy -> {mend}") from error
    return url


OptionalFile = Annotated[Path | None, BeforeValidator(_none_if_empty), AfterValidator(_readable)]
"""A file that can be read, or None. The empty string is None."""

CaFile = Annotated[OptionalFile, AfterValidator(_holds_certificates)]
"""CA certificates (PEM) to trust instead of the system's, or None."""

Endpoint = Annotated[str, AfterValidator(_https_origin)]
"""`https://host[:port]` instead of the provider's own, or empty."""

ProxyUrl = Annotated[str, AfterValidator(_proxy_address)]
"""`http://host[:port]` of a proxy that opens tunnels (CONNECT), or empty."""
