"""Kinds of setting that several providers have: files that must be readable, trust, addresses.

A validator's error says "what is wrong -> how to mend it", and never what a secret file holds. Validators look at
fields, not at whole tables: no fault hides another. What goes together is checked at the field that comes last.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_AFTER_BRACKETS = re.compile(r"\][^:]")
"""urlsplit passes over what stands between an IPv6 address and its port."""


def split_url(url: str, *, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of a URL that is nothing but scheme, host and port. Raises ValueError for any other."""
    parts = urlsplit(url)
    port = parts.port
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password
    if parts.scheme not in schemes or extra or port == 0 or not _HOST.fullmatch(parts.hostname or ""):
        raise ValueError
    if _AFTER_BRACKETS.search(parts.netloc):
        raise ValueError
    return parts


def is_given(name: str, info: ValidationInfo) -> bool:
    """Whether a field that comes before this one was set, rightly or wrongly: one at fault is not in `info.data`."""
    return name not in info.data or bool(info.data[name])


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


def _goes_with_a_proxy(path: object, info: ValidationInfo) -> object:
    if path and not is_given("proxy", info):
        raise ValueError("does nothing without proxy -> set proxy, or take it out")
    return path


NamedFile = Annotated[Path | None, BeforeValidator(_none_if_empty)]
"""A file that nobody looks at here, or None: it need not be there. The empty string is None."""

OptionalFile = Annotated[NamedFile, AfterValidator(_readable)]
"""A file that can be read, or None. The empty string is None."""

CaFile = Annotated[OptionalFile, AfterValidator(_holds_certificates)]
"""CA certificates (PEM) to trust instead of the system's, or None."""

Endpoint = Annotated[str, AfterValidator(_https_origin)]
"""`https://host[:port]` instead of the provider's own, or empty."""

ProxyUrl = Annotated[str, AfterValidator(_proxy_address)]
"""`http://host[:port]` of a proxy that opens tunnels (CONNECT), or empty."""

NamedLoginFile = Annotated[NamedFile, BeforeValidator(_goes_with_a_proxy)]
"""As `ProxyLoginFile`, not looked at."""

ProxyLoginFile = Annotated[OptionalFile, BeforeValidator(_goes_with_a_proxy)]
"""What to log in with at the `proxy`, a field that comes before it, or None."""
