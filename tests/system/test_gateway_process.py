"""The gateway as a real process between emulators: started, killed, drained, misused."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import httpx
import pytest

from pushgate.client import GatewayUnavailable, seal
from pushgate.emulator import Fault, Step
from pushgate.model import Device, PlainNotification
from pushgate.stage import APNS_APP_ID, FCM_APP_ID
from tests.processes import CHAIN, pushgate, sealed, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


async def test_what_was_answered_success_survives_kill_9(tmp_path: Path) -> None:
    async with staged(tmp_path) as run:
        await run.start()
        run.stage.apns.script("*", [Step(fault=Fault.HANG, repeat=True)])  # so that there is something to lose
        taken: set[str] = set()

        async def send(start: int) -> None:
            async with run.client() as client:
                for number in range(start, start + 2000, 20):
                    batch = [sealed(n) for n in range(number, number + 20)]
                    answer = await client.notify_encrypted_batch(batch)
                    taken.update(
                        each.device.pushkey
                        for each, result in zip(batch, answer.results, strict=True)
                        if result.status == "success"
                    )

        senders = [asyncio.create_task(send(start)) for start in (0, 10_000, 20_000)]
        while len(taken) < 400:
            await asyncio.sleep(0.01)
        await run.end(signal.SIGKILL)
        await asyncio.gather(*senders, return_exceptions=True)
        assert not taken <= run.got()
        run.stage.apns.script("*", [Step()])
        await run.start()
        await run.until(taken)
        assert await run.end(signal.SIGTERM) == 0
        assert len(taken) >= 400


async def test_a_provider_that_is_down_is_never_seen_by_the_caller(tmp_path: Path) -> None:
    async with staged(tmp_path) as run:
        await run.start()
        await run.stage.apns.close()
        async with run.client() as client:
            answer = await client.notify_encrypted_batch([sealed(1), sealed(2)])
            assert [result.status for result in answer.results] == ["success", "success"]
        await run.until({sealed(2).device.pushkey})
        assert await run.end(signal.SIGTERM) == 0
        assert b"Traceback" not in run.log


async def test_sigterm_lands_what_flies_and_answers_503_meanwhile(tmp_path: Path) -> None:
    async with staged(tmp_path) as run:
        await run.start()
        slow = sealed(1)
        run.stage.apns.script(slow.device.pushkey, [Step(delay_s=1.5)])
        async with run.client() as client:
            await client.notify_encrypted_batch([slow])
            await asyncio.sleep(0.5)
            ending = asyncio.create_task(run.end(signal.SIGTERM))
            await asyncio.sleep(0.3)
            with pytest.raises(GatewayUnavailable) as refused:
                await client.notify_encrypted_batch([sealed(3)])
            assert refused.value.status == 503
        assert await ending == 0
        assert slow.device.pushkey in run.got()
        assert json.loads(run.log.splitlines()[-1])["cut_off"] == 0


async def test_nothing_personal_is_in_the_log(tmp_path: Path) -> None:
    async with staged(tmp_path) as run:
        await run.start()
        dead = "dead" + "ab" * 30
        async with run.client() as client:
            note = PlainNotification(
                devices=(Device(APNS_APP_ID, dead), Device(FCM_APP_ID, "fcm-of-erika")),
                event_id="$e",
                sender_display_name="Erika Mustermann",
                content={"body": "laboratory result"},
            )
            await client.notify(note)
            await client.notify_encrypted_batch([sealed(1)])
            await run.until({"fcm-of-erika", sealed(1).device.pushkey})
            while not (await client.notify(note)).rejected:
                await asyncio.sleep(0.05)
        assert await run.end(signal.SIGTERM) == 0
    for marker in (dead, "fcm-of-erika", "Erika", "laboratory", "PRIVATE KEY", "bearer", "ya29"):
        assert marker.encode() not in run.log


async def test_a_wrong_environment_unsubscribes_nobody(tmp_path: Path) -> None:
    """The drill: Apple calls every pushkey bad, because they belong to its other environment."""
    async with staged(tmp_path) as run:
        await run.start()
        users = [Device(APNS_APP_ID, f"0badc0de{number:056x}") for number in range(300)]
        async with run.client() as client:
            for start in range(0, len(users), 100):
                batch = [seal("x", key=CHAIN.newest).for_device(user) for user in users[start : start + 100]]
                await client.notify_encrypted_batch(batch)
            async with asyncio.timeout(20):
                while run.stage.apns.counts.get("reason.BadDeviceToken", 0) < 51:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            told = set[str]()
            for start in range(0, len(users), 100):
                batch = [seal("y", key=CHAIN.newest).for_device(user) for user in users[start : start + 100]]
                told.update((await client.notify_encrypted_batch(batch)).dead_pushkeys)
            assert told == set()
            answer = await client.notify_encrypted_batch([sealed(2)])
            assert answer.results[0].status == "success"
        await run.until({sealed(2).device.pushkey})
        assert await run.end(signal.SIGTERM) == 0
    assert run.log.count(b"rejections taken back") == 1
    assert run.log.count(b'"why": "mass_rejection"') >= 1


async def test_a_caller_without_a_certificate_is_401(tmp_path: Path) -> None:
    async with staged(tmp_path) as run:
        await run.start()
        trust = ssl.create_default_context(cafile=str(run.stage.ca_file))
        async with httpx.AsyncClient(verify=trust) as http:
            answer = await http.post(f"https://localhost:{run.port}/push/v1/notify", json={})
        assert answer.status_code == 401


async def test_a_spool_that_another_gateway_uses_is_named_and_left_alone(tmp_path: Path) -> None:
    async with staged(tmp_path) as run:
        await run.start()
        code, _, err = await pushgate("serve", "--config", str(run.stage.config_file))
        assert code == 1
        assert "spool.db" in err
        assert "Traceback" not in err


async def test_a_spool_file_that_is_gone_makes_the_gateway_unready(tmp_path: Path) -> None:
    async with staged(tmp_path) as run:
        await run.start()
        management = json.loads(run.log.splitlines()[-1])["management_port"]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{management}") as http, run.client() as client:
            assert (await http.get("/health/ready")).status_code == 200
            assert (await http.get("/metrics")).text.count("pushgate_build_info") > 0
            (tmp_path / "spool.db").unlink()
            with pytest.raises(GatewayUnavailable):
                await client.notify_encrypted_batch([sealed(1)])
            async with asyncio.timeout(15):
                while (answer := await http.get("/health/ready")).status_code == 200:
                    await asyncio.sleep(0.2)
            assert "spool" in answer.json()["reason"]
            assert (await http.get("/health/live")).status_code == 200
        await run.end(signal.SIGTERM)


async def test_a_port_that_is_taken_is_said_plainly(tmp_path: Path) -> None:
    async with staged(tmp_path) as run:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", run.port))
            taken.listen()
            code, _, err = await pushgate("serve", "--config", str(run.stage.config_file))
        assert (code, "Traceback" in err) == (1, False)
        assert f"cannot listen on 127.0.0.1:{run.port}: Address already in use -> stop what listens there" in err


async def test_demo_shows_the_whole_way_and_exits_0() -> None:
    code, out, err = await pushgate("demo")
    assert code == 0, out + err
    assert out.count("\nok ") == 8
    assert "sealed, high" in out


async def test_a_role_needs_a_shared_spool(tmp_path: Path) -> None:
    async with staged(tmp_path) as run:
        code, _, err = await pushgate("serve", "--config", str(run.stage.config_file), "--role", "api")
    assert (code, "several machines share" in err) == (2, True)


@pytest.mark.parametrize("arguments", [["serve"], ["nonsense"], ["check-config", "--config", "/nowhere/pushgate.toml"]])
async def test_wrong_usage_is_2_and_tells_how(arguments: list[str]) -> None:
    code, out, err = await pushgate(*arguments)
    assert code == 2
    assert "Traceback" not in out + err


async def test_every_command_explains_itself() -> None:
    assert (await pushgate("--help"))[0] == 0
    for command in ("serve", "check-config", "demo", "emulate", "send", "keys", "rejections"):
        code, out, _ = await pushgate(command, "--help")
        assert (code, command in out) == (0, True)


async def test_emulate_serves_a_stage_for_others(tmp_path: Path) -> None:
    arguments = ("emulate", "--apns-port", "0", "--fcm-port", "0", "--folder", str(tmp_path), "--json")
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "pushgate", *arguments, stdout=PIPE)
    assert process.stdout is not None
    told = json.loads(await process.stdout.readline())
    code, out, _ = await pushgate("check-config", "--config", told["config_file"])
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0
    assert code == 0, out
    assert (tmp_path / "service-account.json").stat().st_mode & 0o077 == 0
