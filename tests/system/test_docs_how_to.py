"""How-to pages for operators: every configuration in them is one, and what they say of Matrix is so."""

from __future__ import annotations

import asyncio
import shutil
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    load_pem_private_key,
    pkcs12,
)
from msgspec.structs import replace

from pushgate.config import load
from pushgate.emulator import Landscape
from pushgate.stage import BUNDLE_ID, Stage, set_stage
from tests.certificates import Authority
from tests.nginx import NGINX, nginx
from tests.ports import free_port
from tests.processes import Run
from tests.samples import badge_only, plain
from tests.shell_pages import blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
MATRIX = (PAGES / "use-with-matrix.md").read_text()
IOS, ANDROID = "org.example.chat.ios", "org.example.chat.android"
TOKEN = bytes(range(32))
NAMES = (
    "connect-a-health-service",
    "get-an-apns-key",
    "get-fcm-credentials",
    "reach-providers-through-a-proxy",
    "use-with-matrix",
)


def configurations() -> list[tuple[str, str]]:
    found = [
        (name, each.content)
        for name in NAMES
        for each in blocks((PAGES / f"{name}.md").read_text())
        if each.kind == "toml"
    ]
    assert {name for name, _ in found} == {*NAMES}
    return found


def files(folder: Path) -> None:
    """Everything that the configurations name."""
    land = Landscape(folder, project_id="example-project")
    land.write_service_account(token_url="https://oauth2.googleapis.com/token")
    land.apns_key_file.rename(folder / "AuthKey_ABC1234567.p8")
    certificate, key = land.write_push_certificate(BUNDLE_ID)
    sealed = pkcs12.serialize_key_and_certificates(
        b"push",
        load_pem_private_key(key.read_bytes(), None),  # type: ignore[arg-type]  # of any kind, this one is EC
        x509.load_pem_x509_certificate(certificate.read_bytes()),
        None,
        BestAvailableEncryption(b"secret"),
    )
    (folder / "push.p12").write_bytes(sealed)
    (folder / "push.password").write_text("secret\n")
    (folder / "proxy.login").write_text("gateway:secret\n")
    (folder / "spool.key").write_text(bytes(range(7, 39)).hex())
    authority = Authority("callers")
    (folder / "clients-ca.pem").write_bytes(authority.pem)
    (folder / "clients-crl.pem").write_bytes(authority.revocation_list())
    authority.issue("push.example.org").write(folder, "server")
    for secret in folder.iterdir():
        secret.chmod(0o600)


@pytest.mark.parametrize(("name", "toml"), configurations(), ids=lambda each: each if each in NAMES else "")
def test_every_configuration_of_a_page_is_one(name: str, toml: str, tmp_path: Path) -> None:
    files(tmp_path)
    (tmp_path / "pushgate.toml").write_text(toml)
    assert load(tmp_path / "pushgate.toml", environ={"PUSHGATE_SPOOL__URL": "sqlite:spool.db"}).apps, name


def for_the_stage(toml: str, stage: Stage, port: int) -> str:
    """The configuration of the page, with the addresses and credentials of the emulators."""
    land = stage.landscape
    told = {
        '"127.0.0.1:8080"': f'"127.0.0.1:{port}"',
        'bundle_id = "org.example.chat"': f'bundle_id = "{BUNDLE_ID}"\nendpoint = "https://localhost:{stage.apns.port}"'
        '\nca_file = "ca.pem"',
        '"AuthKey_ABC1234567.p8"': f'"{land.apns_key_file.name}"',
        '"ABC1234567"': f'"{land.apns_key_id}"',
        '"TEAM123456"': f'"{land.apns_team_id}"',
        'provider = "fcm"': f'provider = "fcm"\nendpoint = "https://localhost:{stage.fcm.port}"\nca_file = "ca.pem"',
    }
    for ours, theirs in told.items():
        assert ours in toml, ours
        toml = toml.replace(ours, theirs)
    return f'{toml}\n[management]\nlisten = "127.0.0.1:0"\n[spool]\nurl = "memory:"\n'


def event(app_id: str, pushkey: str, **more: Any) -> Mapping[str, Any]:
    """As a home server sends it: one device, no `missed_calls`, members of its own."""
    data = {"format": "event_id_only", "default_payload": {"aps": {"mutable-content": 1}}}
    device = {"app_id": app_id, "pushkey": pushkey, "pushkey_ts": 1767225600, "data": data, "tweaks": {"sound": "bing"}}
    return {"notification": plain(device, id="", membership=None, counts={"unread": 2}, **more)}


@pytest.mark.skipif(shutil.which(NGINX) is None, reason="nginx is not installed")
async def test_a_home_server_reaches_phones_by_way_of_the_page(tmp_path: Path) -> None:
    page = {each.kind: each.content for each in blocks(MATRIX)}
    port, front = free_port(), free_port()
    routes = page["nginx"].replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    async with set_stage(tmp_path) as stage:
        config = tmp_path / "matrix.toml"
        config.write_text(for_the_stage(page["toml"], stage, port))
        gateway = Run(replace(stage, config_file=config), port)
        await gateway.start()
        try:
            async with (
                nginx(tmp_path / "nginx", f"server {{ listen 127.0.0.1:{front};\n{routes}}}", port=front),
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{front}", trust_env=False) as home_server,
            ):
                await talk(home_server, stage, gateway)
        finally:
            await gateway.end()


async def talk(home_server: httpx.AsyncClient, stage: Stage, gateway: Run) -> None:
    """What the page promises, one after the other."""
    path, ios = "/_matrix/push/v1/notify", b64encode(TOKEN).decode()
    for request in (
        event(IOS, ios),
        event(ANDROID, "android-1"),
        {"notification": {**badge_only(), "devices": [{"app_id": ANDROID, "pushkey": "android-2"}]}},
    ):
        answer = await home_server.post(path, json=request)
        assert (answer.status_code, answer.json()) == (200, {"rejected": []})
    await gateway.until({TOKEN.hex(), "android-1", "android-2"})
    (apple,) = (each.payload for each in stage.apns.devices()[TOKEN.hex()])
    assert isinstance(apple, dict)
    assert apple["aps"]["badge"] == 2
    assert apple["aps"]["mutable-content"] == 1
    assert (apple["aps"]["alert"]["title"], apple["aps"]["alert"]["subtitle"]) == ("Alice", "Ward 3")
    assert {"event_id", "room_id", "type", "sender", "content"} < {*apple}
    assert not {"default_payload", "membership", "tweaks"} & {*apple}
    (google,) = (each.payload for each in stage.fcm.devices()["android-1"])
    assert isinstance(google, dict)
    assert (google["data"]["content_body"], google["data"]["unread"]) == ("Hello", "2")
    (badge,) = (each.payload for each in stage.fcm.devices()["android-2"])
    assert isinstance(badge, dict)
    assert badge["data"]["unread"] == "3"
    unknown = await home_server.post(path, json=event("org.example.other", "a1"))
    assert unknown.status_code == 400
    assert "rejected" not in unknown.json()
    dead = event(ANDROID, "dead-1", event_id="$1")
    assert (await home_server.post(path, json=dead)).json() == {"rejected": []}
    number = 2
    async with asyncio.timeout(10):
        while (told := (await home_server.post(path, json=event(ANDROID, "dead-1", event_id=f"${number}"))).json()) == {
            "rejected": []
        }:
            number += 1
            await asyncio.sleep(0.1)
    assert told == {"rejected": ["dead-1"]}
    assert (await home_server.get(path)).status_code == 403
    assert (await home_server.post("/push/v1/notify", json=dead)).status_code == 404
