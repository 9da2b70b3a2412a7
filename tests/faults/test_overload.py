"""Too much at once: a million rows, limits of the spool, callers without mercy. Nothing is lost."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from pushgate.client import GatewayUnavailable, PushGatewayClient, Retries
from pushgate.emulator import Door, Fault, Step
from pushgate.model import Delivery, Device, EncryptedNotification, PlainNotification
from pushgate.spool.limits import SMALLEST_BYTES
from pushgate.spool.sqlite import SqliteSpool
from pushgate.stage import APNS_APP_ID, FCM_APP_ID
from tests.faults.backlog import MOST_KB, Side, compare, emulated, grow, peak_kb, table_of, warm_up
from tests.faults.bout import app_of
from tests.faults.ledger import Ledger
from tests.faults.table import Report
from tests.processes import Run, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MILLION = 1_000_000
LANE = "org.example.crowd.apns"
STARTS_WITHIN_S = 5.0
DURING_S = 4.0
FEW = 1000
"""Rows that are made one by one; the others are copies of these."""
IN_FLIGHT = {
    "PUSHGATE_APPS__ORG_EXAMPLE_HEALTH_APNS__MAX_IN_FLIGHT": "40",
    "PUSHGATE_APPS__EXAMPLE_PROJECT_APP_FIREBASE__MAX_IN_FLIGHT": "40",
}


# --- a million rows


async def fill_with_small_ones(path: Path) -> None:
    """A million plain notifications without content: what costs memory and time is their number."""
    now = time.time()
    deliveries = []
    for number in range(FEW):
        device = Device(LANE, f"{number:064x}")
        notification = PlainNotification(devices=(device,), event_id=f"$event-{number}")
        deliveries.append(
            Delivery(
                id=f"{number:036x}", device=device, notification=notification, accepted_at=now, expires_at=now + 86_400
            )
        )
    spool = await SqliteSpool.open(path)
    await spool.put(deliveries)
    await spool.close()
    await asyncio.to_thread(grow, path, MILLION)


async def start(run: Run) -> float:
    """Start it. Returns how many seconds it took until it serves."""
    begin = time.monotonic()
    await run.start()
    return time.monotonic() - begin


@pytest.mark.fault(
    "a million deliveries wait",
    how="1,000,000 small ones wait in another lane at the start: its provider hangs, then it takes what comes",
)
async def test_a_million_that_wait_cost_little_time_and_memory(tmp_path: Path, table: Report) -> None:
    async with AsyncExitStack() as stack:
        hanging = await stack.enter_async_context(emulated(tmp_path / "sick", [Step(fault=Fault.HANG, repeat=True)]))
        well = await stack.enter_async_context(emulated(tmp_path / "well", []))
        run = await stack.enter_async_context(staged(tmp_path))
        other = await stack.enter_async_context(staged(tmp_path / "other"))
        ledger, others_ledger = [await stack.enter_async_context(Ledger(each)) for each in (run, other)]
        await fill_with_small_ones(tmp_path / "spool.db")
        config = run.stage.config_file.read_text()
        await other.start()
        others_client = await stack.enter_async_context(other.client())
        await warm_up(others_ledger, others_client)
        told, peaks, starts = [], [], []
        for peer in (hanging, well):
            run.stage.config_file.write_text(config + table_of(peer, LANE))
            starts.append(await start(run))
            async with run.client() as client:
                await warm_up(ledger, client)
                told.append(await compare(Side(ledger, client), Side(others_ledger, others_client), seconds=DURING_S))
            if peer is well:
                await until_draining(run)
            assert MILLION * 0.8 < await waiting(run) <= MILLION + 10
            peaks.append(peak_kb(run.pid))
            if peer is hanging:
                with ledger.fault():
                    await run.kill()
        verdict = await ledger.settle()
        await run.kill()
        await other.kill()
    for when, times, took_s, kb in zip(("hangs", "drains"), told, starts, peaks, strict=True):
        print(f"{when}: starts in {took_s:.2f} s, {kb} KB at most; {times}")
    assert max(starts) < STARTS_WITHIN_S
    assert max(peaks) < MOST_KB
    table(
        verdict,
        twice_at_most=0,
        because="nothing happened to the other lanes",
        remark=f"starts in {max(starts):.1f} s, {max(peaks) // 1024} MB at most; while it drains: {told[1]}",
    )


async def until_draining(run: Run) -> None:
    """Wait until it tells that fewer wait than at its start."""
    async with asyncio.timeout(20):
        while await waiting(run) >= MILLION:
            await asyncio.sleep(0.2)


async def waiting(run: Run) -> float:
    """What the metrics say that waits, in all lanes."""
    metrics = await run.metrics()
    return sum(value for name, value in metrics.items() if name.startswith("pushgate_waiting{"))


# --- limits


async def fill_to_the_limit(folder: Path, table: Report, limit: dict[str, str], *, most: float) -> None:
    async with staged(folder, environ={**IN_FLIGHT, **limit}, retry_scale=0.01) as run, Ledger(run) as ledger:
        both = (run.stage.apns, run.stage.fcm)
        await run.start()
        with ledger.fault():
            for emulator in both:
                emulator.listener.door = Door.CLOSED
            async with ledger.load(tasks=4, pause_s=0):
                async with asyncio.timeout(40):
                    while ledger.statuses.get(503, 0) < 30:
                        await asyncio.sleep(0.05)
                await run.until_ready(503)
                await refused_with_retry_after(run, ledger)
                assert await waiting(run) <= most
                for emulator in both:
                    emulator.listener.door = Door.OPEN
                await run.until_ready(200)
                await ledger.until_taken(300)
        verdict = await ledger.settle()
        assert await run.end() == 0
        assert b"Traceback" not in run.log
    assert set(ledger.statuses) == {200, 503}
    assert verdict.refused_arrived == 0
    table(
        verdict,
        twice_at_most=0,
        because="nothing reached the providers without its answer coming back",
        remark=f"{verdict.refused} were answered 503 and none of them arrived; it goes on by itself",
    )


async def refused_with_retry_after(run: Run, ledger: Ledger) -> None:
    """A batch that has no room is refused as a whole, and the answer says when to come again."""
    async with run.client() as client:
        for _ in range(100):
            notes = [note for _ in range(100) if isinstance(note := ledger.make(is_sealed=True), EncryptedNotification)]
            try:
                await client.notify_encrypted_batch(notes)
            except GatewayUnavailable as refused:
                assert refused.status == 503
                assert refused.retry_after_s is not None
                assert refused.results == ()
                return
    pytest.fail("never refused")


@pytest.mark.fault(
    "as much waits as spool.max_waiting allows",
    how="both providers are down under load, with room for 600 deliveries; then they are up again",
)
async def test_past_max_waiting_callers_are_told_to_come_again(tmp_path: Path, table: Report) -> None:
    limit = {"PUSHGATE_SPOOL__MAX_WAITING": "600", "PUSHGATE_SPOOL__MAX_SHARE_PER_APP": "1"}
    await fill_to_the_limit(tmp_path, table, limit, most=600)


@pytest.mark.fault(
    "as much waits as spool.max_mb allows",
    how="both providers are down under load, with room for 2 MB; then they are up again",
)
async def test_past_max_mb_callers_are_told_to_come_again(tmp_path: Path, table: Report) -> None:
    limit = {"PUSHGATE_SPOOL__MAX_MB": "2", "PUSHGATE_SPOOL__MAX_SHARE_PER_APP": "1"}
    await fill_to_the_limit(tmp_path, table, limit, most=2 * 1024 * 1024 / SMALLEST_BYTES)


@pytest.mark.fault(
    "one app takes all the room it may",
    how="Apple is down under load, its app may take 300 of 600 deliveries; Google is well, then Apple is up again",
)
async def test_an_app_that_is_held_up_leaves_room_for_the_others(tmp_path: Path, table: Report) -> None:
    limit = {"PUSHGATE_SPOOL__MAX_WAITING": "600", "PUSHGATE_SPOOL__MAX_SHARE_PER_APP": "0.5"}
    async with staged(tmp_path, environ={**IN_FLIGHT, **limit}, retry_scale=0.01) as run, Ledger(run) as ledger:
        await run.start()
        with ledger.fault():
            run.stage.apns.listener.door = Door.CLOSED
            async with (
                ledger.load(tasks=2, app_id=APNS_APP_ID),
                ledger.load(tasks=2, most_in_batch=5, app_id=FCM_APP_ID),
            ):
                async with asyncio.timeout(40):
                    while len(ledger.refused) < 200:
                        await asyncio.sleep(0.05)
                before = taken_of(ledger, FCM_APP_ID)
                async with asyncio.timeout(20):
                    while taken_of(ledger, FCM_APP_ID) < before + 50:
                        await asyncio.sleep(0.05)
                assert (await run.ready())[0] == 200
                run.stage.apns.listener.door = Door.OPEN
                before = taken_of(ledger, APNS_APP_ID)
                async with asyncio.timeout(20):
                    while taken_of(ledger, APNS_APP_ID) < before + 100:
                        await asyncio.sleep(0.05)
        verdict = await ledger.settle()
        assert await run.end() == 0
    assert {app_of(key) for key in ledger.refused} == {APNS_APP_ID}
    assert verdict.refused_arrived == 0
    table(
        verdict,
        twice_at_most=0,
        because="nothing reached the providers without its answer coming back",
        remark=f"{verdict.refused} of its own were refused, none of the other app",
    )


def taken_of(ledger: Ledger, app_id: str) -> int:
    return sum(app_of(key) == app_id for key in list(ledger.taken))


# --- callers without mercy

CALLERS = 40
BATCH = 100
STORM = 6000
"""So many deliveries are taken before it ends."""
LONGEST_S = 8.0
"""An answer takes no longer, whatever it is."""
SLOW_DISK = """
import sys, time
from pushgate.cli import main
from pushgate.spool.store import Store

