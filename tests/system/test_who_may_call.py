"""Who may call a gateway as a whole: real processes on uvloop, real TLS, changes while they run."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest

from tests.certificates import BRAINPOOL, DAY, SERVER, Authority, Leaf
from tests.openssl import E_REZEPT, s_client
from tests.ports import free_port
from tests.processes import Run, pushgate, sealed, staged
from tests.tls_server import asking, client_tls

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

AUTHORITY = Authority("callers")
ERP, CHAT = AUTHORITY.issue("erp.example.org"), AUTHORITY.issue("chat.example.org", common_name="chat")
SEALED = "notifyEncrypted/batch"
_CLIENTS = """\
[[clients]]
name = "erp"
san = "erp.example.org"
#
[[clients]]
name = "chat"
san = "chat.example.org"
"""


@asynccontextmanager
async def prepared(folder: Path, *, api: str = "", tls: str = "", clients: str = "") -> AsyncIterator[Run]:
    """A gateway that is not started yet, whose callers are those of `AUTHORITY`: with these lines in its tables."""
    async with staged(folder) as run:
        (folder / "callers-ca.pem").write_bytes(AUTHORITY.pem)
        rewrite(run, 'auth = "mtls"', f'auth = "mtls"\n{api}')
        rewrite(run, f'client_ca_file = "{run.stage.ca_file.name}"', f'client_ca_file = "callers-ca.pem"\n{tls}')
        config = run.stage.config_file.read_text()
        entries = _CLIENTS.replace("#\n", clients)
        run.stage.config_file.write_text(config[: config.index("[[clients]]")] + entries)
        yield run


@asynccontextmanager
async def running(folder: Path, *, api: str = "", tls: str = "", clients: str = "") -> AsyncIterator[Run]:
    async with prepared(folder, api=api, tls=tls, clients=clients) as run:
        await run.start()
        yield run
        assert await run.end() == 0
        assert b"Traceback" not in run.log
        for secret in (ERP.sha256, "BEGIN CERT", "example.org\\n"):
            assert secret.encode() not in run.log


def rewrite(run: Run, old: str, new: str) -> None:
    text = run.stage.config_file.read_text()
    assert old in text
    run.stage.config_file.write_text(text.replace(old, new))


async def taken_over(run: Run, count: int) -> None:
    run.signal(signal.SIGHUP)
    await run.until_told("configuration taken over", count=count)


def trust(run: Run, leaf: Leaf | None, *, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """TLS of a caller that trusts the stage's server."""
    tls = client_tls(AUTHORITY, leaf, run.stage.folder, version=version)
    tls.load_verify_locations(run.stage.ca_file)
    return tls


def caller(run: Run, leaf: Leaf | None) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=run.url, verify=trust(run, leaf), trust_env=False, timeout=20)


def batch(number: int) -> dict[str, Any]:
    return {"notifications": [{"id": str(number), "notification": msgspec.to_builtins(sealed(number))}]}


async def statuses(http: httpx.AsyncClient, count: int) -> list[int]:
    return [(await http.post(SEALED, json=batch(number))).status_code for number in range(count)]


# --- E-Rezept ----------------------------------------------------------------------------------------------------


def e_rezept_request(number: int, port: int) -> bytes:
    """As the exporter of the E-Rezept service sends it: one notification, a connection of its own."""
    content = json.dumps(batch(number)).encode()
    return (
        b"POST /push/v1/notifyEncrypted/batch HTTP/1.1\r\nHost: localhost:%d\r\nUser-Agent: erp-processing-context\r\n"
        b"Connection: close\r\nContent-Type: application/json\r\nAccept: */*\r\nX-Request-Id: 5e1f\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (port, len(content), content)
    )


