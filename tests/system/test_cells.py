"""Several processes behind one port, for real: what one knows the others know, and they live and die together."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pushgate.client import GatewayUnavailable, seal
from pushgate.emulator import Fault, Step
from pushgate.model import Device
from pushgate.stage import APNS_APP_ID
from tests.cells import is_running, kill, pids, send_by_many, until_another_serves, until_gone
from tests.processes import CHAIN, Run, pushgate, sealed, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

MANY = 12
"""Connections: that all of them meet the same of two cells happens once in 2,000 runs."""
ACCEPTED = 'pushgate_deliveries_total{{ending="accepted",lane="{}"}}'


@asynccontextmanager
async def cells(folder: Path, count: int) -> AsyncIterator[Run]:
    async with staged(folder, environ={"PUSHGATE_API__PROCESSES": str(count)}) as run:
        await run.start()
        yield run
        assert b"Traceback" not in run.log


async def accepted(run: Run) -> float:
    """How many deliveries Apple has accepted, as all cells together count them."""
    return (await run.metrics())[ACCEPTED.format(APNS_APP_ID)]


async def test_two_answer_on_one_port_and_stop_together(tmp_path: Path) -> None:
    async with cells(tmp_path, 2) as run:
        both = pids(run)
        assert sorted(both) == [0, 1]
        assert await run.ready() == (200, "")
        notes = [sealed(number) for number in range(40)]
        for note in notes:
            (answer,) = await send_by_many(run, [note], times=1)
            assert answer.results[0].status == "success"
        await run.until({note.device.pushkey for note in notes})
        for cell in both:
            assert (tmp_path / ("spool.db" if cell == 0 else f"spool.{cell}.db")).exists()
        assert (await run.metrics())['pushgate_cells{state="taking"}'] == 2
        assert await run.end(signal.SIGTERM) == 0
        await until_gone([*both.values()], within_s=1)
        assert [event["cut_off"] for event in run.events("stopped")] == [0]


async def test_a_repeat_is_one_in_every_cell_and_after_restarts(tmp_path: Path) -> None:
    async with cells(tmp_path, 2) as run:
        notes = [sealed(1), sealed(3)]

        async def sent_once() -> None:
            for answer in await send_by_many(run, notes, times=MANY):
                assert [result.status for result in answer.results] == ["success", "success"]
            await run.until({note.device.pushkey for note in notes})

        await sent_once()
        assert await accepted(run) == 2
        for cell in (0, 1):  # its successor asks the other one
            before = kill(run, cell)
            await until_another_serves(run, cell, before)
            await sent_once()
        assert await run.end(signal.SIGTERM) == 0
        await run.start()  # they read their files, and ask each other
        await sent_once()
        for note in notes:
            assert len(run.stage.apns.devices()[note.device.pushkey]) == 1
        assert await run.end(signal.SIGTERM) == 0


async def test_a_dead_pushkey_is_told_by_every_cell_until_one_forgets_it(tmp_path: Path) -> None:
    dead = Device(APNS_APP_ID, "dead" + "ab" * 30)
    async with cells(tmp_path, 2) as run:

        async def told() -> set[tuple[str, ...]]:
            note = seal("x", key=CHAIN.newest).for_device(dead)
            return {answer.results[0].rejected for answer in await send_by_many(run, [note], times=MANY)}

        async with asyncio.timeout(20):
            while await told() != {(dead.pushkey,)}:
                await asyncio.sleep(0.05)
        before = kill(run, 1)
        await until_another_serves(run, 1, before)
        assert await told() == {(dead.pushkey,)}
        config = str(run.stage.config_file)
        at = {"PUSHGATE_MANAGEMENT__LISTEN": run.management.removeprefix("http://")}
        code, out, err = await pushgate("rejections", "list", "--config", config, environ=at)
        assert (code, out.count(APNS_APP_ID)) == (0, 1), err
        code, out, err = await pushgate(
            "rejections", "forget", "--config", config, "--app", APNS_APP_ID, "--all", environ=at
        )
        assert code == 0, err
        again = seal("registered again", key=CHAIN.newest).for_device(dead)
        run.stage.apns.script("*", [Step(fault=Fault.HANG, repeat=True)])
        for answer in await send_by_many(run, [again], times=MANY):
            assert answer.results[0].rejected == ()
        await run.kill()


async def test_what_is_forgotten_while_the_gateway_is_stopped_is_forgotten_in_every_file(tmp_path: Path) -> None:
    dead = Device(APNS_APP_ID, "dead" + "ab" * 30)
    async with cells(tmp_path, 2) as run:
        note = seal("x", key=CHAIN.newest).for_device(dead)
        async with asyncio.timeout(20):
            while {each.results[0].rejected for each in await send_by_many(run, [note], times=4)} != {(dead.pushkey,)}:
                await asyncio.sleep(0.05)
        assert await run.end(signal.SIGTERM) == 0
        config = str(run.stage.config_file)
        for count in (1, 0):
            code, out, err = await pushgate(
                *("rejections", "forget", "--config", config, "--app", APNS_APP_ID, "--all", "--json"),
                environ=run.environ,
            )
            assert (code, f'"forgotten":{count}' in out.replace(" ", "")) == (0, True), (out, err)
        run.stage.apns.script("*", [Step(fault=Fault.HANG, repeat=True)])
        await run.start()
        again = seal("registered again", key=CHAIN.newest).for_device(dead)
        for answer in await send_by_many(run, [again], times=MANY):
            assert answer.results[0].rejected == ()
        await run.kill()


async def test_a_wrong_environment_unsubscribes_nobody_although_each_cell_sees_half(tmp_path: Path) -> None:
    async with cells(tmp_path, 2) as run:
        users = [Device(APNS_APP_ID, f"0badc0de{number:056x}") for number in range(400)]
        for start in range(0, len(users), 10):
            batch = [seal("x", key=CHAIN.newest).for_device(user) for user in users[start : start + 10]]
            await send_by_many(run, batch, times=1)
        taken_back = await run.until_told("rejections taken back", count=2, within_s=30)
        assert {event["cell"] for event in taken_back} == {0, 1}
        await asyncio.sleep(0.5)
        for start in range(0, len(users), 100):
            batch = [seal("y", key=CHAIN.newest).for_device(user) for user in users[start : start + 100]]
            for answer in await send_by_many(run, batch, times=4):
                assert answer.dead_pushkeys == ()
        await run.kill()


async def test_a_cell_that_dies_is_replaced_and_the_others_go_on(tmp_path: Path) -> None:
    async with cells(tmp_path, 2) as run:
        first = kill(run, 0)
        await asyncio.sleep(0.05)
        for number in range(MANY):
            (answer,) = await send_by_many(run, [sealed(number)], times=1)
            assert answer.results[0].status == "success"
        assert (await run.ready())[0] == 200
        await until_another_serves(run, 0, first)
        assert (await run.until_told("cell has died"))[-1]["code"] == -signal.SIGKILL
        assert (await run.metrics())['pushgate_cell_deaths_total{cell="0"}'] == 1
        kill(run, 1, signal.SIGTERM)  # by hand: it drains, and comes back
        async with asyncio.timeout(20):
            while (await run.metrics())['pushgate_cell_deaths_total{cell="1"}'] < 1:
                await asyncio.sleep(0.05)
        assert (await run.until_told("cell has died", count=2))[-1]["code"] == 0
        await run.until({sealed(number).device.pushkey for number in range(MANY)})
        counted = await run.metrics()
        taken = 'pushgate_notifications_total{api="notifyEncrypted/batch",caller="erp",status="success"}'
        assert counted[taken] == MANY
        assert await run.end(signal.SIGTERM) == 0


async def test_cells_without_a_supervisor_end_and_leave_port_and_files_to_the_next(tmp_path: Path) -> None:
    async with cells(tmp_path, 2) as run:
        run.stage.apns.script("*", [Step(fault=Fault.HANG, repeat=True)])
        await send_by_many(run, [sealed(1)], times=4)
        orphans = [*pids(run).values()]
        await run.kill()
        await run.start()  # at once: it waits for them
        await until_gone(orphans, within_s=1)
        run.stage.apns.script("*", [Step()])
        await run.until({sealed(1).device.pushkey})
        assert await run.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("fewer", [2, 1])
async def test_fewer_processes_send_what_waited_in_the_files_of_the_others(tmp_path: Path, fewer: int) -> None:
    async with cells(tmp_path, 4) as run:
        run.stage.apns.script("*", [Step(fault=Fault.HANG, repeat=True)])
        notes = [sealed(number) for number in range(1, 161, 2)]
        for note in notes:
            await send_by_many(run, [note], times=1)
        await run.kill()
        await until_gone([*pids(run).values()])
        run.environ["PUSHGATE_API__PROCESSES"] = str(fewer)
        run.stage.apns.script("*", [Step()])
        await run.start()
        await run.until({note.device.pushkey for note in notes})
        left = [tmp_path / f"spool.{cell}.db" for cell in range(fewer, 4)]
        async with asyncio.timeout(30):
            while any(path.exists() for path in left):
                await asyncio.sleep(0.05)
        for answer in await send_by_many(run, notes, times=3):  # they were told what those knew
            assert {result.status for result in answer.results} == {"success"}
        assert await run.end(signal.SIGTERM) == 0
        await run.start()
        for note in notes:
            assert len(run.stage.apns.devices()[note.device.pushkey]) == 1
        assert await run.end(signal.SIGTERM) == 0


async def test_a_changed_configuration_is_taken_over_by_all_or_by_none(tmp_path: Path) -> None:
    async with cells(tmp_path, 2) as run:
        good = run.stage.config_file.read_text()
        run.stage.config_file.write_text(good.replace('bundle_id = "', 'bundle_id = "no bundle '))
        run.signal(signal.SIGHUP)
        await run.until_told("configuration refused")
        assert (await run.metrics())["pushgate_configuration_refused"] == 1
        assert run.events("configuration taken over") == []
        before = kill(run, 1)  # its successor runs what the others run
        await until_another_serves(run, 1, before)
        changed = good.replace("[delivery]", "[delivery]\n") + "\n[rejections]\nbreaker_count = 60\n"
        run.stage.config_file.write_text(changed)
        run.signal(signal.SIGHUP)
        taken_over = await run.until_told("configuration taken over", count=2)
        assert {event["cell"] for event in taken_over} == {0, 1}
        assert (await run.metrics())["pushgate_configuration_refused"] == 0
        assert await run.end(signal.SIGTERM) == 0


async def test_a_cell_that_cannot_start_keeps_all_from_starting_and_says_why(tmp_path: Path) -> None:
    async with staged(tmp_path, environ={"PUSHGATE_API__PROCESSES": "2"}) as run:
        (tmp_path / "spool.1.db").write_text("this is no database, but long enough to be taken for none" * 50)
        with pytest.raises(AssertionError, match=r"spool\.1\.db: it is not a spool"):
            await run.start()
        assert run.process is not None
        assert await run.process.wait() == 1


async def test_sigterm_is_answered_503_by_all_until_what_flies_has_landed(tmp_path: Path) -> None:
    async with cells(tmp_path, 2) as run:
        slow = [sealed(1), sealed(3), sealed(5), sealed(7)]
        for note in slow:
            run.stage.apns.script(note.device.pushkey, [Step(delay_s=1.5)])
            await send_by_many(run, [note], times=1)
        await asyncio.sleep(0.4)
        ending = asyncio.create_task(run.end(signal.SIGTERM))
        await asyncio.sleep(0.3)
        for _ in range(4):
            with pytest.raises(GatewayUnavailable) as refused:
                await send_by_many(run, [sealed(9)], times=1)
            assert refused.value.status == 503
        assert await ending == 0
        assert {note.device.pushkey for note in slow} <= run.got()


async def test_a_second_sigterm_ends_all_at_once(tmp_path: Path) -> None:
    async with cells(tmp_path, 2) as run:
        run.stage.apns.script("*", [Step(fault=Fault.HANG, repeat=True)])
        for number in range(1, 2 * MANY, 2):  # both have something that flies
            await send_by_many(run, [sealed(number)], times=1)
        both = [*pids(run).values()]
        run.signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert all(is_running(pid) for pid in both)
        assert await run.end(signal.SIGTERM, within_s=5) == 1
        await until_gone(both, within_s=2)
