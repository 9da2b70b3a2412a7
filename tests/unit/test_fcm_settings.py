"""The settings of an FCM app: good ones pass, every fault is told where it is and how to mend it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pydantic import ValidationError

from pushgate.provider.fcm_settings import Settings
from tests.provider_samples import private_pem, service_account, write

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ACCOUNT = service_account(KEY)


def faults(**values: Any) -> dict[str, str]:
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate({"provider": "fcm", "project_id": "my-project"} | values)
    assert private_pem(KEY).decode()[100:140] not in f"{refused.value}{refused.value.errors()!r}"
    found = {".".join(map(str, each["loc"])): each["msg"] for each in refused.value.errors()}
    assert len(found) == refused.value.error_count()
    for message in found.values():
        assert " -> " in message or "Input should be" in message or "not permitted" in message
    return found


def test_project_is_enough_and_credentials_are_the_applications_default() -> None:
    assert Settings(project_id="my-project").credentials_file is None
    assert Settings(project_id="example.org:my-project").project_id == "example.org:my-project"


def test_service_account_of_the_project_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps(ACCOUNT))
    assert Settings(project_id="my-project", credentials_file=path).credentials_file == path
    other = Settings(project_id="other-project", credentials_file=path, allow_other_project=True)
    assert other.project_id == "other-project"


def test_no_fault_hides_another(tmp_path: Path) -> None:
    bad = {
        "project_id": "My Project",
        "credentials_file": str(tmp_path / "absent"),
        "allow_other_project": "perhaps",
        "endpoint": "ftp://example.org",
        "ca_file": str(tmp_path),
        "proxy_login_file": str(tmp_path / "absent"),
        "flatten_content": 2,
        "forward_data": ["from", "ok"],
        "max_in_flight": 0,
        "max_connections": 0,
        "request_timeout_s": 0,
        "colour": "red",
    }
    found = faults(**bad)
    assert found.keys() == bad.keys()
    assert "does nothing without proxy -> " in found["proxy_login_file"]


@pytest.mark.parametrize("name", ["allow_other_project", "project_id", "proxy", "forward_data", "colour"])
def test_account_is_checked_beside_any_other_fault(tmp_path: Path, name: str) -> None:
    broken = write(tmp_path / "a.json", json.dumps(ACCOUNT | {"token_uri": ""}))
    assert faults(**{"credentials_file": broken, name: "?"}).keys() == {"credentials_file", name}


@pytest.mark.parametrize("name", ["proxy", "endpoint", "forward_data", "colour"])
def test_account_of_another_project_is_told_beside_any_other_fault(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.json", json.dumps(ACCOUNT))
    found = faults(**{"project_id": "other-project", "credentials_file": path, name: "?"})
    assert found.keys() == {"credentials_file", name}
    assert "belongs to another project" in found["credentials_file"]


@pytest.mark.parametrize("name", ["project_id", "allow_other_project"])
def test_account_is_not_compared_with_what_is_at_fault_itself(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.json", json.dumps(ACCOUNT))
    assert faults(**{"project_id": "other-project", "credentials_file": path, name: "?"}).keys() == {name}


def test_other_project_without_an_account_is_a_fault() -> None:
    found = faults(allow_other_project=True)
    assert found.keys() == {"credentials_file"}
    assert "allow_other_project does nothing -> " in found["credentials_file"]


def test_login_goes_with_a_proxy(tmp_path: Path) -> None:
    login = write(tmp_path / "login", "user:password")
    assert Settings(project_id="my-project", proxy="http://proxy.example.org", proxy_login_file=login).proxy_login_file
    assert faults(proxy="ftp://proxy.example.org", proxy_login_file=login).keys() == {"proxy"}
    assert faults(proxy_login_file=login).keys() == {"proxy_login_file"}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "from",
        "message_type",
        "gcm",
        "google",
        "google.x",
        "gcm.notification.x",
        "collapse_key",
        "event_id",
        "content_a",
    ],
)
def test_reserved_keys_and_ours_cannot_be_forwarded(name: str) -> None:
    assert "cannot be forwarded -> " in faults(forward_data=[name])["forward_data"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a service account"),
        (json.dumps({"type": "external_account"}), "GOOGLE_APPLICATION_CREDENTIALS"),
        (json.dumps(ACCOUNT | {"client_email": None, "token_uri": ""}), "lacks client_email, token_uri"),
        (json.dumps(ACCOUNT | {"token_uri": "http://example.org"}), "token_uri is not an https address"),
        (json.dumps(ACCOUNT | {"private_key": "-----BEGIN x"}), "no private key"),
        (
            json.dumps(ACCOUNT | {"private_key": private_pem(ec.generate_private_key(ec.SECP256R1())).decode()}),
            "another kind than RSA",
        ),
        (json.dumps(ACCOUNT | {"project_id": "other-project"}), "allow_other_project"),
    ],
)
def test_fault_of_a_service_account_is_told(tmp_path: Path, content: str, words: str) -> None:
    (message,) = faults(credentials_file=write(tmp_path / "a.json", content)).values()
    assert words in message
    assert " -> " in message
