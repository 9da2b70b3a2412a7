"""The drills: one wrong setting makes a provider call every pushkey of an app dead. Nobody may be unsubscribed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from pushgate.emulator import Step
from pushgate.stage import APNS_APP_ID, BUNDLE_ID, FCM_APP_ID
from tests.faults.ledger import Ledger
from tests.faults.table import Report
from tests.processes import Run, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

USERS = 300
"""Half of them with each provider. Every one is written to again and again."""
BREAKER_COUNT = 50
IN_FLIGHT = 20
"""Few, so that the breaker is not overtaken by what flies already."""
MEND = Callable[[], None]


async def drill(folder: Path, app_id: str, spoil: Callable[[Run, Ledger], MEND], table: Report) -> None:
    """Everybody's pushkeys of one app turn bad under load, until somebody mends the setting."""
    environ = {
        "PUSHGATE_REJECTIONS__BREAKER_COUNT": str(BREAKER_COUNT),
        "PUSHGATE_APPS__ORG_EXAMPLE_HEALTH_APNS__MAX_IN_FLIGHT": str(IN_FLIGHT),
        "PUSHGATE_APPS__EXAMPLE_PROJECT_APP_FIREBASE__MAX_IN_FLIGHT": str(IN_FLIGHT),
    }
    async with staged(folder, environ=environ, retry_scale=0.01) as run, Ledger(run, pushkeys=USERS) as ledger:
        mend = spoil(run, ledger)
        await run.start()
        await tell_one(run, ledger, app_id)
        async with ledger.load(tasks=3, most_in_batch=10):
            await run.until_told("rejections taken back", within_s=30)
        told = len(ledger.told)  # every request that was under way has its answer
        with ledger.fault():
            async with ledger.load(tasks=3, most_in_batch=10):
                await ledger.until_taken(USERS * 3)
            alarm = f'pushgate_lane_alarm{{alarm="mass_rejection",lane="{app_id}"}}'
            assert (await run.metrics())[alarm] == 1
            assert len(ledger.told) == told, "told after the breaker had opened"
            mend()
        verdict = await ledger.settle(within_s=60)
        assert (await run.metrics())[alarm] == 0
        assert await run.end() == 0
        assert b"Traceback" not in run.log
    assert 0 < verdict.told <= BREAKER_COUNT
    assert verdict.rejected <= BREAKER_COUNT + IN_FLIGHT
    table(
        verdict,
        twice_at_most=0,
        because="no attempt is cut off",
        remark=f"{verdict.told} of {USERS // 2} told as dead before the breaker opened, none afterwards; "
        f"{verdict.rejected} deliveries ended by the provider's word, all others arrived",
    )


async def tell_one(run: Run, ledger: Ledger, app_id: str) -> None:
    """The first one is still believed and told: it is there to be taken back."""
    device = next(each for each in ledger.devices() if each.app_id == app_id)
    async with run.client() as client, asyncio.timeout(30):
        while device.pushkey not in ledger.told:
            await ledger.send(client, [ledger.make(is_sealed=True, device=device)])
            await asyncio.sleep(0.05)


def wrong_environment(run: Run, ledger: Ledger) -> MEND:
    run.stage.apns.script("*", [Step(status=400, reason="BadDeviceToken", repeat=True)])
    return lambda: run.stage.apns.script("*", [])


def wrong_topic(run: Run, ledger: Ledger) -> MEND:
    pushkeys = [device.pushkey for device in ledger.devices() if device.app_id == APNS_APP_ID]
    for pushkey in pushkeys:
        run.stage.apns.register(pushkey, topic="org.example.other")

    def mend() -> None:
        for pushkey in pushkeys:
            run.stage.apns.register(pushkey, topic=BUNDLE_ID)

    return mend


def wrong_project(run: Run, ledger: Ledger) -> MEND:
    run.stage.fcm.script("*", [Step(status=403, reason="SENDER_ID_MISMATCH", repeat=True)])
    return lambda: run.stage.fcm.script("*", [])


@pytest.mark.fault("wrong environment", how="APNs calls every pushkey BadDeviceToken under load; later it is mended")
async def test_a_wrong_environment_unsubscribes_nobody_and_loses_nothing(tmp_path: Path, table: Report) -> None:
    await drill(tmp_path, APNS_APP_ID, wrong_environment, table)


@pytest.mark.fault("wrong topic", how="APNs calls every pushkey DeviceTokenNotForTopic under load; later it is mended")
async def test_a_wrong_topic_unsubscribes_nobody_and_loses_nothing(tmp_path: Path, table: Report) -> None:
    await drill(tmp_path, APNS_APP_ID, wrong_topic, table)


@pytest.mark.fault(
    "wrong project", how="FCM answers SENDER_ID_MISMATCH for every pushkey under load; later it is mended"
)
async def test_a_wrong_project_unsubscribes_nobody_and_loses_nothing(tmp_path: Path, table: Report) -> None:
    await drill(tmp_path, FCM_APP_ID, wrong_project, table)
