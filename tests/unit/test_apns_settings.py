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

from pushgate.config import Settings as GatewaySettings
from pushgate.config.summary import overdue
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
    """Where and what, of settings that are refused: one fault at a place, each with its mend."""
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate(values)
    found = {
        ".".join(map(str, each["loc"])): each["msg"].removeprefix("Value error, ") for each in refused.value.errors()
    }
    assert len(found) == refused.value.error_count()
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


def test_no_fault_hides_another(good: dict[str, Any], tmp_path: Path) -> None:
    bad = good | {
        "bundle_id": "de example",
        "key_file": str(tmp_path / "absent.p8"),
        "key_id": "short",
        "team_id": "",
        "certificate_file": str(tmp_path / "absent.pem"),
        "certificate_key_file": str(tmp_path / "absent.key"),
        "password_file": str(tmp_path / "absent.password"),
        "environment": "staging",
        "token_encoding": 16,
        "endpoint": "http://example.org",
        "ca_file": str(tmp_path),
        "proxy_login_file": str(tmp_path / "absent.login"),
        "alert": {
            "subtitle": "s" * (MAX_ALERT_BYTES + 1),
            "title_loc_args": ["1"],
            "subtitle_loc_args": ["1"],
            "loc_args": ["1"],
            "titel": "New",
        },
        "badge_includes_missed_calls": "often",
        "forward_data": ["aps", "theme"],
        "max_in_flight": 0,
        "max_connections": 65,
        "request_timeout_s": 121,
        "colour": "red",
    }
    alert = {"subtitle", "title_loc_args", "subtitle_loc_args", "loc_args", "titel", "title"}
    assert faults(bad).keys() == bad.keys() - {"alert"} | {f"alert.{name}" for name in alert}
    assert "both a key and a certificate" in faults(bad)["provider"]


@pytest.mark.parametrize("name", ["bundle_id", "colour", "endpoint", "alert", "max_in_flight"])
def test_no_proof_at_all_is_told_beside_any_other_fault(name: str) -> None:
    values: dict[str, Any] = {"bundle_id": "de.example.app", "key_id": "KEY1234567", "password_file": ""}
    found = faults(values | {name: -1})
    assert found.keys() == {name, "provider"}
    assert "neither a key nor a certificate" in found["provider"]


def test_key_that_is_at_fault_still_wants_its_ids(good: dict[str, Any], tmp_path: Path) -> None:
    found = faults(good | {"key_file": str(tmp_path / "absent"), "key_id": "", "team_id": ""})
    assert found.keys() == {"key_file", "key_id", "team_id"}
    assert "a key_file needs it" in found["team_id"]


@pytest.mark.parametrize("is_readable", [True, False])
def test_keys_of_a_certificate_beside_a_key_are_faults(
    good: dict[str, Any], tmp_path: Path, *, is_readable: bool
) -> None:
    path = write(tmp_path / "p", "password") if is_readable else tmp_path / "absent"
    found = faults(good | {"password_file": path, "certificate_key_file": path})
    assert found.keys() == {"password_file", "certificate_key_file"}
    assert all(fault.startswith("does nothing beside key_file -> take it out") for fault in found.values())


@pytest.mark.parametrize(("content", "places"), [("good", set()), ("bad", {"certificate_file"})])
def test_ids_of_a_key_beside_a_certificate_are_faults(tmp_path: Path, content: str, places: set[str]) -> None:
    values = {
        "bundle_id": "de.example.app",
        "certificate_file": write(tmp_path / "c", pem() if content == "good" else "nothing"),
        "key_id": "KEY1234567",
        "team_id": "short",
    }
    found = faults(values)
    assert found.keys() == {"key_id", "team_id"} | places
    assert found["key_id"].startswith("does nothing beside certificate_file -> take it out")
    assert found["team_id"] == found["key_id"]


def test_login_without_a_proxy_is_a_fault_and_beside_a_bad_proxy_is_none(good: dict[str, Any], tmp_path: Path) -> None:
    login = good | {"proxy_login_file": write(tmp_path / "login", "user:password")}
    assert faults(login) == {"proxy_login_file": "does nothing without proxy -> set proxy, or take it out"}
    assert faults(login | {"proxy": "example.org"}).keys() == {"proxy"}
    assert Settings.model_validate(login | {"proxy": "http://proxy.example.org:3128"}).proxy_login_file is not None


