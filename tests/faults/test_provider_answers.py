"""Apple or Google answers half, nonsense, nothing, or no, while callers send: real processes, one lane at a time.

Waits between attempts are scaled (`delivery.retry_scale`). In every test the lane of the other provider must go on
meanwhile: what is taken during the fault arrives there before the fault ends.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pushgate.client import seal
from pushgate.emulator import Fault, Step
from pushgate.stage import APNS_APP_ID, FCM_APP_ID
from tests.faults.bout import DEAD_EACH, IN_FLIGHT, NOTHING_LEFT_OPEN, bout, device, every
from tests.faults.table import Report
from tests.processes import CHAIN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(100)]


# --- half an answer, or none that can be read


RESETS = (
    Step(fault=Fault.RESET_MIDWAY, deliver=True),
    Step(status=410, fault=Fault.RESET_MIDWAY),
    Step(fault=Fault.RESET),
)


@pytest.mark.fault(
    "answers reset in the middle",
    how="every fifth answer of Apple for 2 s: a reset in its 200, in a 410, and before any answer. It took the first",
)
async def test_answers_that_are_reset_midway(tmp_path: Path, table: Report) -> None:
    async with bout(tmp_path, sick=APNS_APP_ID, retry_scale=0.1) as this:
        await this.both_work()
        with this.ledger.fault():
            this.apns.script("*", every(5, *RESETS))
            await this.last(2)
            await this.until(lambda: this.apns.counts.get("fault.reset-midway", 0) >= 5)
            this.apns.script("*", [])
        await this.recover()
    cut = this.apns.counts["fault.reset-midway"]
    table(
        this.verdict,
        twice_at_most=cut,
        because="each answer that was cut stands for a notification that was taken and is sent again",
        remark=this.remark(),
    )
    assert this.apns.counts["connections"] == 1, "a stream that breaks costs no connection"


@pytest.mark.fault(
    "connections break in the middle of answers",
    how="Google takes a message, sends half of its answer and breaks the connection: every 30th answer for 2 s",
)
async def test_answers_that_break_off_midway(tmp_path: Path, table: Report) -> None:
    async with bout(tmp_path, sick=FCM_APP_ID, retry_scale=0.1) as this:
        await this.both_work()
        with this.ledger.fault():
            this.fcm.script("*", every(30, Step(fault=Fault.BREAK_MIDWAY, deliver=True)))
            await this.last(2)
            await this.until(lambda: this.fcm.counts.get("fault.break-midway", 0) >= 2)
            this.fcm.script("*", [])
        await this.recover()
    broken = this.fcm.counts["fault.break-midway"]
    table(
        this.verdict,
        twice_at_most=broken * IN_FLIGHT,
        because="with each connection at most everything in flight has lost its answer",
        remark=this.remark(),
    )


@pytest.mark.fault(
    "provider takes everything and answers nothing",
    how="Apple delivers each notification and lets the request hang, for 5 s; an answer has 2 s",
)
async def test_a_provider_that_never_answers(tmp_path: Path, table: Report) -> None:
    async with bout(tmp_path, sick=APNS_APP_ID, retry_scale=0.1, timeout_s=2) as this:
        await this.both_work()
        with this.ledger.fault():
            this.apns.script("*", [Step(fault=Fault.HANG, deliver=True, repeat=True)])
            await this.last(5)
            await this.until(lambda: this.apns.counts.get("fault.hang", 0) >= 5)
            this.apns.script("*", [])
        await this.recover()
    hung = this.apns.counts["fault.hang"]
    table(
        this.verdict,
        twice_at_most=hung,
        because="each request that hung stands for a notification that was delivered and is sent again",
        remark=this.remark(),
    )
    assert hung <= 2 * IN_FLIGHT, "the lane stops asking soon"


GARBAGE = (
    Step(fault=Fault.GARBAGE),
    Step(status=410, fault=Fault.GARBAGE_HEADERS),
    Step(status=410, body="<html>Gone</html>"),
    Step(status=400, body='{"reason":"BadDeviceToken"', content_type="application/json"),
    Step(status=410, body='{"reason":410}', content_type="application/json"),
    Step(status=410, body='{"error":{"status":"Unregistered"}}', content_type="application/json"),
)


@pytest.mark.fault(
    "garbage in place of answers",
    how="every tenth answer of Apple for 3 s: no frames, headers that cannot be decoded, 410 and 400 with nonsense",
)
async def test_answers_that_are_garbage(tmp_path: Path, table: Report) -> None:
    async with bout(tmp_path, sick=APNS_APP_ID, retry_scale=0.002) as this:
        await this.both_work()
        with this.ledger.fault():
            this.apns.script("*", every(10, *GARBAGE))
            turns = this.apns.counts["requests"] + 10 * len(GARBAGE)
            await this.last(3)
            await this.until(lambda: this.apns.counts["requests"] > turns)
            this.apns.script("*", [])
        await this.recover()
    counts = this.apns.counts
    broken = counts["fault.garbage"] + counts["fault.garbage-headers"]
    assert counts["status.410"] >= DEAD_EACH + 2
    assert counts["status.400"] >= 1
    table(
        this.verdict,
        twice_at_most=broken * IN_FLIGHT,
        because="garbage costs the connection, and at most everything in flight its answer",
        remark=f"{this.remark()}; nobody was told as dead who is not",
    )


# --- no, not now


SCALE = 0.002
RETRY_AFTER_S = 600
"""As the provider says it. Scaled: 1.2 s."""


@pytest.mark.parametrize(
    "sick",
    [
        pytest.param(
            APNS_APP_ID,
            marks=pytest.mark.fault(
                "Apple answers 500 and 503",
                how="every answer for 3 s; ten of the 503 ask for a Retry-After of 600 s. Waits are scaled by 1/500",
            ),
        ),
        pytest.param(
            FCM_APP_ID,
            marks=pytest.mark.fault(
                "Google answers 500 and 503",
                how="every answer for 3 s; ten of the 503 ask for a Retry-After of 600 s. Waits are scaled by 1/500",
            ),
        ),
    ],
)
async def test_a_provider_in_trouble_gets_the_time_that_it_asks_for(tmp_path: Path, table: Report, sick: str) -> None:
    async with bout(tmp_path, sick=sick, retry_scale=SCALE) as this, this.run.client() as client:
        emulator = this.apns if sick == APNS_APP_ID else this.fcm
        await this.both_work()
        with this.ledger.fault():
            emulator.script("*", [Step(status=500), Step(status=503, retry_after="1")] * 5_000)
            patient = [device(sick, "a", number) for number in range(10)]
            for each in patient:
                emulator.script(each.pushkey, [Step(status=503, retry_after=str(RETRY_AFTER_S)), Step()])
            sent_at = time.monotonic()
            await this.ledger.send(client, [seal("x", key=CHAIN.newest).for_device(each) for each in patient])
            await this.last(3)
            await this.until(lambda: emulator.counts.get("status.500", 0) >= 5)
            await this.until(lambda: emulator.counts.get("status.503", 0) >= 15)
            assert this.waiting()
            emulator.script("*", [])
        await this.recover()
    table(this.verdict, twice_at_most=0, because=NOTHING_LEFT_OPEN, remark=this.remark())
    pushkeys = {each.pushkey for each in patient}
    arrived = [times[0] for key, times in this.ledger.watch.arrivals.items() if key[0] in pushkeys]
    assert len(arrived) == len(pushkeys)
    assert min(arrived) - sent_at >= RETRY_AFTER_S * SCALE


@pytest.mark.parametrize(
    "sick",
    [
        pytest.param(
            APNS_APP_ID,
            marks=pytest.mark.fault("429 of Apple for each device", how="every answer for 3 s; waits scaled by 1/50"),
        ),
        pytest.param(
            FCM_APP_ID,
            marks=pytest.mark.fault("429 of Google for the project", how="every answer for 3 s; waits scaled by 1/50"),
        ),
    ],
)
async def test_too_many_requests(tmp_path: Path, table: Report, sick: str) -> None:
    async with bout(tmp_path, sick=sick, retry_scale=0.02) as this:
        emulator = this.apns if sick == APNS_APP_ID else this.fcm
        await this.both_work()
        with this.ledger.fault():
            emulator.script("*", [Step(status=429, repeat=True)])
            await this.last(3)
            await this.until(lambda: emulator.counts.get("status.429", 0) >= 1)
            assert this.waiting()
            if sick == FCM_APP_ID:
                # The first one pauses the lane, those in flight land, after each pause one is dared.
                assert emulator.counts["status.429"] <= IN_FLIGHT + 10
            emulator.script("*", [])
        await this.recover()
    table(this.verdict, twice_at_most=0, because=NOTHING_LEFT_OPEN, remark=this.remark())
