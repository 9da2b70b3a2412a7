"""The FCM provider against the emulator at its strictest, over TLS and HTTP/2, with its token endpoint."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from pushgate.emulator import Fault, FcmEmulator, Landscape
from pushgate.emulator.script import Step
from pushgate.model import Counts, Delivery, Prio
from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected, Undeliverable
from pushgate.provider.credentials import TokenFault
from pushgate.provider.fcm import FcmProvider, Settings
from pushgate.provider.sharing import Sharing
from tests.attempts import outcome_of
from tests.provider_samples import CIPHERTEXT, badge_only, delivery, device, plain, sealed

PUSHKEY = "cZ1-_x:APA91b" + "A" * 130

Open = Callable[..., FcmProvider]


@pytest.fixture(scope="module")
def landscape(tmp_path_factory: pytest.TempPathFactory) -> Landscape:
    return Landscape(tmp_path_factory.mktemp("fcm"), project_id="my-project")


@pytest.fixture
async def emulator(landscape: Landscape) -> AsyncIterator[FcmEmulator]:
    emulator = FcmEmulator(
        tls=landscape.server_tls(),
        project_id=landscape.project_id,
        service_account_email=landscape.service_account_email,
        public_key=landscape.service_account_public_key,
    )
    await emulator.start()
    yield emulator
    await emulator.close()


@pytest.fixture
async def opened(landscape: Landscape, emulator: FcmEmulator) -> AsyncIterator[Open]:
    """Opens providers to the emulator, and closes them."""
    sharing = Sharing()
    providers: list[FcmProvider] = []

    def open_(*, clock: Callable[[], float] = time.time, **more: Any) -> FcmProvider:
        fields: dict[str, Any] = {
            "project_id": landscape.project_id,
            "credentials_file": landscape.write_service_account(token_url=emulator.token_url),
            "endpoint": f"https://127.0.0.1:{emulator.port}",
            "ca_file": landscape.ca_file,
        }
        providers.append(FcmProvider.open(Settings(**fields | more), clock=clock, sharing=sharing))
        return providers[-1]

    yield open_
    for provider in providers:
        await provider.close()


@pytest.fixture
def provider(opened: Open) -> FcmProvider:
    return opened()


def to_fcm(found: Delivery, pushkey: str = PUSHKEY) -> Delivery:
    return delivery(found.notification, device(pushkey))


async def test_sealed_arrives_as_data_with_the_keys_that_the_app_reads(
    emulator: FcmEmulator, provider: FcmProvider
) -> None:
    assert await outcome_of(provider, to_fcm(sealed(prio=Prio.HIGH, identifier="abc"))) == Accepted()
    (message,) = emulator.devices()[PUSHKEY]
    assert isinstance(message.payload, dict)
    assert message.payload.keys() == {"token", "data", "android"}
    assert message.payload["data"] == {
        "ciphertext": CIPHERTEXT,
        "time_message_encrypted": "2026-11",
        "key_identifier": "123e4567-e89b-12d3-a456-426614174000",
        "identifier": "abc",
    }
    assert message.payload["android"]["priority"] == "HIGH"


@pytest.mark.parametrize("flatten_content", [False, True], ids=["json", "flat"])
@pytest.mark.parametrize(
    "found",
    [
        sealed(counts=Counts(unread=1, missed_calls=0)),
        plain(),
        plain(prio=Prio.LOW),
        plain(content={"body": "ä" * 60_000, "from": "x", "google": "y"}, room_name="n" * 4000),
        badge_only(),
        plain(event_id=None, counts=None),
    ],
    ids=["sealed", "plain", "plain low", "plain shortened", "badge", "about nothing"],
)
async def test_every_kind_is_accepted_by_a_strict_fcm(
    emulator: FcmEmulator, opened: Open, found: Delivery, flatten_content: bool
) -> None:
    assert await outcome_of(opened(flatten_content=flatten_content), to_fcm(found)) == Accepted()
    assert len(emulator.devices()[PUSHKEY]) == 1


async def test_many_at_once_share_one_access_token_and_few_connections(emulator: FcmEmulator, opened: Open) -> None:
    lanes = [opened(), opened(flatten_content=True)]
    outcomes = await asyncio.gather(*(outcome_of(lanes[n % 2], to_fcm(sealed(), f"token{n}")) for n in range(200)))
    assert outcomes == [Accepted()] * 200
    assert emulator.counts["token_requests"] == 1
    assert emulator.counts["connections"] <= 5, "four for messages, one for the token"


async def test_dead_token_is_rejected(emulator: FcmEmulator, provider: FcmProvider) -> None:
    emulator.kill(PUSHKEY)
    assert await outcome_of(provider, to_fcm(sealed())) == Rejected("UNREGISTERED")


async def test_token_that_fcm_calls_invalid_is_rejected(provider: FcmProvider) -> None:
    assert await outcome_of(provider, to_fcm(sealed(), "not!a!token")) == Rejected("INVALID_ARGUMENT")


SCRIPTED: list[tuple[Step, Outcome]] = [
    (Step(429), Deferred(Cause.QUOTA, "QUOTA_EXCEEDED")),
    (Step(429, retry_after="90"), Deferred(Cause.QUOTA, "QUOTA_EXCEEDED", 90.0)),
    (Step(429, "RATE_LIMIT_EXCEEDED"), Deferred(Cause.QUOTA, "RESOURCE_EXHAUSTED")),
    (Step(500), Deferred(Cause.PROVIDER, "INTERNAL")),
    (Step(503, retry_after="30"), Deferred(Cause.PROVIDER, "UNAVAILABLE", 30.0)),
    (Step(502, body="<html>Bad Gateway</html>"), Deferred(Cause.PROVIDER, "status 502")),
    (Step(404, body="<html>Not Found</html>"), Deferred(Cause.CREDENTIALS, "status 404")),
    (Step(401, "THIRD_PARTY_AUTH_ERROR"), Deferred(Cause.DEVICE, "THIRD_PARTY_AUTH_ERROR")),
    (Step(403), Rejected("SENDER_ID_MISMATCH")),
    (Step(400), Undeliverable("INVALID_ARGUMENT")),
    (Step(fault=Fault.RESET), Deferred(Cause.CONNECTION, "reset")),
    (Step(fault=Fault.REFUSE), Accepted()),
    (Step(fault=Fault.GOAWAY), Accepted()),
]


def name(value: Step | Outcome) -> str:
    return f"{value.status} {value.reason} {value.fault}" if isinstance(value, Step) else type(value).__name__


@pytest.mark.parametrize(("step", "outcome"), SCRIPTED, ids=name)
async def test_scripted_trouble_has_its_outcome_and_the_next_one_is_accepted(
    emulator: FcmEmulator, provider: FcmProvider, step: Step, outcome: Outcome
) -> None:
    emulator.script(PUSHKEY, [step])
    assert await outcome_of(provider, to_fcm(sealed(), "another")) == Accepted()
    assert await outcome_of(provider, to_fcm(sealed())) == outcome
    assert await outcome_of(provider, to_fcm(sealed(), "another")) == Accepted()


async def test_access_token_that_was_revoked_is_fetched_anew_once(emulator: FcmEmulator, opened: Open) -> None:
    ahead = 0.0
    provider = opened(clock=lambda: time.time() + ahead)
    assert await outcome_of(provider, to_fcm(sealed())) == Accepted()
    emulator.revoke_access_tokens()
    ahead = 120.0
    outcomes = await asyncio.gather(*(outcome_of(provider, to_fcm(sealed(), f"token{n}")) for n in range(20)))
    assert outcomes == [Accepted()] * 20
    assert emulator.counts["token_requests"] == 2


async def test_access_token_is_fetched_ahead_of_its_end(emulator: FcmEmulator, opened: Open) -> None:
    ahead = 0.0
    provider = opened(clock=lambda: time.time() + ahead)
    assert await outcome_of(provider, to_fcm(sealed())) == Accepted()
    ahead = 3400.0
    async with asyncio.timeout(5):
        while emulator.counts["token_requests"] == 1:
            assert await outcome_of(provider, to_fcm(sealed())) == Accepted()
    assert "reason.UNAUTHENTICATED" not in emulator.counts


async def test_project_that_is_not_ours_is_a_fault_of_credentials(opened: Open) -> None:
    provider = opened(project_id="other-project", allow_other_project=True)
    assert await outcome_of(provider, to_fcm(sealed())) == Deferred(Cause.CREDENTIALS, "PERMISSION_DENIED")


async def test_account_that_the_token_endpoint_refuses_is_a_fault_of_credentials(
    emulator: FcmEmulator, opened: Open, tmp_path: Path
) -> None:
    stranger = Landscape(tmp_path / "stranger", project_id="my-project")
    path = stranger.write_service_account(token_url=emulator.token_url)
    outcome = await outcome_of(opened(credentials_file=path), to_fcm(sealed()))
    assert outcome == Deferred(Cause.CREDENTIALS, TokenFault.REFUSED)
    assert "requests" not in emulator.counts


async def test_token_endpoint_that_is_not_trusted_gets_nothing(
    emulator: FcmEmulator, opened: Open, tmp_path: Path
) -> None:
    stranger = Landscape(tmp_path / "stranger")
    outcome = await outcome_of(opened(ca_file=stranger.ca_file), to_fcm(sealed()))
    assert outcome == Deferred(Cause.CONNECTION, TokenFault.UNREACHABLE)
    assert "token_requests" not in emulator.counts


# A token endpoint that is hostile, or broken

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Listen = Callable[..., Awaitable[int]]


@pytest.fixture
async def listen(landscape: Landscape) -> AsyncIterator[Listen]:
    """Listens on a port of its own, with TLS unless told otherwise, and does to each connection what it is given."""
    async with AsyncExitStack() as stack:

        async def listen_(handler: Handler, *, plain_text: bool = False) -> int:
            async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                with suppress(OSError):
                    await handler(reader, writer)
                writer.close()

            tls = None if plain_text else landscape.server_tls()
            server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
            stack.callback(server.close)
            port: int = server.sockets[0].getsockname()[1]
            return port

        yield listen_


def credentials_for(landscape: Landscape, port: int) -> Path:
    path = landscape.write_service_account(token_url=f"https://127.0.0.1:{port}/token")
    return path.rename(path.with_name("another-endpoint.json"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_token_endpoint_that_sends_us_elsewhere_is_not_followed(
    opened: Open, landscape: Landscape, listen: Listen, status: int
) -> None:
    visits: list[bytes] = []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.append(await reader.read(1000))

    there = await listen(elsewhere, plain_text=True)

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        head = f"HTTP/1.1 {status} Elsewhere\r\nlocation: http://127.0.0.1:{there}/\r\ncontent-length: 0\r\n\r\n"
        writer.write(head.encode())
        await writer.drain()

    path = credentials_for(landscape, await listen(redirect))
    outcome = await outcome_of(opened(credentials_file=path), to_fcm(sealed()))
    assert outcome == Deferred(Cause.CREDENTIALS, TokenFault.REFUSED)
    assert visits == []


@pytest.mark.parametrize(
    "head",
    ["200 OK", "403 Forbidden", "307 Elsewhere\r\nlocation: http://127.0.0.1:1/", "200 OK\r\ncontent-encoding: gzip"],
)
async def test_answer_of_the_token_endpoint_is_read_up_to_64_kb(
    opened: Open, landscape: Landscape, listen: Listen, head: str
) -> None:
    written = 0
    flood_bytes = 50_000_000

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.read(10_000)
        writer.write(f"HTTP/1.1 {head}\r\ncontent-length: {flood_bytes}\r\n\r\n".encode())
        gone = asyncio.create_task(reader.read())
        while written < flood_bytes and not gone.done():
            writer.write(b" " * 50_000)
            await writer.drain()
            await asyncio.sleep(0.001)  # drain alone does not see that the peer has gone
            written += 50_000

    path = credentials_for(landscape, await listen(flood))
    outcome = await outcome_of(opened(credentials_file=path), to_fcm(sealed()))
    assert outcome == Deferred(Cause.CREDENTIALS, TokenFault.REFUSED)
    assert written < flood_bytes / 2, "the rest is in buffers of the system"


DRIBBLES = {
    "the status line": b"",
    "the headers": b"HTTP/1.1 200 OK\r\nx: ",
    "a body of known length": b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
    "a body without end": b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
}


@pytest.mark.parametrize("through_proxy", [False, True], ids=["", "proxy"])
@pytest.mark.parametrize("start", DRIBBLES.values(), ids=DRIBBLES.keys())
async def test_token_endpoint_that_answers_byte_by_byte_is_cut_off(
    opened: Open,
    landscape: Landscape,
    listen: Listen,
    monkeypatch: pytest.MonkeyPatch,
    start: bytes,
    through_proxy: bool,
) -> None:
    for module in ("credentials", "google_fetch"):
        monkeypatch.setattr(f"pushgate.provider.{module}.FETCH_DEADLINE_S", 0.4)
    cut = asyncio.Event()

    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        writer.write(start)
        gone = asyncio.create_task(reader.read())
        while not gone.done():
            writer.write(b" ")
            await asyncio.wait((gone,), timeout=0.05)
        cut.set()

    port = await listen(dribble, plain_text=through_proxy)
    path = credentials_for(landscape, port)
    way = {"proxy": f"http://127.0.0.1:{port}"} if through_proxy else {}
    provider = opened(credentials_file=path, **way)
    async with asyncio.timeout(5):
        outcome = await outcome_of(provider, to_fcm(sealed()))
        assert outcome == Deferred(Cause.CONNECTION, TokenFault.UNREACHABLE)
        await cut.wait()
        while [each for each in threading.enumerate() if each.name.startswith("google token")]:
            await asyncio.sleep(0.01)


HANGS = """
import asyncio, threading, time
from pushgate.provider.credentials import GoogleToken

