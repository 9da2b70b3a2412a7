"""The how-to pages on callers: their commands are run, their configurations are loaded."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pushgate import revocation
from pushgate.config import listen, load
from tests.certificates import Authority

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
PAGE, PROXY = ((HOW_TO / f"{name}.md").read_text() for name in ("who-may-call", "put-a-proxy-in-front"))
AUTHORITY = Authority("callers")


def blocks(language: str, page: str = PAGE) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", page, re.M | re.S)
    assert found
    return [str(each) for each in found]


def run(script: str, folder: Path) -> str:
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_commands_give_what_the_configuration_wants(tmp_path: Path) -> None:
    leaf = AUTHORITY.issue("erp.example.org", "urn://example.org/erp")
    leaf.write(tmp_path, "erp")
    told = run(blocks("sh")[0], tmp_path)
    assert f"subject={leaf.certificate.subject.rfc4514_string()}" in told
    assert "DNS:erp.example.org, URI:urn://example.org/erp" in told
    fingerprint = re.search(r"sha256 Fingerprint=(\S+)", told)
    assert fingerprint is not None
    (spki,) = re.findall(r"\b[0-9a-f]{64}\b", told)
    config = tmp_path / "pushgate.toml"
    config.write_text(
        '[api]\nauth = "proxy"\ntrusted_proxies = ["10.0.0.7"]\nproxy_header = "nginx"\n'
        f'[[clients]]\nname = "a"\nsha256 = "{fingerprint[1]}"\n[[clients]]\nname = "b"\nspki_sha256 = "{spki}"\n'
    )
    first, second = load(config, environ={}).clients
    assert (first.sha256, second.spki_sha256) == (leaf.sha256, leaf.spki_sha256)


def test_its_commands_fetch_a_list(tmp_path: Path) -> None:
    revoked = AUTHORITY.issue()
    der = x509.load_pem_x509_crl(AUTHORITY.revocation_list(revoked)).public_bytes(Encoding.DER)
    (tmp_path / "clients.crl").write_bytes(der)
    run(blocks("sh")[1].replace("http://crl.example.org/", f"file://{tmp_path}/"), tmp_path)
    found = revocation.read(tmp_path / "clients-crl.pem")
    assert found.good_until(revoked.certificate) == 0
    assert found.good_until(AUTHORITY.issue().certificate) > 0


def test_its_configurations_are_good_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "find_spec", lambda name: name)
    AUTHORITY.issue("localhost").write(tmp_path, "server-ecdsa")
    AUTHORITY.issue("localhost", kind=None).write(tmp_path, "server-rsa")
    (tmp_path / "clients-ca.pem").write_bytes(AUTHORITY.pem)
    (tmp_path / "clients-crl.pem").write_bytes(AUTHORITY.revocation_list())
    run(blocks("sh")[2].replace("/etc/pushgate/", f"{tmp_path}/"), tmp_path)
    assert (tmp_path / "management.token").stat().st_mode & 0o777 == 0o600
    app = '\n[apps."de.example.app.firebase"]\nprovider = "fcm"\nproject_id = "my-project"\n'
    said = []
    for number, block in enumerate([*blocks("toml"), *blocks("toml", PROXY)]):
        config = tmp_path / f"{number}.toml"
        config.write_text(block + app)
        said.append(load(config, environ={}).describe())
    mtls, management, proxy = said
    assert "erp: san erp.example.de; apps de.example.*; sealed only; 50 requests a second" in mtls
    assert "by what 10.0.0.7 tell in the header of nginx" in proxy
    assert "10.0.0.8:8081, with a token" in management