@pytest.mark.parametrize(
    ("alert", "places"),
    [
        ({}, {"title"}),
        ({"subtitle": "only"}, {"title"}),
        ({"subtitle_loc_key": "S", "subtitle_loc_args": ["1"]}, {"title"}),
        ({"title": "T", "loc_args": ["1"]}, {"loc_args"}),
        ({"loc_key": 5, "loc_args": ["1"]}, {"loc_key"}),
        ({"title": 5}, {"title"}),
        ({"body": 5}, {"body"}),
        ({"title": "t" * MAX_ALERT_BYTES, "body": ""}, set()),
        ({"title": "t" * (MAX_ALERT_BYTES + 1)}, {"title"}),
        ({"title": "t" * 600, "subtitle": "s" * 600}, {"title"}),
        ({"title": 5, "subtitle": "s" * 600, "body": "b" * 600}, {"title", "body"}),
        ({"title": "t", "subtitle": "s" * 2000, "body": "b" * 2000}, {"subtitle", "body"}),
        ({"loc_key": "L", "loc_args": ["ä" * 300, "ä" * 300]}, {"loc_args"}),
    ],
)
def test_alert_must_be_visible_and_small(good: dict[str, Any], alert: dict[str, Any], places: set[str]) -> None:
    if not places:
        Settings.model_validate(good | {"alert": alert})
    else:
        assert faults(good | {"alert": alert}).keys() == {f"alert.{name}" for name in places}


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"key_id": ""}, "key_id", "a key_file needs it"),
        ({"team_id": "T"}, "team_id", "not ten"),
        ({"key_file": ""}, "provider", "neither a key nor a certificate"),
        ({"endpoint": "https://example.org/path"}, "endpoint", "not an https address"),
        ({"endpoint": "https://example.org:99999"}, "endpoint", "not an https address"),
        ({"endpoint": "https://u@example.org"}, "endpoint", "not an https address"),
        ({"endpoint": "https://"}, "endpoint", "not an https address"),
        ({"endpoint": "https://::1:2197"}, "endpoint", "not an https address"),
        ({"endpoint": "https://[::1"}, "endpoint", "not an https address"),
        ({"endpoint": "https://[::1]x:2197"}, "endpoint", "not an https address"),
        ({"endpoint": "https://[::1%25lo]:2197"}, "endpoint", "not an https address"),
        ({"proxy": "socks5://example.org"}, "proxy", "not the address of an HTTP proxy"),
        ({"bundle_id": "a" * 256}, "bundle_id", "not a bundle id"),
        ({"bundle_id": "a..b"}, "bundle_id", "not a bundle id"),
        ({"alert": {"title": "t" * (MAX_ALERT_BYTES + 1)}}, "alert.title", "over 1024 bytes"),
        ({"alert": {"loc_key": "L", "loc_args": ["ä" * 600]}}, "alert.loc_args", "over 1024 bytes"),
        ({"alert": {"subtitle": "only"}}, "alert.title", "an alert without text"),
        ({"alert": {"title": "T", "title_loc_args": ["1"]}}, "alert.title_loc_args", "without title_loc_key -> set"),
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


@pytest.mark.parametrize(
    ("content", "password", "words"),
    [
        (b"", None, "is no certificate, or has another password"),
        (b"-----BEGIN CERTIFICATE-----\n", None, "no certificate in"),
        (certificate_pem(certificate(KEY)), None, "no private key"),
        (pem(ec.generate_private_key(ec.SECP256R1())), None, "does not belong to"),
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


def test_an_expired_certificate_is_no_fault_but_told(tmp_path: Path) -> None:
    """Of fifty apps forty-nine must still start."""
    expired = certificate_pem(certificate(KEY, begins=datetime(2020, 1, 1, tzinfo=UTC))) + private_pem(KEY)
    settings = {
        name: Settings.model_validate({"bundle_id": "de.example.app", "certificate_file": write(tmp_path / name, file)})
        for name, file in {"late": expired, "good": pem()}.items()
    }
    (told,) = overdue(GatewaySettings(apps=settings), now=datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    assert (told.path, told.fault) == (
        'apps."late".certificate_file',
        "expired on 2020-01-31: nothing of this app is sent",
    )


def test_key_and_certificate_together_are_a_fault(good: dict[str, Any], tmp_path: Path) -> None:
    found = faults(good | {"certificate_file": write(tmp_path / "c", pem())})
    assert found.keys() == {"provider"}
    assert "both a key and a certificate" in found["provider"]


def test_no_fault_shows_what_a_secret_file_holds(good: dict[str, Any], tmp_path: Path) -> None:
    secret = private_pem(KEY, b"secret").decode()
    password = write(tmp_path / "p", "hunter2")
    bad_key = good | {"key_file": write(tmp_path / "k", secret), "password_file": password}
    certificate_file = write(tmp_path / "c", pem(password=b"secret"))
    bad_certificate = {"bundle_id": "x", "certificate_file": certificate_file, "password_file": password}
    for bad in (bad_key, bad_certificate):
        with pytest.raises(ValidationError) as refused:
            Settings.model_validate(bad)
        said = f"{refused.value}{refused.value.errors()!r}"
        assert secret[40:80] not in said
        assert "hunter2" not in said
