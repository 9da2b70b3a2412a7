"""`pushgate doctor` against emulators: each fault is made on purpose, found, and its next step told."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec.structs import replace

from pushgate.doctor import Check, State, spool, way
from pushgate.emulator import Door, Flaw, Landscape, Step
from pushgate.emulator import fcm as fcm_emulator
from tests.certificates import Authority, new_key
from tests.ports import free_port
from tests.processes import pushgate, staged
from tests.ward import APNS, BUNDLE_ID, FCM, PROJECT_ID, ScriptedProxy, Ward

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

Fault = Callable[[Ward], None]
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "find-what-is-wrong.md"


@pytest.fixture(scope="module")
def land(tmp_path_factory: pytest.TempPathFactory) -> Landscape:
    return Landscape(tmp_path_factory.mktemp("land"), project_id=PROJECT_ID)


@pytest.fixture
def ward(tmp_path: Path, land: Landscape) -> Ward:
    return Ward(tmp_path, land)


async def test_a_ward_without_fault_is_well(ward: Ward) -> None:
    async with ward.open():
        found = await ward.examine()
        assert not found.wrong
        assert found.one(Check.PROVIDER, APNS).seen.startswith("accepted: key and team are right")
        assert found.one(Check.PROVIDER, FCM).seen == f"accepted: the token and project {PROJECT_ID} are right"
        assert found.one(Check.CLOCK).seen.endswith("takes a token of this clock: less than an hour off")
        assert not ward.google.devices(), "it was only validated"
        ((_, (got,)),) = ward.apple.devices().items()
        assert (got.payload, got.headers["apns-expiration"]) == ({"aps": {"badge": 0}}, "0")
        assert (ward.apple.counts["requests"], ward.google.counts["requests"]) == (1, 1)


async def test_what_real_providers_say_to_a_pushkey_of_nobody_is_well(ward: Ward) -> None:
    ward.apns_options["foreign_prefix"] = "a0a1a2"  # what the random pushkey of the ward begins with
    ward.apns["token_encoding"] = "base64"
    async with ward.open():
        ward.google.script("*", [Step(status=404, reason="UNREGISTERED")])
        found = await ward.examine()
        assert not found.wrong
        assert found.one(Check.PROVIDER, APNS).seen.startswith("BadDeviceToken to a pushkey that is nobody's")
        assert found.one(Check.PROVIDER, FCM).seen.startswith("UNREGISTERED to a pushkey that is nobody's")


# --- what providers say ------------------------------------------------------------------------------------------


def another_key(ward: Ward) -> None:
    _, key_file = Authority().issue().write(ward.folder, "AuthKey_OTHER00001")
    ward.apns["key_file"] = str(key_file)


def another_team(ward: Ward) -> None:
    ward.apns["team_id"] = "WRONGTEAM1"


def another_topic(ward: Ward) -> None:
    ward.apns["bundle_id"] = "org.example.other"


def another_environment(ward: Ward) -> None:
    ward.apns_options["key_environments"] = {ward.land.apns_key_id: "sandbox"}


def apple_is_ahead(ward: Ward) -> None:
    ward.apns_options["clock"] = lambda: time.time() + 7200


def apple_is_behind(ward: Ward) -> None:
    ward.apns_options["clock"] = lambda: time.time() - 7200


def google_is_ahead(ward: Ward) -> None:
    ward.fcm_options["clock"] = lambda: time.time() + 7200


def key_is_deleted(ward: Ward) -> None:
    public = rsa.generate_private_key(65537, 2048).public_key()
    ward.fcm_options["public_key"] = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def account_is_deleted(ward: Ward) -> None:
    ward.fcm_options["service_account_email"] = "somebody.else@example.org"


def another_project(ward: Ward) -> None:
    ward.fcm |= {"project_id": "another-project", "allow_other_project": True}


SAID_BY_PROVIDERS = [
    (another_key, Check.PROVIDER, APNS, "InvalidProviderToken", "key_id, team_id and key_file must belong together"),
    (another_team, Check.PROVIDER, APNS, "InvalidProviderToken", "key_id, team_id and key_file must belong together"),
    (another_topic, Check.PROVIDER, APNS, "TopicDisallowed", "is org.example.other the bundle id"),
    (another_environment, Check.PROVIDER, APNS, "BadEnvironmentKeyIdInToken", "correct environment"),
    (apple_is_ahead, Check.PROVIDER, APNS, "ExpiredProviderToken", "clock is an hour or more behind"),
    (apple_is_behind, Check.PROVIDER, APNS, "InvalidProviderToken", "a clock that is ahead"),
    (google_is_ahead, Check.TOKEN, FCM, "invalid_grant: the clock", "set by NTP"),
    (key_is_deleted, Check.TOKEN, FCM, "invalid_grant: the key was deleted", "make a new key"),
    (account_is_deleted, Check.TOKEN, FCM, "invalid_grant: the service account", "make a service account anew"),
    (another_project, Check.PROVIDER, FCM, "IAM_PERMISSION_DENIED): the role is missing", "in project another-project"),
]


@pytest.mark.parametrize(("fault", "check", "about", "seen", "next_step"), SAID_BY_PROVIDERS)
async def test_what_a_provider_refuses_is_named_with_its_next_step(
    ward: Ward, fault: Fault, check: Check, about: str, seen: str, next_step: str
) -> None:
    fault(ward)
    async with ward.open():
        found = await ward.examine()
    assert set(found.wrong) == {(check, about)}, found.wrong
    finding = found.one(check, about)
    assert seen in finding.seen
    assert next_step in finding.next_step


DISABLED = json.dumps(
    {"error": {"code": 403, "status": "PERMISSION_DENIED", "details": [{"reason": "SERVICE_DISABLED"}]}}
)


@pytest.mark.parametrize(
    ("step", "state", "seen", "next_step"),
    [
        (
            Step(status=403, body=DISABLED),
            State.WRONG,
            "the API is disabled",
            "enable the Firebase Cloud Messaging API",
        ),
        (
            Step(status=404, reason="NOT_FOUND"),
            State.WRONG,
            "FCM says NOT_FOUND",
            "no project is called example-project",
        ),
        (Step(status=403, reason="SENDER_ID_MISMATCH"), State.WRONG, "SENDER_ID_MISMATCH", "correct project_id"),
        (Step(status=401, reason="UNAUTHENTICATED"), State.WRONG, "UNAUTHENTICATED", "the same Google"),
        (Step(status=404, body="<html>"), State.WRONG, "refused without a reason: status 404", "no answer of FCM"),
        (Step(status=503), State.WARNING, "FCM has trouble: UNAVAILABLE", "nothing of ours is wrong"),
        (Step(status=429), State.WARNING, "FCM has had too much: QUOTA_EXCEEDED", "in a few minutes"),
        (Step(status=400), State.WARNING, "refuses the message itself: INVALID_ARGUMENT", "is there a newer one"),
    ],
)
async def test_every_answer_of_fcm_is_told_apart(
    ward: Ward, step: Step, state: State, seen: str, next_step: str
) -> None:
    async with ward.open():
        ward.google.script("*", [replace(step, repeat=True)])
        finding = (await ward.examine(FCM)).one(Check.PROVIDER, FCM)
    assert finding.state is state
    assert seen in finding.seen
    assert next_step in finding.next_step


async def test_a_token_endpoint_that_says_no_in_other_words_is_told(ward: Ward) -> None:
    async with ward.open():
        ward.google.script("/token", [Step(status=401, reason="invalid_client", repeat=True)])
        found = await ward.examine(FCM)
        assert found.one(Check.TOKEN).seen == "Google says invalid_client"
        assert found.one(Check.PROVIDER).state is State.NOT_CHECKED
        ward.google.script("/token", [Step(status=400, reason="invalid_grant", repeat=True)])
        finding = (await ward.examine(FCM)).one(Check.TOKEN)
        assert "the clock of this machine, or a key that was deleted" in finding.seen
        assert "NTP" in finding.next_step
        assert "make a new key" in finding.next_step


@pytest.mark.parametrize(("skew_s", "state", "seen"), [(0, State.OK, "within 2 s"), (90, State.WRONG, "ahead of")])
async def test_the_date_of_an_answer_tells_of_our_clock(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, skew_s: float, state: State, seen: str
) -> None:
    """Google answers with one. It is heard where there is no token, too: that is when the clock matters."""
    session: Any = fcm_emulator._FcmSession
    plain = session.answer

    def dated(self: Any, request: Any) -> Any:
        answer = plain(self, request)
        return replace(answer, headers=(*answer.headers, ("date", formatdate(usegmt=True))))

    monkeypatch.setattr(session, "answer", dated)
    ward.now = lambda: time.time() + skew_s
    async with ward.open():
        for step in ([], [Step(status=400, reason="invalid_grant", repeat=True)]):
            ward.google.script("/token", step)
            finding = (await ward.examine()).one(Check.CLOCK)
            assert finding.state is state
            assert f"{seen} the clock of localhost" in finding.seen or finding.seen.startswith(seen)
            assert ("NTP" in finding.next_step) == (state is State.WRONG)


# --- the way to them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("door", "check", "seen"),
    [
        (Door.CLOSED, Check.CONNECTION, "the connection is refused: nobody listens there"),
        (Door.DEAF, Check.TLS, "no TLS"),
        (Door.MUTE, Check.PROVIDER, "no answer: "),
        (Door.GARBAGE, Check.PROVIDER, "no answer: connect"),
    ],
)
async def test_a_host_that_is_not_there_or_says_nothing(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, door: Door, check: Check, seen: str
) -> None:
    monkeypatch.setattr(way, "STEP_S", 0.5)
    monkeypatch.setattr("pushgate.doctor.asking.REQUEST_S", 1.0)
    async with ward.open():
        ward.apple.listener.door = door
        found = await ward.examine()
        finding = found.one(check, APNS if check is Check.PROVIDER else f":{ward.apple.port}")
    assert finding.state is State.WRONG
    assert seen in finding.seen
    assert found.one(Check.PROVIDER, FCM).state is State.OK, "one app's trouble is no other's"
    if check is not Check.PROVIDER:
        assert found.one(Check.PROVIDER, APNS).state is State.NOT_CHECKED


async def test_a_resolver_that_hangs_holds_nobody_up(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    real, released = socket.getaddrinfo, threading.Event()

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "hang.example.org":
            released.wait(20)
        return real(host, *args, **kwargs)

    monkeypatch.setattr(way, "STEP_S", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    ward.apns["endpoint"] = "https://hang.example.org"
    began = time.monotonic()
    try:
        async with ward.open():
            found = await ward.examine()
    finally:
        released.set()
    assert time.monotonic() - began < 5
    finding = found.one(Check.NAME, "hang")
    assert (finding.state, finding.seen) == (State.WRONG, "no answer within 0.3 s")
    assert found.one(Check.PROVIDER, FCM).state is State.OK


async def test_a_name_that_is_not_there(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo
    known = {"nobody.example.org": socket.EAI_NONAME, "silent.example.org": socket.EAI_AGAIN}

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host in known:
            raise socket.gaierror(known[host], "no")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    ward.apns["endpoint"], ward.fcm["endpoint"] = "https://nobody.example.org", "https://silent.example.org"
    async with ward.open():
        found = await ward.examine()
    nobody, silent = found.one(Check.NAME, "nobody"), found.one(Check.NAME, "silent")
    assert (nobody.state, nobody.seen) == (State.WRONG, "there is no host nobody.example.org")
    assert nobody.next_step.startswith("correct the name")
    assert silent.seen == "the resolver does not answer for silent.example.org"
    assert "/etc/resolv.conf" in silent.next_step
    assert found.one(Check.TLS, "nobody").state is State.NOT_CHECKED


@pytest.mark.parametrize(
    ("flaw", "trust", "seen", "next_step"),
    [
        (Flaw.NONE, "system", "certificate by CN=pushgate emulator CA", "a proxy of yours that opens TLS"),
        (Flaw.UNKNOWN_AUTHORITY, "own", "certificate by CN=pushgate emulator CA", "the authority of this host? Take"),
        (Flaw.EXPIRED, "own", "certificate has expired", "this machine's clock"),
        (Flaw.WRONG_NAME, "own", "for elsewhere.example.org", "correct the endpoint"),
    ],
)
async def test_a_certificate_that_is_not_trusted_is_named(
    ward: Ward, flaw: Flaw, trust: str, seen: str, next_step: str
) -> None:
    if trust == "system":
        del ward.apns["ca_file"]
    async with ward.open():
        ward.apple.listener.tls = ward.land.server_tls(flaw=flaw)
        found = await ward.examine(APNS)
    finding = found.one(Check.TLS)
    assert finding.state is State.WRONG
    assert "not trusted: " in finding.seen
    assert seen in finding.seen
    assert next_step in finding.next_step


async def test_who_offers_no_http2_stands_in_between(ward: Ward) -> None:
    tls = ward.land.server_tls()
    tls.set_alpn_protocols(["http/1.1"])

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with ward.open(), await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=tls) as server:
        ward.apns["endpoint"] = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        finding = (await ward.examine(APNS)).one(Check.TLS)
    assert finding.state is State.WRONG
    assert "no HTTP/2 is offered (ALPN); certificate by CN=pushgate emulator CA" in finding.seen
    assert "opens TLS" in finding.next_step


@pytest.mark.parametrize(
    ("answer", "login", "seen", "next_step"),
    [
        (b"HTTP/1.1 407 No\r\n\r\n", False, "the proxy answers 407", "name it as proxy_login_file"),
        (b"HTTP/1.1 407 No\r\n\r\n", True, "the proxy answers 407", "correct user:password"),
        (b"HTTP/1.1 403 No\r\n\r\n", False, "the proxy answers 403", "have the proxy allow CONNECT to localhost:"),
        (b"HTTP/1.1 502 No\r\n\r\n", False, "the proxy answers 502", "the proxy cannot reach localhost:"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", False, "is no HTTP", "is that address an HTTP proxy"),
    ],
)
async def test_what_a_proxy_answers_is_told(ward: Ward, answer: bytes, login: bool, seen: str, next_step: str) -> None:
    async with ward.open(), ScriptedProxy(answer) as proxy:
        ward.apns["proxy"] = f"http://127.0.0.1:{proxy.port}"
        if login:
            (ward.folder / "login").write_text("hugo:geheim\n")
            ward.apns["proxy_login_file"] = str(ward.folder / "login")
        found = await ward.examine(APNS)
    finding = found.one(Check.CONNECTION)
    assert finding.state is State.WRONG
    assert seen in finding.seen
    assert next_step in finding.next_step
    assert (b"Proxy-Authorization" in proxy.asked[0]) == login


async def test_all_goes_through_a_proxy_that_opens_tunnels(ward: Ward) -> None:
    async with ward.open(), ScriptedProxy() as proxy:
        ward.apns["proxy"] = ward.fcm["proxy"] = f"http://127.0.0.1:{proxy.port}"
        found = await ward.examine()
        assert not found.wrong
        assert {each.seen for each in found.found if each.check is Check.CONNECTION} == {"the proxy opens a tunnel"}
        hosts = {asked.split(b" ")[1].decode() for asked in proxy.asked}
        assert hosts == {
            f"localhost:{ward.apple.port}",
            f"localhost:{ward.google.port}",
            f"127.0.0.1:{ward.google.port}",
        }


# --- files, certificates and the spool ---------------------------------------------------------------------------


def by_certificate(ward: Ward, *topics: str, **more: Any) -> None:
    for key in ("key_file", "key_id", "team_id"):
        del ward.apns[key]
    certificate, key_file = ward.land.write_push_certificate(*topics, **more)
    ward.apns |= {"certificate_file": str(certificate), "certificate_key_file": str(key_file)}


async def test_a_push_certificate_without_fault_is_well(ward: Ward) -> None:
    by_certificate(ward, BUNDLE_ID)
    async with ward.open():
        found = await ward.examine(APNS)
    assert not found.wrong
    assert found.one(Check.TOPIC).seen.startswith(f"the certificate is for {BUNDLE_ID}")
    assert found.one(Check.PROVIDER).seen.startswith("accepted: the certificate is right")


@pytest.mark.parametrize(
    ("topic", "environment", "local", "said"),
    [
        ("org.example.other", "production", "but bundle_id is org.example.health", "BadTopic"),
        (BUNDLE_ID, "sandbox", "for sandbox, but environment is production", "BadCertificateEnvironment"),
    ],
)
async def test_a_push_certificate_of_something_else(
    ward: Ward, topic: str, environment: str, local: str, said: str
) -> None:
    by_certificate(ward, topic, environments=[environment])
    async with ward.open():
        found = await ward.examine(APNS)
    wrong = [each for each in found.found if each.check is Check.TOPIC and each.state is State.WRONG]
    assert [local in each.seen for each in wrong] == [True]
    assert f"APNs says {said}" in found.one(Check.PROVIDER).seen


async def test_a_push_certificate_that_apple_does_not_know(ward: Ward) -> None:
    """TLS itself refuses it, and with TLS 1.3 only after the handshake."""
    by_certificate(ward, BUNDLE_ID)
    certificate, key_file = Authority().issue().write(ward.folder, "stranger")
    ward.apns |= {"certificate_file": str(certificate), "certificate_key_file": str(key_file)}
    async with ward.open():
        finding = (await ward.examine(APNS)).one(Check.PROVIDER)
    assert finding.state is State.WRONG
    assert finding.seen in ("no answer: connect", "no answer: reset")
    assert "may have refused the certificate" in finding.next_step


async def test_a_push_certificate_that_has_expired_is_not_even_shown(ward: Ward) -> None:
    by_certificate(ward, BUNDLE_ID)
    leaf = Authority().issue(begins=datetime.now(UTC) - timedelta(days=9), ends=datetime.now(UTC) - timedelta(days=1))
    certificate, key_file = leaf.write(ward.folder, "expired")
    ward.apns |= {"certificate_file": str(certificate), "certificate_key_file": str(key_file)}
    async with ward.open():
        found = await ward.examine(APNS)
        assert not ward.apple.counts.get("requests")
    assert "has expired on" in found.one(Check.CERTIFICATE).seen
    assert found.one(Check.CERTIFICATE).next_step == "have it renewed"
    assert found.one(Check.PROVIDER).state is State.NOT_CHECKED


def server_has_expired(ward: Ward) -> None:
    ends = datetime.now(UTC) - timedelta(days=1)
    leaf = Authority().issue("localhost", begins=ends - timedelta(days=9), ends=ends)
    certificate, key_file = leaf.write(ward.folder, "server")
    ward.tables["api.tls"] = {"cert_file": str(certificate), "key_file": str(key_file)}


def server_chain_is_out_of_order(ward: Ward) -> None:
    leaf = Authority("middle", above=Authority("root")).issue("localhost")
    certificate, key_file = leaf.write(ward.folder, "server")
    certificate.write_bytes(leaf.pem + Authority("stranger").pem + leaf.chain[0].public_bytes(Encoding.PEM))
    ward.tables["api.tls"] = {"cert_file": str(certificate), "key_file": str(key_file)}


def server_has_no_name(ward: Ward) -> None:
    certificate, key_file = Authority().issue().write(ward.folder, "server")
    ward.tables["api.tls"] = {"cert_file": str(certificate), "key_file": str(key_file)}


def mutual_tls(ward: Ward, authority: Authority, **files: bytes) -> None:
    certificate, key_file = authority.issue("localhost").write(ward.folder, "server")
    ward.tables["api"]["auth"] = "mtls"
    ward.tables["api.tls"] = {"cert_file": str(certificate), "key_file": str(key_file)}
    for key, content in {"client_ca_file": authority.pem, **files}.items():
        (ward.folder / f"{key}.pem").write_bytes(content)
        ward.tables["api.tls"][key] = str(ward.folder / f"{key}.pem")


def nobody_issues_to_callers(ward: Ward) -> None:
    mutual_tls(ward, Authority(), client_ca_file=Authority("leaf", is_authority=False).pem)


def list_of_somebody_else(ward: Ward) -> None:
    mutual_tls(ward, Authority(), client_crl_file=Authority("stranger").revocation_list())


def list_has_ended(ward: Ward) -> None:
    authority, now = Authority(), datetime.now(UTC)
    ended = authority.revocation_list(begins=now - timedelta(days=2), ends=now - timedelta(hours=1))
    mutual_tls(ward, authority, client_crl_file=ended)


def key_for_everybody(ward: Ward) -> None:
    path = Path(shutil.copy(ward.land.apns_key_file, ward.folder))
    path.chmod(0o644)
    ward.apns["key_file"] = str(path)


def key_of_another_name(ward: Ward) -> None:
    path = ward.folder / "AuthKey_SOMEOTHER1.p8"
    path.write_bytes(ward.land.apns_key_file.read_bytes())
    path.chmod(0o600)
    ward.apns["key_file"] = str(path)


def spool_cannot_be_written(ward: Ward) -> None:
    ward.tables["spool"]["url"] = "sqlite:/proc/spool.db"  # not even by root


def spool_of_another_program(ward: Ward) -> None:
    (ward.folder / "spool.db").write_bytes(b"SQLite format 3\0" + b"\0" * 84)


def spool_of_another_cell_is_old(ward: Ward) -> None:
    (ward.folder / "spool.1.db").write_bytes(
        b"SQLite format 3\0".ljust(60, b"\0") + b"\0\0\0\1\0\0\0\0PGSp" + b"\0" * 28
    )


def port_is_taken(ward: Ward) -> None:
    ward.taken = socket.create_server(("127.0.0.1", 0))
    ward.tables["api"]["listen"] = f"127.0.0.1:{ward.taken.getsockname()[1]}"


@pytest.mark.parametrize(
    ("fault", "check", "state", "seen", "next_step"),
    [
        (server_has_expired, Check.CERTIFICATE, State.WRONG, "callers refuse it", "have it renewed"),
        (server_chain_is_out_of_order, Check.CHAIN, State.WRONG, "CN=stranger follows", "write them in order"),
        (server_has_no_name, Check.KEYS, State.WRONG, "no subject alternative name", "have one issued with the name"),
        (nobody_issues_to_callers, Check.AUTHORITIES, State.WARNING, "CN=leaf is no authority", "issues to callers"),
        (list_of_somebody_else, Check.REVOCATION, State.WARNING, "no list of CN=authority", "write its list behind"),
        (list_has_ended, Check.REVOCATION, State.WRONG, "its callers are refused", "fetch the new list"),
        (key_for_everybody, Check.PERMISSIONS, State.WARNING, "everybody on this machine", "chmod 600"),
        (key_of_another_name, Check.CREDENTIALS, State.WARNING, "but key_id is EMULATOR01", "correct key_id"),
        (spool_cannot_be_written, Check.FOLDER, State.WRONG, "nothing can be written in /proc", "writable"),
        (spool_of_another_program, Check.FILE, State.WRONG, "is no spool of pushgate", "name another file"),
        (
            spool_of_another_cell_is_old,
            Check.FILE,
            State.WRONG,
            "spool.1.db has format 1",
            "use the release that made it",
        ),
        (port_is_taken, Check.LISTEN, State.WRONG, "cannot be had", "stop the program"),
    ],
)
async def test_what_is_wrong_on_this_machine_is_found_without_network(
    ward: Ward, fault: Fault, check: Check, state: State, seen: str, next_step: str
) -> None:
    fault(ward)
    async with ward.open():
        found = await ward.examine(offline=True)
        assert not ward.apple.counts
    (finding,) = [each for each in found.found if each.check is check and each.state is state]
    assert seen in finding.seen
    assert next_step in finding.next_step
    assert found.one(Check.PROVIDER, APNS).seen.startswith("--offline")
    if ward.taken is not None:
        ward.taken.close()


async def test_a_folder_that_is_closed_to_us_is_told(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path) -> list[Path]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(spool, "_of_other_cells", closed)
    async with ward.open():
        finding = (await ward.examine(offline=True)).one(Check.FILE)
    assert (finding.state, finding.seen) == (State.WRONG, f"cannot look into {ward.folder} (Permission denied)")
    assert finding.next_step.startswith("run this as the user that runs pushgate")


async def test_a_host_that_cannot_be_one_is_told_and_no_crash(ward: Ward) -> None:
    ward.tables["api"] = {"listen": "a..b:8080", "allow_unauthenticated": True}
    ward.apns["endpoint"] = "https://a..b"
    async with ward.open():
        found = await ward.examine()
    assert found.one(Check.LISTEN).seen == "a..b is no name of a host"
    assert found.one(Check.NAME, "a..b").seen == "there is no host a..b"


async def test_apps_that_share_a_host_walk_its_way_once(ward: Ward) -> None:
    ward.tables['apps."org.example.second"'] = ward.apns
    async with ward.open():
        found = await ward.examine()
        assert len([each for each in found.found if each.check is Check.TLS]) == 3
        assert ward.apple.counts["requests"] == 2


# --- as a process ------------------------------------------------------------------------------------------------


async def test_exit_codes_and_both_forms_of_the_answer(ward: Ward) -> None:
    async with ward.open():
        config = str(ward.write())
        code, out, err = await pushgate("doctor", "--config", config)
        assert (code, "wrong" not in out) == (0, True)
        assert out.splitlines()[0].startswith("ok           configuration  no faults; apps: ")
        assert "\x1b" not in out + err
        assert re.search(r"^\d+ ok, 1 not checked$", out.splitlines()[-1])
        another_topic(ward)
        code, out, _ = await pushgate("doctor", "--config", str(ward.write()), "--app", APNS)
        assert code == 1
        assert re.search(r"^wrong +provider +org\.example.*TopicDisallowed\n +-> is org\.example\.other", out, re.M)
        assert FCM not in "".join(out.splitlines()[1:])
        code, out, err = await pushgate("doctor", "--config", config, "--json")
        answer = json.loads(out)
        assert (code, answer["ok"], err) == (1, False, "")
        assert [each["about"] for each in answer["checks"] if each["state"] == "wrong"] == [APNS]
        assert {each.keys() == {"check", "about", "state", "seen", "next_step"} for each in answer["checks"]} == {True}
        assert all(secret not in out for secret in ward.secrets())


async def test_a_configuration_with_faults_is_told_as_check_config_does(ward: Ward) -> None:
    async with ward.open():
        authority, stranger = Authority(), new_key()
        certificate, key_file = authority.issue("localhost").write(ward.folder, "server")
        key_file.write_bytes(replace(authority.issue("x"), key=stranger).key_pem)
        ward.tables["api.tls"] = {"cert_file": str(certificate), "key_file": str(key_file)}
        ward.apns["key_id"] = "short"
        config = str(ward.write())
        code, out, _ = await pushgate("doctor", "--config", config, "--json")
        told = json.loads(out)
        _, checked, _ = await pushgate("check-config", "--config", config, "--json")
        faults = json.loads(checked)["faults"]
        assert code == 2
        found = [{"path": each["about"], "fault": each["seen"], "mend": each["next_step"]} for each in told["checks"]]
        assert found == faults
        assert {each["path"] for each in faults} == {"api.tls.key_file", f"apps.'{APNS}'.key_id"}
        code, out, _ = await pushgate("doctor", "--config", config, "--app", "nobody")
        assert (code, "not the key of cert_file" in out) == (2, True)


async def test_a_terminal_sees_colours_and_what_is_looked_at(ward: Ward) -> None:
    def run(config: str) -> str:
        ours, its = pty.openpty()
        environ = {**os.environ, "TERM": "xterm", "NO_COLOR": ""}
        with subprocess.Popen(
            [sys.executable, "-m", "pushgate", "doctor", "--config", config], stdout=its, stderr=its, env=environ
        ) as running:
            os.close(its)
            shown = b""
            with suppress(OSError):  # it has ended
                while chunk := os.read(ours, 4096):
                    shown += chunk
            assert running.wait(timeout=30) == 1
        os.close(ours)
        return shown.decode()

    another_topic(ward)
    async with ward.open():
        shown = await asyncio.to_thread(run, str(ward.write()))
    assert "checking " in shown
    assert re.search(r"\x1b\[1;31mwrong +\x1b\[0m", shown)
    assert re.search(r"\x1b\[32mok +\x1b\[0m", shown)


async def test_an_app_that_is_not_there_is_wrong_usage(ward: Ward) -> None:
    async with ward.open():
        code, out, err = await pushgate("doctor", "--config", str(ward.write()), "--app", "nobody")
    assert (code, out) == (2, "")
    assert err == f"--app: no app 'nobody' is configured\n  -> write it as in [apps]; there are: {APNS}, {FCM}\n"


async def test_a_gateway_that_runs_is_no_fault_and_is_not_disturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUSHGATE_MANAGEMENT__LISTEN", f"127.0.0.1:{free_port()}")
    async with staged(tmp_path) as run:
        await run.start()
        await run.until_ready()
        config = str(run.stage.config_file)

        async def lines(check: str, **environ: str) -> dict[str, Any]:
            _, out, _ = await pushgate("doctor", "--config", config, "--json", "--offline", environ=environ)
            (found,) = [each for each in json.loads(out)["checks"] if each["check"] == check]
            return dict(found)

        assert (await lines("spool lock"))["seen"] == f"a gateway runs (process {run.pid}) and uses it"
        assert (await lines("gateway"))["seen"].endswith("and takes notifications")
        other = await lines("spool lock", PUSHGATE_MANAGEMENT__LISTEN=f"127.0.0.1:{free_port()}")
        assert (other["state"], other["seen"].startswith(f"process {run.pid} uses it")) == ("warning", True)
        moved = await lines("spool lock", PUSHGATE_SPOOL__URL=f"sqlite:{tmp_path}/other.db")
        assert (moved["state"], "although a gateway answers" in moved["seen"]) == ("warning", True)
        run.signal(signal.SIGSTOP)
        try:
            hung = await lines("gateway")
        finally:
            run.signal(signal.SIGCONT)
        assert (hung["state"], "does not answer within 5 s" in hung["seen"]) == ("wrong", True)
        assert await run.end() == 0
        assert "crashed" not in run.log.decode()


async def test_what_the_page_shows_is_what_comes(ward: Ward) -> None:
    """The first block of the page runs, and each check that there is has a row."""
    text = PAGE.read_text()
    rows = set(re.findall(r"^\| `([a-z ]+)` \|", text, re.M))
    assert rows == {check.value for check in Check}
    command = re.search(r"^```sh\n(pushgate doctor .*?)\n```$", text, re.M)
    assert command is not None
    async with ward.open():
        ward.write()
        _, *arguments = command[1].split()
        assert "--config pushgate.toml" in command[1]
        arguments[arguments.index("pushgate.toml")] = str(ward.config_file)
        assert (await pushgate(*arguments))[0] == 0
