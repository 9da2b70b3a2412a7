"""The APNs provider against the emulator at its strictest, over TLS and HTTP/2."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from pushgate.emulator import ApnsEmulator, ConnectionRules, Fault, Landscape, Received
from pushgate.emulator.script import Step
from pushgate.model import Counts, Delivery, Prio
from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected, Undeliverable
from pushgate.provider.apns import ApnsProvider, Settings
from pushgate.provider.sharing import Sharing
from tests.attempts import outcome_of
from tests.provider_samples import CIPHERTEXT, TOKEN, badge_only, device, plain, sealed

BUNDLE_ID = "de.example.app"

Open = Callable[..., ApnsProvider]


@pytest.fixture(scope="module")
def landscape(tmp_path_factory: pytest.TempPathFactory) -> Landscape:
    return Landscape(tmp_path_factory.mktemp("apns"))


@asynccontextmanager
async def emulated(landscape: Landscape, **more: Any) -> AsyncIterator[ApnsEmulator]:
    emulator = ApnsEmulator(
        tls=landscape.server_tls(client_certificates=True),
        keys=landscape.apns_keys,
        topics={BUNDLE_ID},
        **more,
    )
    await emulator.start()
    try:
        yield emulator
    finally:
        await emulator.close()


@pytest.fixture
async def emulator(landscape: Landscape) -> AsyncIterator[ApnsEmulator]:
    async with emulated(landscape) as emulator:
        yield emulator


def settings(landscape: Landscape, port: int, **more: Any) -> Settings:
    key = {
        "key_file": landscape.apns_key_file,
        "key_id": landscape.apns_key_id,
        "team_id": landscape.apns_team_id,
    }
    fields = {"bundle_id": BUNDLE_ID, "endpoint": f"https://127.0.0.1:{port}", "ca_file": landscape.ca_file}
    return Settings.model_validate((fields if "certificate_file" in more else fields | key) | more)


@pytest.fixture
async def opened(landscape: Landscape, emulator: ApnsEmulator) -> AsyncIterator[Open]:
    """Opens providers to the emulator, and closes them."""
    sharing = Sharing()
    providers: list[ApnsProvider] = []

    def open_(*, clock: Callable[[], float] = time.time, **more: Any) -> ApnsProvider:
        providers.append(ApnsProvider.open(settings(landscape, emulator.port, **more), clock=clock, sharing=sharing))
        return providers[-1]

    yield open_
    for provider in providers:
        await provider.close()


@pytest.fixture
def provider(opened: Open) -> ApnsProvider:
    return opened()


def received(emulator: ApnsEmulator, token: str = TOKEN) -> Received:
    (message,) = emulator.devices()[token]
    return message


async def test_sealed_arrives_with_the_keys_that_the_app_reads(emulator: ApnsEmulator, provider: ApnsProvider) -> None:
    delivery = sealed(counts=Counts(unread=4), identifier="abc")
    assert await outcome_of(provider, delivery) == Accepted()
    message = received(emulator)
    assert message.payload == {
        "aps": {"alert": {"title": "New notification"}, "mutable-content": 1, "badge": 4},
        "ciphertext": CIPHERTEXT,
        "time_message_encrypted": "2026-11",
        "key_identifier": "123e4567-e89b-12d3-a456-426614174000",
        "identifier": "abc",
    }
    assert message.apns_id == delivery.id
    assert {name: value for name, value in message.headers.items() if name.startswith("apns-")} == {
        "apns-id": delivery.id,
        "apns-topic": BUNDLE_ID,
        "apns-push-type": "alert",
        "apns-priority": "5",
        "apns-expiration": str(int(delivery.expires_at)),
    }


@pytest.mark.parametrize(
    "delivery",
    [
        sealed(prio=Prio.HIGH),
        plain(),
        plain(prio=Prio.LOW),
        plain(content={"body": "ä" * 60_000}, room_name="n" * 4000),
        badge_only(),
        badge_only(Counts(missed_calls=1)),
        plain(event_id=None, counts=None),
    ],
    ids=["sealed", "plain", "plain low", "plain shortened", "badge", "background", "about nothing"],
)
async def test_every_kind_is_accepted_by_a_strict_apns(
    emulator: ApnsEmulator, provider: ApnsProvider, delivery: Delivery
) -> None:
    assert await outcome_of(provider, delivery) == Accepted()
    assert received(emulator).apns_id == delivery.id


async def test_base64_token_reaches_its_device(emulator: ApnsEmulator, opened: Open) -> None:
    provider = opened(token_encoding="base64")
    assert await outcome_of(provider, sealed(device("q83v//8="))) == Accepted()
    assert [*emulator.devices()] == ["abcdefffff"]


async def test_many_at_once_share_one_token_and_few_connections(emulator: ApnsEmulator, opened: Open) -> None:
    lanes = [opened(), opened(forward_data=["x"])]
    tokens = [f"{number:064x}" for number in range(200)]
    outcomes = await asyncio.gather(
        *(outcome_of(lanes[number % 2], sealed(device(token))) for number, token in enumerate(tokens))
    )
    assert outcomes == [Accepted()] * 200
    assert emulator.counts["connections"] <= 4
    assert "reason.TooManyProviderTokenUpdates" not in emulator.counts


async def test_dead_token_is_rejected_since_apns_says_and_not_if_registered_anew(
    emulator: ApnsEmulator, provider: ApnsProvider
) -> None:
    before = int(time.time() * 1000)
    emulator.kill(TOKEN)
    outcome = await outcome_of(provider, sealed(device(pushkey_ts=1)))
    assert isinstance(outcome, Rejected)
    assert outcome.since_ms is not None
    assert before <= outcome.since_ms <= time.time() * 1000
    anew = int(time.time()) + 60
    assert await outcome_of(provider, sealed(device(pushkey_ts=anew))) == Deferred(Cause.DEVICE, "Unregistered")


async def test_token_of_another_app_is_rejected(emulator: ApnsEmulator, provider: ApnsProvider) -> None:
    emulator.register(TOKEN, topic="de.example.other")
    assert await outcome_of(provider, sealed()) == Rejected("DeviceTokenNotForTopic")


SCRIPTED: list[tuple[Step, Outcome]] = [
    (Step(429), Deferred(Cause.DEVICE, "TooManyRequests")),
    (Step(429, "TooManyProviderTokenUpdates"), Deferred(Cause.QUOTA, "TooManyProviderTokenUpdates")),
    (Step(500), Deferred(Cause.PROVIDER, "InternalServerError")),
    (Step(503, retry_after="30"), Deferred(Cause.PROVIDER, "ServiceUnavailable", 30.0)),
    (Step(503, "Shutdown"), Deferred(Cause.CONNECTION, "Shutdown")),
    (Step(502, body="<html>Bad Gateway</html>"), Deferred(Cause.PROVIDER, "status 502")),
    (Step(403, "InvalidProviderToken"), Deferred(Cause.CREDENTIALS, "InvalidProviderToken")),
    (Step(403, "ExpiredProviderToken", repeat=True), Deferred(Cause.CREDENTIALS, "ExpiredProviderToken")),
    (Step(410, "Unregistered", timestamp_ms=1_700_000_000_000), Rejected("Unregistered", 1_700_000_000_000)),
    (Step(400, "BadDeviceToken"), Rejected("BadDeviceToken")),
    (Step(413), Undeliverable("PayloadTooLarge")),
    (Step(fault=Fault.RESET), Deferred(Cause.CONNECTION, "reset")),
    (Step(fault=Fault.DISCONNECT), Deferred(Cause.CONNECTION, "reset")),
    (Step(fault=Fault.REFUSE), Accepted()),
    (Step(fault=Fault.GOAWAY), Accepted()),
]


def name(value: Step | Outcome) -> str:
    return f"{value.status} {value.reason} {value.fault}" if isinstance(value, Step) else type(value).__name__


@pytest.mark.parametrize(("step", "outcome"), SCRIPTED, ids=name)
async def test_scripted_trouble_has_its_outcome_and_the_next_one_is_accepted(
    emulator: ApnsEmulator, provider: ApnsProvider, step: Step, outcome: Outcome
) -> None:
    emulator.script(TOKEN, [step])
    assert await outcome_of(provider, sealed(device("cd" * 32))) == Accepted()
    assert await outcome_of(provider, sealed()) == outcome
    assert await outcome_of(provider, sealed(device("cd" * 32))) == Accepted()


async def test_no_answer_in_time_is_a_timeout(emulator: ApnsEmulator, opened: Open) -> None:
    emulator.script(TOKEN, [Step(fault=Fault.HANG)])
    provider = opened(request_timeout_s=0.3)
    assert await outcome_of(provider, sealed()) == Deferred(Cause.CONNECTION, "timeout")
    assert await outcome_of(provider, sealed(device("cd" * 32))) == Accepted()


async def test_token_that_apns_calls_expired_is_renewed_and_the_push_arrives(landscape: Landscape) -> None:
    # The clocks are 2000 s apart: what is 2000 s old for us is 4000 s old for APNs, which takes 3600.
    slot = time.time() // 2400 * 2400
    async with emulated(landscape, clock=lambda: slot + 4000) as emulator:
        provider = ApnsProvider.open(settings(landscape, emulator.port), clock=lambda: slot + 2000, sharing=Sharing())
        outcomes = [await outcome_of(provider, sealed()) for _ in range(3)]
        await provider.close()
    assert outcomes == [Accepted()] * 3
    assert emulator.counts["reason.ExpiredProviderToken"] == 1


async def test_connections_that_apns_ends_are_replaced(emulator: ApnsEmulator, provider: ApnsProvider) -> None:
    emulator.rules = ConnectionRules(goaway_after=5)
    tokens = [f"{number:064x}" for number in range(40)]
    outcomes = [await outcome_of(provider, sealed(device(token))) for token in tokens]
    assert outcomes == [Accepted()] * 40
    assert emulator.counts["connections"] >= 8


async def test_connection_that_answers_shutdown_is_left_and_what_flies_on_it_still_lands(
    emulator: ApnsEmulator, provider: ApnsProvider
) -> None:
    emulator.script("cd" * 32, [Step(delay_s=0.3)])
    emulator.script("ef" * 32, [Step(503, "Shutdown")])
    assert await outcome_of(provider, sealed()) == Accepted()
    flying = asyncio.create_task(outcome_of(provider, sealed(device("cd" * 32))))
    assert await outcome_of(provider, sealed(device("ef" * 32))) == Deferred(Cause.CONNECTION, "Shutdown")
    assert await outcome_of(provider, sealed()) == Accepted()
    assert emulator.counts["connections"] == 2
    assert await flying == Accepted()


async def test_certificate_proves_us_without_a_token(
    emulator: ApnsEmulator, opened: Open, landscape: Landscape
) -> None:
    certificate, key = landscape.write_push_certificate(BUNDLE_ID)
    provider = opened(certificate_file=certificate, certificate_key_file=key)
    assert await outcome_of(provider, sealed()) == Accepted()
    assert await outcome_of(provider, badge_only()) == Accepted()
    assert len(emulator.devices()[TOKEN]) == 2


async def test_certificate_for_another_topic_is_a_fault_of_credentials(opened: Open, landscape: Landscape) -> None:
    certificate, key = landscape.write_push_certificate("de.example.other")
    provider = opened(certificate_file=certificate, certificate_key_file=key)
    assert await outcome_of(provider, sealed()) == Deferred(Cause.CREDENTIALS, "BadTopic")


async def test_key_that_apns_does_not_know_is_a_fault_of_credentials(opened: Open) -> None:
    assert await outcome_of(opened(key_id="UNKNOWNKEY"), sealed()) == Deferred(
        Cause.CREDENTIALS, "InvalidProviderToken"
    )


async def test_topic_that_is_not_ours_is_a_fault_of_credentials(opened: Open) -> None:
    outcome = await outcome_of(opened(bundle_id="de.example.unknown"), sealed())
    assert outcome == Deferred(Cause.CREDENTIALS, "TopicDisallowed")


async def test_server_that_is_not_trusted_gets_nothing(emulator: ApnsEmulator, opened: Open, tmp_path: Path) -> None:
    stranger = Landscape(tmp_path / "stranger")
    assert await outcome_of(opened(ca_file=stranger.ca_file), sealed()) == Deferred(Cause.CONNECTION, "connect")
    assert "requests" not in emulator.counts


@pytest.mark.parametrize(
    ("name", "outcome", "arrived"),
    [("::1", Accepted(), 1), ("127.0.0.1", Deferred(Cause.CONNECTION, "connect"), 0)],
)
async def test_ipv6_endpoint_is_reached_where_the_certificate_carries_the_address(
    landscape: Landscape, tmp_path: Path, name: str, outcome: Outcome, arrived: int
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(tls)
    emulator = ApnsEmulator(tls=tls, keys=landscape.apns_keys, topics={BUNDLE_ID})
    await emulator.start("::1")
    try:
        more = {"endpoint": f"https://[::1]:{emulator.port}", "ca_file": tmp_path / "ca.pem"}
        provider = ApnsProvider.open(settings(landscape, 0, **more), clock=time.time, sharing=Sharing())
        assert await outcome_of(provider, sealed()) == outcome
        assert len(emulator.devices().get(TOKEN, [])) == arrived
        await provider.close()
    finally:
        await emulator.close()


async def test_nobody_there_is_deferred(landscape: Landscape) -> None:
    async with emulated(landscape) as emulator:
        port = emulator.port
    provider = ApnsProvider.open(settings(landscape, port), clock=time.time, sharing=Sharing())
    assert await outcome_of(provider, sealed()) == Deferred(Cause.CONNECTION, "connect")
    await provider.close()
