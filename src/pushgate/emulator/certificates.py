"""Throw-away certificates and keys: everything that a gateway and its emulators need of each other."""

from __future__ import annotations

import ipaddress
import json
import os
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Literal, assert_never

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pushgate.emulator.apns_certificate import PRODUCTION_OID, SANDBOX_OID

LIFETIME = timedelta(days=30)
LEEWAY = timedelta(hours=1)
"""Certificates begin so long ago, for clocks that are behind."""
RSA_BITS = 2048
APNS_KEY_ID = "EMULATOR01"
APNS_TEAM_ID = "EMULATEAM1"
_DER_NULL = b"\x05\x00"

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Flaw(StrEnum):
    """What is wrong with a server's certificate."""

    NONE = "none"
    WRONG_NAME = "wrong-name"
    """It is somebody else's."""
    UNKNOWN_AUTHORITY = "unknown-authority"
    """Its authority is one that nobody trusts."""
    EXPIRED = "expired"


class Landscape:
    """Makes keys and certificates under one throw-away CA and writes them into a folder, each with mode 0600.

    On creation: the CA, a server certificate for localhost, and an APNs key. The rest when it is asked for; the RSA key
    of the service account is the slow one. Valid from `now` for 30 days.
    """

    def __init__(self, folder: Path, *, project_id: str = "emulated-project", now: datetime | None = None) -> None:
        self.folder = folder
        self.project_id = project_id
        self.apns_key_id = APNS_KEY_ID
        self.apns_team_id = APNS_TEAM_ID
        self.service_account_email = f"emulator@{project_id}.iam.gserviceaccount.com"
        self._now = now or datetime.now(UTC)
        self._ca_key = ec.generate_private_key(ec.SECP256R1())
        self._ca = self._make_ca()
        self._apns_key = ec.generate_private_key(ec.SECP256R1())
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.ca_file = self._write("ca.pem", self._ca.public_bytes(Encoding.PEM))
        self.server_cert_file, self.server_key_file = self.write_server_certificate()
        self.apns_key_file = self._write(f"AuthKey_{APNS_KEY_ID}.p8", _private_pem(self._apns_key))

    @property
    def apns_keys(self) -> dict[tuple[str, str], bytes]:
        """(key id, team id) -> public key as PEM, as ApnsEmulator takes it."""
        return {(self.apns_key_id, self.apns_team_id): _public_pem(self._apns_key)}

    @property
    def service_account_public_key(self) -> bytes:
        """The service account's public key as PEM, as FcmEmulator takes it."""
        return _public_pem(self._service_account_key)

    def write_service_account(self, *, token_url: str) -> Path:
        """The service account's JSON file, with the token endpoint of a running FcmEmulator."""
        account = {
            "type": "service_account",
            "project_id": self.project_id,
            "private_key_id": "emulated",
            "private_key": _private_pem(self._service_account_key).decode(),
            "client_email": self.service_account_email,
            "client_id": "100000000000000000000",
            "token_uri": token_url,
            "universe_domain": "googleapis.com",
        }
        return self._write("service-account.json", json.dumps(account, indent=2).encode())

    def write_server_certificate(self) -> tuple[Path, Path]:
        """A server certificate for localhost, a new one with each call in the same files: (certificate, key)."""
        here = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))
        return self._issue_server("server", "localhost", *here, until=LIFETIME)

    def write_caller_certificate(self, name: str) -> tuple[Path, Path]:
        """A client certificate for someone who calls the gateway, with `name` as its DNS name: (certificate, key)."""
        return self._issue_files(
            f"caller-{name}",
            subject=[x509.NameAttribute(NameOID.COMMON_NAME, name)],
            extensions=[_names(name)],
            usage=ExtendedKeyUsageOID.CLIENT_AUTH,
        )

    def write_push_certificate(
        self, *topics: str, environments: Sequence[Literal["production", "sandbox"]] = ("production",)
    ) -> tuple[Path, Path]:
        """An APNs client certificate for these topics, in place of the key: (certificate, key)."""
        oids = {"production": PRODUCTION_OID, "sandbox": SANDBOX_OID}
        return self._issue_files(
            "push",
            subject=[
                *(x509.NameAttribute(NameOID.USER_ID, topic) for topic in topics),
                x509.NameAttribute(NameOID.COMMON_NAME, "Apple Push Services (emulated)"),
            ],
            extensions=[x509.UnrecognizedExtension(oids[name], _DER_NULL) for name in environments],
            usage=ExtendedKeyUsageOID.CLIENT_AUTH,
        )

    def server_tls(self, *, client_certificates: bool = False, flaw: Flaw = Flaw.NONE) -> ssl.SSLContext:
        """What an emulator listens with; with `client_certificates` it asks for one and does without."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(*self._server_files(flaw))
        if client_certificates:
            context.load_verify_locations(self.ca_file)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _server_files(self, flaw: Flaw) -> tuple[Path, Path]:
        match flaw:
            case Flaw.NONE:
                return self.server_cert_file, self.server_key_file
            case Flaw.WRONG_NAME:
                return self._issue_server(flaw, "elsewhere.example.org", until=LIFETIME)
            case Flaw.EXPIRED:
                return self._issue_server(flaw, "localhost", until=-LEEWAY / 2)
            case Flaw.UNKNOWN_AUTHORITY:
                return Landscape(self.folder / flaw, now=self._now)._server_files(Flaw.NONE)
            case _:
                assert_never(flaw)

    def client_tls(self) -> ssl.SSLContext:
        """What trusts this landscape's servers and nobody else."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    @cached_property
    def _service_account_key(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)

    def _make_ca(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pushgate emulator CA")])
        public = self._ca_key.public_key()
        return (
            self._begin(name, public, until=LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(for_ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._ca_key, SHA256())
        )

    def _begin(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, until: timedelta
    ) -> x509.CertificateBuilder:
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pushgate emulator CA")])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - LEEWAY)
            .not_valid_after(self._now + until)
        )

    def _issue_server(
        self, name: str, *hosts: str | ipaddress.IPv4Address | ipaddress.IPv6Address, until: timedelta
    ) -> tuple[Path, Path]:
        return self._issue_files(
            name,
            subject=[x509.NameAttribute(NameOID.COMMON_NAME, str(hosts[0]))],
            extensions=[_names(*hosts)],
            usage=ExtendedKeyUsageOID.SERVER_AUTH,
            until=until,
        )

    def _issue_files(
        self,
        name: str,
        *,
        subject: Sequence[x509.NameAttribute[str]],
        extensions: Sequence[x509.ExtensionType],
        usage: x509.ObjectIdentifier,
        until: timedelta = LIFETIME,
    ) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key()
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca_key.public_key())
        builder = (
            self._begin(x509.Name(subject), public, until=until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(for_ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(authority, critical=False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(self._ca_key, SHA256())
        return (
            self._write(f"{name}.pem", certificate.public_bytes(Encoding.PEM)),
            self._write(f"{name}.key", _private_pem(key)),
        )

    def _write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        return path


def _names(*names: str | ipaddress.IPv4Address | ipaddress.IPv6Address) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        [x509.DNSName(name) if isinstance(name, str) else x509.IPAddress(name) for name in names]
    )


def _key_usage(*, for_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not for_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=for_ca,
        crl_sign=for_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: _Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public_pem(key: _Key) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
