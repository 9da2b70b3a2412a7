"""`pushgate init` as an operator uses it: what it writes is clean, serves, and takes a notification."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from pushgate.emulator import Landscape
from pushgate.stage import APNS_APP_ID, FCM_APP_ID, set_stage
from tests.certificates import Authority
from tests.ports import free_port
from tests.processes import pushgate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


def modes(folder: Path) -> dict[str, int]:
    """The mode of each file below a folder."""
    files = [each for each in folder.rglob("*") if each.is_file()]
    return {str(each.relative_to(folder)): stat.S_IMODE(each.stat().st_mode) for each in files}


async def shell(line: str, *, within_s: float = 20) -> str:
    """What a line prints that was copied into a shell. It must do its work."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    running = await asyncio.create_subprocess_shell(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PATH": path}
    )
    async with asyncio.timeout(within_s):
        out, err = await running.communicate()
    assert running.returncode == 0, (line, out, err)
    return out.decode()


async def test_what_it_prints_leads_to_a_phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From nothing to a notification and its end, with the commands that init prints."""
    folder, port = tmp_path / "gateway", free_port()
    monkeypatch.setenv("PUSHGATE_MANAGEMENT__LISTEN", f"127.0.0.1:{free_port()}")
    async with set_stage(tmp_path / "stage") as stage:
        flags = (
            "--dev-ca",
            "--caller",
            "erp",
            "--caller",
            "chat",
            "--demo-apps",
            str(stage.folder),
            "--listen",
            f"127.0.0.1:{port}",
        )
        code, out, err = await pushgate("init", str(folder), *flags)
        assert (code, err) == (0, "")
        check, doctor, serve, send, explain, phone, curl = re.findall(r"^  ((?:pushgate|curl) .*)$", out, re.M)
        await shell(check)
        told = json.loads(await shell(f"{doctor} --json"))
        assert {each["state"] for each in told["checks"]} == {"ok", "not checked"}, told
        serving = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *shlex.split(serve)), stderr=asyncio.subprocess.PIPE
        )
        try:
            assert serving.stderr is not None
            async with asyncio.timeout(20):
                assert b'"serving"' in await serving.stderr.readline()
            sent = await shell(send)
            assert sent.startswith("taken: ")
            (request,) = re.findall(r"^  request (.*)$", sent, re.M)
            assert await shell(f"{curl} --silent") == '{"rejected":[]}'
            async with asyncio.timeout(20):
                while sum(map(len, stage.apns.devices().values())) < 2:
                    await asyncio.sleep(0.05)
                while "accepted by the provider" not in await shell(explain.replace("REQUEST", request)):
                    await asyncio.sleep(0.05)
            assert "Test notification from pushgate" in await shell(f"{phone} --silent")
            nobody = await pushgate(*shlex.split(re.sub(r" --(cert|key)-file \S+", "", send))[1:])
            assert (nobody[0], "401" in nobody[2]) == (1, True), "without a certificate nobody gets in"
        finally:
            serving.terminate()
            assert await serving.wait() == 0
    assert modes(folder) == {
        "pushgate.toml": 0o644,
        "spool.db": 0o600,
        **{f"tls/{name}.pem": 0o644 for name in ("ca", "server", "caller-erp", "caller-chat")},
        **{f"tls/{name}.key": 0o600 for name in ("ca", "server", "caller-erp", "caller-chat")},
    } | {name: 0o600 for name in modes(folder) if name.startswith("spool.db-")}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_a_key_and_an_account_in_the_folder_need_few_flags(tmp_path: Path) -> None:
    land = Landscape(tmp_path, project_id="example-project")
    land.write_service_account(token_url="https://oauth2.googleapis.com/token")
    code, out, err = await pushgate(
        "init", str(tmp_path), "--apns", "org.example.health", "--apns-team", "TEAM123456", "--fcm", "example-project"
    )
    assert code == 0, err
    assert err == "note: the key id is EMULATOR01: it stands in the name of AuthKey_EMULATOR01.p8\n"
    assert f"--app-id {APNS_APP_ID} " in out
    assert "--url http://localhost:8080/push/v1/" in out
    text = (tmp_path / "pushgate.toml").read_text()
    assert 'key_file = "AuthKey_EMULATOR01.p8"' in text
    assert 'credentials_file = "service-account.json"' in text
    code, told, _ = await pushgate("check-config", "--config", str(tmp_path / "pushgate.toml"))
    assert code == 0
    assert f"{FCM_APP_ID}: FCM at https://fcm.googleapis.com, project example-project, service account" in told


async def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    flags = ("--dev-ca", "--fcm", "example-project")
    assert (await pushgate("init", str(tmp_path), *flags))[0] == 0
    before = (tmp_path / "tls" / "ca.pem").read_bytes()
    code, _, err = await pushgate("init", str(tmp_path), *flags)
    assert (code, err.startswith(f"{tmp_path}/pushgate.toml is there already")) == (2, True)
    (tmp_path / "pushgate.toml").unlink()
    code, _, err = await pushgate("init", str(tmp_path), *flags)
    assert (code, f"{tmp_path}/tls/ca.key" in err, "--force" in err) == (2, True, True)
    assert (tmp_path / "tls" / "ca.pem").read_bytes() == before
    assert (await pushgate("init", str(tmp_path), *flags, "--force"))[0] == 0
    assert (tmp_path / "tls" / "ca.pem").read_bytes() != before
    assert modes(tmp_path)["tls/ca.key"] == 0o600
    assert not [*tmp_path.glob(".pushgate-*")]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--apns", "no bundle id", "--apns-team", "TEAM123456"],
            "apps.'no bundle id.apns'.bundle_id: not a bundle id",
        ),
        (["--apns", "org.example.app", "--apns-team", "short"], "team_id: not ten capital letters"),
        (["--fcm", "example-project", "--listen", "0.0.0.0:80"], '"none" lets everybody send'),
        (["--fcm", "example-project", "--fcm-credentials", "{folder}/AuthKey_EMULATOR01.p8"], "is not JSON"),
        (["--apns", "org.example.app", "--apns-team", "TEAM123456", "--apns-key", "{folder}/nokey"], "{folder}/nokey"),
        (["--fcm", "example-project", "--dev-ca", "--host", "ä.example.org"], "a name that cannot stand in a certif"),
        ([], "missing:\n  --apns BUNDLE_ID"),
    ],
)
async def test_what_could_not_be_used_is_not_written(tmp_path: Path, flags: Sequence[str], said: str) -> None:
    Landscape(tmp_path)
    before = modes(tmp_path)
    (tmp_path / "new").mkdir()
    flags = [each.format(folder=tmp_path) for each in flags]
    if any(flag == "--apns" for flag in flags) and "--apns-key" not in flags:
        flags += ["--apns-key", str(tmp_path / "AuthKey_EMULATOR01.p8")]
    if f"{tmp_path}/nokey" in flags:
        flags += ["--apns-key-id", "ABC1234567"]
    for folder in (tmp_path / "new", tmp_path / "fresh"):
        code, out, err = await pushgate("init", str(folder), *flags)
        assert (code, out) == (2, "")
        assert said.format(folder=tmp_path) in err
        assert ".pushgate-init-" not in err
        assert "\n  -> " in err
    assert modes(tmp_path) == before
    assert not (tmp_path / "fresh").exists()


async def test_certificates_of_ones_own(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key_file = authority.issue("gw.example.org").write(tmp_path, "server")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    flags = ["--cert-file", str(certificate), "--key-file", str(key_file), "--client-ca-file", str(tmp_path / "ca.pem")]
    code, out, _ = await pushgate("init", str(tmp_path), *flags, "--caller", "erp", "--fcm", "example-project")
    assert code == 0
    assert (
        'cert_file = "server.pem"\nkey_file = "server.key"\nclient_ca_file = "ca.pem"'
        in (tmp_path / "pushgate.toml").read_text()
    )
    assert "--url https://localhost:8443/push/v1/" in out


def on_a_terminal(*arguments: str, answers: bytes) -> tuple[int, str]:
    """Run a command with a terminal around it, and what somebody types: exit code and all that is shown."""
    ours, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "pushgate", *arguments], stdin=its, stdout=its, stderr=its, start_new_session=True
    ) as running:
        os.close(its)
        os.write(ours, answers)
        shown = b""
        with suppress(OSError):  # it has ended
            while chunk := os.read(ours, 4096):
                shown += chunk
        code = running.wait(timeout=30)
    os.close(ours)
    return code, shown.decode()


def test_a_terminal_is_asked_and_few_answers_are_enough(tmp_path: Path) -> None:
    land = Landscape(tmp_path, project_id="example-project")
    land.write_service_account(token_url="https://oauth2.googleapis.com/token")
    code, shown = on_a_terminal("init", str(tmp_path), answers=b"org.example.health\n\nTEAM123456\n\n\n")
    assert code == 0, shown
    assert "Bundle id of the app on Apple's platforms (for AuthKey_EMULATOR01.p8), empty for none:" in shown
    assert "Use service-account.json for FCM, project example-project? [Y/n]" in shown
    assert "the key id is EMULATOR01: it stands in the name of AuthKey_EMULATOR01.p8" in shown
    text = (tmp_path / "pushgate.toml").read_text()
    assert 'environment = "production"' in text
    assert 'auth = "mtls"' in text
    assert text.count("[apps.") == 2


def test_who_ends_the_questions_has_nothing_written(tmp_path: Path) -> None:
    code, shown = on_a_terminal("init", str(tmp_path / "new"), answers=b"org.example.health\n\x04")
    assert (code, "no answer" in shown) == (2, True), shown
    assert not (tmp_path / "new").exists()
