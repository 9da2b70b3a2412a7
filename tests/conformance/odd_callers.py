"""Certificates of callers as an attacker would make them, and how a configuration of callers is judged."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID, ObjectIdentifier

from pushgate.callers import Entry, by_certificate
from pushgate.config import load
from pushgate.errors import ConfigError, RequestError
from pushgate.model import Caller
from tests.certificates import DAY, SERVER, Authority, Leaf, new_key
from tests.tls_server import Served, asking, client_tls

AUTHORITY = Authority("callers")
ERP = AUTHORITY.issue("erp.example.org")
ENTRY = Entry(Caller("erp"), san="erp.example.org")
SAN, INFORMATION_ACCESS = ObjectIdentifier("2.5.29.17"), ObjectIdentifier("1.3.6.1.5.5.7.1.1")
DNS, MAIL, URI, ADDRESS = 2, 1, 6, 7


def odd_leaf(
    *names: tuple[int, bytes],
    subject: x509.Name | None = None,
    garbled: ObjectIdentifier | None = None,
    signed_by: Authority | None = None,
) -> Leaf:
    """A certificate with these names, byte for byte, and an extension that holds nothing of what it should."""
    key, now = new_key(), datetime.now(UTC)
    subject = subject or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "erp")])
    builder = x509.CertificateBuilder(AUTHORITY.name, subject, key.public_key(), 7)
    builder = builder.not_valid_before(now - DAY).not_valid_after(now + DAY)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(AUTHORITY.key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    if names:
        inner = b"".join(bytes((0x80 | kind, len(value))) + value for kind, value in names)
        whole = bytes((0x30, len(inner))) + inner
        builder = builder.add_extension(x509.UnrecognizedExtension(SAN, whole), critical=False)
    if garbled is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([SERVER]), critical=False)
        builder = builder.add_extension(x509.UnrecognizedExtension(garbled, b"\x30\x03\x02\x01\x01"), critical=False)
    return Leaf(builder.sign((signed_by or AUTHORITY).key, hashes.SHA256()), key)


def known_as(leaf: Leaf, *clients: Entry) -> str:
    """The name of the caller; empty for nobody."""
    try:
        return by_certificate(clients)({"extensions": {"tls": {"client_cert_der": leaf.der}}}).name
    except RequestError as refused:
        assert (refused.status, refused.ends_connection) == (401, True)
        return ""


def attribute(oid: ObjectIdentifier, value: str) -> x509.NameAttribute[str | bytes]:
    return x509.NameAttribute(oid, value)


async def status_of(made: Served, leaf: Leaf) -> int:
    """The status of a request with this certificate; 0 where the handshake comes to nothing."""
    try:
        return (await asking(made.port, client_tls(AUTHORITY, leaf, made.folder)))[0]
    except OSError:
        return 0


MTLS = """\
[api]
auth = "mtls"
[api.tls]
cert_file = "server.pem"
key_file = "server.key"
client_ca_file = "ca.pem"
client_crl_file = "crl.pem"
"""


def faults_of(folder: Path, text: str = MTLS) -> Mapping[str, str]:
    """What is wrong with a configuration, by key."""
    AUTHORITY.issue("localhost").write(folder, "server")
    (folder / "pushgate.toml").write_text(text)
    try:
        load(folder / "pushgate.toml", environ={})
    except ConfigError as error:
        assert all(fault.mend for fault in error.faults)
        return {fault.path: fault.fault for fault in error.faults}
    return {}
