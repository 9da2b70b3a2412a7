"""Apps of a gateway that takes and never sends: no file of theirs is looked at, and what is refused stays the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pushgate.apps import Apps
from pushgate.config import AppSettings, Settings, load
from pushgate.config.files import files_of
from pushgate.config.keys import keys_of
from pushgate.errors import ConfigError
from tests.provider_samples import device, sealed

NOWHERE = Path("/nowhere")
KEY = """
[apps.key]
provider = "apns"
bundle_id = "org.example.health"
key_file = "AuthKey.p8"
key_id = "ABC1234567"
team_id = "TEAM123456"
"""
CERTIFICATE = """
[apps.certificate]
provider = "apns"
bundle_id = "org.example.health"
certificate_file = "apns.pem"
certificate_key_file = "apns.key"
password_file = "apns.password"
ca_file = "ca.pem"
proxy = "http://proxy.example.org:3128"
proxy_login_file = "proxy.login"
"""
FCM = """
[apps.fcm]
provider = "fcm"
project_id = "example-project"
credentials_file = "service-account.json"
ca_file = "ca.pem"
proxy = "http://proxy.example.org:3128"
proxy_login_file = "proxy.login"
"""
EVERY = KEY + CERTIFICATE + FCM


def taken(toml: str, *, sends: bool = False) -> Settings:
    """The settings, where no file is there."""
    return load(
        NOWHERE / "pushgate.toml", environ={"PUSHGATE_SPOOL__URL": "memory:"}, content=toml.encode(), sends=sends
    )


def faults(toml: str, *, sends: bool) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        taken(toml, sends=sends)
    return {each.path: each.fault for each in caught.value.faults}


@pytest.fixture
def apps() -> Mapping[str, AppSettings]:
    return taken(EVERY).apps


def test_every_file_of_an_app_may_be_absent_for_who_takes_and_none_for_who_sends(
    apps: Mapping[str, AppSettings],
) -> None:
    named = {path for app in apps.values() for path in files_of(app)}
    keys = {key.path for key in keys_of(Settings) if key.path[0] == "apps" and key.path[-1].endswith("_file")}
    set_here = {line.partition(" ")[0] for line in EVERY.splitlines() if "_file = " in line}
    assert set_here == {path[-1] for path in keys}, "a key that is not tried here"
    assert {path.parent for path in named} == {NOWHERE}
    found = faults(EVERY, sends=True)
    assert set(found) == {
        *("apps.key.key_file", "apps.fcm.credentials_file", "apps.fcm.ca_file", "apps.fcm.proxy_login_file"),
        *(f"apps.certificate.{name}_file" for name in ("certificate", "certificate_key", "password", "ca")),
        "apps.certificate.proxy_login_file",
    }
    assert found["apps.key.key_file"] == "cannot read /nowhere/AuthKey.p8 (No such file or directory)"


@pytest.mark.parametrize(
    ("toml", "path"),
    [
        (KEY + 'certificate_file = "apns.pem"\n', "apps.key.provider"),
        (KEY + 'password_file = "apns.password"\n', "apps.key.password_file"),
        (KEY + 'proxy_login_file = "proxy.login"\n', "apps.key.proxy_login_file"),
        (KEY.replace('key_id = "ABC1234567"', ""), "apps.key.key_id"),
        (KEY.replace('key_file = "AuthKey.p8"', 'key_file = ""'), "apps.key.provider"),
        (KEY.replace("org.example.health", "no bundle"), "apps.key.bundle_id"),
        (FCM + 'forward_data = ["google"]\n', "apps.fcm.forward_data"),
        (FCM + 'colour = "red"\n', "apps.fcm.colour"),
    ],
)
def test_all_else_is_checked_and_told_as_ever(toml: str, path: str) -> None:
    found = faults(toml, sends=False)
    assert set(found) == {path}
    assert faults(toml, sends=True)[path] == found[path]


def test_files_outside_of_apps_are_looked_at() -> None:
    other = '[management]\ntoken_file = "management.token"\n'
    assert set(faults(EVERY + other, sends=False)) == {"management.token_file"}


TOO_LARGE = "A" * 5000


@pytest.mark.parametrize(
    ("app_id", "pushkey", "ciphertext", "refusal"),
    [
        ("key", "ab" * 32, "AAAA", None),
        ("certificate", "ab" * 32, "AAAA", None),
        ("fcm", "token:of-fcm", "AAAA", None),
        ("key", "token:of-fcm", "AAAA", "the pushkey is not a device token"),
        ("certificate", "abc", "AAAA", "the pushkey is not a device token"),
        ("fcm", "to ken", "AAAA", "the pushkey is not a registration token"),
        ("key", "ab" * 32, TOO_LARGE, "too large for APNs"),
        ("fcm", "token:of-fcm", TOO_LARGE, "too large for FCM"),
    ],
)
def test_what_a_provider_could_never_take_is_refused(
    apps: Mapping[str, AppSettings], app_id: str, pushkey: str, ciphertext: str, refusal: str | None
) -> None:
    taking = Apps(clock=lambda: 0.0, sends=False)
    assert taking.change(apps) == []
    assert taking.intakes()[app_id].refuse(sealed(device(pushkey), ciphertext=ciphertext)) == refusal


async def test_there_are_no_lanes_no_lines_and_no_credentials_and_changes_are_taken_over(
    apps: Mapping[str, AppSettings],
) -> None:
    settings = taken(EVERY)
    taking = Apps(clock=lambda: 0.0, sends=False)
    taking.change(apps)
    assert (taking.lanes(settings), taking.lines()) == ({}, {})
    assert set(taking.credentials_end_at().values()) == {0.0}
    assert taking.change(taken(EVERY).apps) == [], "nothing has changed"
    after = taken(EVERY.replace('provider = "fcm"', 'provider = "fcm"\nforward_data = ["tenant"]')).apps
    gone = taking.change(after)
    assert len(gone) == 1
    assert taking.intakes()["fcm"].forward_data == {"tenant"}
    taking.close_behind(gone, ())
    await taking.close()
