"""client.sender, client.attempts, client.errors, without a network: what goes out, when again, what is refused."""

from __future__ import annotations

import inspect
import ssl
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushgate.client import attempts, sender
from pushgate.client.attempts import Retries
from pushgate.client.blocking import Options
from pushgate.client.errors import ClientConfigError, GatewayRefused, GatewayUnavailable, RequestUnusable
from pushgate.client.sender import Item, PushGatewayClient
from pushgate.model import Counts, Device, EncryptedNotification, PlainNotification, Prio

PLAIN = PlainNotification(devices=(Device("de.example.app.apns", "pushkey-1"),), event_id="$1")


def sealed(ciphertext: str = "A" * 1404) -> EncryptedNotification:
    return EncryptedNotification(
        device=Device("de.example.app.apns", "pushkey-1"),
        ciphertext=ciphertext,
        time_message_encrypted="2026-07",
        key_identifier="key-1",
    )


@pytest.mark.parametrize("notification", [PLAIN, sealed()])
def test_prio_is_always_written(notification: PlainNotification | EncryptedNotification) -> None:
    assert msgspec.json.decode(sender._encoded(notification))["prio"] == "high"
    low = msgspec.structs.replace(notification, prio=Prio.LOW)
    assert msgspec.json.decode(sender._encoded(low))["prio"] == "low"


def test_a_notification_goes_out_in_the_api_s_own_words_and_without_what_is_not_given() -> None:
    rich = PlainNotification(
        devices=(Device("a", "k", 1634025600, {"format": "f"}, {"sound": "bing"}),),
        event_id="$1",
        user_is_target=True,
        content={"body": "ä", "nested": [1, None]},
        counts=Counts(unread=0),
    )
    assert msgspec.json.decode(sender._encoded(rich)) == {
        "prio": "high",
        "devices": [
            {
                "app_id": "a",
                "pushkey": "k",
                "pushkey_ts": 1634025600,
                "data": {"format": "f"},
                "tweaks": {"sound": "bing"},
            }
        ],
        "event_id": "$1",
        "user_is_target": True,
        "content": {"body": "ä", "nested": [1, None]},
        "counts": {"unread": 0},
    }


def nested(levels: int) -> dict[str, Any]:
    outer: dict[str, Any] = {}
    for _ in range(levels):
        outer = {"in": outer}
    return outer


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sender": "confidential \ud800"}, "UnicodeEncodeError"),
        ({"content": {"confidential": object()}}, "TypeError"),
        ({"content": nested(100_000)}, "RecursionError"),
    ],
)
def test_what_is_not_json_is_refused_without_repeating_it(change: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestUnusable, match=says) as caught:
        sender._encoded(msgspec.structs.replace(PLAIN, **change))
    assert "confidential" not in str(caught.value)
    assert caught.value.__cause__ is None


def part(id_: str, size: int) -> sender._Part:
    return sender._Part(id_, frozenset(), b"x" * size)


@given(sizes=st.lists(st.sampled_from([10, 2_000, 70_000, 256_000, 300_000]), max_size=260))
def test_every_request_is_within_the_limits_and_none_is_lost(sizes: list[int]) -> None:
    parts = [part(str(number), size) for number, size in enumerate(sizes)]
    requests = list(sender._requests(parts))
    assert [one.id for request in requests for one in request] == [one.id for one in parts]
    for request in requests:
        assert 1 <= len(request) <= 100
        assert len(request) == 1 or sum(len(one.body) + 1 for one in request) - 1 + 20 <= 256_000


def test_a_hundred_sealed_notifications_fit_into_one_request() -> None:
    device = Device("de.example.app.apns", "k" * 512, 1634025600)
    parts = [
        sender._Part.of(msgspec.structs.replace(sealed(), device=device, key_identifier=f"{number:036}"))
        for number in range(100)
    ]
    assert len(list(sender._requests(parts))) == 1


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([Item(PLAIN, "a"), PLAIN, Item(PLAIN, "a")], "two items have the id 'a'"),
        ([Item(PLAIN, "a" * 65)], "65 characters"),
    ],
)
async def test_ids_that_the_gateway_would_refuse_are_refused_before_anything_is_sent(
    items: list[Any], says: str
) -> None:
    async with PushGatewayClient("https://push.example.org/push/v1") as client:
        with pytest.raises(RequestUnusable, match=says):
            await client.notify_batch(items)


async def test_a_ciphertext_of_another_length_is_refused_for_it_would_cost_the_whole_batch() -> None:
    async with PushGatewayClient("https://push.example.org/push/v1") as client:
        with pytest.raises(RequestUnusable, match="item 'x' has not 1404"):
            await client.notify_encrypted_batch([Item(sealed(), "w"), Item(sealed("short"), "x")])


def test_ids_of_our_own_are_uuids_and_given_ones_are_kept() -> None:
    assert len(sender._Part.of(PLAIN).id) == 36
    assert sender._Part.of(PLAIN).id != sender._Part.of(PLAIN).id
    assert sender._Part.of(Item(PLAIN, 'qu"ote')).id == 'qu"ote'
    assert msgspec.json.decode(sender._Part.of(Item(PLAIN, 'qu"ote')).body)["id"] == 'qu"ote'


