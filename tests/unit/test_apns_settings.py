"""The settings of an APNs app: good ones pass, every fault is told where it is and how to mend it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from pydantic import ValidationError

from pushgate.provider.apns_settings import MAX_ALERT_BYTES, Settings
from tests.provider_samples import certificate, certificate_pem, private_pem, write, write_signing_key

KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def good(tmp_path: Path) -> dict[str, Any]:
    return {
        "provider": "apns",
        "bundle_id": "de.example.app",
        "key_file": str(write_signing_key(tmp_path)),
        "key_id": "KEY1234567",
        "team_id": "TEAM123456",
    }


def faults(values: dict[str, Any]) -> dict[str, str]:
    """Where and what, of settings that are refused."""
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate(values)
    found = {
        ".".join(map(str, each["loc"])): each["msg"].removeprefix("Value error, ") for each in refused.value.errors()
    }
    for message in found.values():
        assert " -> " in message or "Input should be" in message or "not permitted" in message
    return found


def test_a_key_is_enough_and_the_rest_has_defaults(good: dict[str, Any]) -> None:
    settings = Settings.model_validate(good)
    assert settings.environment == "production"
    assert settings.alert.title == "New notification"
    assert settings.ca_file is None


def test_empty_paths_are_absent(good: dict[str, Any]) -> None:
    settings = Settings.model_validate(good | {"ca_file": "", "certificate_file": "", "password_file": ""})
    assert settings.ca_file is None
    assert settings.certificate_file is None


def test_every_fault_is_told_at_once_at_its_place(good: dict[str, Any], tmp_path: Path) -> None:
    bad = good | {
        "bundle_id": "de example",
        "key_file": str(tmp_path / "absent.p8"),
        "key_id": "short",
        "team_id": "team123456",
        "environment": "staging",
        "endpoint": "http://example.org",
        "ca_file": str(tmp_path),
        "proxy": "http://user:pw@example.org:3128",
        "alert": {"subtitle": "only"},
        "forward_data": ["aps", "theme"],
        "max_in_flight": 0,
        "colour": "red",
    }
    assert faults(bad).keys() == bad.keys() - {"provider"}


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"key_id": ""}, "key_id", "a key_file needs it"),
        ({"team_id": "T"}, "team_id", "not ten"),
        ({"key_file": ""}, "", "neither a key nor a certificate"),
        ({"endpoint": "https://example.org/path"}, "endpoint", "not an https address"),
        ({"endpoint": "https://example.org:99999"}, "endpoint", "not an https address"),
        ({"endpoint": "https://u@example.org"}, "endpoint", "not an https address"),
        ({"endpoint": "https://"}, "endpoint", "not an https address"),
        ({"proxy": "socks5://example.org"}, "proxy", "not the address of an HTTP proxy"),
        ({"bundle_id": "a" * 256}, "bundle_id", "not a bundle id"),
        ({"bundle_id": "a..b"}, "bundle_id", "not a bundle id"),
        ({"alert": {"title": "t" * (MAX_ALERT_BYTES + 1)}}, "alert", "over 1024 bytes"),
        ({"alert": {"loc_key": "L", "loc_args": ["ä" * 600]}}, "alert", "over 1024 bytes"),
        ({"forward_data": [""]}, "forward_data", "cannot be forwarded"),
        ({"forward_data": ["ciphertext"]}, "forward_data", "'ciphertext' cannot be forwarded"),
    ],
)
def test_a_fault_is_told_at_its_place(good: dict[str, Any], change: dict[str, Any], place: str, words: str) -> None:
    assert words in faults(good | change)[place]


@pytest.mark.parametrize("endpoint", ["https://127.0.0.1:2197", "https://example.org", "https://[::1]:2197/", ""])
def test_endpoint_is_host_and_port(good: dict[str, Any], endpoint: str) -> None:
    assert Settings.model_validate(good | {"endpoint": endpoint}).endpoint == endpoint


def test_ca_file_must_hold_certificates(good: dict[str, Any], tmp_path: Path) -> None:
    ca_file = write(tmp_path / "ca.pem", certificate_pem(certificate(KEY)))
    assert Settings.model_validate(good | {"ca_file": ca_file}).ca_file == ca_file
    assert "no certificate in" in faults(good | {"ca_file": write(tmp_path / "ca2.pem", "nothing")})["ca_file"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private key"),
        (private_pem(ec.generate_private_key(ec.SECP384R1())), "another kind than P-256"),
        (private_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)), "another kind than P-256"),
        (private_pem(KEY, b"secret"), "has a password"),
    ],
    ids=["empty", "broken", "P-384", "RSA", "encrypted"],
)
def test_key_file_must_hold_a_key_that_can_sign(
    good: dict[str, Any], tmp_path: Path, content: bytes, words: str
) -> None:
    assert words in faults(good | {"key_file": write(tmp_path / "key.p8", content)})["key_file"]


# Certificates


def p12(key: ec.EllipticCurvePrivateKey | None, password: bytes, *, with_certificate: bool = True) -> bytes:
    found = certificate(KEY) if with_certificate else None
    return serialize_key_and_certificates(b"push", key, found, None, BestAvailableEncryption(password))


def pem(key: ec.EllipticCurvePrivateKey = KEY, password: bytes | None = None) -> bytes:
    return certificate_pem(certificate(KEY)) + private_pem(key, password)


@pytest.mark.parametrize(
    ("content", "key", "password"),
    [
        (pem(), None, None),
        (pem(), None, "not needed"),
        (pem(password=b"secret"), None, "secret\n"),
        (certificate_pem(certificate(KEY)), private_pem(KEY), None),
        (certificate_pem(certificate(KEY)), private_pem(KEY, b"secret"), "secret\r\n"),
        (p12(KEY, b"secret"), None, "secret"),
    ],
    ids=["pem", "pem, needless password", "pem, password", "two files", "two files, password", "p12"],
)
def test_certificate_can_be_pem_or_p12(tmp_path: Path, content: bytes, key: bytes | None, password: str | None) -> None:
    values: dict[str, Any] = {"bundle_id": "de.example.app", "certificate_file": write(tmp_path / "c", content)}
    if key is not None:
        values["certificate_key_file"] = write(tmp_path / "k", key)
    if password is not None:
        values["password_file"] = write(tmp_path / "p", password)
    assert Settings.model_validate(values).certificate_file == tmp_path / "c"


EXPIRED = certificate_pem(certificate(KEY, begins=datetime(2020, 1, 1, tzinfo=UTC)))


@pytest.mark.parametrize(
    ("content", "password", "words"),
    [
        (b"", None, "is no certificate, or has another password"),
        (b"-----BEGIN CERTIFICATE-----\n", None, "no certificate in"),
        (certificate_pem(certificate(KEY)), None, "no private key"),
        (pem(ec.generate_private_key(ec.SECP256R1())), None, "does not belong to"),
        (EXPIRED + private_pem(KEY), None, "expired on 2020-01-31"),
        (pem(password=b"secret"), "other", "wrong password"),
        (pem(password=b"secret"), None, "has a password -> name a password_file"),
        (p12(KEY, b"secret"), "other", "has another password"),
        (p12(KEY, b"secret"), None, "has another password"),
        (p12(KEY, b"secret", with_certificate=False), "secret", "lacks the certificate or its key"),
    ],
    ids=[
        "empty",
        "broken",
        "no key",
        "another key",
        "expired",
        "wrong password",
        "no password",
        "p12, wrong password",
        "p12, no password",
        "p12, no certificate",
    ],
)
def test_fault_of_a_certificate_is_told(tmp_path: Path, content: bytes, password: str | None, words: str) -> None:
    values: dict[str, Any] = {"bundle_id": "de.example.app", "certificate_file": write(tmp_path / "c", content)}
    if password is not None:
        values["password_file"] = write(tmp_path / "p", password)
    assert words in faults(values)["certificate_file"]


def test_key_and_certificate_together_are_a_fault(good: dict[str, Any], tmp_path: Path) -> None:
    found = faults(good | {"certificate_file": write(tmp_path / "c", pem())})
    assert "both a key and a certificate" in found[""]


def test_no_fault_shows_what_a_secret_file_holds(good: dict[str, Any], tmp_path: Path) -> None:
    secret = private_pem(KEY, b"secret").decode()
    bad = good | {"key_file": write(tmp_path / "k", secret), "password_file": write(tmp_path / "p", "hunter2")}
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate(bad)
    said = f"{refused.value}{refused.value.errors()!r}"
    assert secret[40:80] not in said
    assert "hunter2" not in said
