"""The landscape's certificates as strict verifiers want them."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID
from cryptography.x509.verification import PolicyBuilder, Store

from pushgate.emulator import Landscape
from pushgate.emulator.apns_certificate import PushCertificate

NOW = datetime.now(UTC)


@pytest.fixture
def landscape(tmp_path: Path) -> Landscape:
    return Landscape(tmp_path / "emulator", now=NOW)


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, *, name: str) -> ssl.SSLObject:
    """A TLS handshake in memory; returns the server's side. Raises ssl.SSLError when a side refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=name)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    pending = [near, far]
    for _ in range(10):
        for side in list(pending):
            try:
                side.do_handshake()
                pending.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert not pending
    return far


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_the_server_certificate_satisfies_strict_x509(landscape: Landscape, name: str) -> None:
    client = landscape.client_tls()
    client.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    handshake(landscape.server_tls(), client, name=name)


def test_the_server_certificate_satisfies_a_web_verifier(landscape: Landscape) -> None:
    store = Store([load(landscape.ca_file)])
    verifier = PolicyBuilder().store(store).time(NOW).build_server_verifier(x509.DNSName("localhost"))
    assert len(verifier.verify(load(landscape.server_cert_file), [])) == 2


def test_another_landscape_is_not_trusted(landscape: Landscape, tmp_path: Path) -> None:
    stranger = Landscape(tmp_path / "other", now=NOW)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        handshake(landscape.server_tls(), stranger.client_tls(), name="localhost")


def test_a_caller_is_known_by_its_name(landscape: Landscape) -> None:
    client = landscape.client_tls()
    client.load_cert_chain(*landscape.write_caller_certificate("erp.example.org"))
    server = landscape.server_tls(client_certificates=True)
    server.verify_flags |= ssl.VERIFY_X509_STRICT
    certificate = handshake(server, client, name="localhost").getpeercert()
    assert certificate is not None
    assert certificate["subjectAltName"] == (("DNS", "erp.example.org"),)
    assert handshake(server, landscape.client_tls(), name="localhost").getpeercert() is None


def test_a_push_certificate_names_topics_and_environments(landscape: Landscape) -> None:
    certificate, _ = landscape.write_push_certificate("a.b", "c.d", environments=["sandbox", "production"])
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    loaded = PushCertificate.load(der)
    assert loaded.topics == ("a.b", "c.d")
    assert loaded.environments == frozenset(("sandbox", "production"))


def test_files_are_private_and_replaced(landscape: Landscape) -> None:
    first = landscape.server_cert_file.read_bytes()
    again = Landscape(landscape.folder, now=NOW)
    assert again.server_cert_file.read_bytes() != first
    again.write_service_account(token_url="https://localhost/token")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in landscape.folder.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(landscape.folder.stat().st_mode) == 0o700


def test_certificates_are_short_lived_and_have_their_identifiers(landscape: Landscape) -> None:
    certificate, authority = load(landscape.server_cert_file), load(landscape.ca_file)
    assert certificate.not_valid_after_utc - NOW <= timedelta(days=30)
    assert certificate.not_valid_before_utc < NOW
    issuer = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    subject = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert issuer.key_identifier == subject.digest
    assert authority.extensions.get_extension_for_oid(ExtensionOID.KEY_USAGE).critical
