"""A gateway as a real process, with everything secret that there is, and traffic that meets every kind of answer.

Whatever the process writes, shows or answers goes to the `Trail`.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import ssl
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from pushgate.emulator import Fault, Step
from pushgate.stage import APNS_APP_ID, Stage
from tests.leak_launcher import PLANTED
from tests.leaks import Patient, Trail, pem_secret, secret
from tests.processes import free_port, staged
from tests.provider_samples import certificate, private_pem, service_account, write_service_account

WRONG, OLD, PROXIED, ECHOED = "org.wrong.apns", "org.old.apns", "org.proxied.apns", "echo-project.app.firebase"
SERVES_WITHIN_S, ENDS_WITHIN_S = 30.0, 40.0
LAUNCHER = Path(__file__).with_name("leak_launcher.py")

MORE = """
[apps."{wrong}"]
provider = "apns"
bundle_id = "org.wrong"
key_file = "wrong.p8"
key_id = "WRONGKEY01"
team_id = "WRONGTEAM1"
endpoint = "https://localhost:{apns_port}"
ca_file = "ca.pem"
[apps."{old}"]
provider = "apns"
bundle_id = "org.old"
certificate_file = "old.p12"
password_file = "old.password"
endpoint = "https://localhost:{apns_port}"
ca_file = "ca.pem"
[apps."{proxied}"]
provider = "apns"
bundle_id = "org.example.health"
key_file = "wrong.p8"
key_id = "WRONGKEY01"
team_id = "WRONGTEAM1"
proxy = "http://127.0.0.1:{proxy_port}"
proxy_login_file = "proxy.login"
[apps."{echoed}"]
provider = "fcm"
project_id = "echo-project"
credentials_file = "echo/service-account.json"
endpoint = "https://localhost:{apns_port}"
ca_file = "ca.pem"
"""

ANSWERS: Mapping[str, Step] = {
    "400": Step(400),
    "403": Step(403, "InvalidProviderToken"),
    "404": Step(404),
    "405": Step(405),
    "413": Step(413),
    "418": Step(418),
    "429": Step(429),
    "500": Step(500),
    "503": Step(503),
    "302": Step(302),
    "410": Step(410),
    "reset": Step(fault=Fault.RESET),
    "reset midway": Step(status=410, fault=Fault.RESET_MIDWAY),
    "garbage": Step(fault=Fault.GARBAGE),
    "garbage headers": Step(status=410, fault=Fault.GARBAGE_HEADERS),
    "goaway": Step(fault=Fault.GOAWAY),
    "hang": Step(fault=Fault.HANG),
}
"""What each provider answers to a pushkey of that name; the body and the headers repeat all that it was sent."""


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

    async def start(self, name: str, *, environ: Mapping[str, str] | None = None, plan: Path | None = None) -> None:
        """Start it under a name for the trail, with faults built in where there is a plan."""
        self.management_port = free_port()
        (self.folder / "tmp").mkdir(exist_ok=True)
        own = {
            "PUSHGATE_MANAGEMENT__LISTEN": f"127.0.0.1:{self.management_port}",
            "PUSHGATE_MANAGEMENT__TOKEN_FILE": str(self.folder / "management.token"),
            "PUSHGATE_SPOOL__ENCRYPTION_KEY_FILE": str(self.folder / "spool.key"),
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
                env={**os.environ, "PYTHONPATH": str(LAUNCHER.parents[1]), **own, **(environ or {})},
            )
        self.name = name

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
        paths = ["/health/live", "/health/ready", "/metrics", "/rejections", "/rejections/count", f"/{mark}"]
        asked: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", path, {}) for path in [*paths, f"/rejections?prefix={mark}", f"/rejections?app={mark}"]
        ]
        bodies: list[Any] = [{"app": APNS_APP_ID, "since": 9e9}, {"app": mark}, mark, {"app": "x", "prefix": mark}]
        asked += [("POST", "/rejections/forget", {"json": body}) for body in bodies]
        async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=20) as http:
            for number, (method, path, how) in enumerate(asked):
                for headers in (token, {"authorization": f"Bearer {mark}"}):
                    answer = await http.request(method, path, headers=headers, **how)
                    name = f"{self.name}: management {method} {path[:20]} {number}"
                    # what a page says of an app that was asked for is what was asked
                    self.trail.look(name, str(answer.headers) + answer.text)


@asynccontextmanager
async def observed(folder: Path, trail: Trail) -> AsyncIterator[Observed]:
    """A stage with a patient, whose secrets and those of the operator are on the trail."""
    port_of_proxy, port_of_tokens = free_port(), free_port()
    kinds = ["apns", "fcm", "impossible", "unknown", "elsewhere", *SPOTS, *(f"plant {name}" for name in PLANTED)]
    patient = Patient.new("patient", *kinds, *(f"{side} {name}" for side in ("apns", "fcm") for name in ANSWERS))
    async with staged(folder) as run:
        stage = run.stage
        more = MORE.format(
            wrong=WRONG,
            old=OLD,
            proxied=PROXIED,
            echoed=ECHOED,
            apns_port=stage.apns.port,
            proxy_port=port_of_proxy,
        )
        with stage.config_file.open("a") as file:
            file.write(more)
        _write_secrets(stage, trail, port_of_tokens)
        trail.add(*patient.secrets, secret("a token of Google", "ya29.emulator-"), secret("a token", '"alg":"ES256"'))
        trail.add(secret("a header", "authorization: bearer"), secret("a form", "assertion=eyJ"))
        tls = stage.landscape.server_tls()
        proxy = await asyncio.start_server(_echo, "127.0.0.1", port_of_proxy)
        tokens = await asyncio.start_server(_echo, "127.0.0.1", port_of_tokens, ssl=tls)
        for emulator, side in ((stage.apns, "apns"), (stage.fcm, "fcm")):
            for name, step in ANSWERS.items():
                emulator.script(patient.pushkeys[f"{side} {name}"], [_echoing(step, patient, f"{side} {name}")])
        seen = Observed(stage, run.port, trail, patient)
        try:
            yield seen
        finally:
            if seen.process is not None and seen.is_running:
                seen.process.kill()
                await seen.process.wait()
            proxy.close()
            tokens.close()


SPOTS = ("wire", "request", "provider", "answer", "lane", "settling", "spool", "loop")
"""Where a launched gateway can be made to break at a pushkey."""


def _echoing(step: Step, patient: Patient, kind: str) -> Step:
    """The step with a body and headers that repeat what came in."""
    pushkey = patient.pushkeys[kind]
    told = {"reason": "BadSomething", "pushkey": pushkey, "ciphertext": patient.ciphertext, "words": patient.words}
    body = json.dumps(told | {"error": {"status": pushkey, "message": patient.words["name"]}})
    return msgspec.structs.replace(step, body=body, content_type=f"text/{pushkey}", retry_after=pushkey)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Refuse, and say all that was asked: a proxy that wants a login, or a token endpoint."""
    with suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
        asked = await reader.readuntil(b"\r\n\r\n")
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                asked += await reader.read(65_536)
        flat = asked.replace(b"\r\n", b" ").replace(b'"', b"'").decode("latin-1")
        body = json.dumps({"error": "invalid_grant", "error_description": flat}).encode()
        head = f"HTTP/1.1 407 {flat[:200]}\r\nx-echo: {flat[:4000]}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode("latin-1") + body)
        await writer.drain()
    writer.close()