commit = Store.commit

def slow_commit(self):
    time.sleep(0.2)
    commit(self)

Store.commit = slow_commit
sys.argv = sys.argv[3:]  # behind "python -m"
main()
"""
"""Runs the command that stands behind it with a disk that takes 0.2 s for each commit."""


async def storm(run: Run, ledger: Ledger) -> list[float]:
    """Many callers send batches as fast as they are answered. Returns how many seconds each answer took."""
    took: list[float] = []

    async def one(client: PushGatewayClient) -> None:
        while len(ledger.taken) < STORM:
            notes = [ledger.make(is_sealed=True) for _ in range(BATCH)]
            begin = time.monotonic()
            await ledger.send(client, notes)
            took.append(time.monotonic() - begin)

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            client = run.client(retries=Retries(count=0), timeout_s=30)
            callers.create_task(one(await stack.enter_async_context(client)))
    return took


@pytest.mark.parametrize(
    ("door", "limit", "is_slow"),
    [
        pytest.param(
            Door.CLOSED,
            {},
            False,
            marks=pytest.mark.fault(
                "callers without mercy while the providers are down",
                how="40 callers send batches of 100 as fast as they can; then the providers are up again",
            ),
            id="down",
        ),
        pytest.param(
            Door.OPEN,
            {},
            True,
            marks=pytest.mark.fault(
                "callers without mercy and a slow disk",
                how="40 callers send batches of 100 as fast as they can, and each commit takes 0.2 s longer",
            ),
            id="slow disk",
        ),
        pytest.param(
            Door.CLOSED,
            {"PUSHGATE_SPOOL__MAX_WAITING": "7000", "PUSHGATE_SPOOL__MAX_SHARE_PER_APP": "1"},
            True,
            marks=pytest.mark.fault(
                "callers without mercy, a slow disk, providers down and little room",
                how="40 callers send batches of 100 as fast as they can; room for 7,000 deliveries, slow commits",
            ),
            id="all of it",
        ),
    ],
)
async def test_callers_without_mercy_are_answered_in_time_and_memory(
    tmp_path: Path, table: Report, door: Door, limit: dict[str, str], is_slow: bool
) -> None:
    script = tmp_path / "slow_disk.py"
    script.write_text(SLOW_DISK)
    async with staged(tmp_path, environ=limit, retry_scale=0.01) as run, Ledger(run) as ledger:
        await run.start(wrapper=[sys.executable, str(script)] if is_slow else None)
        both = (run.stage.apns, run.stage.fcm)
        with ledger.fault():
            for emulator in both:
                emulator.listener.door = door
            took = await storm(run, ledger)
            most_kb = peak_kb(run.pid)
            for emulator in both:
                emulator.listener.door = Door.OPEN
        verdict = await ledger.settle()
        assert await run.end() == 0
        assert b"Traceback" not in run.log
    took.sort()
    told = f"answers took {took[len(took) // 2]:.2f} s (p50), {took[-1]:.2f} s at most; {most_kb // 1024} MB at most"
    print(told, ledger.statuses)
    assert set(ledger.statuses) <= {200, 503}
    assert verdict.in_doubt == verdict.refused_arrived == 0
    assert took[-1] < LONGEST_S
    assert most_kb < MOST_KB
    table(verdict, twice_at_most=0, because="no answer of a provider was lost", remark=told)
