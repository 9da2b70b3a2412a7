"""A ward for `pushgate doctor`: emulators that can be ill in every way, and a configuration whose keys can be wrong."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pushgate.config import load
from pushgate.doctor import Check, Checkup, Finding, State
from pushgate.emulator import ApnsEmulator, FcmEmulator, Landscape
from pushgate.setup.text import value

BUNDLE_ID, PROJECT_ID = "org.example.health", "example-project"
APNS, FCM = "org.example.health.apns", "example-project.app.firebase"
RANDOM = bytes(range(160, 256))
"""What every random thing of a checkup begins with: it must be in no finding."""


class Ward:
    """What a test may change before it is examined."""

    def __init__(self, folder: Path, land: Landscape) -> None:
        self.folder = folder
        self.land = land
        self.apns: dict[str, Any] = {
            "provider": "apns",
            "bundle_id": BUNDLE_ID,
            "key_file": str(land.apns_key_file),
            "key_id": land.apns_key_id,
            "team_id": land.apns_team_id,
            "ca_file": str(land.ca_file),
        }
        self.fcm: dict[str, Any] = {"provider": "fcm", "project_id": PROJECT_ID, "ca_file": str(land.ca_file)}
        self.tables: dict[str, dict[str, Any]] = {
            "api": {"listen": "127.0.0.1:0"},
            "management": {"listen": ""},
            "spool": {"url": f"sqlite:{folder / 'spool.db'}"},
        }
        self.apns_options: dict[str, Any] = {"keys": land.apns_keys, "topics": [BUNDLE_ID]}
        self.fcm_options: dict[str, Any] = {
            "project_id": PROJECT_ID,
            "service_account_email": land.service_account_email,
            "public_key": land.service_account_public_key,
        }
        self.apple: ApnsEmulator
        self.google: FcmEmulator
        self.taken: socket.socket | None = None
        self.now: Callable[[], float] = time.time

    @property
    def config_file(self) -> Path:
        return self.folder / "pushgate.toml"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Both emulators, as they were to be made. Their addresses stand in the configuration unless others do."""
        self.apple = ApnsEmulator(tls=self.land.server_tls(client_certificates=True), **self.apns_options)
        self.google = FcmEmulator(tls=self.land.server_tls(), **self.fcm_options)
        await self.apple.start()
        await self.google.start()
        self.apns.setdefault("endpoint", f"https://localhost:{self.apple.port}")
        self.fcm.setdefault("endpoint", f"https://localhost:{self.google.port}")
        account = self.land.write_service_account(token_url=self.google.token_url)
        self.fcm.setdefault("credentials_file", str(account))
        try:
            yield
        finally:
            await self.apple.close()
            await self.google.close()

    def write(self) -> Path:
        """The configuration as it is now."""
        tables = {**self.tables, f'apps."{APNS}"': self.apns, f'apps."{FCM}"': self.fcm}
        lines = [
            f"[{name}]\n" + "".join(f"{key} = {value(each)}\n" for key, each in table.items())
            for name, table in tables.items()
        ]
        self.config_file.write_text("\n".join(lines))
        return self.config_file

    async def examine(self, *apps: str, offline: bool = False) -> Examined:
        """What the doctor finds, in this process. No secret is in it, and nothing that is not ok is without a step."""
        settings = load(self.write(), environ={})
        checkup = Checkup(
            settings, apps=apps, offline=offline, now=self.now, entropy=lambda count: (RANDOM * 9)[:count]
        )
        found = await checkup.run()
        told = repr(found)
        for secret in self.secrets():
            assert secret not in told
        for each in found:
            assert bool(each.next_step) == (each.state is not State.OK), each
        return Examined(found)

    def secrets(self) -> Sequence[str]:
        """What must be in no answer."""
        key = self.land.apns_key_file.read_text().splitlines()[1]
        return (key, RANDOM[:8].hex(), "oKGio6Sl", "eyJ", "ya29", "PRIVATE KEY", "geheim", "aHVnbzpnZWhlaW0")


class Examined:
    """The findings of an examination."""

    def __init__(self, found: Sequence[Finding]) -> None:
        self.found = found

    def one(self, check: Check, about: str = "") -> Finding:
        """The only finding of this check, about something with this in its name."""
        (finding,) = [each for each in self.found if each.check is check and about in each.about]
        return finding

    @property
    def wrong(self) -> Mapping[tuple[Check, str], Finding]:
        return {(each.check, each.about): each for each in self.found if each.state is State.WRONG}


class ScriptedProxy:
    """An HTTP proxy that opens tunnels, or answers what it was told to. Remembers what it was asked."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> ScriptedProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        self._running.add(this)
        try:
            asked = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(asked)
            if self.answer:
                writer.write(self.answer)
                return
            host, _, port = asked.split(b" ")[1].decode().rpartition(":")
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pump(reader, far_writer))
                tasks.create_task(_pump(far_reader, writer))
        finally:
            writer.close()
            self._running.discard(this)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
    except OSError:
        pass
    finally:
        writer.close()
