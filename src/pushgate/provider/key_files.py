"""Reads and checks credential files: APNs signing keys, client certificates, Google service accounts, proxy logins.

Every fault is a `CredentialError` that says "what is wrong -> how to mend it". It names the file, never what is
in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import pkcs12
from msgspec import Struct

from pushgate.errors import CredentialError

_PEM = b"-----BEGIN "


class ClientCertificate(Struct, frozen=True):
    """What we show to prove who we are: a certificate with its chain (PEM), and its private key."""

    chain_pem: bytes
    key: PrivateKeyTypes
    expires_at: float
    """In unix seconds."""

    def __repr__(self) -> str:
        return f"ClientCertificate(expires_at={self.expires_at})"


class ServiceAccount(Struct, frozen=True):
    """A Google service account with its private key, in Google's own form."""

    project_id: str
    info: dict[str, Any]

    def __repr__(self) -> str:
        return f"ServiceAccount(project_id={self.project_id!r})"


class ProxyLogin(Struct, frozen=True):
    """A proxy, and how to log in there."""

    host: str
    port: int
    login: str = ""
    """`user:password`, or empty."""

    def __repr__(self) -> str:
        return f"ProxyLogin(host={self.host!r}, port={self.port})"


def read_proxy(url: str, login_path: Path | None) -> ProxyLogin | None:
    """The proxy of that address (http://host[:port], default 80), None for the empty one.

    The login is the first line of its file.
    """
    if not url:
        return None
    parts = urlsplit(url)
    login = _first_line(login_path) if login_path else b""
    try:
        return ProxyLogin(parts.hostname or "", parts.port or 80, login.decode())
    except UnicodeDecodeError as error:
        raise CredentialError(f"{login_path} is not text -> write user:password into it") from error


def read_signing_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key of an APNs token (`AuthKey_<key id>.p8`: PKCS #8 PEM, curve P-256)."""
    mend = "name the AuthKey_<key id>.p8 as Apple issued it"
    key = _private_key(_read(path), password=None, path=path, mend=mend)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CredentialError(f"{path} holds a private key of another kind than P-256 -> {mend}")
    return key


def read_client_certificate(path: Path, *, key_path: Path | None, password_path: Path | None) -> ClientCertificate:
    """A client certificate: PKCS #12, or PEM with the key in the same file or in its own.

    The password is the first line of its file. One that has expired is no fault here: it must not keep other apps from
    starting.
    """
    raw = _read(path)
    password = _first_line(password_path) if password_path else None
    if _PEM in raw:
        chain = _pem_chain(raw, path)
        key_mend = "name the file of the private key as certificate_key_file"
        key_from = key_path or path
        key = _private_key(_read(key_from), password=password, path=key_from, mend=key_mend)
    else:
        chain, key = _pkcs12(raw, password=password, path=path)
    if _public_bytes(chain[0].public_key()) != _public_bytes(key.public_key()):
        raise CredentialError(f"the private key does not belong to {path} -> name the key it was issued for")
    expires_at = chain[0].not_valid_after_utc.timestamp()
    chain_pem = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)
    return ClientCertificate(chain_pem, key, expires_at)


def read_service_account(path: Path) -> ServiceAccount:
    """A Google service-account key file (JSON)."""
    mend = "name the key file of a service account as Google issued it (JSON)"
    try:
        info = json.loads(_read(path))
    except ValueError:
        raise CredentialError(f"{path} is not JSON -> {mend}") from None  # the cause would carry the file
    if not isinstance(info, dict) or info.get("type") != "service_account":
        other = "; for workload identity leave credentials_file out and set GOOGLE_APPLICATION_CREDENTIALS"
        raise CredentialError(f"{path} is not a service account -> {mend}{other}")
    wanted = ("project_id", "client_email", "token_uri", "private_key")
    missing = [name for name in wanted if not isinstance(info.get(name), str) or not info[name]]
    if missing:
        raise CredentialError(f"{path} lacks {', '.join(missing)} -> {mend}")
    if not info["token_uri"].startswith("https://"):
        raise CredentialError(f"{path}: token_uri is not an https address -> {mend}")
    key = _private_key(info["private_key"].encode(), password=None, path=path, mend=mend)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise CredentialError(f"{path} holds a private key of another kind than RSA -> {mend}")
    return ServiceAccount(info["project_id"], info)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        mend = "correct the path, or make the file readable for the user that runs pushgate"
        raise CredentialError(f"cannot read {path} ({error.strerror}) -> {mend}") from error


def _first_line(path: Path) -> bytes:
    return _read(path).split(b"\n")[0].rstrip(b"\r")


def _private_key(pem: bytes, *, password: bytes | None, path: Path, mend: str) -> PrivateKeyTypes:
    try:
        try:
            return serialization.load_pem_private_key(pem, password)
        except TypeError:  # a password for a key that has none, or none for one that has
            if password is None:
                raise CredentialError(f"the key in {path} has a password -> name a password_file") from None
            return serialization.load_pem_private_key(pem, None)
    except ValueError as error:
        if password is not None and b"ENCRYPTED" in pem:
            raise CredentialError(f"wrong password for {path} -> correct the password_file") from None
        raise CredentialError(f"no private key can be read from {path} -> {mend}") from error


def _pem_chain(raw: bytes, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(raw)
    except ValueError as error:
        raise CredentialError(f"no certificate in {path} -> name a .p12 or PEM certificate") from error


def _pkcs12(raw: bytes, *, password: bytes | None, path: Path) -> tuple[list[x509.Certificate], PrivateKeyTypes]:
    try:
        key, certificate, others = pkcs12.load_key_and_certificates(raw, password)
    except ValueError as error:
        mend = "name a .p12 or PEM certificate, and its password as password_file"
        raise CredentialError(f"{path} is no certificate, or has another password -> {mend}") from error
    if key is None or certificate is None:
        raise CredentialError(f"{path} lacks the certificate or its key -> export both into the .p12")
    return [certificate, *others], key


def _public_bytes(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded
