"""Configurations as people write them: what the good ones will run, what is wrong with the bad ones.

Each file says in its own comments what is expected: `#$ NAME=value` sets the environment (`{key}` is a random key of 32
bytes), `#:` is a line of the answer (of a good one: what will run; of a bad one: place and fault), `#>` is a mend that
must be among those given. `{dir}` is the folder of the file, `{file}` the file.
"""

from __future__ import annotations

import datetime
import json
import secrets
import shutil
import tomllib
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from pushgate.config import Settings, load, reference
from pushgate.config.keys import keys_of
from pushgate.errors import ConfigError
from tests.certificates import Authority

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DEFAULTS = ROOT / "config.default.toml"
GOOD = sorted((HERE / "configs" / "good").glob("*.toml"))
BAD = sorted((HERE / "configs" / "bad").glob("*.toml"))


def lines_of(path: Path, mark: str) -> list[str]:
    """What the file says in comments with this mark."""
    return [line.removeprefix(mark) for line in path.read_text().splitlines() if line.startswith(mark)]


def environ_of(path: Path) -> dict[str, str]:
    """The environment that the file wants."""
    pairs = (line.partition("=") for line in lines_of(path, "#$ "))
    return {name: value.replace("{key}", secrets.token_hex(32)) for name, _, value in pairs}


@pytest.fixture(scope="session")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the configurations name."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "data").mkdir()
    (folder / "proxy.login").write_text("user:password")
    (folder / "spool.key").write_text(f"# newest first\n{secrets.token_hex(32)}\n\n{secrets.token_hex(32)}\n")
    (folder / "short.key").write_text(f"{secrets.token_hex(32)}\n{secrets.token_hex(31)}\n")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    server = authority.issue_cert("localhost")
    server.private_key_pem.write_to_path(folder / "server.key")
    (folder / "server.pem").write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    authority.issue_cert("localhost").private_key_pem.write_to_path(folder / "other.key")
    second = authority.issue_cert("localhost", key_type=trustme.KeyType.RSA)
    second.private_key_pem.write_to_path(folder / "rsa.key")
    second.cert_chain_pems[0].write_to_path(folder / "rsa.pem")
    (folder / "crl.pem").write_bytes(Authority().revocation_list())
    (folder / "management.token").write_text(secrets.token_hex(32) + "\n")
    (folder / "short.token").write_text("MARKER-c9f0f895\n")
    signing = ec.generate_private_key(ec.SECP256R1())
    (folder / "AuthKey.p8").write_bytes(pem(signing))
    (folder / "apns.pem").write_bytes(self_signed(signing) + pem(signing))
    account = {
        "type": "service_account",
        "project_id": "my-project",
        "client_email": "push@my-project.example.org",
        "token_uri": "https://oauth2.example.org/token",
        "private_key": pem(rsa.generate_private_key(65537, 2048)).decode(),
    }
    (folder / "service-account.json").write_text(json.dumps(account))
    return folder


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def self_signed(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "de.example.old")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def place(key_files: Path, tmp_path: Path) -> Path:
    """A folder of its own with the key files in it."""
    return Path(shutil.copytree(key_files, tmp_path / "config"))


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_good_file_says_what_will_run(path: Path, place: Path) -> None:
    file = Path(shutil.copy(path, place))
    said = load(file, environ=environ_of(path)).describe()
    assert said.splitlines() == [line.format(dir=place) for line in lines_of(path, "#: ")]


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_names_every_fault_at_once(path: Path, place: Path) -> None:
    file = Path(shutil.copy(path, place))
    with pytest.raises(ConfigError) as caught:
        load(file, environ=environ_of(path))
    found = [f"{fault.path}: {fault.fault}" for fault in caught.value.faults]
    assert found == [line.replace("{dir}", str(place)).replace("{file}", str(file)) for line in lines_of(path, "#: ")]
    assert all(fault.mend for fault in caught.value.faults)
    assert set(lines_of(path, "#> ")) <= {fault.mend for fault in caught.value.faults}
    assert "MARKER" not in str(caught.value)
    assert "password@" not in str(caught.value)


def test_the_default_file_as_it_is_equals_the_defaults(tmp_path: Path) -> None:
    file = Path(shutil.copy(DEFAULTS, tmp_path))
    (tmp_path / "empty.toml").write_bytes(b"")
    assert load(file, environ={}) == load(tmp_path / "empty.toml", environ={})


def test_the_default_file_has_every_key_once_and_no_other() -> None:
    listed = [(entry.path, entry.provider) for entry in reference.entries(DEFAULTS.read_text()) if entry.value]
    assert sorted(listed) == sorted((key.path, key.provider) for key in keys_of(Settings))


def test_the_default_file_shows_every_default() -> None:
    keys = {(key.path, key.provider): key for key in keys_of(Settings)}
    for entry in reference.entries(DEFAULTS.read_text()):
        if entry.value:
            key = keys[entry.path, entry.provider]
            written = tomllib.loads(f"value = {entry.value}")["value"]
            default = list(key.default) if isinstance(key.default, tuple) else key.default
            is_example = not entry.is_on and default in (None, "") and written != ""
            assert is_example or written == default, entry.path
            assert not key.required or not entry.is_on, entry.path


def test_the_default_file_is_valid_with_every_line_switched_on(tmp_path: Path) -> None:
    text = "\n".join(
        line.removeprefix("#") if line.startswith("#") and not line.startswith("# ") else line
        for line in DEFAULTS.read_text().splitlines()
    )
    file = tmp_path / "all.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    faults = {" ".join(fault.fault.split()[:2]) for fault in caught.value.faults}
    expected = {
        "cannot read": "no file is there",
        "both a": "both ways to prove ourselves to APNs",
        "does nothing": "of those two ways, and a login without a proxy",
        "they do": "clients that nobody asks",
        "known by": "each way to know a client's certificate",
        "not random": "a key of zeros",
    }
    assert faults == expected.keys()


def test_the_reference_page_is_the_one_that_the_code_makes() -> None:
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    assert page == reference.page(DEFAULTS.read_text()), f"write it anew: {reference.__doc__}"
