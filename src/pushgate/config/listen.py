"""Where to listen and as whom: addresses, the server's certificate, whose certificates callers may show.

A validator's error says "what is wrong -> how to mend it".
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from pathlib import Path
from typing import Annotated, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

from pushgate.provider.fields import CaFile

API_LISTEN = "127.0.0.1:8080"
MANAGEMENT_LISTEN = "127.0.0.1:8081"

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_LISTEN = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^:]*)):(?P<port>[0-9]{1,5})")


class Address(NamedTuple):
    """Where to listen. Port 0: any that is free."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. Of names, `localhost` alone counts as such."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_listen(text: str) -> Address:
    """`host:port` or `[IPv6]:port` as an address. Raises ValueError."""
    found = _LISTEN.fullmatch(text)
    mend = 'write "host:port", as in 127.0.0.1:8080, 0.0.0.0:8080 or [::1]:8080'
    if found is None:
        raise ValueError(f"not an address to listen on -> {mend}")
    if int(found["port"]) > 65_535:
        raise ValueError("a port above 65535 -> choose one from 1 to 65535, or 0 for any that is free")
    if found["v6"] is None:
        if not _HOST.fullmatch(found["host"]):
            raise ValueError(f"no host before the port -> {mend}")
        return Address(found["host"], int(found["port"]))
    try:
        ipaddress.IPv6Address(found["v6"])
    except ValueError:
        raise ValueError(f"no IPv6 address in the brackets -> {mend}") from None
    return Address(found["v6"], int(found["port"]))


def _can_listen(text: str) -> str:
    parse_listen(text)
    return text


def _can_listen_if_given(text: str) -> str:
    return _can_listen(text) if text else text


Listen = Annotated[str, AfterValidator(_can_listen)]
"""`host:port`."""
ListenOrOff = Annotated[str, AfterValidator(_can_listen_if_given)]
"""`host:port`, or empty for not at all."""


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        mend = "correct the path, or make the file readable for the user that runs pushgate"
        raise ValueError(f"cannot read {path} ({error.strerror}) -> {mend}") from error
    return path


def _holds_certificates(path: Path) -> Path:
    try:
        x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        mend = "name the server's certificate, followed by its chain, in PEM form"
        raise ValueError(f"no certificate in {path} -> {mend}") from error
    return path


def _holds_open_key(path: Path) -> Path:
    try:
        load_pem_private_key(path.read_bytes(), password=None)
    except TypeError as error:
        mend = "write it out without one: openssl pkey -in locked.key -out server.key"
        raise ValueError(f"the key in {path} has a password -> {mend}") from error
    except ValueError as error:
        mend = "name the private key of the certificate, in PEM form"
        raise ValueError(f"no private key in {path} -> {mend}") from error
    return path


class Tls(BaseModel, frozen=True):
    """The server's certificate, and the authorities whose certificates callers may show."""

    model_config = ConfigDict(extra="forbid", validate_default=True, hide_input_in_errors=True)

    cert_file: Annotated[Path, AfterValidator(_readable), AfterValidator(_holds_certificates)]
    key_file: Annotated[Path, AfterValidator(_readable), AfterValidator(_holds_open_key)]
    client_ca_file: CaFile = None

    @field_validator("key_file")
    @classmethod
    def _key_fits_the_certificate(cls, path: Path, info: ValidationInfo) -> Path:
        if "cert_file" in info.data:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(info.data["cert_file"], path)
            except ssl.SSLError as error:
                if error.reason == "KEY_VALUES_MISMATCH":
                    raise ValueError("not the key of cert_file -> name the key it was issued for") from error
                mend = "have a certificate issued that OpenSSL takes (RSA from 2048 bits, or P-256)"
                raise ValueError(f"OpenSSL refuses it with cert_file ({error.reason}) -> {mend}") from error
        return path
