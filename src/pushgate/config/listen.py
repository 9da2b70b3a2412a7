"""Where to listen and as whom: addresses, the server's certificate, whose certificates callers may show.

A validator's error says "what is wrong -> how to mend it".
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

from pushgate import revocation
from pushgate.provider.fields import CaFile, OptionalFile, is_given

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


def _holds_certificates(path: Path | None) -> Path | None:
    if path is None:
        return None
    try:
        x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        mend = "name the server's certificate, followed by its chain, in PEM form"
        raise ValueError(f"no certificate in {path} -> {mend}") from error
    return path


def _holds_open_key(path: Path | None) -> Path | None:
    if path is None:
        return None
    try:
        load_pem_private_key(path.read_bytes(), password=None)
    except TypeError as error:
        mend = "write it out without one: openssl pkey -in locked.key -out server.key"
        raise ValueError(f"the key in {path} has a password -> {mend}") from error
    except ValueError as error:
        mend = "name the private key of the certificate, in PEM form"
        raise ValueError(f"no private key in {path} -> {mend}") from error
    return path


def _holds_lists(path: Path | None) -> Path | None:
    if path is not None:
        revocation.read(path)
    return path


def _holds_no_lists(path: Path | None) -> Path | None:
    """OpenSSL would read them, and nobody would look when they end."""
    if path is not None and b"-----BEGIN X509 CRL-----" in path.read_bytes():
        raise ValueError(f"{path} holds a revocation list -> move it to a file of its own, named in client_crl_file")
    return path


class Tls(BaseModel, frozen=True):
    """The server's certificates, and the authorities whose certificates callers may show."""

    model_config = ConfigDict(extra="forbid", validate_default=True, hide_input_in_errors=True)

    cert_file: Annotated[Path, AfterValidator(_readable), AfterValidator(_holds_certificates)]
    key_file: Annotated[Path, AfterValidator(_readable), AfterValidator(_holds_open_key)]
    second_cert_file: Annotated[OptionalFile, AfterValidator(_holds_certificates)] = None
    second_key_file: Annotated[OptionalFile, AfterValidator(_holds_open_key)] = None
    client_ca_file: Annotated[CaFile, AfterValidator(_holds_no_lists)] = None
    client_crl_file: Annotated[OptionalFile, AfterValidator(_holds_lists)] = None
    client_purpose: Literal["client", "any"] = "client"

    @field_validator("key_file", "second_key_file")
    @classmethod
    def _key_fits_the_certificate(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        certificate = str(info.field_name).replace("key", "cert")
        if path is None:
            if info.data.get(certificate) is not None:
                raise ValueError(f"missing: {certificate} needs its key -> name its private key, in PEM form")
        elif certificate in info.data:
            if info.data[certificate] is None:
                raise ValueError(f"does nothing without {certificate} -> set {certificate}, or take it out")
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(info.data[certificate], path)
            except ssl.SSLError as error:
                if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
                    raise ValueError(f"not the key of {certificate} -> name the key it was issued for") from error
                mend = "have a certificate issued that OpenSSL takes (RSA from 2048 bits, or P-256)"
                raise ValueError(f"OpenSSL refuses it with {certificate} ({error.reason}) -> {mend}") from error
        return path

    @field_validator("second_cert_file")
    @classmethod
    def _second_is_of_another_kind(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        first: Path | None = info.data.get("cert_file")
        if path is not None and first is not None and _kind_of_key(path) == _kind_of_key(first):
            mend = "have one issued for an RSA key and the other for an ECDSA key (P-256), or take the second out"
            raise ValueError(f"the same kind of key as in cert_file: only one would be used -> {mend}")
        return path

    @field_validator("client_crl_file")
    @classmethod
    def _lists_are_of_authorities(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and not is_given("client_ca_file", info):
            raise ValueError("does nothing without client_ca_file -> set client_ca_file, or take it out")
        authorities: Path | None = info.data.get("client_ca_file")
        if path is not None and authorities is not None:
            try:
                known = x509.load_pem_x509_certificates(authorities.read_bytes())
            except ValueError as error:
                mend = "write it anew, in PEM form: openssl x509 -in ca.pem -out ca-new.pem"
                raise ValueError(f"a certificate in {authorities} cannot be read -> {mend}") from error
            if issuer := revocation.read(path).forged(known):
                mend = "fetch it again, and ask that authority if it stays so"
                raise ValueError(f"the list of {issuer} was not signed by the one in client_ca_file -> {mend}")
        return path

    @field_validator("client_purpose")
    @classmethod
    def _any_purpose_needs_what_it_needs(cls, purpose: str, info: ValidationInfo) -> str:
        if purpose == "any":
            if not is_given("client_ca_file", info):
                raise ValueError("does nothing without client_ca_file -> set client_ca_file, or take it out")
            if find_spec("OpenSSL") is None:
                mend = "install it beside pushgate (pipx inject pushgate pyopenssl)"
                raise ValueError(f'"any" needs pyOpenSSL, which is not installed -> {mend}')
        return purpose

    @property
    def certificates(self) -> list[tuple[Path, Path]]:
        """Files of each certificate with its chain, and of its key."""
        pairs = [(self.cert_file, self.key_file), (self.second_cert_file, self.second_key_file)]
        return [(certificate, key) for certificate, key in pairs if certificate is not None and key is not None]


def _kind_of_key(path: Path) -> type[object]:
    return type(x509.load_pem_x509_certificate(path.read_bytes()).public_key())
