"""Apple or Google is sick, in every way that a peer can be, while callers send: real processes, one lane at a time.

Waits between attempts are scaled (`delivery.retry_scale`), so is how long a fault lasts. In every test the lane of the
other provider must go on meanwhile: what is taken during the fault arrives there before the fault ends.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from pushgate.emulator import ConnectionRules, Door, Fault, Flaw, Step
from pushgate.stage import APNS_APP_ID, FCM_APP_ID
from tests.faults.bout import IN_FLIGHT, NOTHING_LEFT_OPEN, SLOW, Bout, bout, every
from tests.faults.foreign import nginx
from tests.faults.table import Report
from tests.ports import free_port
from tests.processes import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(100)]

# --- nobody there


@pytest.mark.fault(
    "provider down for 30 s",
    how="Apple's port is closed and every connection broken. All waits and the 30 s are scaled by a tenth",
)
async def test_a_provider_that_is_down(tmp_path: Path, table: Report) -> None:
    async with bout(tmp_path, sick=APNS_APP_ID, retry_scale=0.1) as this:
        this.apns.script("*", [SLOW])
        await this.both_work()
        with this.ledger.fault():
            this.apns.listener.door = Door.CLOSED
            await this.last(3)
            assert this.waiting()
            this.apns.listener.door = Door.OPEN
        await this.recover()
    table(
        this.verdict,
        twice_at_most=IN_FLIGHT,
        because="what was in flight when the connections broke may have been processed",
        remark=this.remark(),
    )


@pytest.mark.fault(
    "provider refuses connections from the start",
    how="the gateway starts while nobody listens at Google's address, neither for messages nor for tokens",
)
async def test_a_provider_that_refuses_connections(tmp_path: Path, table: Report) -> None:
    def refuse(run: Run) -> None:
        run.stage.fcm.listener.door = Door.CLOSED

    async with bout(tmp_path, sick=FCM_APP_ID, retry_scale=0.1, before=refuse) as this:
        with this.ledger.fault():
            await this.last(3)
            assert this.waiting()
            assert "requests" not in this.fcm.counts
            this.fcm.listener.door = Door.OPEN
        await this.recover()
    table(this.verdict, twice_at_most=0, because=NOTHING_LEFT_OPEN, remark=this.remark())


@pytest.mark.parametrize(
    "door",
    [
        pytest.param(
            Door.DEAF,
            marks=pytest.mark.fault(
                "provider hangs after accept", how="Apple accepts TCP and never answers TLS, for 3 s"
            ),
        ),
        pytest.param(
            Door.MUTE,
            marks=pytest.mark.fault(
                "provider hangs after the handshake", how="Apple completes TLS and never says anything, for 3 s"
            ),
        ),
        pytest.param(
            Door.GARBAGE,
            marks=pytest.mark.fault(
                "something else answers at the provider's address", how="TLS, then bytes that are no HTTP/2, for 3 s"
            ),
        ),
    ],
)
async def test_a_provider_that_hangs_after_accept(tmp_path: Path, table: Report, door: Door) -> None:
    async with bout(tmp_path, sick=APNS_APP_ID, retry_scale=0.1, timeout_s=2) as this:
        this.apns.script("*", [SLOW])
        await this.both_work()
        with this.ledger.fault():
            this.apns.listener.door = door
            await this.last(3)
            assert this.waiting()
            this.apns.listener.door = Door.OPEN
        await this.recover()
    table(
        this.verdict,
        twice_at_most=IN_FLIGHT,
        because="what was in flight when the connections broke may have been processed",
        remark=this.remark(),
    )


# --- limits of connections


@pytest.mark.fault(
    "GOAWAY every 50 requests",
    how="Google ends each connection after 50 requests, and refuses every seventh stream (REFUSED_STREAM)",
)
async def test_goaway_and_refused_streams_double_nothing(tmp_path: Path, table: Report) -> None:
    def restless(run: Run) -> None:
        run.stage.fcm.rules = ConnectionRules(max_streams=100, goaway_after=50)

    async with bout(tmp_path, sick=FCM_APP_ID, retry_scale=0.1, before=restless) as this:
        with this.ledger.fault():
            this.fcm.script("*", every(7, Step(fault=Fault.REFUSE), Step(fault=Fault.GOAWAY), delay_s=0.05))
            await this.last(4)
            await this.until(lambda: min(this.fcm.counts.get(each, 0) for each in ("goaways", "fault.refuse")) >= 5)
            this.fcm.script("*", [])
            this.fcm.rules = ConnectionRules(max_streams=100)
        await this.recover()
    counts = this.fcm.counts
    table(
        this.verdict,
        twice_at_most=0,
        because="a stream that GOAWAY or REFUSED_STREAM named was not processed, and what was processed was answered",
        remark=f"{counts['goaways']} GOAWAYs; {this.remark()}",
    )


@pytest.mark.fault(
    "MAX_CONCURRENT_STREAMS 1, 100, 0, 10",
    how="Apple tells living connections another limit each second, all notifications taking 50 ms",
)
async def test_a_limit_of_streams_that_moves(tmp_path: Path, table: Report) -> None:
    async with bout(tmp_path, sick=APNS_APP_ID, retry_scale=0.1, timeout_s=3) as this:
        this.apns.script("*", [SLOW])
        await this.both_work()
        with this.ledger.fault():
            for most in (1, 100, 0, 10):
                this.apns.rules = ConnectionRules(max_streams=most)
                await this.last(1)
            await this.both_work()
            this.apns.rules = ConnectionRules()
        await this.recover()
    table(this.verdict, twice_at_most=0, because=NOTHING_LEFT_OPEN, remark=this.remark())
    assert "streams_over_limit" not in this.apns.counts


@pytest.mark.fault(
    "window 0 for 5 s",
    how="Apple sets SETTINGS_INITIAL_WINDOW_SIZE to 0 on living and new connections; an answer has 2 s",
)
async def test_a_window_that_is_closed_for_a_while(tmp_path: Path, table: Report) -> None:
    async with bout(tmp_path, sick=APNS_APP_ID, retry_scale=0.1, timeout_s=2) as this:
        await this.both_work()
        with this.ledger.fault():
            this.apns.rules = ConnectionRules(window_open=False)
            await this.last(5)
            assert this.waiting()
            this.apns.rules = ConnectionRules()
        await this.recover()
    table(this.verdict, twice_at_most=0, because=NOTHING_LEFT_OPEN, remark=this.remark())
    assert "bytes_over_window" not in this.apns.counts


# --- who it is


@pytest.mark.fault(
    "provider's certificate is wrong",
    how="Apple's connections break, then it shows a certificate of another name, of an unknown authority, "
    "an expired one (1 s each), and at last the right one",
)
async def test_nothing_is_sent_over_a_wrong_certificate(tmp_path: Path, table: Report) -> None:
    async with bout(tmp_path, sick=APNS_APP_ID, retry_scale=0.1) as this:
        this.apns.script("*", [SLOW])
        await this.both_work()
        with this.ledger.fault():
            for flaw in (Flaw.WRONG_NAME, Flaw.UNKNOWN_AUTHORITY, Flaw.EXPIRED):
                await show(this, flaw)
            assert this.waiting()
            this.apns.listener.tls = this.run.stage.landscape.server_tls(client_certificates=True)
        await this.recover()
    table(
        this.verdict,
        twice_at_most=IN_FLIGHT,
        because="what was in flight when the connections broke may have been processed",
        remark=f"nothing was sent over a wrong one; {this.remark()}",
    )


async def show(this: Bout, flaw: Flaw) -> None:
    """Break the connections, show a certificate with a flaw for a second, and see that nothing is sent."""
    this.apns.listener.tls = this.run.stage.landscape.server_tls(client_certificates=True, flaw=flaw)
    this.apns.listener.break_off()
    requests, connections = this.apns.counts["requests"], this.apns.counts["connections"]
    await this.last(1)
    await this.until(lambda: this.apns.counts["connections"] > connections)
    await asyncio.sleep(0.1)
    assert this.apns.counts["requests"] == requests, "nothing is sent to somebody else"


@pytest.mark.fault(
    "Google's token endpoint is down",
    how="from the start it breaks connections, answers garbage and 503, for 4 s; messages would be taken",
)
async def test_a_token_endpoint_that_is_down(tmp_path: Path, table: Report) -> None:
    def break_tokens(run: Run) -> None:
        steps = [Step(fault=Fault.DISCONNECT), Step(fault=Fault.GARBAGE), Step(status=503, body="<html>")]
        run.stage.fcm.script("/token", steps * 1000)

    async with bout(tmp_path, sick=FCM_APP_ID, retry_scale=0.1, before=break_tokens) as this:
        with this.ledger.fault():
            await this.last(4)
            assert this.waiting()
            await this.until(lambda: this.fcm.counts["token_requests"] >= 3)
            assert "requests" not in this.fcm.counts, "nothing is sent without a token"
            this.fcm.script("/token", [])
        await this.recover()
    table(this.verdict, twice_at_most=0, because=NOTHING_LEFT_OPEN, remark=this.remark())


# --- a server by others


@pytest.mark.fault(
    "nginx in Apple's place stops and starts",
    how="four times under load, in turn by SIGTERM (connections break) and SIGQUIT (GOAWAY)",
)
async def test_a_foreign_server_that_is_restarted(tmp_path: Path, table: Report) -> None:
    port = free_port()
    async with bout(tmp_path, sick=APNS_APP_ID, retry_scale=0.1, more=endpoint(port), mortal=[FCM_APP_ID]) as this:
        server = await this.kept.enter_async_context(nginx(tmp_path, this.run.stage, this.ledger.watch, port=port))
        await this.both_work()
        for number in (signal.SIGTERM, signal.SIGQUIT) * 2:
            with this.ledger.fault():
                await server.end(number)
                await this.last(0.3)
                await server.start()
            await this.both_work()
        await this.recover()
    table(
        this.verdict,
        twice_at_most=2 * IN_FLIGHT,
        because="what was in flight when connections broke may have been taken",
        remark=this.remark(),
    )


@pytest.mark.fault(
    "nginx in Apple's place freezes",
    how="for 4 s (SIGSTOP): connections stand, nothing moves; an answer has 2 s",
)
async def test_a_foreign_server_that_freezes(tmp_path: Path, table: Report) -> None:
    port = free_port()
    async with bout(
        tmp_path, sick=APNS_APP_ID, retry_scale=0.1, timeout_s=2, more=endpoint(port), mortal=[FCM_APP_ID]
    ) as this:
        server = await this.kept.enter_async_context(nginx(tmp_path, this.run.stage, this.ledger.watch, port=port))
        await this.both_work()
        with this.ledger.fault():
            server.signal(signal.SIGSTOP)
            await this.last(4)
            assert this.waiting()
            server.signal(signal.SIGCONT)
        await this.recover()
    table(
        this.verdict,
        twice_at_most=IN_FLIGHT,
        because="what was in flight when it froze is taken when it wakes, and was given up meanwhile",
        remark=this.remark(),
    )


def endpoint(port: int) -> dict[str, str]:
    """The environment that puts another server in Apple's place."""
    return {"PUSHGATE_APPS__ORG_EXAMPLE_HEALTH_APNS__ENDPOINT": f"https://localhost:{port}"}
