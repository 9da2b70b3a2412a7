"""What is around a gateway in the leak tests: apps with secrets of their own, and peers that repeat what they hear."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from pushgate.emulator import Fault, Step
from pushgate.stage import Stage
from tests.conformance.hostile_peer import Hostile, answer, hostile
from tests.leaks import Patient, Trail, pem_secret, secret
from tests.provider_samples import certificate, private_pem, service_account, write_service_account

WRONG, OLD, PROXIED, MIRRORED = "org.wrong.apns", "org.old.apns", "org.proxied.apns", "org.mirrored.apns"
ECHOED = "echo-project.app.firebase"

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
[apps."{mirrored}"]
provider = "apns"
bundle_id = "org.mirrored"
key_file = "wrong.p8"
key_id = "WRONGKEY01"
team_id = "WRONGTEAM1"
endpoint = "https://localhost:{mirror_port}"
ca_file = "ca.pem"
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


def echoing(step: Step, patient: Patient, kind: str) -> Step:
    """The step with a body and headers that repeat what came in."""
    pushkey = patient.pushkeys[kind]
    told = {"reason": "BadSomething", "pushkey": pushkey, "ciphertext": patient.ciphertext, "words": patient.words}
    body = json.dumps(told | {"error": {"status": pushkey, "message": patient.words["name"]}})
    return msgspec.structs.replace(step, body=body, content_type=f"text/{pushkey}", retry_after=pushkey)


@asynccontextmanager
async def mirror(tls: ssl.SSLContext) -> AsyncIterator[Hostile]:
    """A provider that says in its headers and its body all that it was sent, the token too."""
    mirrors: list[Hostile] = []

    def script(stream: int) -> Iterator[bytes]:
        seen = re.sub(rb"[^!-~]", b".", mirrors[0].received[-8000:]).decode()
        assert "bearer" in seen
        body = json.dumps({"reason": seen, "error": {"status": seen, "message": seen}}).encode()
        yield answer(stream, 403, ("apns-id", seen), ("retry-after", seen[-100:]), body=body)

    async with hostile(tls, script) as mirror:
        mirrors.append(mirror)
        yield mirror


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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


def write_secrets(stage: Stage, trail: Trail, token_port: int) -> None:
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
