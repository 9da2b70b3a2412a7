"""A development CA with a certificate for the gateway and one for each caller. For trials: its key lies on the disk."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

FOLDER = "tls"
AUTHORITY_LIFE = timedelta(days=365)
LIFE = timedelta(days=90)
"""Of a certificate: long enough for a trial, and too short to be forgotten in production."""
LEEWAY = timedelta(hours=1)
"""They begin so long ago, for clocks that are behind."""
HERE = ("localhost", "127.0.0.1", "::1")
NAME = "pushgate development CA"


def make(*, hosts: Sequence[str], callers: Sequence[str], now: datetime) -> Mapping[str, bytes]:
    """The files by their names: authority, server and a pair for each caller. `hosts`: names of the gateway besides
    those of this machine. Raises ValueError where a name cannot stand in a certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    own = (
        _begin(name, name, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(of_authority=True), critical=True)
        .sign(key, SHA256())
    )
    files = {f"{FOLDER}/ca.pem": own.public_bytes(Encoding.PEM), f"{FOLDER}/ca.key": _pem(key)}
    names = tuple(dict.fromkeys((*HERE, *hosts)))
    for file, subject, wanted, purpose in (
        ("server", names[0], names, ExtendedKeyUsageOID.SERVER_AUTH),
        *((f"caller-{each}", each, (each,), ExtendedKeyUsageOID.CLIENT_AUTH) for each in callers),
    ):
        leaf = ec.generate_private_key(ec.SECP256R1())
        signed = _issue(subject, wanted, purpose, leaf.public_key(), key, now)
        files[f"{FOLDER}/{file}.pem"] = signed.public_bytes(Encoding.PEM)
        files[f"{FOLDER}/{file}.key"] = _pem(leaf)
    return files


def _issue(
    subject: str,
    names: Sequence[str],
    purpose: ObjectIdentifier,
    public: ec.EllipticCurvePublicKey,
    authority: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    whose = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject[:64])])
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    return (
        _begin(whose, issuer, public, now, LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(of_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(each) for each in names]), critical=False)
        .add_extension(above, critical=False)
        .sign(authority, SHA256())
    )


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LEEWAY)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, of_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not of_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=of_authority,
        crl_sign=of_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
