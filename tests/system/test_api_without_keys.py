"""`serve --role api` without the files that [apps] names, on a real NATS: it takes, and a worker with them sends."""

from __future__ import annotations

import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from pushgate.client import seal
from pushgate.model import Device, EncryptedNotification
from pushgate.stage import APNS_APP_ID, FCM_APP_ID
from tests.nats_cluster import NatsCluster, nats
from tests.ports import free_port
from tests.processes import CHAIN, Run, pushgate, sealed, staged

__all__ = ["nats"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


@asynccontextmanager
async def divided(nats: NatsCluster, folder: Path) -> AsyncIterator[tuple[Run, Run]]:
    """One that takes and one that sends, not started yet. The files of the providers lie with the second alone."""
    await nats.until_ready()
    shared = {"PUSHGATE_SPOOL__URL": nats.url, "PUSHGATE_SPOOL__NATS__NAME": folder.name.replace("_", "-")[-30:]}
    async with staged(folder) as made:
        worker = Run(made.stage, 0, shared, name="worker", role="worker")
        bare = folder / "api"
        bare.mkdir()
        for file in folder.glob("*.*"):
            if not (file.name.startswith("AuthKey_") or "service" in file.name):
                shutil.copy(file, bare)
        config = bare / "pushgate.toml"
        trusted = f'\nca_file = "{made.stage.ca_file.name}"\n'
        text = config.read_text()
        assert text.count(trusted) == 2
        config.write_text(text.replace(trusted, '\nca_file = "not-there.pem"\n'))
        port = free_port()
        stage = msgspec.structs.replace(made.stage, config_file=config)
        api = Run(stage, port, {**shared, "PUSHGATE_API__LISTEN": f"127.0.0.1:{port}"}, name="api", role="api")
        try:
            yield api, worker
        finally:
            for each in (api, worker):
                if each.is_running:
                    await each.end(signal.SIGKILL)


def to(app_id: str, pushkey: str) -> EncryptedNotification:
    return seal("message", key=CHAIN.newest).for_device(Device(app_id, pushkey))


async def test_it_takes_what_a_worker_sends_and_refuses_what_no_provider_would_take(
    nats: NatsCluster, tmp_path: Path
) -> None:
    async with divided(nats, tmp_path) as (api, worker):
        await api.start()
        notes = [sealed(number) for number in range(20)]
        async with api.client() as client:
            result = await client.notify_encrypted_batch(notes)
            assert result.summary.successful == len(notes)
            refused = await client.notify_encrypted_batch([to(APNS_APP_ID, "no token"), to(FCM_APP_ID, "to ken")])
            assert [each.error.partition(": ")[2] for each in refused.results] == [
                "the pushkey is not a device token",
                "the pushkey is not a registration token",
            ]
            assert api.got() == set()
            await worker.start()
            await worker.until({each.device.pushkey for each in notes})
        assert all(len(inbox) == 1 for inbox in worker.stage.apns.devices().values())
        await shows_nothing_that_sends(api)
        await commands_beside_it_need_no_keys(api, result.request_ids[0])
        for each in (api, worker):
            assert await each.ready() == (200, "")
            assert await each.end() == 0
            assert b"Traceback" not in each.log


async def shows_nothing_that_sends(api: Run) -> None:
    """Metrics and status page of who takes: neither connections nor credentials, and both lanes in good order."""
    samples = await api.metrics()
    assert not [name for name in samples if name.startswith("pushgate_provider_connections")]
    ends = {name: value for name, value in samples.items() if name.startswith("pushgate_credential_end")}
    assert set(ends.values()) <= {0.0}
    assert samples[f'pushgate_in_flight{{lane="{APNS_APP_ID}"}}'] == 0
    async with httpx.AsyncClient(base_url=api.management, trust_env=False) as http:
        page, told = await http.get("/"), await http.get("/status.json")
    assert (page.status_code, told.status_code) == (200, 200)
    shown = told.json()
    assert {each["lane"]: each["severity"] for each in shown["lanes"]} == {APNS_APP_ID: 0, FCM_APP_ID: 0}
    assert [each["what"] for each in shown["credentials"]] == ["API certificate"]
    assert (shown["peers"], shown["notices"]) == ([], [])


async def commands_beside_it_need_no_keys(api: Run, request_id: str) -> None:
    environ = {**api.environ, "PUSHGATE_MANAGEMENT__LISTEN": api.management.removeprefix("http://")}
    config = str(api.stage.config_file)
    code, told, said = await pushgate("explain", request_id, "--config", config, environ=environ)
    assert (code, said) == (0, ""), said
    assert request_id in told
    code, told, said = await pushgate("rejections", "count", "--config", config, environ=environ)
    assert (code, said) == (0, ""), said


async def test_it_takes_over_a_changed_configuration_and_refuses_a_faulty_one(
    nats: NatsCluster, tmp_path: Path
) -> None:
    async with divided(nats, tmp_path) as (api, _):
        await api.start()
        config = api.stage.config_file
        good = config.read_text()
        app = '[apps."another"]\nprovider = "fcm"\nproject_id = "{}"\ncredentials_file = "not-there.json"\n'
        config.write_text(good + app.format("no project!"))
        api.signal(signal.SIGHUP)
        await api.until_told("configuration refused")
        assert [each["at"] for each in api.events("configuration refused")] == ["apps.another.project_id"]
        config.write_text(good + app.format("another-project"))
        api.signal(signal.SIGHUP)
        await api.until_told("configuration taken over")
        async with api.client() as client:
            result = await client.notify_encrypted_batch([to("another", "token"), to("nobody", "token")])
        assert [each.error for each in result.results] == ["", "unknown app_id 'nobody'"]
        assert await api.end() == 0
        assert not api.events("reload failed unexpectedly")


@pytest.mark.parametrize("role", ["all", "worker"])
async def test_who_sends_does_not_start_without_the_files(nats: NatsCluster, tmp_path: Path, role: str) -> None:
    async with divided(nats, tmp_path) as (api, _):
        config, environ = str(api.stage.config_file), api.environ
        code, _, said = await pushgate("serve", "--config", config, "--role", role, environ=environ)
        assert code == 2
        assert places(said) == {f"apps.'{APNS_APP_ID}'": {"key_file", "ca_file"}, **OF_FCM}
        assert said.count("(No such file or directory)\n    -> correct the path, or make the file readable") == 4
        assert await pushgate("check-config", "--config", config, "--role", role, environ=environ) == (code, "", said)


OF_FCM: Mapping[str, set[str]] = {f"apps.'{FCM_APP_ID}'": {"credentials_file", "ca_file"}}


def places(said: str) -> dict[str, set[str]]:
    """The keys that are at fault, by their tables."""
    found: dict[str, set[str]] = {}
    for line in said.splitlines():
        if line.startswith("  apps"):
            table, _, key = line.strip().rpartition(".")
            found.setdefault(table, set()).add(key)
    return found


async def test_check_config_knows_the_role(nats: NatsCluster, tmp_path: Path) -> None:
    async with divided(nats, tmp_path) as (api, _):
        config = str(api.stage.config_file)
        code, told, said = await pushgate("check-config", "--config", config, "--role", "api", environ=api.environ)
        assert (code, said) == (0, "")
        assert f"{APNS_APP_ID}: APNs production" in told
        assert f"{FCM_APP_ID}: FCM at" in told