async def test_e_rezept_gets_its_notification_through_with_the_tls_that_it_has(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        files, ca_file = ERP.write(tmp_path, "erp"), run.stage.ca_file
        for number in (1, 2):
            request = e_rezept_request(number, run.port)
            said = await s_client(run.port, request, *E_REZEPT, ca_file=ca_file, caller=files)
            assert said.status == 200, said.log
            assert json.loads(said.body)["results"] == [{"id": str(number), "status": "success", "rejected": []}]
        nobody = await s_client(run.port, e_rezept_request(3, run.port), *E_REZEPT, ca_file=ca_file)
        assert (nobody.status, "mTLS" in json.loads(nobody.body)["error"]) == (401, True)
        await run.until({sealed(1).device.pushkey, sealed(2).device.pushkey})


async def test_brainpool_keys_come_in_where_openssl_is_told_to_offer_the_curves(tmp_path: Path) -> None:
    """By OPENSSL_CONF, as the how-to page says: Python itself cannot name several curves."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "who-may-call.md").read_text()
    begin = page.index("```ini\n") + len("```ini\n")
    (tmp_path / "openssl.cnf").write_text(page[begin : page.index("```", begin)])
    leaf = AUTHORITY.issue("erp.example.org", kind=BRAINPOOL).write(tmp_path, "brainpool")
    async with prepared(tmp_path) as run:
        for environ, status in (({}, 0), ({"OPENSSL_CONF": str(tmp_path / "openssl.cnf")}, 200)):
            await run.start(environ=environ)
            request = e_rezept_request(1, run.port)
            said = await s_client(run.port, request, *E_REZEPT, ca_file=run.stage.ca_file, caller=leaf)
            assert said.status == status, said.log
            assert (await asking(run.port, trust(run, ERP)))[0] == 404  # others come in as before
            assert await run.end() == 0


# --- revocation --------------------------------------------------------------------------------------------------


async def test_a_new_list_counts_within_seconds_for_everybody(tmp_path: Path) -> None:
    (tmp_path / "crl.pem").write_bytes(AUTHORITY.revocation_list(ends=datetime.now(UTC) + DAY))
    async with running(tmp_path, tls='client_crl_file = "crl.pem"') as run, caller(run, ERP) as kept:
        assert await statuses(kept, 1) == [200]
        end = (await run.metrics())["pushgate_client_crl_end_timestamp_seconds"]
        assert end == pytest.approx((datetime.now(UTC) + DAY).timestamp(), abs=60)
        *_, ticket = await asking(run.port, resuming := trust(run, ERP, version=ssl.TLSVersion.TLSv1_3))
        assert (await asking(run.port, resuming, ticket))[0] == 404
        (tmp_path / "crl.pem").write_bytes(AUTHORITY.revocation_list(ERP))
        await run.until_told("configuration taken over")  # nobody asks it to
        assert await statuses(kept, 1) == [401]
        for session in (None, ticket):
            with pytest.raises(OSError):
                await asking(run.port, resuming, session)
        assert (await asking(run.port, trust(run, CHAT)))[0] == 404
        metrics = await run.metrics()
        assert metrics['pushgate_connections_total{event="certificate_refused"}'] == 2
        assert metrics['pushgate_connections_total{event="resumption"}'] == 1
        assert metrics['pushgate_http_requests_total{status="500"}'] == 0
        assert {event["reason"] for event in await run.until_told("handshakes failed")} == {"certificate revoked"}
        (told,) = (event for event in await run.until_told("requests refused") if event["status"] == 401)
        assert told["caller"] == "(nobody)"


async def test_a_list_that_has_ended_is_said_and_keeps_out_a_broken_one_is_refused(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    (tmp_path / "crl.pem").write_bytes(AUTHORITY.revocation_list(begins=now - 2 * DAY, ends=now - DAY))
    other = Authority("nobody's")
    async with prepared(tmp_path, tls='client_crl_file = "crl.pem"') as run:
        (tmp_path / "callers-ca.pem").write_bytes(AUTHORITY.pem + other.pem)
        code, out, err = await pushgate("check-config", "--config", str(run.stage.config_file))
        assert (code, "has ended" in err, "revoked" in out) == (1, True, True)
        await run.start()
        assert run.events("revocation list has ended")[0]["issuer"] == "CN=callers"
        assert run.events("no revocation list of an authority")[0]["issuer"] == "CN=nobody's"
        with pytest.raises(OSError):
            await asking(run.port, trust(run, ERP))
        (tmp_path / "crl.pem").write_bytes(AUTHORITY.revocation_list() + other.revocation_list())
        await taken_over(run, 1)
        assert (await asking(run.port, trust(run, ERP)))[0] == 404
        (tmp_path / "crl.pem").write_bytes(b"half of it")
        run.signal(signal.SIGHUP)
        assert (await run.until_told("configuration refused"))[0]["at"] == "api.tls.client_crl_file"
        assert (await asking(run.port, trust(run, ERP)))[0] == 404
        assert await run.end() == 0


async def test_a_list_that_somebody_else_made_is_refused_and_the_one_before_goes_on(tmp_path: Path) -> None:
    """Lists are fetched without TLS, so anybody on the way could send another one: in the same name, or with more."""
    (tmp_path / "crl.pem").write_bytes(AUTHORITY.revocation_list(ERP))
    twin, stranger = Authority("callers"), Authority("stranger")
    async with running(tmp_path, tls='client_crl_file = "crl.pem"') as run:
        lists = (twin.revocation_list(), AUTHORITY.revocation_list() + stranger.revocation_list() + stranger.pem)
        for count, content in enumerate(lists, 1):
            (tmp_path / "crl.pem").write_bytes(content)
            run.signal(signal.SIGHUP)
            refused = await run.until_told("configuration refused", count=count)
            assert (await asking(run.port, trust(run, CHAT)))[0] == 404
            for leaf in (ERP, stranger.issue("erp.example.org")):
                with pytest.raises(OSError):
                    await asking(run.port, trust(run, leaf))
        assert {event["at"] for event in refused} == {"api.tls.client_crl_file"}


# --- certificates for servers ------------------------------------------------------------------------------------


async def test_certificates_for_servers_come_in_by_their_fingerprint_until_they_are_revoked(tmp_path: Path) -> None:
    leaf = AUTHORITY.issue("zeta.example.org", uses=[SERVER])
    (tmp_path / "crl.pem").write_bytes(AUTHORITY.revocation_list())
    tables = 'client_crl_file = "crl.pem"\nclient_purpose = "any"'
    async with prepared(tmp_path, tls=tables) as run:
        text = run.stage.config_file.read_text()
        pin = f'[[clients]]\nname = "zeta"\nspki_sha256 = "{leaf.spki_sha256}"\n'
        run.stage.config_file.write_text(text[: text.index("[[clients]]")] + pin)
        await run.start()
        files, ca_file = leaf.write(tmp_path, "zeta"), run.stage.ca_file
        said = await s_client(run.port, e_rezept_request(1, run.port), *E_REZEPT, ca_file=ca_file, caller=files)
        assert (said.status, json.loads(said.body)["summary"]["successful"]) == (200, 1), said.log
        assert (await asking(run.port, trust(run, ERP)))[0] == 401, "for clients, and not named"
        async with caller(run, leaf) as kept:
            assert await statuses(kept, 3) == [200] * 3
            (tmp_path / "crl.pem").write_bytes(AUTHORITY.revocation_list(leaf))
            await taken_over(run, 1)
            assert await statuses(kept, 1) == [401]
        with pytest.raises(OSError):
            await asking(run.port, trust(run, leaf))
        assert (await run.until_told("handshakes failed"))[0]["reason"] == "certificate revoked"
        assert await run.end() == 0


# --- limits ------------------------------------------------------------------------------------------------------


async def test_a_limit_holds_for_its_caller_alone_and_over_changes(tmp_path: Path) -> None:
    async with (
        running(tmp_path, clients="rate_per_s = 0.02\nburst = 3\n") as run,
        caller(run, ERP) as erp,
        caller(run, CHAT) as chat,
    ):
        assert await statuses(erp, 4) == [200, 200, 200, 429]
        refused = await erp.post(SEALED, json=batch(1))
        assert 40 <= int(refused.headers["retry-after"]) <= 50
        assert await statuses(chat, 5) == [200] * 5
        rewrite(run, "burst = 3", "burst = 30")
        await taken_over(run, 1)
        assert await statuses(erp, 1) == [429], "what was used up stays used up"
        rewrite(run, "rate_per_s = 0.02\nburst = 30", "rate_per_s = 1000")
        await taken_over(run, 2)
        await asyncio.sleep(0.1)
        assert await statuses(erp, 5) == [200] * 5
        metrics = await run.metrics()
        assert metrics['pushgate_caller_requests_total{caller="erp",status="429"}'] == 3
        assert metrics['pushgate_caller_requests_total{caller="chat",status="200"}'] == 5
        assert metrics['pushgate_caller_requests_total{caller="chat",status="429"}'] == 0
        assert (await run.until_told("requests refused"))[0]["caller"] == "erp"


# --- proxies -----------------------------------------------------------------------------------------------------


def told(leaf: Leaf, **more: str) -> Mapping[str, str]:
    return {"X-Forwarded-Client-Cert": f'Hash={leaf.sha256};Cert="{quote(leaf.pem.decode(), safe="")}"', **more}


async def test_trusted_proxies_and_their_callers_change_while_it_runs(tmp_path: Path) -> None:
    async with prepared(tmp_path) as run:
        text = run.stage.config_file.read_text()
        head, _, rest = text.partition("[api.tls]")
        head = head.replace('auth = "mtls"', 'auth = "proxy"\ntrusted_proxies = ["127.0.0.1"]\nproxy_header = "xfcc"')
        run.stage.config_file.write_text(head + rest[rest.index("[management]") :])
        await run.start()
        async with httpx.AsyncClient(base_url=run.url.replace("https", "http"), trust_env=False) as http:
            http.headers.update(told(ERP))
            assert await statuses(http, 1) == [200]
            rewrite(run, 'san = "erp.example.org"', 'san = "elsewhere.example.org"')
            await taken_over(run, 1)
            assert await statuses(http, 1) == [401]
            http.headers.update(told(CHAT))
            assert await statuses(http, 1) == [200]
            rewrite(run, '["127.0.0.1"]', '["127.0.0.9"]')
            await taken_over(run, 2)
            assert await statuses(http, 1) == [401]
        assert not run.events("configuration changed where only a restart helps")
        assert (await run.metrics())['pushgate_caller_requests_total{caller="chat",status="200"}'] == 1
        assert await run.end() == 0


async def test_a_change_of_auth_waits_for_a_restart_and_changes_nothing_before(tmp_path: Path) -> None:
    async with running(tmp_path) as run, caller(run, ERP) as erp:
        text = run.stage.config_file.read_text()
        changed = text.replace('auth = "mtls"', 'auth = "none"').replace('client_ca_file = "callers-ca.pem"', "")
        run.stage.config_file.write_text(changed[: changed.index("[[clients]]")])
        await taken_over(run, 1)
        (event,) = await run.until_told("configuration changed where only a restart helps")
        assert event["keys"] == ["api.auth", "clients", "api.tls"]
        assert await statuses(erp, 2) == [200, 200]
        assert (await asking(run.port, trust(run, None)))[0] == 401


@pytest.mark.parametrize("auth", ["none", "proxy"])
async def test_nobody_is_let_in_by_oversight(tmp_path: Path, auth: str) -> None:
    config = tmp_path / "pushgate.toml"
    config.write_text(f'[api]\nlisten = "0.0.0.0:0"\nauth = "{auth}"\n')
    code, _, err = await pushgate("serve", "--config", str(config))
    assert code == 2
    assert "api.auth" in err if auth == "none" else "api.trusted_proxies" in err and "api.proxy_header" in err


# --- the management port -----------------------------------------------------------------------------------------


async def test_the_management_port_wants_its_token(tmp_path: Path) -> None:
    first, second = "a" * 40, "b" * 40
    (tmp_path / "token").write_text(first + "\n")
    port = free_port()
    async with prepared(tmp_path) as run:
        rewrite(run, 'listen = "127.0.0.1:0"\n', f'listen = "0.0.0.0:{port}"\ntoken_file = "token"\n')
        await run.start()
        config = ("--config", str(run.stage.config_file))
        async with httpx.AsyncClient(base_url=run.management, trust_env=False) as http:

            async def status(path: str, token: str = "") -> int:
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                return (await http.get(path, headers=headers)).status_code

            for path in ("/health/live", "/health/ready"):
                assert await status(path) == 200
            for path in ("/metrics", "/rejections", "/rejections/count", "/nowhere"):
                assert await status(path) == 401
                assert await status(path, second) == 401
            assert await status("/metrics", first) == 200
            assert (await http.get("/metrics")).headers["www-authenticate"] == "Bearer"
            assert (await pushgate("rejections", "count", *config))[:2] == (0, "0\ttotal\n")
            (tmp_path / "token").write_text(second)
            await taken_over(run, 1)
            assert (await status("/metrics", first), await status("/metrics", second)) == (401, 200)
            (tmp_path / "token").write_text("short")
            assert (await pushgate("rejections", "count", *config))[0] == 2
            run.signal(signal.SIGHUP)
            await run.until_told("configuration refused")
            assert await status("/metrics", second) == 200
        assert await run.end() == 0
        assert not {first, second} & set(run.log.decode().split('"'))


async def test_a_command_with_another_token_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a" * 40)
    (tmp_path / "other").write_text("b" * 40)
    async with prepared(tmp_path) as run:
        rewrite(run, 'listen = "127.0.0.1:0"\n', f'listen = "127.0.0.1:{free_port()}"\ntoken_file = "token"\n')
        await run.start()
        other = {"PUSHGATE_MANAGEMENT__TOKEN_FILE": str(tmp_path / "other")}
        code, _, err = await pushgate("rejections", "count", "--config", str(run.stage.config_file), environ=other)
        assert (code, "401" in err, "token" in err) == (1, True, True)
        assert await run.end() == 0


# --- connections -------------------------------------------------------------------------------------------------


async def test_half_open_handshakes_keep_nobody_out_of_a_real_gateway(tmp_path: Path) -> None:
    """With files for 300 connections: 75 places for newcomers, and three times as many that never go on."""
    async with prepared(tmp_path) as run:
        await run.start(wrapper=["prlimit", "--nofile=556:556"])
        idle = [await asyncio.open_connection("127.0.0.1", run.port) for _ in range(225)]
        async with caller(run, ERP) as erp:
            assert await statuses(erp, 3) == [200] * 3
        for _ in range(5):
            assert (await asking(run.port, trust(run, ERP)))[0] == 404
        metrics = await run.metrics()
        assert metrics['pushgate_connections_total{event="too_slow"}'] >= 150
        assert metrics['pushgate_connections_total{event="too_many"}'] == 0
        for _, writer in idle:
            writer.close()
        assert await run.end() == 0


async def test_a_connection_costs_little_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten thousand may be open at a time."""
    count = 400
    async with running(tmp_path) as run, caller(run, CHAT) as first:
        assert await statuses(first, 3) == [200] * 3
        assert run.process is not None
        memory = Path(f"/proc/{run.process.pid}/status")
        tls, kept, sizes = trust(run, ERP), [], []
        request = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for _ in range(2):
            sizes.append(resident_kb(memory))
            for _ in range(count):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", run.port, ssl=tls, server_hostname="localhost"
                )
                writer.write(request)
                assert (await reader.readline()).startswith(b"HTTP/1.1 404")
                kept.append(writer)
        sizes.append(resident_kb(memory))
        each_kb = (sizes[-1] - sizes[1]) / count
        with capsys.disabled():
            print(f"\nKB of memory for each of {count} connections with mutual TLS: {each_kb:.0f}")
        for writer in kept:
            writer.transport.abort()
    assert each_kb < 120


def resident_kb(status: Path) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status.read_text(), re.M)
    assert found is not None
    return int(found[1])


def test_the_certificates_of_these_tests_last_longer_than_they() -> None:
    assert ERP.certificate.not_valid_after_utc - datetime.now(UTC) > timedelta(days=1)
