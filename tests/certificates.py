"""Certificates and revocation lists for tests, odd ones too: unlike trustme's they can have ended or lack a use."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from msgspec import Struct

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
P256, P384, BRAINPOOL = ec.SECP256R1(), ec.SECP384R1(), ec.BrainpoolP256R1()
DAY = timedelta(days=1)


def new_key(kind: ec.EllipticCurve | None = P256) -> Key:
    """A key on this curve, or RSA (None)."""
    return rsa.generate_private_key(65537, 2048) if kind is None else ec.generate_private_key(kind)


class Leaf(Struct, frozen=True):
    """A certificate with its key and what is between it and the authority that is trusted."""

    certificate: x509.Certificate
    key: Key
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        return b"".join(each.public_bytes(Encoding.PEM) for each in (self.certificate, *self.chain))

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def sha256(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def spki_sha256(self) -> str:
        digest = hashes.Hash(hashes.SHA256())
        digest.update(self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        return digest.finalize().hex()

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """The files of the certificate with its chain, and of its key."""
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        paths[0].write_bytes(self.pem)
        paths[1].write_bytes(self.key_pem)
        return paths


class Authority:
    """Issues certificates and lists."""

    def __init__(self, name: str = "authority", *, above: Authority | None = None, is_authority: bool = True) -> None:
        self.key = new_key()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._above = above
        signer, now = above or self, datetime.now(UTC)
        builder = _dated(_builder(signer, self.name, self.key), now - DAY, now + 99 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        builder = builder.add_extension(_usage(digital_signature=True, of_authority=is_authority), critical=True)
        self.certificate = builder.sign(signer.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        *names: str,
        common_name: str = "erp",
        kind: ec.EllipticCurve | None = P256,
        uses: Sequence[ObjectIdentifier] = (CLIENT, SERVER),
        key: Key | None = None,
        begins: datetime | None = None,
        ends: datetime | None = None,
        digital_signature: bool | None = None,
    ) -> Leaf:
        """A certificate for these names: DNS names, IP addresses, URIs."""
        key = key or new_key(kind)
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, common_name),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
            ]
        )
        now = datetime.now(UTC)
        builder = _dated(_builder(self, subject, key), begins or now - DAY, ends or now + 9 * DAY)
        if uses:
            builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        if digital_signature is not None:
            builder = builder.add_extension(_usage(digital_signature=digital_signature), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_general_name, names))), False)
        signed = builder.sign(self.key, hashes.SHA256())
        return Leaf(signed, key, (self.certificate,) if self._above else ())

    def revocation_list(
        self, *revoked: Leaf, begins: datetime | None = None, ends: datetime | None = None, delta: bool = False
    ) -> bytes:
        """A list of this authority (PEM)."""
        begins = begins or datetime.now(UTC) - timedelta(hours=1)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(begins)
        builder = builder.next_update(ends or datetime.now(UTC) + DAY)
        for leaf in revoked:
            one = x509.RevokedCertificateBuilder().serial_number(leaf.certificate.serial_number)
            builder = builder.add_revoked_certificate(one.revocation_date(begins).build())
        if delta:
            builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _builder(signer: Authority, subject: x509.Name, key: Key) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(signer.name)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
    return builder.add_extension(issuer_key, critical=False)


def _usage(*, digital_signature: bool, of_authority: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=not digital_signature,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=of_authority,
        crl_sign=of_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _dated(builder: x509.CertificateBuilder, begins: datetime, ends: datetime) -> x509.CertificateBuilder:
    return builder.not_valid_before(begins).not_valid_after(ends)


def _general_name(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