@pytest.mark.parametrize(
    ("base_url", "says"),
    [
        ("https://push.example.org/", "ends in /push/v1/"),
        ("https://push.example.org/push/v1/notify", "ends in /push/v1/"),
        ("https://push.example.org/_matrix/push/v2/", "ends in /push/v1/"),
        ("https://push.example.org/notpush/v1/", "ends in /push/v1/"),
        ("ftp://push.example.org/push/v1/", "https://"),
        ("push.example.org/push/v1/", "https://"),
        ("/push/v1/", "https://"),
        ("https:///push/v1/", "https://"),
        ("https://[::1/push/v1/", "not a URL"),
        ("https://user:word@push.example.org/push/v1/", "no user"),
        ("https://push.example.org/push/v1/?a=b", "no user, query"),
        ("https://push.example.org/push/v1/#a", "no user, query"),
        ("http://push.example.org/push/v1/", "plain http beyond loopback"),
        ("http://192.0.2.1/push/v1/", "plain http beyond loopback"),
    ],
)
def test_an_address_that_is_no_gateway_s_is_refused(base_url: str, says: str) -> None:
    with pytest.raises(ClientConfigError, match=says) as caught:
        PushGatewayClient(base_url)
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("base_url", "options"),
    [
        ("https://push.example.org/push/v1/", {}),
        ("https://push.example.org:8443/tenant/push/v1", {}),
        ("http://127.0.0.1:8080/push/v1/", {}),
        ("http://localhost:8080/push/v1/", {}),
        ("http://[::1]:8080/push/v1/", {}),
        ("http://gateway.example.org/push/v1/", {"allow_http": True}),
    ],
)
async def test_an_address_of_a_gateway_is_taken(base_url: str, options: dict[str, Any]) -> None:
    client = PushGatewayClient(base_url, **options)
    await client.close()
    await client.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key_file": "k.pem"}, "needs its cert_file"),
        ({"cert_file": "/nonexistent/c.pem", "key_file": "k.pem"}, "cannot load cert_file /nonexistent/c.pem"),
        ({"ca_file": "/nonexistent/ca.pem"}, "cannot load ca_file /nonexistent/ca.pem"),
    ],
)
def test_certificates_that_cannot_be_used_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ClientConfigError, match=says):
        PushGatewayClient("https://push.example.org/push/v1/", **options)


def test_certificates_that_would_not_be_used_are_refused() -> None:
    with pytest.raises(ClientConfigError, match="plain http"):
        PushGatewayClient("http://127.0.0.1/push/v1/", cert_file="c.pem")


def test_the_blocking_client_has_the_same_options() -> None:
    parameters = inspect.signature(PushGatewayClient).parameters.values()
    assert [one.name for one in parameters if one.kind is one.KEYWORD_ONLY] == list(Options.__annotations__)


def test_waits_double_up_to_the_longest_and_then_end() -> None:
    retries = Retries(count=4, base_delay_s=1.0, max_delay_s=5.0, jitter=0.5)
    waits = [retries.delay_s(retry=number, retry_after_s=None, chance=0.0) for number in range(1, 6)]
    assert waits == [1.0, 2.0, 4.0, 5.0, None]
    assert retries.delay_s(retry=2, retry_after_s=None, chance=1.0) == 3.0
    assert Retries(count=0).delay_s(retry=1, retry_after_s=None, chance=0.0) is None
    assert Retries(count=5000).delay_s(retry=5000, retry_after_s=None, chance=0.0) == 60.0


def test_the_gateway_s_own_wait_is_never_cut_short() -> None:
    retries = Retries(count=2, base_delay_s=1.0, max_delay_s=60.0)
    assert retries.delay_s(retry=1, retry_after_s=30.0, chance=0.0) == 30.0
    assert retries.delay_s(retry=1, retry_after_s=0.0, chance=0.0) == 0.0
    assert retries.delay_s(retry=1, retry_after_s=60.1, chance=0.0) is None
    assert retries.delay_s(retry=3, retry_after_s=1.0, chance=0.0) is None


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        ("CERTIFICATE_VERIFY_FAILED", "CERTIFICATE_VERIFY_FAILED"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "TLSV13_ALERT_CERTIFICATE_REQUIRED"),
        ("TLSV1_ALERT_INTERNAL_ERROR", ""),
        ("UNEXPECTED_EOF_WHILE_READING", ""),
        (None, ""),
    ],
)
def test_only_a_verdict_about_certificates_ends_the_retries(reason: str | None, verdict: str) -> None:
    fault = ssl.SSLError(1, "tls")
    fault.reason = reason  # type: ignore[assignment] # None is what OpenSSL leaves in some
    error = httpx.ConnectError("tls")
    error.__context__ = fault
    assert attempts._tls_verdict(error, outer=None) == verdict


def test_a_message_repeats_only_the_api_s_own_words() -> None:
    refused = GatewayRefused(400, "Invalid data format", {"path": "$.notifications"})
    assert str(refused) == "the gateway answered 400 Bad Request: Invalid data format"
    assert str(GatewayRefused(400, "no such pushkey: pushkey-1", {})) == "the gateway answered 400 Bad Request"
    assert str(GatewayRefused(499, "", {})) == "the gateway answered 499"
    gone = GatewayUnavailable("503 Service Unavailable", attempts=4, status=503, retry_after_s=None)
    assert str(gone) == "the gateway is unavailable after 4 attempts: 503 Service Unavailable"


def test_what_goes_out_does_not_print() -> None:
    item = Item(PLAIN, "a")
    assert repr(item) == "Item(id='a')"
    assert item.__rich_repr__() == [("id", "a")]
    assert repr(sender._Part.of(item)) == "_Part(id='a')"
