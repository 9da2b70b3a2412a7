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

from pushgate.config import listen, load
from pushgate.config.listen import Address, parse_listen
from pushgate.config.management_table import Management
from pushgate.config.summary import overdue
from pushgate.errors import ConfigError, ConfigFault
from tests.certificates import Authority

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


# --- what certificates are meant for -----------------------------------------------------------------------------

ANY = MTLS + 'client_purpose = "any"\n'
PIN = "ab" * 32


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if pyOpenSSL were there."""
    monkeypatch.setattr(listen, "find_spec", lambda name: name)


@pytest.mark.usefixtures("installed")
def test_any_purpose_wants_the_fingerprint_of_each_caller(server_files: Path) -> None:
    clients = f"""
[[clients]]
name = "one"
san = "one.example.org"
[[clients]]
name = "two"
subject = "CN=two"
[[clients]]
name = "three"
spki_sha256 = "{PIN}"
"""
    found = faults_in(server_files, ANY + clients)
    assert [(fault.path, fault.mend) for fault in found] == [
        ("clients[0].san", "name each caller's key or certificate by spki_sha256 or sha256"),
        ("clients[1].subject", "name each caller's key or certificate by spki_sha256 or sha256"),
    ]
    (found_alone,) = faults_in(server_files, ANY)
    assert (found_alone.path, "whoever has a certificate" in found_alone.fault) == ("api.tls.client_purpose", True)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("key", ["sha256", "spki_sha256"])
def test_any_purpose_with_fingerprints_is_taken(server_files: Path, key: str) -> None:
    path = server_files / "pushgate.toml"
    path.write_text(f'{ANY}[[clients]]\nname = "zeta"\n{key} = "{PIN}"\n')
    loaded = load(path, environ={})
    assert loaded.api.tls is not None
    assert loaded.api.tls.client_purpose == "any"
    assert "by client certificate of any purpose" in loaded.describe()


def test_any_purpose_needs_its_package_and_an_authority(server_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "find_spec", lambda name: None)
    clients = f'[[clients]]\nname = "zeta"\nsha256 = "{PIN}"\n'
    (found,) = faults_in(server_files, ANY + clients)
    assert (found.path, found.mend) == (
        "api.tls.client_purpose",
        "install it beside pushgate (pipx inject pushgate pyopenssl)",
    )
    alone = ANY.replace('client_ca_file = "ca.pem"\n', "").replace('auth = "mtls"\n', "")
    first, *_ = faults_in(server_files, alone)
    assert (first.path, "does nothing without client_ca_file" in first.fault) == ("api.tls.client_purpose", True)


def test_a_revocation_list_that_has_ended_is_overdue(server_files: Path) -> None:
    callers = Authority("callers")
    now = datetime.now(UTC)
    (server_files / "ca.pem").write_bytes(callers.pem)
    (server_files / "crl.pem").write_bytes(callers.revocation_list(ends=now + timedelta(hours=1)))
    path = server_files / "pushgate.toml"
    path.write_text(MTLS + 'client_crl_file = "crl.pem"\n')
    loaded = load(path, environ={})
    assert overdue(loaded, now=now.timestamp()) == []
    (late,) = overdue(loaded, now=now.timestamp() + 3601)
    assert (late.path, late.mend) == ("api.tls.client_crl_file", "fetch the new list")
    assert "the list of CN=callers has ended on" in late.fault


def test_a_word_that_is_no_purpose_is_one_fault(server_files: Path) -> None:
    (found,) = faults_in(server_files, MTLS + 'client_purpose = "server"\n')
    assert (found.path, found.mend) == ("api.tls.client_purpose", 'write "client" or "any"')


def test_a_second_key_that_is_not_its_certificates_is_refused(server_files: Path) -> None:
    rsa_certificate = Authority().issue("localhost", kind=None)
    rsa_certificate.write(server_files, "second")
    second = 'second_cert_file = "second.pem"\nsecond_key_file = "server.key"\n'
    (found,) = faults_in(server_files, MTLS + second)
    assert (found.path, found.fault) == ("api.tls.second_key_file", "not the key of second_cert_file")


# --- the management port -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", ["", "short", "x" * 19, "with a space in it, and long", "ä" * 30, "a" * 30 + "\nb" * 2]
)
def test_what_is_no_token_is_refused_without_being_shown(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    (found,) = faults_in(tmp_path, '[management]\ntoken_file = "token"\n')
    assert found.path == "management.token_file"
    assert "openssl rand -hex 32" in found.mend or "not shown" in found.mend
    assert not content or content not in str(found)


def test_the_token_is_the_one_line_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef0123\n")
    table = Management(token_file=tmp_path / "token")
    assert table.token() == b"0123456789abcdef0123"
    assert Management().token() == b""
    (tmp_path / "token").write_text("")
    with pytest.raises(ConfigError) as caught:
        table.token()
    assert "openssl rand" in caught.value.faults[0].mend
    (tmp_path / "token").unlink()
    with pytest.raises(ConfigError) as caught:
        table.token()
    assert caught.value.faults[0].mend == "make it readable"


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "localhost:0", ""])
def test_a_management_port_of_this_machine_needs_no_token(listen: str) -> None:
    assert Management(listen=listen).token_file is None