async def main():
    began = threading.Event()
    def fetch():
        began.set()
        time.sleep(60)
    token = GoogleToken(fetch, clock=time.time)
    waiting = asyncio.create_task(token.bearer())
    while not began.is_set():
        await asyncio.sleep(0.01)
    waiting.cancel()
    await token.close()

asyncio.run(main())
"""


def test_fetch_that_hangs_does_not_hold_the_process() -> None:
    assert subprocess.run([sys.executable, "-c", HANGS], timeout=15, check=False).returncode == 0


class Told:
    """Who started an attempt: as long as somebody keeps the attempt, it is kept too."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None

    def __call__(self, outcome: Outcome) -> None:
        self.outcome = outcome


async def test_attempts_are_let_go_of_at_once(emulator: FcmEmulator, provider: FcmProvider) -> None:
    """With what they carry, and not when the collector looks: that is rarely."""

    async def is_let_go_of(expected: type[Outcome], *, at_once: bool = False) -> bool:
        told = Told()
        attempt = provider.start(to_fcm(sealed()), told)
        assert not at_once or told.outcome is not None
        async with asyncio.timeout(10):
            while told.outcome is None:
                await asyncio.sleep(0.01)
        assert isinstance(told.outcome, expected)
        known = weakref.ref(told)
        del told, attempt
        await asyncio.sleep(0.01)
        return known() is None

    assert await outcome_of(provider, to_fcm(sealed())) == Accepted()
    gc.disable()
    try:
        assert await is_let_go_of(Accepted)
        await emulator.close()
        assert await is_let_go_of(Deferred)
        assert await is_let_go_of(Deferred, at_once=True)
    finally:
        gc.enable()
