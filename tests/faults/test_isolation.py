"""One app's trouble stays its own: while 100,000 deliveries wait in sick lanes, two others are as fast as without.

Measured is the time from a caller's request to the arrival at the provider, at a moderate steady rate, beside a second
gateway that has no sick lane. The emulators of the lanes that are well live in this process, the sick provider in one
of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple

import pytest

from pushgate.emulator import ConnectionRules, Fault, Step
from pushgate.stage import APNS_APP_ID
from tests.faults.backlog import (
    IN_FLIGHT,
    MOST_KB,
    RATE,
    Peer,
    Side,
    compare,
    emulated,
    fill,
    measure,
    mute,
    nobody,
    peak_kb,
    table_of,
    warm_up,
)
from tests.faults.ledger import Ledger, Verdict
from tests.faults.table import Report
from tests.processes import Run, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

WAITING = 100_000
DURING_S = 6.0
START_S = 2.0
"""From request to arrival at most, where a hundred full lanes begin at the same time."""
SHARED_S = 1.0
"""The same beside a sick lane on the same connections: it was 10 s while it could take all of them."""
DEVICES = 200
TIMEOUT_S = 2
"""For an answer of the sick provider: so that what hangs is given up and tried again while it is measured."""


class Seen(NamedTuple):
    """What came of a gateway with sick lanes."""

    verdict: Verdict
    """On the lanes that are well."""
    told: str
    """The times, in words."""
    metrics: dict[str, float]
    peak_kb: int


async def beside(
    sick: Peer, folder: Path, *, lanes: Sequence[str], timeout_s: int = TIMEOUT_S, in_flight: int = IN_FLIGHT
) -> Seen:
    """Measure two gateways at the same time: one where deliveries wait for a sick provider, and one without.

    What the machine does beside it befalls both.
    """
    tables = "".join(table_of(sick, lane, timeout_s=timeout_s, in_flight=in_flight) for lane in lanes)
    async with (
        staged(folder, more=tables) as run,
        staged(folder / "other") as other,
        Ledger(run) as ledger,
        Ledger(other) as others_ledger,
    ):
        await fill(folder / "spool.db", lanes, WAITING)
        await other.start()
        await run.start()
        async with run.client() as client, other.client() as others_client:
            await warm_up(others_ledger, others_client)
            await warm_up(ledger, client)
            told = await compare(Side(ledger, client), Side(others_ledger, others_client), seconds=DURING_S)
        seen = Seen(await ledger.settle(), told, await until_tried(run, lanes), peak_kb(run.pid))
        await run.kill()
        await other.kill()
    return seen


async def until_tried(run: Run, lanes: Sequence[str]) -> dict[str, float]:
    """The metrics, once an attempt in these lanes has had an outcome."""
    async with asyncio.timeout(30):
        while not tried(metrics := await run.metrics(), lanes):
            await asyncio.sleep(0.1)
    return metrics


def tried(metrics: dict[str, float], lanes: Sequence[str]) -> float:
    """How many attempts were made in these lanes that have an outcome."""
    return sum(
        value
        for name, value in metrics.items()
        if name.startswith("pushgate_attempts_total{") and any(f'"{lane}"' in name for lane in lanes)
    )


def waiting(seen: Seen, lanes: Sequence[str]) -> float:
    """How much waits in these lanes."""
    return sum(seen.metrics[f'pushgate_waiting{{lane="{lane}"}}'] for lane in lanes)


LANE = "org.example.sick.apns"
QUOTA = Step(status=429, reason="TooManyProviderTokenUpdates", retry_after="1", repeat=True)
BUSY = Step(status=429, reason="TooManyRequests", retry_after="1", delay_s=0.2, repeat=True)
"""Says nothing of the lane, so that it goes on at full speed: after 0.2 s, so that the machine has time left."""


@pytest.mark.parametrize(
    ("step", "timeout_s", "in_flight"),
    [
        pytest.param(
            Step(fault=Fault.HANG, repeat=True),
            TIMEOUT_S,
            IN_FLIGHT,
            marks=pytest.mark.fault(
                "another app's provider hangs", how="100,000 wait in another lane, whose provider answers no request"
            ),
            id="hang",
        ),
        pytest.param(
            Step(delay_s=5, repeat=True),
            10,
            IN_FLIGHT,
            marks=pytest.mark.fault(
                "another app's provider is slow", how="100,000 wait in another lane, whose provider takes 5 s for each"
            ),
            id="slow",
        ),
        pytest.param(
            QUOTA,
            TIMEOUT_S,
            IN_FLIGHT,
            marks=pytest.mark.fault(
                "another app's quota", how="100,000 wait in another lane, whose provider says 429 to all of it"
            ),
            id="quota",
        ),
        pytest.param(
            BUSY,
            TIMEOUT_S,
            100,
            marks=pytest.mark.fault(
                "another app's busy devices", how="100,000 wait in another lane, whose provider says 429 to each device"
            ),
            id="busy",
        ),
        pytest.param(
            Step(status=500, repeat=True),
            TIMEOUT_S,
            IN_FLIGHT,
            marks=pytest.mark.fault(
                "another app's provider fails", how="100,000 wait in another lane, whose provider says 500"
            ),
            id="500",
        ),
    ],
)
async def test_a_sick_lane_delays_no_other(
    tmp_path: Path, table: Report, step: Step, timeout_s: int, in_flight: int
) -> None:
    async with emulated(tmp_path / "sick", [step]) as sick:
        seen = await beside(sick, tmp_path, lanes=[LANE], timeout_s=timeout_s, in_flight=in_flight)
    assert waiting(seen, [LANE]) > WAITING * 0.8
    assert seen.peak_kb < MOST_KB
    table(seen.verdict, twice_at_most=0, because="nothing happened to these lanes", remark=seen.told)


@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(
            mute,
            marks=pytest.mark.fault(
                "another app's provider accepts and is mute",
                how="100,000 wait in another lane, whose provider accepts connections and never says a word",
            ),
            id="mute",
        ),
        pytest.param(
            nobody,
            marks=pytest.mark.fault(
                "another app's provider refuses connections",
                how="100,000 wait in another lane, and nobody listens where its provider should be",
            ),
            id="refused",
        ),
    ],
)
async def test_a_lane_without_a_provider_delays_no_other(
    tmp_path: Path, table: Report, peer: Callable[[], AbstractAsyncContextManager[Peer]]
) -> None:
    async with peer() as sick:
        seen = await beside(sick, tmp_path, lanes=[LANE])
    assert waiting(seen, [LANE]) == WAITING
    assert seen.peak_kb < MOST_KB
    table(seen.verdict, twice_at_most=0, because="nothing happened to these lanes", remark=seen.told)


@pytest.mark.fault(
    "a hundred sick apps", how="1,000 wait in each of 100 other lanes, whose provider answers no request"
)
async def test_a_hundred_sick_lanes_delay_no_other(tmp_path: Path, table: Report) -> None:
    lanes = [f"org.example.sick-{number}.apns" for number in range(100)]
    async with emulated(tmp_path / "sick", [Step(fault=Fault.HANG, repeat=True)]) as sick:
        seen = await beside(sick, tmp_path, lanes=lanes)
    assert waiting(seen, lanes) == WAITING
    table(seen.verdict, twice_at_most=0, because="nothing happened to these lanes", remark=seen.told)


async def test_the_start_with_a_hundred_full_lanes_takes_little_memory_and_delays_nobody(tmp_path: Path) -> None:
    lanes = [f"org.example.sick-{number}.apns" for number in range(100)]
    async with emulated(tmp_path / "sick", [Step(fault=Fault.HANG, repeat=True)]) as sick:
        tables = "".join(table_of(sick, lane, timeout_s=TIMEOUT_S) for lane in lanes)
        async with staged(tmp_path, more=tables) as run, Ledger(run) as ledger:
            await fill(tmp_path / "spool.db", lanes, WAITING)
            await run.start()
            async with run.client() as client:
                times = await measure(ledger, client, DURING_S)
            most_kb = peak_kb(run.pid)
            await run.kill()
    print(times, f"{most_kb} KB")
    assert most_kb < MOST_KB
    assert times.most_s < START_S


@pytest.mark.parametrize(
    "step", [Step(fault=Fault.HANG, repeat=True), Step(delay_s=5, repeat=True)], ids=["hang", "slow"]
)
async def test_a_sick_lane_of_the_same_key_delays_no_other(tmp_path: Path, step: Step) -> None:
    """Two apps of one team at the same provider: what hangs of the one must not take every stream from the other."""
    async with staged(tmp_path) as run, Ledger(run, pushkeys=DEVICES, apps=[APNS_APP_ID]) as ledger:
        apns = run.stage.apns
        apns.rules = ConnectionRules(max_streams=100)
        apns.script("*", [step])
        for number in range(DEVICES):
            apns.script(f"{number:064x}", [Step(repeat=True)])
        same = Peer(f"https://localhost:{apns.port}", "ca.pem")
        run.stage.config_file.write_text(run.stage.config_file.read_text() + table_of(same, LANE, timeout_s=10))
        await fill(tmp_path / "spool.db", [LANE], 2000)
        await run.start()
        async with run.client() as client:
            times = await measure(ledger, client, DURING_S)
        print(times)
        assert apns.counts["requests"] > RATE * DURING_S
        paused = [event["lane"] for event in run.events("lane pauses")]
        await run.kill()
    assert APNS_APP_ID not in paused
    assert times.p99_s < SHARED_S
