"""docs/how-to/several-machines.md and deploy/compose.nats.yaml are carried out, with real servers and gateways."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shlex
import signal
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pushgate.stage import set_stage
from tests.nats_cluster import NatsCluster, nats_server
from tests.ports import free_port
from tests.processes import Run, sealed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "several-machines.md").read_text()
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.nats.yaml").read_text())
SERVERS = ("nats-1", "nats-2", "nats-3")
OF_PROVIDERS = {"AuthKey.p8", "service-account.json"}
PASSWORD = "12e4" + secrets.token_hex(20)
"""As `openssl rand -hex` may give it: it must not be taken for a number."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


class Servers(NatsCluster):
    """Those that run with a configuration as it is written: names become addresses of this machine."""

    def __init__(self, folder: Path, config: str, environ: Mapping[str, str]) -> None:
        super().__init__(folder, size=3)
        self._config = config
        self._environ = environ
        self.processes: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        for name, server in zip(SERVERS, self.servers, strict=True):
            text = self._config.replace("server_name: nats-1", f"server_name: {name}").replace("$$", "$")
            text = text.replace("0.0.0.0:4222", f"127.0.0.1:{server.port}")
            text = text.replace("0.0.0.0:6222", f"127.0.0.1:{server.cluster_port}")
            text = text.replace("127.0.0.1:8222", f"127.0.0.1:{free_port()}").replace("/data", f"{server.folder}/data")
            for each, other in zip(SERVERS, self.servers, strict=True):
                text = text.replace(f"{each}:6222", f"127.0.0.1:{other.cluster_port}")
            file = server.folder / "nats.conf"
            file.write_text(text)
            environ = {**os.environ, **self._environ, "NATS_NAME": name}
            with server.log_file.open("wb") as log:
                command = [nats_server(), "--config", str(file)]
                self.processes.append(subprocess.Popen(command, env=environ, stdout=log, stderr=log))


@contextmanager
def servers(folder: Path, config: str, environ: Mapping[str, str]) -> Iterator[Servers]:
    running = Servers(folder, config, environ)
    try:
        running.begin()
        yield running
    finally:
        for process in running.processes:
            process.kill()
            process.wait()


def environment(table: Mapping[str, Any], prefix: str) -> dict[str, str]:
    """The variables that set what a table of the page sets."""
    found: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found |= environment(value, f"{prefix}{key.upper()}__")
        else:
            found[f"{prefix}{key.upper()}"] = str(value)
    return found


async def deliver(folder: Path, nats: NatsCluster, environ: dict[str, str], roles: Sequence[str]) -> None:
    """Take with those that take, send with those that send; then one server and one worker may be lost."""
    async with set_stage(folder) as stage:
        (folder / "nats.password").write_text(PASSWORD + "\n")
        (folder / "spool.key").write_text(secrets.token_hex(32) + "\n")
        environ["PUSHGATE_SPOOL__URL"] = nats.url
        members = []
        for number, role in enumerate(roles):
            port = free_port()
            listen = {"PUSHGATE_API__LISTEN": f"127.0.0.1:{port}"}
            members.append(Run(stage, port, {**environ, **listen}, name=f"{role}-{number}", role=role))
        try:
            for each in members:
                await each.start()
            apis = [each for each in members if each.role == "api"]
            wanted = []
            for number in range(20):
                async with apis[number % len(apis)].client() as client:
                    note = sealed(number)
                    wanted.append(note.device.pushkey)
                    await client.notify_encrypted_batch([note])
            await members[0].until(set(wanted))
            for each in members:
                assert await each.ready() == (200, "")
                assert await each.end(signal.SIGTERM) == 0
        finally:
            for each in members:
                if each.is_running:
                    await each.kill()


async def test_the_page_is_true(tmp_path: Path) -> None:
    environ = environment(tomllib.loads(block("toml")), "PUSHGATE_")
    assert environ["PUSHGATE_SPOOL__URL"] == "nats://nats-1:4222,nats-2:4222,nats-3:4222"
    commands = [shlex.split(line) for line in block("sh").splitlines()]
    assert [command[:4] for command in commands] == [["pushgate", "serve", "--config", "pushgate.toml"]] * 2
    roles = [command[command.index("--role") + 1] for command in commands]
    config = block("conf").replace("change it", PASSWORD)
    with servers(tmp_path / "nats", config, {}) as nats:
        (tmp_path / "stage").mkdir()
        await deliver(tmp_path / "stage", nats, environ, roles)


async def test_the_compose_file_is_true(tmp_path: Path) -> None:
    services = COMPOSE["services"]
    assert set(services) == {"api", "worker", *SERVERS}
    roles = []
    for role in ("api", "worker"):
        service = services[role]
        assert service["command"][-2:] == ["--role", role]
        roles += [role] * service["deploy"]["replicas"]
    shell = services["nats-1"]["entrypoint"]
    script = shell[2].replace("$$", "$").replace("/run/secrets/nats.password", str(tmp_path / "password"))
    (tmp_path / "password").write_text(PASSWORD + "\n")
    given = subprocess.run(
        [shell[0], shell[1], script.replace("exec nats-server --config /etc/nats.conf", "printenv NATS_PASSWORD")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert given == f"'{PASSWORD}'"
    environ = {key: str(value) for key, value in services["api"]["environment"].items()}
    environ["PUSHGATE_SPOOL__NATS__PASSWORD_FILE"] = "nats.password"
    for role in ("api", "worker"):
        named = {each["source"] for each in services[role]["secrets"]}
        assert named == set(COMPOSE["secrets"]) - (OF_PROVIDERS if role == "api" else set())
        assert all(each["target"] == f"/etc/pushgate/{each['source']}" for each in services[role]["secrets"])
    config = COMPOSE["configs"]["nats.conf"]["content"]
    with servers(tmp_path / "nats", config, {"NATS_PASSWORD": given}) as nats:
        (tmp_path / "stage").mkdir()
        async with asyncio.timeout(50):
            await deliver(tmp_path / "stage", nats, environ, roles)
