"""A gateway as a real process between emulators, for tests of the whole."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from pushgate.client import KeyChain, PushGatewayClient, Retries, new_iss, seal
from pushgate.model import Device, EncryptedNotification
from pushgate.stage import APNS_APP_ID, FCM_APP_ID, Stage, set_stage
from tests.ports import free_port

START_WITHIN_S = 20.0


class Run:
    """A `pushgate serve` process and how it is reached: one at a time, again and again.

    `environ` holds settings for every start of this run (`PUSHGATE_SPOOL__MAX_AGE_S`); may be changed in between.
    `name` tells it from others on the same stage, `role` is what it does.
    """

    def __init__(
        self,
        stage: Stage,
        port: int,
        environ: Mapping[str, str] | None = None,
        *,
        name: str = "gateway",
        role: str = "all",
    ) -> None:
        self.stage = stage
        self.port = port
        self.environ = dict(environ or {})
        self.role = role
        self.log_file = stage.folder / f"{name}.log"
        self.process: Process | None = None
        self._management_port = 0

    # --- the process

    async def start(self, *, environ: Mapping[str, str] | None = None, wrapper: Sequence[str] | None = None) -> None:
        """Start it and wait until it serves. May be called anew after an end.

        `environ` is set over the run's own for this start only. `wrapper` is put before the command
        (`["prlimit", "--fsize=…"]`). Raises `AssertionError` with what it said when it does not come up.
        """
        assert not self.is_running, "it runs already"
        begin = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:  # a pipe that nobody reads would stop the gateway
            self.process = await asyncio.create_subprocess_exec(
                *(wrapper or ()),
                *(sys.executable, "-m", "pushgate", "serve", "--config", str(self.stage.config_file)),
                *(() if self.role == "all" else ("--role", self.role)),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environ, **(environ or {})},
            )
        async with asyncio.timeout(START_WITHIN_S):
            while True:
                ended = not self.is_running  # looked at first: what it said before its end is in the file
                said = self.log_file.read_bytes()[begin:]
                if (served := _serving(said)) is not None:
                    self._management_port = served
                    return
                assert not ended, said.decode()
                await asyncio.sleep(0.01)

    async def end(self, number: signal.Signals = signal.SIGTERM, *, within_s: float = 60.0) -> int:
        """Send a signal and return the exit code, once it has ended."""
        assert self.process is not None
        self.process.send_signal(number)
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert await self.end(signal.SIGKILL) == -signal.SIGKILL

    def signal(self, number: signal.Signals) -> None:
        """Send a signal and wait for nothing."""
        assert self.process is not None
        self.process.send_signal(number)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> bytes:
        """What all processes of this run have logged so far."""
        return self.log_file.read_bytes()

    def events(self, name: str) -> list[dict[str, object]]:
        """The log lines of this event so far, of all processes. Lines that a full disk has torn are left out."""
        quoted = json.dumps(name).encode()
        return [event for line in self.log.splitlines() if quoted in line and (event := _event(line))["event"] == name]

    # --- how it is reached

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/push/v1/"

    @property
    def management(self) -> str:
        """The base URL of the management port: another one after each start."""
        return f"http://127.0.0.1:{self._management_port}"

    def client(
        self,
        attempts: int = 0,
        *,
        retries: Retries | None = None,
        timeout_s: float = 10.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> PushGatewayClient:
        """A caller. `attempts` is how often it tries again, `sleep` what it does before each further attempt."""
        return PushGatewayClient(
            self.url,
            cert_file=str(self.stage.caller_cert_file),
            key_file=str(self.stage.caller_key_file),
            ca_file=str(self.stage.ca_file),
            retries=retries or Retries(count=attempts),
            timeout_s=timeout_s,
            sleep=sleep,
        )

    async def ready(self) -> tuple[int, str]:
        """What `/health/ready` says: its status, and the reason where it is not ready."""
        answer = await self._ask("/health/ready")
        return answer.status_code, str(answer.json().get("reason", ""))

    async def until_ready(self, status: int = 200, *, within_s: float = 30.0) -> None:
        """Wait until `/health/ready` answers with this status."""
        async with asyncio.timeout(within_s):
            while (await self.ready())[0] != status:
                await asyncio.sleep(0.1)

    async def metrics(self) -> dict[str, float]:
        """Every sample of `/metrics`, by its name with its labels in order of their names: `a_total{b="c",d="e"}`."""
        families = text_string_to_metric_families((await self._ask("/metrics")).text)
        return {each.name + _labels(each.labels): each.value for family in families for each in family.samples}

    async def _ask(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.management, trust_env=False, timeout=20) as http:
            return await http.get(path)

    # --- what came of it

    def got(self) -> set[str]:
        """The pushkeys of all devices that got something."""
        return {*self.stage.apns.devices(), *self.stage.fcm.devices()}

    async def until_told(self, name: str, *, count: int = 1, within_s: float = 20.0) -> list[dict[str, object]]:
        """Wait until the log has so many lines of this event. A line may come after what it tells of has been seen."""
        async with asyncio.timeout(within_s):
            while len(told := self.events(name)) < count:
                await asyncio.sleep(0.02)
        return told

    async def until(self, wanted: set[str], *, within_s: float = 30.0) -> None:
        async with asyncio.timeout(within_s):
            while not wanted <= self.got():
                await asyncio.sleep(0.05)


def _serving(log: bytes) -> int | None:
    """The management port, once the log says that the process serves; 0 where it has none."""
    for line in log.splitlines(keepends=True):
        if b'"serving"' in line and line.endswith(b"\n"):
            return int(json.loads(line)["management_port"] or 0)
    return None


def _event(line: bytes) -> dict[str, object]:
    try:
        return {"event": "", **json.loads(line)}
    except ValueError:
        return {"event": ""}


def _labels(labels: Mapping[str, str]) -> str:
    inner = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    return f"{{{inner}}}" if inner else ""


@asynccontextmanager
async def staged(
    folder: Path,
    *,
    more: str = "",
    environ: Mapping[str, str] | None = None,
    retry_scale: float | None = None,
    drain_s: float | None = None,
) -> AsyncIterator[Run]:
    """Emulators of both providers, and a gateway between them that is not started yet.

    `more` is TOML with tables that the stage's file does not have (`[delivery]`, another app), `environ` wins over the
    file (`PUSHGATE_SPOOL__URL`). `retry_scale` and `drain_s` are those of `[delivery]`.
    """
    settings = dict(environ or {})
    if retry_scale is not None:
        settings["PUSHGATE_DELIVERY__RETRY_SCALE"] = str(retry_scale)
    if drain_s is not None:
        settings["PUSHGATE_DELIVERY__DRAIN_S"] = str(drain_s)
    port = free_port()
    async with set_stage(folder, port=port, more=more) as stage:
        run = Run(stage, port, settings)
        try:
            yield run
        finally:
            if run.is_running:
                await run.end(signal.SIGKILL)


CHAIN = KeyChain.begin(new_iss(), key_identifier="k", month="2026-11")


def sealed(number: int) -> EncryptedNotification:
    """Of both providers in turn, each to a device of its own."""
    app_id = APNS_APP_ID if number % 2 else FCM_APP_ID
    pushkey = f"{number:064x}" if number % 2 else f"fcm-device-{number}"
    return seal(f"message {number}", key=CHAIN.newest).for_device(Device(app_id, pushkey))


async def pushgate(
    *arguments: str, environ: Mapping[str, str] | None = None, within_s: float = 60.0
) -> tuple[int, str, str]:
    """Run a command to its end: exit code, stdout, stderr. What does not end in time is killed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pushgate", *arguments),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, **(environ or {})},
    )
    ending = asyncio.get_running_loop().call_later(within_s, process.kill)
    out, err = await process.communicate()
    ending.cancel()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
