"""A changed configuration is taken over by a running gateway: by itself or at SIGHUP, whole or not at all."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pushgate.emulator import Fault, Landscape, Step
from pushgate.stage import APNS_APP_ID, CALLER
from tests.processes import Run, pushgate, sealed, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

REFUSED = "pushgate_configuration_refused"


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Run]:
    async with staged(folder) as run:
        await run.start()
        yield run
        assert await run.end() == 0
        assert b"Traceback" not in run.log
        assert not run.events("reload failed unexpectedly")


def rewrite(run: Run, old: str, new: str) -> None:
    """Change the configuration, as an editor does: the whole file anew."""
    text = run.stage.config_file.read_text()
    assert old in text
    run.stage.config_file.write_text(text.replace(old, new))


async def taken_over(run: Run, count: int) -> None:
    """Wait until so many changes were taken over."""
    await run.until_told("configuration taken over", count=count)


async def test_a_mended_key_file_resumes_its_lane_at_once(tmp_path: Path) -> None:
    """The first pause of a credentials fault is 30 s, and later ones are longer: a mended file ends it."""
    async with staged(tmp_path) as run:
        key_file = next(tmp_path.glob("AuthKey_*.p8"))
        right = key_file.read_bytes()
        wrong = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        key_file.write_bytes(wrong)
        await run.start()
        alarm = f'pushgate_lane_alarm{{alarm="credentials",lane="{APNS_APP_ID}"}}'
        notes = [sealed(number) for number in range(1, 41, 2)]  # all to APNs
        async with run.client() as client:
            await client.notify_encrypted_batch(notes)
            async with asyncio.timeout(10):
                while not (await run.metrics())[alarm]:
                    await asyncio.sleep(0.05)
            assert (await run.until_told("lane pauses"))[0]["reason"] == "InvalidProviderToken"
            key_file.write_bytes(right)
            await run.until({note.device.pushkey for note in notes}, within_s=15)
            assert not (await run.metrics())[alarm]
            assert all(len(inbox) == 1 for inbox in run.stage.apns.devices().values())
        assert await run.end() == 0


async def test_a_faulty_configuration_is_refused_with_every_fault_and_the_old_one_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path) as run, run.client() as client:
        good = run.stage.config_file.read_text()
        rewrite(run, 'bundle_id = "org.example.health"', 'bundle_id = "no bundle"\ncolour = "red"')
        run.signal(signal.SIGHUP)
        refused = await run.until_told("configuration refused", count=2)
        assert {str(event["at"]).rpartition(".")[2] for event in refused} == {"bundle_id", "colour"}
        assert all(event["mend"] for event in refused)
        assert (await run.metrics())[REFUSED] == 1
        answer = await client.notify_encrypted_batch([sealed(1)])
        assert answer.results[0].status == "success"
        await run.until({sealed(1).device.pushkey})
        run.stage.config_file.write_text(good)
        await taken_over(run, 1)
        assert (await run.metrics())[REFUSED] == 0


async def test_apps_come_and_go_and_what_waits_for_one_that_comes_back_is_sent(tmp_path: Path) -> None:
    async with running(tmp_path) as run, run.client() as client:
        notes = [sealed(number) for number in range(1, 101, 2)]
        keys = {note.device.pushkey for note in notes}
        run.stage.apns.script("*", [Step(fault=Fault.HANG, repeat=True)])
        rewrite(run, 'bundle_id = "org.example.health"', 'bundle_id = "org.example.health"\nmax_in_flight = 3')
        run.signal(signal.SIGHUP)
        await taken_over(run, 1)
        await client.notify_encrypted_batch(notes)  # three fly, more are leased, the rest lies ready
        rewrite(run, f'[apps."{APNS_APP_ID}"]', '[apps."another.app"]')
        run.signal(signal.SIGHUP)
        await taken_over(run, 2)
        (gone, other) = (await client.notify_encrypted_batch([sealed(1001), sealed(2)])).results
        assert (gone.status, other.status) == ("failed", "success")
        assert "unknown app_id" in (gone.error or "")
        assert await run.until_told("deliveries wait for an app that is not configured")
        run.stage.apns.script("*", [Step()])
        rewrite(run, '[apps."another.app"]', f'[apps."{APNS_APP_ID}"]')
        run.signal(signal.SIGHUP)
        await run.until(keys)
        assert all(len(run.stage.apns.devices()[key]) == 1 for key in keys)


async def test_nobody_who_sends_notices_a_reload(tmp_path: Path) -> None:
    """Callers that are busy meet ten reloads that change apps, callers and certificates: every request is 200."""
    async with running(tmp_path) as run:
        land = run.stage.landscape
        sent: list[str] = []
        over = asyncio.Event()

        async def send(start: int) -> None:
            number = start
            async with run.client() as client:
                while not over.is_set():
                    notes = [sealed(number + n) for n in range(5)]
                    answer = await client.notify_encrypted_batch(notes)
                    assert [result.status for result in answer.results] == ["success"] * 5
                    sent.extend(note.device.pushkey for note in notes)
                    number += 5

        async with asyncio.TaskGroup() as tasks:
            for start in range(0, 400_000, 100_000):
                tasks.create_task(send(start))
            for count in range(1, 11):
                timeout_s = f"request_timeout_s = {9 + count}\nproject_id"
                text = run.stage.config_file.read_text()
                before = f"request_timeout_s = {8 + count}\nproject_id" if count > 1 else "project_id"
                run.stage.config_file.write_text(text.replace(before, timeout_s))
                land.write_server_certificate()
                run.signal(signal.SIGHUP)
                await taken_over(run, count)
            over.set()
        await run.until(set(sent))
        assert len(sent) > 100


async def test_new_certificates_and_authorities_count_from_the_next_connection_on(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        stage = run.stage
        (tmp_path / "other").mkdir()
        other = Landscape(tmp_path / "other", project_id="example-project")
        other_caller = other.write_caller_certificate(CALLER)

        def trusting(ca: Path, certificate: Path, key: Path) -> httpx.AsyncClient:
            tls = ssl.create_default_context(cafile=str(ca))
            tls.load_cert_chain(certificate, key)
            return httpx.AsyncClient(verify=tls, base_url=run.url)

        async with (
            trusting(stage.ca_file, stage.caller_cert_file, stage.caller_key_file) as before,
            trusting(other.ca_file, *other_caller) as after,
        ):
            assert (await before.get("openapi.json")).status_code == 200
            with pytest.raises(httpx.ConnectError):
                await after.get("openapi.json")
            for name in ("server_cert_file", "server_key_file"):
                getattr(stage.landscape, name).write_bytes(getattr(other, name).read_bytes())
            rewrite(run, f'client_ca_file = "{stage.ca_file.name}"', 'client_ca_file = "other/ca.pem"')
            await taken_over(run, 1)
            assert (await after.get("openapi.json")).status_code == 200
            last = await before.get("openapi.json")  # on the connection of before
            assert (last.status_code, last.headers["connection"]) == (200, "close")
            with pytest.raises(httpx.ConnectError):
                await before.get("openapi.json")


async def test_a_caller_that_is_taken_out_is_refused_on_the_connection_it_has(tmp_path: Path) -> None:
    async with running(tmp_path) as run, run.client() as client:
        await client.notify_encrypted_batch([sealed(2)])
        rewrite(run, f'san = "{CALLER}"', 'san = "somebody.else.example.org"')
        await taken_over(run, 1)
        with pytest.raises(Exception, match="401"):
            await client.notify_encrypted_batch([sealed(4)])


async def test_what_needs_a_restart_is_said_and_has_no_effect(tmp_path: Path) -> None:
    async with running(tmp_path) as run, run.client() as client:
        rewrite(run, 'auth = "mtls"', 'auth = "mtls"\nmax_request_kb = 300\nbase_path = "/elsewhere"')
        run.signal(signal.SIGHUP)
        await taken_over(run, 1)
        (told,) = await run.until_told("configuration changed where only a restart helps")
        assert told["keys"] == ["api.base_path", "api.max_request_kb"]
        assert (await client.notify_encrypted_batch([sealed(2)])).results[0].status == "success"


async def test_check_config_tells_of_a_certificate_that_has_expired_and_serve_starts_with_it(tmp_path: Path) -> None:
    async with staged(tmp_path) as run:
        land = Landscape(tmp_path / "old", project_id="x", now=datetime.now(UTC) - timedelta(days=60))
        certificate, key = land.write_push_certificate("org.example.health")
        text = run.stage.config_file.read_text()
        ways = f'certificate_file = "old/{certificate.name}"\ncertificate_key_file = "old/{key.name}"\n'
        start, end = text.index('key_file = "AuthKey'), text.index('endpoint = "https')
        run.stage.config_file.write_text(text[:start] + ways + text[end:])
        code, out, err = await pushgate("check-config", "--config", str(run.stage.config_file))
        assert (code, "expired on" in err, APNS_APP_ID in out) == (1, True, True)
        await run.start()
        async with run.client() as client:
            await client.notify_encrypted_batch([sealed(1), sealed(2)])
        await run.until({sealed(2).device.pushkey})
        assert (await run.until_told("lane pauses"))[0]["reason"] == "certificate expired"
        assert await run.end() == 0
