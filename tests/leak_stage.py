"""A gateway as a real process, with everything secret that there is, and traffic that meets every kind of answer.

Whatever the process writes, shows or answers goes to the `Trail`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from pushgate.metrics.exposition import OPENMETRICS
from pushgate.stage import APNS_APP_ID, Stage
from tests.leak_launcher import PLANTED
from tests.leak_surroundings import (
    ANSWERS,
    ECHOED,
    MIRRORED,
    MORE,
    OLD,
    PROXIED,
    WRONG,
    echo,
    echoing,
    mirror,
    write_secrets,
)
from tests.leaks import Patient, Trail, secret
from tests.ports import free_port
from tests.processes import staged

SERVES_WITHIN_S, ENDS_WITHIN_S = 30.0, 40.0
WATCHES_S = 3.0
"""How long a viewer watches the status page: it is told something new every two seconds."""
MOST_EXPLAINED = 100
LAUNCHER = Path(__file__).with_name("leak_launcher.py")


class Observed:
    """One gateway process after the other on one stage."""

    def __init__(self, stage: Stage, port: int, trail: Trail, patient: Patient) -> None:
        self.stage = stage
        self.port = port
        self.trail = trail
        self.patient = patient
        self.folder = stage.folder
        self.inputs = {file for file in stage.folder.rglob("*") if file.is_file()}
        self.process: Process | None = None
        self.management_port = 0
        self._log = stage.folder / "output"
        self._asked = 0
        self.request_ids: set[str] = set()
        """What answers to callers were marked with."""

    async def start(self, name: str, *, environ: Mapping[str, str] | None = None, plan: Path | None = None) -> None:
        """Start it under a name for the trail, with faults built in where there is a plan."""
        self.management_port = free_port()
        (self.folder / "tmp").mkdir(exist_ok=True)
        own = {
            **self.environ,
            "PUSHGATE_DELIVERY__RETRY_SCALE": "0.005",
            "PUSHGATE_DELIVERY__DRAIN_S": "1",
            "TMPDIR": str(self.folder / "tmp"),
            "SSLKEYLOGFILE": str(self.folder / "tmp" / "tls-secrets"),
        }
        command = [str(LAUNCHER), str(plan)] if plan else ["-m", "pushgate"]
        with self._log.open("wb") as output:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, *command, "serve", "--config", str(self.stage.config_file)),
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={**os.environ, **own, **(environ or {})},
            )
        self.name = name

    @property
    def environ(self) -> dict[str, str]:
        """The settings of this process that other commands need to reach it."""
        return {
            "PUSHGATE_MANAGEMENT__LISTEN": f"127.0.0.1:{self.management_port}",
            "PUSHGATE_MANAGEMENT__TOKEN_FILE": str(self.folder / "management.token"),
            "PUSHGATE_SPOOL__ENCRYPTION_KEY_FILE": str(self.folder / "spool.key"),
        }

    async def until_serving(self) -> None:
        async with asyncio.timeout(SERVES_WITHIN_S):
            while True:
                assert self.is_running, self._log.read_text()
                with suppress(OSError):
                    for port in (self.port, self.management_port):
                        (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    return
                await asyncio.sleep(0.05)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def output(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def lines(self, event: str) -> list[str]:
        """Of the log, about this event."""
        return [line for line in self.output.splitlines() if event in line]

    def look(self) -> None:
        """At the running process and what it has left on the disk so far."""
        assert self.process is not None
        self.trail.look_at_process(self.name, self.process.pid)
        self._look_at_files()

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it, or wait until it is gone, and look at all that it has written."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        async with asyncio.timeout(ENDS_WITHIN_S):
            code = await self.process.wait()
        self.trail.look(f"{self.name}: output", self._log.read_bytes())
        self._look_at_files()
        return code

    def _look_at_files(self) -> None:
        spool = {self.folder / f"spool.db{end}" for end in ("", "-wal", "-shm")}
        self.trail.look_into(f"{self.name}: files", self.folder, but={*self.inputs, *spool, self._log})

    # --- what is asked

    async def ask(self, method: str, path: str, *, asked: Sequence[str] = (), **how: Any) -> int:
        """One request of a caller. Its answer is searched: a pushkey that it asked about may be in `rejected`."""
        tls = ssl.create_default_context(cafile=str(self.stage.ca_file))
        tls.load_cert_chain(self.stage.caller_cert_file, self.stage.caller_key_file)
        async with httpx.AsyncClient(verify=tls, timeout=20, trust_env=False) as http:
            answer = await http.request(method, f"https://localhost:{self.port}{path}", **how)
        told = self.patient.asked(*asked)
        self._asked += 1
        name = f"{self.name}: answer {self._asked}"
        self.trail.look_at_answer(name, answer.content, asked=told)
        self.trail.look(f"{name}, headers", str(answer.headers))
        if "x-request-id" in answer.headers:  # not where it was no request of HTTP at all
            self.request_ids.add(answer.headers["x-request-id"])
        return answer.status_code

    async def notify(self, *kinds: str, app_id: str = APNS_APP_ID) -> int:
        """One sealed notification to each of these pushkeys."""
        notes = [self.patient.sealed(self.patient.device(app_id, kind)) for kind in kinds]
        items = [{"id": str(number), "notification": each} for number, each in enumerate(notes)]
        return await self.ask("POST", "/push/v1/notifyEncrypted/batch", asked=kinds, json={"notifications": items})

    async def look_around(self) -> None:
        """Every page of the management port, with and without its token, rightly and wrongly asked for."""
        token = {"authorization": f"Bearer {(self.folder / 'management.token').read_text().strip()}"}
        mark = self.patient.pushkeys["apns"]
        base = f"http://127.0.0.1:{self.management_port}"
        paths = ["/health/live", "/health/ready", "/", "/?still", "/status.json", "/metrics", f"/{mark}"]
        paths += ["/rejections", "/rejections/count", f"/rejections?prefix={mark}", f"/rejections?app={mark}"]
        paths += [f"/explain?id={mark}", f"/explain?id={mark}%0a", f"/explain?{mark}"]
        asked: list[tuple[str, str, dict[str, Any]]] = [("GET", path, {}) for path in paths]
        asked += [("GET", f"/explain?id={each}", {}) for each in sorted(self.request_ids)[:MOST_EXPLAINED]]
        bodies: list[Any] = [{"app": APNS_APP_ID, "since": 9e9}, {"app": mark}, mark, {"app": "x", "prefix": mark}]
        asked += [("POST", "/rejections/forget", {"json": body}) for body in bodies]
        strange = {
            "accept": OPENMETRICS,
            "host": f"{mark}.example.org",
            "origin": f"https://{mark}",
            "x-request-id": mark,
        }
        async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=20) as http:
            for number, (method, path, how) in enumerate(asked):
                for headers in (token, token | strange, {"authorization": f"Bearer {mark}"}):
                    answer = await http.request(method, path, headers=headers, **how)
                    name = f"{self.name}: management {method} {path[:20]} {number}"
                    # what a page says of an app that was asked for is what was asked
                    self.trail.look(name, str(answer.headers) + answer.text)
            self.trail.look(f"{self.name}: events of the status page", await watched(http, token))


async def watched(http: httpx.AsyncClient, headers: Mapping[str, str]) -> bytes:
    """What somebody sees who watches the status page for a while."""
    told = b""
    with suppress(TimeoutError, httpx.RemoteProtocolError):  # a stream ends in the middle where its source breaks
        async with asyncio.timeout(WATCHES_S), http.stream("GET", "/status/events", headers=headers) as stream:
            told += str(stream.headers).encode()
            async for piece in stream.aiter_bytes():
                told += piece
    return told


@asynccontextmanager
async def observed(folder: Path, trail: Trail) -> AsyncIterator[Observed]:
    """A stage with a patient, whose secrets and those of the operator are on the trail."""
    port_of_proxy, port_of_tokens = free_port(), free_port()
    kinds = ["apns", "fcm", "impossible", "unknown", "elsewhere", *SPOTS, *(f"plant {name}" for name in PLANTED)]
    patient = Patient.new("patient", *kinds, *(f"{side} {name}" for side in ("apns", "fcm") for name in ANSWERS))
    async with staged(folder) as run, mirror(run.stage.landscape.server_tls()) as peer:
        stage = run.stage
        more = MORE.format(
            wrong=WRONG,
            old=OLD,
            proxied=PROXIED,
            mirrored=MIRRORED,
            echoed=ECHOED,
            apns_port=stage.apns.port,
            proxy_port=port_of_proxy,
            mirror_port=peer.port,
        )
        with stage.config_file.open("a") as file:
            file.write(more)
        write_secrets(stage, trail, port_of_tokens)
        trail.add(*patient.secrets, secret("a token of Google", "ya29.emulator-"), secret("a token", '"alg":"ES256"'))
        trail.add(secret("a header", "authorization: bearer"), secret("a form", "assertion=eyJ"))
        tls = stage.landscape.server_tls()
        proxy = await asyncio.start_server(echo, "127.0.0.1", port_of_proxy)
        tokens = await asyncio.start_server(echo, "127.0.0.1", port_of_tokens, ssl=tls)
        for emulator, side in ((stage.apns, "apns"), (stage.fcm, "fcm")):
            for name, step in ANSWERS.items():
                emulator.script(patient.pushkeys[f"{side} {name}"], [echoing(step, patient, f"{side} {name}")])
        seen = Observed(stage, run.port, trail, patient)
        try:
            yield seen
        finally:
            if seen.process is not None and seen.is_running:
                seen.process.kill()
                await seen.process.wait()
            proxy.close()
            tokens.close()


SPOTS = ("wire", "request", "provider", "answer", "lane", "task", "settling", "spool", "loop")
"""Where a launched gateway can be made to break at a pushkey."""
