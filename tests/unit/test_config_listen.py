"""Where to listen and as whom: addresses, and the files of a server's certificate."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from pushgate.config import load
from pushgate.config.listen import Address, parse_listen
from pushgate.errors import ConfigError, ConfigFault

MARKER = "MARKER-c9f0f895"


def faults_in(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[ConfigFault]:
    """The faults of a configuration in this folder."""
    path = folder / "pushgate.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, environ=environ or {})
    return list(caught.value.faults)


@pytest.mark.parametrize(
    ("text", "address", "is_loopback"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080), True),
        ("127.8.8.8:0", Address("127.8.8.8", 0), True),
        ("[::1]:65535", Address("::1", 65535), True),
        ("localhost:1", Address("localhost", 1), True),
        ("0.0.0.0:80", Address("0.0.0.0", 80), False),
        ("[::]:80", Address("::", 80), False),
        ("gateway.example.org:80", Address("gateway.example.org", 80), False),
    ],
)
def test_an_address_is_taken_apart(text: str, address: Address, is_loopback: bool) -> None:
    assert parse_listen(text) == address
    assert address.is_loopback is is_loopback


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8080",
        ":8080",
        "localhost",
        "localhost:",
        "a:b",
        "::1:80",
        "[::1]",
        "[x]:80",
        "[]:80",
        "a:65536",
        "a b:1",
        "-:1",
        "a:٣",
        "a:1\n",
        "http://a:1",
        "a:100000",
    ],
)
def test_what_is_no_address_says_how_one_looks(text: str) -> None:
    with pytest.raises(ValueError, match=r" -> .*(host:port|65535)"):
        parse_listen(text)


MTLS = '[api]\nauth = "mtls"\n[api.tls]\ncert_file = "server.pem"\nkey_file = "server.key"\nclient_ca_file = "ca.pem"\n'


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_files(authority: trustme.CA, tmp_path: Path) -> Path:
    """A folder with a server's certificate, its key and the authority."""
    server = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server.private_key_pem.write_to_path(tmp_path / "server.key")
    server.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    return tmp_path


def test_a_key_with_a_password_is_told_how_to_lose_it(server_files: Path) -> None:
    path = server_files / "server.key"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    lock = serialization.BestAvailableEncryption(b"MARKER-c9f0f895")
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock))
    (found,) = faults_in(server_files, MTLS)
    assert (found.path, found.fault) == ("api.tls.key_file", f"the key in {path} has a password")
    assert "openssl pkey" in found.mend


def test_files_that_hold_something_else_are_named(server_files: Path) -> None:
    (server_files / "server.pem").write_text(f"{MARKER}")
    (server_files / "server.key").write_text(f"{MARKER}")
    (server_files / "ca.pem").write_text(f"{MARKER}")
    found = faults_in(server_files, MTLS)
    assert [fault.path for fault in found] == ["api.tls.cert_file", "api.tls.key_file", "api.tls.client_ca_file"]
    assert MARKER not in str(found)


def test_a_key_that_openssl_finds_too_weak_is_refused_now_and_not_at_the_first_handshake(server_files: Path) -> None:
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    pem = serialization.Encoding.PEM
    (server_files / "server.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    plain = serialization.NoEncryption()
    (server_files / "server.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    (found,) = faults_in(server_files, MTLS)
    assert found.fault == "OpenSSL refuses it with cert_file (EE_KEY_TOO_SMALL)"