def _write_secrets(stage: Stage, trail: Trail, token_port: int) -> None:
    """Keys, passwords and logins in files of the stage, each on the trail."""
    folder, key = stage.folder, ec.generate_private_key(ec.SECP256R1())
    (folder / "echo").mkdir()
    password, login = secrets.token_urlsafe(18), f"proxyuser:{secrets.token_urlsafe(18)}"
    spool_key, token = secrets.token_hex(32), secrets.token_urlsafe(32)
    account = service_account(
        rsa.generate_private_key(65537, 2048),
        project_id="echo-project",
        token_uri=f"https://localhost:{token_port}/token",
        private_key_id=secrets.token_hex(20),
    )
    own = certificate(key)
    (folder / "wrong.p8").write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1())))
    sealed = BestAvailableEncryption(password.encode())
    (folder / "old.p12").write_bytes(pkcs12.serialize_key_and_certificates(b"old", key, own, None, sealed))
    (folder / "old.password").write_text(password + "\n")
    (folder / "proxy.login").write_text(login + "\n")
    (folder / "spool.key").write_text(spool_key + "\n")
    (folder / "management.token").write_text(token + "\n")
    write_service_account(folder / "echo", account)
    for name in ("wrong.p8", stage.landscape.apns_key_file.name, stage.landscape.server_key_file.name):
        trail.add(pem_secret(f"key in {name}", (folder / name).read_bytes()))
    google = json.loads((folder / "service-account.json").read_text())
    trail.add(
        pem_secret("key of the service account", google["private_key"]),
        pem_secret("key of the echoed account", account["private_key"]),
        pem_secret("key in old.p12", private_pem(key)),
        secret("password of old.p12", password),
        secret("login of the proxy", login),
        secret("password of the proxy", login.partition(":")[2]),
        secret("key of the spool", spool_key),
        secret("key of the spool, bytes", bytes.fromhex(spool_key)),
        secret("token of the management port", token),
    )
