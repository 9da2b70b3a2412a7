"""The table of the port that callers use: where, how large, and how they prove who they are.

A validator's error says "what is wrong -> how to mend it". Validators look at fields, not at the whole table: no fault
hides another.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from pushgate.config.listen import API_LISTEN, Listen, Tls, parse_listen

MOST_PROCESSES = 64

_BASE_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")


def _base_path(path: str) -> str:
    if not _BASE_PATH.fullmatch(path):
        mend = 'leave it empty, or write "/name": letters, digits and . _ ~ -, no slash at the end'
        raise ValueError(f"not a path prefix -> {mend}")
    return path


def _network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        mend = 'write "10.0.0.7", or a network whose host bits are zero: "10.0.0.0/24", "fd00::/64"'
        raise ValueError(f"not an address or network -> {mend}") from error
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError("an IPv4 address in the form of IPv6 -> write it as IPv4")
    if network.prefixlen == 0:
        raise ValueError("trusts everybody -> name the addresses of the proxies")
    return text


def _processes(count: object) -> object:
    if count == "auto" or (type(count) is int and 1 <= count <= MOST_PROCESSES):
        return count
    fault = "out of range" if type(count) is int else "of the wrong type"
    raise ValueError(f'{fault} -> write a whole number from 1 to {MOST_PROCESSES}, or "auto"')


class Api(BaseModel, frozen=True):
    """The port that callers use."""

    model_config = ConfigDict(extra="forbid", validate_default=True, hide_input_in_errors=True)

    listen: Listen = API_LISTEN
    base_path: Annotated[str, AfterValidator(_base_path)] = ""
    allow_unauthenticated: bool = False
    tls: Tls | None = None
    auth: Literal["none", "mtls", "proxy"] = "none"
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    proxy_header: Literal["", "xfcc", "nginx"] = ""
    max_request_kb: int = Field(default=1024, ge=256, le=16_384)
    max_notification_kb: int = Field(default=64, ge=3, le=16_384)
    request_timeout_s: float = Field(default=10, gt=0, le=300)
    processes: Annotated[
        Annotated[int, Field(ge=1, le=MOST_PROCESSES)] | Literal["auto"], BeforeValidator(_processes)
    ] = 1

    @field_validator("auth")
    @classmethod
    def _auth_goes_with_the_rest(cls, auth: str, info: ValidationInfo) -> str:
        """Fields that are at fault themselves are not in `info.data`: nothing is said about them here."""
        tls, listen = info.data.get("tls", ...), info.data.get("listen")
        open_to_all = info.data.get("allow_unauthenticated", ...)
        if auth == "mtls" and (tls is None or (isinstance(tls, Tls) and tls.client_ca_file is None)):
            mend = "add [api.tls] with cert_file, key_file and client_ca_file"
            raise ValueError(f'"mtls" without a client_ca_file in [api.tls] -> {mend}')
        if auth != "none" and open_to_all is True:
            raise ValueError(f'"{auth}" with allow_unauthenticated = true -> take one of the two out')
        if auth != "mtls" and isinstance(tls, Tls) and tls.client_ca_file is not None:
            mend = 'set auth = "mtls", or take client_ca_file out'
            raise ValueError(f'"{auth}" asks for no client certificate, so client_ca_file does nothing -> {mend}')
        if auth == "none" and listen is not None and not parse_listen(listen).is_loopback and open_to_all is False:
            mend = 'set auth = "mtls", listen on 127.0.0.1, or set allow_unauthenticated = true'
            raise ValueError(f'"none" lets everybody send who reaches this address -> {mend}')
        return auth

    @field_validator("trusted_proxies")
    @classmethod
    def _somebody_vouches(cls, networks: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        match info.data.get("auth"):
            case "proxy" if not networks:
                raise ValueError('missing: with auth = "proxy" nobody is trusted -> name the addresses of the proxies')
            case "none" | "mtls" as auth if networks:
                raise ValueError(f'does nothing with auth = "{auth}" -> set auth = "proxy", or take it out')
        return networks

    @field_validator("proxy_header")
    @classmethod
    def _one_header_is_read(cls, style: str, info: ValidationInfo) -> str:
        match info.data.get("auth"):
            case "proxy" if not style:
                mend = 'write "xfcc" (Envoy) or "nginx": the one that your proxy sets itself, whatever a caller sends'
                raise ValueError(f"missing: it is not said which header tells of the certificate -> {mend}")
            case "none" | "mtls" as auth if style:
                raise ValueError(f'does nothing with auth = "{auth}" -> set auth = "proxy", or take it out')
        return style

    @field_validator("max_notification_kb")
    @classmethod
    def _notification_fits_in_request(cls, limit_kb: int, info: ValidationInfo) -> int:
        if limit_kb > info.data.get("max_request_kb", limit_kb):
            raise ValueError("larger than max_request_kb -> set it to max_request_kb at most")
        return limit_kb
