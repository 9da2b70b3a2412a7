"""The payload of APNs: what the phone reads, and how it is made to fit."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushgate.model import Counts, Delivery
from pushgate.provider.apns_payload import MAX_PAYLOAD_BYTES, Look, is_background, look, payload
from pushgate.provider.apns_settings import Alert, Settings
from tests.provider_samples import CIPHERTEXT, badge_only, device, plain, sealed

NEUTRAL = {"title": "New notification"}


def a_look(**more: Any) -> Look:
    fields = {"bundle_id": "de.example.app", "alert": Alert(title="New notification")} | more
    return look(Settings.model_construct(**(Settings.model_construct().__dict__ | fields)))


def read(delivery: Delivery, the_look: Look | None = None) -> dict[str, Any]:
    body = payload(delivery, the_look or a_look())
    decoded: dict[str, Any] = json.loads(body)
    return decoded


# Sealed


def test_sealed_carries_what_the_extension_reads_beside_a_neutral_visible_alert() -> None:
    assert read(sealed()) == {
        "aps": {"alert": NEUTRAL, "mutable-content": 1},
        "ciphertext": CIPHERTEXT,
        "time_message_encrypted": "2026-11",
        "key_identifier": "123e4567-e89b-12d3-a456-426614174000",
    }


def test_sealed_with_identifier_and_counts_carries_identifier_and_badge() -> None:
    found = read(sealed(identifier="abc", counts=Counts(unread=7)))
    assert found["identifier"] == "abc"
    assert found["aps"]["badge"] == 7


def test_sealed_forwards_only_listed_keys_of_the_data() -> None:
    delivery = sealed(device(data={"theme": {"a": 1}, "secret": "x"}))
    assert read(delivery, a_look(forward_data=("theme", "absent"))) == read(delivery) | {"theme": {"a": 1}}
    assert read(sealed(), a_look(forward_data=("theme",))) == read(sealed())


# Plain


def test_plain_shows_names_and_carries_its_fields() -> None:
    assert read(plain(room_alias="#ward:example.org")) == {
        "aps": {
            "alert": {"title": "Alice", "subtitle": "Ward 3", "body": "New notification"},
            "mutable-content": 1,
            "badge": 2,
        },
        "event_id": "$event:example.org",
        "room_id": "!room:example.org",
        "type": "m.room.message",
        "sender": "@alice:example.org",
        "sender_display_name": "Alice",
        "room_name": "Ward 3",
        "room_alias": "#ward:example.org",
        "content": {"msgtype": "m.text", "body": "Hello"},
    }


@pytest.mark.parametrize(
    ("names", "alert"),
    [
        ({}, NEUTRAL),
        ({"room_name": "Ward 3"}, {"title": "Ward 3", "body": "New notification"}),
        ({"room_alias": "#w:x"}, {"title": "#w:x", "body": "New notification"}),
        ({"sender_display_name": "Alice"}, {"title": "Alice", "body": "New notification"}),
        ({"sender_display_name": "Alice", "room_name": "Alice"}, {"title": "Alice", "body": "New notification"}),
        (
            {"sender_display_name": "Alice", "room_name": "W", "room_alias": "#w:x"},
            {"title": "Alice", "subtitle": "W", "body": "New notification"},
        ),
    ],
)
def test_alert_of_a_plain_one_names_who_and_where(names: dict[str, str], alert: dict[str, str]) -> None:
    fields: dict[str, Any] = {"sender_display_name": None, "room_name": None} | names
    delivery = plain(**fields)
    assert read(delivery)["aps"]["alert"] == alert


@pytest.mark.parametrize(
    ("configured", "alert"),
    [
        (Alert(body="Open the app"), {"title": "Alice", "body": "Open the app"}),
        (Alert(title="A", body="B"), {"title": "Alice", "body": "B"}),
        (
            Alert(title_loc_key="T", title_loc_args=("1",)),
            {"title": "Alice", "loc-key": "T", "loc-args": ["1"]},
        ),
        (Alert(loc_key="L", loc_args=("1", "2")), {"title": "Alice", "loc-key": "L", "loc-args": ["1", "2"]}),
    ],
)
def test_configured_text_stands_below_the_names(configured: Alert, alert: dict[str, Any]) -> None:
    assert read(plain(room_name=None), a_look(alert=configured))["aps"]["alert"] == alert


def test_configured_loc_keys_go_out_under_apples_names() -> None:
    alert = Alert(title_loc_key="T", subtitle_loc_key="S", subtitle_loc_args=("s",), loc_key="L", loc_args=("1",))
    assert read(sealed(), a_look(alert=alert))["aps"]["alert"] == {
        "title-loc-key": "T",
        "subtitle-loc-key": "S",
        "subtitle-loc-args": ["s"],
        "loc-key": "L",
        "loc-args": ["1"],
    }


# Badge


def test_badge_only_updates_the_badge_and_shows_nothing() -> None:
    assert read(badge_only()) == {"aps": {"badge": 3}}
    assert read(badge_only(Counts(unread=0))) == {"aps": {"badge": 0}}
    assert not is_background(badge_only(), a_look())


def test_count_without_a_number_for_the_badge_is_a_background_update() -> None:
    delivery = badge_only(Counts(missed_calls=2))
    assert is_background(delivery, a_look())
    assert read(delivery) == {"aps": {"content-available": 1}}
    assert read(delivery, a_look(badge_includes_missed_calls=True)) == {"aps": {"badge": 2}}


def test_notification_about_nothing_at_all_is_still_seen() -> None:
    delivery = plain(event_id=None, counts=None, sender_display_name=None, room_name=None)
    assert not is_background(delivery, a_look())
    assert read(delivery)["aps"] == {"alert": NEUTRAL, "mutable-content": 1}


@pytest.mark.parametrize(
    ("counts", "included", "badge"),
    [
        (Counts(unread=2, missed_calls=3), False, 2),
        (Counts(unread=2, missed_calls=3), True, 5),
        (Counts(unread=2), True, 2),
        (Counts(missed_calls=3), True, 3),
        (Counts(missed_calls=3), False, None),
        (Counts(unread=-4), False, 0),
        (Counts(unread=2**40), False, 2**31 - 1),
        (Counts(), False, None),
        (None, False, None),
    ],
)
def test_badge_is_unread_and_by_option_missed_calls(counts: Counts | None, included: bool, badge: int | None) -> None:
    assert read(sealed(counts=counts), a_look(badge_includes_missed_calls=included))["aps"].get("badge") == badge


# Shortening

LIMIT_S = 0.05 if sys.gettrace() is None else 0.25
"""Of CPU time; a tracer (coverage) multiplies it."""

texts = st.text(st.characters(codec="utf-8"), max_size=3000)
contents = st.dictionaries(
    texts.map(lambda text: text[:40]),
    texts | st.integers(-5, 5) | st.lists(texts, max_size=2) | st.none(),
    max_size=6,
)


@given(
    names=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("type", "sender", "sender_display_name", "room_name", "room_alias"), texts)
    ),
    content=st.none() | contents,
    data=st.dictionaries(st.sampled_from(["f1", "f2"]), texts, max_size=2),
    event_id=st.none() | st.text(st.characters(codec="utf-8"), max_size=255),
)
def test_payload_is_valid_json_never_over_the_limit_and_keeps_what_must_stay(
    names: dict[str, str], content: dict[str, Any] | None, data: dict[str, str], event_id: str | None
) -> None:
    delivery = plain(device(data=data), event_id=event_id, content=content, **names)
    body = payload(delivery, a_look(forward_data=("f1", "f2")))
    assert len(body) <= MAX_PAYLOAD_BYTES
    found = json.loads(body)
    assert found.get("event_id") == event_id
    assert found["room_id"] == "!room:example.org"
    assert found["aps"]["badge"] == 2


def full() -> dict[str, Any]:
    return {
        "content": {"msgtype": "m.text", "body": "b" * 900},
        "room_name": "n" * 900,
        "sender_display_name": "s" * 900,
    }


def test_content_is_shortened_before_names_and_its_small_entries_stay() -> None:
    found = read(plain(**full()))
    assert found["content"]["msgtype"] == "m.text"
    assert found["content"]["body"].endswith("b…")
    assert found["room_name"] == "n" * 900
    assert found["sender_display_name"] == "s" * 900
    assert len(payload(plain(**full()), a_look())) > MAX_PAYLOAD_BYTES - 10


def test_names_are_shortened_before_the_text_of_the_alert() -> None:
    found = read(plain(**full() | {"room_name": "n" * 1500, "sender_display_name": "s" * 700}))
    assert "content" not in found
    assert found["room_name"].endswith("n…")
    assert found["sender_display_name"] == "s" * 700
    assert found["aps"]["alert"]["subtitle"] == "n" * 1500


def test_text_of_the_alert_is_shortened_last() -> None:
    found = read(plain(**full() | {"room_name": "n" * 3000, "sender_display_name": "s" * 3000}))
    assert not {"content", "room_name", "sender_display_name", "sender", "type"} & found.keys()
    assert found["aps"]["alert"]["subtitle"].endswith("n…")
    assert found["aps"]["alert"]["title"] == "s" * 3000
    found = read(plain(**full() | {"room_name": "n" * 3000, "sender_display_name": "s" * 5000}))
    assert "subtitle" not in found["aps"]["alert"]
    assert found["aps"]["alert"]["title"].endswith("s…")


def test_names_are_shortened_where_there_is_no_content() -> None:
    found = read(plain(content=None, room_name="n" * 2500))
    assert found["room_name"].endswith("n…")
    assert found["aps"]["alert"]["subtitle"] == "n" * 2500


def test_what_was_forwarded_goes_when_nothing_else_is_left_to_cut() -> None:
    data = {"f1": "x" * 1000, "f2": "y" * 4000}
    found = read(plain(device(data=data)), a_look(forward_data=("f1", "f2")))
    assert found["f1"] == "x" * 1000
    assert "f2" not in found


def test_emojis_and_quotes_are_never_cut_in_half() -> None:
    for text in ("👩‍🚀" * 3000, '"\\\n' * 3000, "\x01ä" * 3000):
        found = read(plain(content={"body": text}))
        assert text.startswith(found["content"]["body"][:-1])
        assert len(payload(plain(content={"body": text}), a_look())) > MAX_PAYLOAD_BYTES - 20


@pytest.mark.parametrize(
    "content",
    [
        {"body": "ä\n" * 250_000},
        {f"key{n}": "x" * 40 for n in range(10_000)},
        {"nested": [["x" * 100] * 100] * 50},
    ],
    ids=["one long text", "many entries", "nested"],
)
def test_half_a_megabyte_is_shortened_in_milliseconds(content: dict[str, Any]) -> None:
    delivery = plain(content=content, room_name="n" * 500_000)
    the_look = a_look()
    taken = []
    for _ in range(3):
        start = time.process_time()
        assert len(payload(delivery, the_look)) <= MAX_PAYLOAD_BYTES
        taken.append(time.process_time() - start)
    assert min(taken) < LIMIT_S
