"""The message of FCM: what the phone reads, and how it is made to fit."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushgate.model import Counts, Delivery, Device, Prio
from pushgate.provider.fcm_payload import MAX_DATA_BYTES, Look, data_bytes, payload
from pushgate.provider.fcm_settings import RESERVED_KEYS, RESERVED_PREFIXES
from tests.provider_samples import CIPHERTEXT, NOW, TOKEN, badge_only, device, plain, sealed

A_LOOK = Look(False, ())
FLAT = Look(True, ())


def message(delivery: Delivery, look: Look = A_LOOK, now: float = NOW) -> dict[str, Any]:
    body = json.loads(payload(delivery, look, now=now))
    assert body.keys() == {"message"}
    found: dict[str, Any] = body["message"]
    return found


def data(delivery: Delivery, look: Look = A_LOOK) -> dict[str, str]:
    found: dict[str, str] = message(delivery, look)["data"]
    return found


def test_sealed_is_data_only_with_what_the_app_reads() -> None:
    assert message(sealed()) == {
        "token": TOKEN,
        "data": {
            "ciphertext": CIPHERTEXT,
            "time_message_encrypted": "2026-11",
            "key_identifier": "123e4567-e89b-12d3-a456-426614174000",
        },
        "android": {"priority": "NORMAL", "ttl": "86000s"},
    }


def test_sealed_with_identifier_and_counts_has_them_as_strings() -> None:
    found = data(sealed(identifier="abc", counts=Counts(unread=7, missed_calls=0)))
    assert (found["identifier"], found["unread"], found["missed_calls"]) == ("abc", "7", "0")


@pytest.mark.parametrize(("prio", "priority"), [(Prio.HIGH, "HIGH"), (Prio.LOW, "NORMAL")])
def test_prio_is_the_priority_of_android(prio: Prio, priority: str) -> None:
    assert message(sealed(prio=prio))["android"]["priority"] == priority
    assert message(plain(prio=prio))["android"]["priority"] == priority


@pytest.mark.parametrize(
    ("now", "ttl"), [(NOW, "86000s"), (NOW + 86_000, "0s"), (NOW + 90_000, "0s"), (NOW - 10_000, "86400s")]
)
def test_ttl_is_the_time_that_remains_never_negative_never_over_a_day(now: float, ttl: str) -> None:
    assert message(sealed(), now=now)["android"]["ttl"] == ttl


def test_plain_is_string_data_with_content_as_json() -> None:
    assert data(plain(room_alias="#ward:example.org")) == {
        "event_id": "$event:example.org",
        "room_id": "!room:example.org",
        "type": "m.room.message",
        "sender": "@alice:example.org",
        "sender_display_name": "Alice",
        "room_name": "Ward 3",
        "room_alias": "#ward:example.org",
        "content": '{"msgtype":"m.text","body":"Hello"}',
        "unread": "2",
        "missed_calls": "1",
        "prio": "high",
    }


def test_content_is_flattened_by_option() -> None:
    found = data(plain(content={"body": "Hello", "n": 1, "deep": {"a": None}, "from": "x", "google": "y"}), FLAT)
    assert "content" not in found
    assert {name: value for name, value in found.items() if name.startswith("content_")} == {
        "content_body": "Hello",
        "content_n": "1",
        "content_deep": '{"a":null}',
        "content_from": "x",
        "content_google": "y",
    }


def test_badge_only_is_counts_and_nothing_else() -> None:
    assert data(badge_only()) == {"unread": "3", "prio": "high"}


@pytest.mark.parametrize("delivery", [sealed, plain])
def test_only_listed_keys_of_the_data_are_forwarded_as_strings(delivery: Any) -> None:
    to = device(data={"theme": {"a": 1}, "url": "https://example.org", "secret": "x"})
    look = Look(False, ("theme", "url", "absent"))
    assert data(delivery(to), look) == data(delivery()) | {"theme": '{"a":1}', "url": "https://example.org"}
    assert data(delivery(), look) == data(delivery())


# Shortening

LIMIT_S = 0.05 if sys.gettrace() is None else 0.25
"""Of CPU time; a tracer (coverage) multiplies it."""

texts = st.text(st.characters(codec="utf-8"), max_size=3000)
keys = st.sampled_from(["from", "gcm", "google.x", "message_type", "body"]) | texts.map(lambda text: text[:40])


@given(
    names=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("type", "sender", "sender_display_name", "room_name", "room_alias"), texts)
    ),
    content=st.none() | st.dictionaries(keys, texts | st.integers(-5, 5) | st.lists(texts, max_size=2), max_size=6),
    forwarded=st.dictionaries(st.sampled_from(["f1", "f2"]), texts, max_size=2),
    flat=st.booleans(),
)
def test_data_is_strings_never_over_the_limit_without_reserved_keys_and_keeps_what_must_stay(
    names: dict[str, str], content: dict[str, Any] | None, forwarded: dict[str, str], flat: bool
) -> None:
    delivery = plain(device(data=forwarded), content=content, **names)
    look = Look(flat, ("f1", "f2"))
    found = data(delivery, look)
    size = sum(len(name.encode()) + len(value.encode()) for name, value in found.items())
    assert size == data_bytes(delivery, look) <= MAX_DATA_BYTES
    assert all(isinstance(value, str) for value in found.values())
    assert not any(name in RESERVED_KEYS or name.startswith(RESERVED_PREFIXES) for name in found)
    assert found["event_id"] == "$event:example.org"
    assert found["room_id"] == "!room:example.org"
    assert (found["unread"], found["missed_calls"]) == ("2", "1")
    if "content" in found:
        assert isinstance(json.loads(found["content"]), dict)


def long(to: Device | None = None, **more: Any) -> Delivery:
    fields: dict[str, Any] = {"content": {"msgtype": "m.text", "body": "b" * 2000}, "room_name": "n" * 3000}
    return plain(to, **fields | more)


def test_content_is_shortened_before_names_and_its_small_entries_stay() -> None:
    assert json.loads(data(long())["content"])["msgtype"] == "m.text"
    assert json.loads(data(long())["content"])["body"].endswith("b…")
    assert data(long())["room_name"] == "n" * 3000
    assert data(long(), FLAT)["content_msgtype"] == "m.text"
    assert data(long(), FLAT)["content_body"].endswith("b…")
    assert data_bytes(long(), FLAT) == MAX_DATA_BYTES


def test_names_are_shortened_before_what_was_forwarded() -> None:
    forwarding = Look(False, ("f1", "f2"))
    found = data(long(device(data={"f1": "x" * 2000}), room_name="n" * 5000), forwarding)
    assert "content" not in found
    assert found["room_name"].endswith("n…")
    assert found["f1"] == "x" * 2000
    found = data(long(device(data={"f1": "x" * 2000, "f2": "y" * 3000})), forwarding)
    assert not {"room_name", "sender", "f2"} & found.keys()
    assert found["f1"] == "x" * 2000


@pytest.mark.parametrize(
    "content",
    [
        {"body": "ä\n" * 250_000},
        {f"key{n}": "x" * 40 for n in range(10_000)},
        {"nested": [["x" * 100] * 100] * 50},
    ],
    ids=["one long text", "many entries", "nested"],
)
@pytest.mark.parametrize("look", [A_LOOK, FLAT], ids=["json", "flat"])
def test_half_a_megabyte_is_shortened_in_milliseconds(content: dict[str, Any], look: Look) -> None:
    delivery = plain(content=content, room_name="n" * 500_000)
    taken = []
    for _ in range(3):
        start = time.process_time()
        payload(delivery, look, now=NOW)
        taken.append(time.process_time() - start)
    assert data_bytes(delivery, look) <= MAX_DATA_BYTES
    assert min(taken) < LIMIT_S
