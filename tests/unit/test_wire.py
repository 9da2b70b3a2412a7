"""wire: what is valid, which error comes first, and that no error repeats what was sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushgate import wire
from pushgate.errors import RequestError
from pushgate.model import Prio
from pushgate.wire import Limits, Verdict
from tests.samples import CIPHERTEXT, SECRET_MARK, badge_only, batch, body, device, encrypted, plain

LIMITS = Limits(max_request_kb=1024, max_notification_kb=64)
Decode = Callable[[bytes, Limits], object]


def refusal(decode: Decode, request: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode(request, LIMITS)
    return caught.value


def without(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: each for key, each in value.items() if key not in keys}


def test_a_plain_notification_keeps_every_field() -> None:
    notification = wire.decode_notify(
        body({"notification": plain(device(data={"format": "x"}, tweaks={"s": 1}))}), LIMITS
    )
    assert notification.event_id == "$event:example.org"
    assert notification.counts is not None
    assert notification.counts.unread == 2
    assert notification.content == {"msgtype": "m.text", "body": "Hello"}
    assert notification.devices[0].data == {"format": "x"}
    assert notification.devices[0].tweaks == {"s": 1}


def test_an_encrypted_notification_keeps_every_field() -> None:
    (item,) = wire.decode_encrypted_batch(body(batch(encrypted(identifier="i", counts={"unread": 1}))), LIMITS)
    assert item.id == "item-0"
    assert item.notification.ciphertext == CIPHERTEXT
    assert item.notification.prio is Prio.LOW
    assert item.notification.identifier == "i"


@pytest.mark.parametrize("prio", [{}, {"prio": None}, {"prio": "high"}])
def test_prio_missing_or_null_is_high(prio: dict[str, Any]) -> None:
    wanted = {**without(encrypted(), "prio"), **prio}
    (item,) = wire.decode_encrypted_batch(body(batch(wanted)), LIMITS)
    assert item.notification.prio is Prio.HIGH
    notification = wire.decode_notify(body({"notification": {**without(plain(), "prio"), **prio}}), LIMITS)
    assert notification.prio is Prio.HIGH


def test_an_integer_may_be_written_as_a_number_without_a_fraction() -> None:
    sealed = encrypted(device=device(pushkey_ts=1.634e9), counts={"unread": 2.0, "missed_calls": -0.0})
    (item,) = wire.decode_encrypted_batch(body(batch(sealed)), LIMITS)
    assert item.notification.device.pushkey_ts == 1_634_000_000
    assert item.notification.counts is not None
    assert (item.notification.counts.unread, item.notification.counts.missed_calls) == (2, 0)
    notification = wire.decode_notify(body({"notification": plain(device(), device(pushkey_ts=1.0))}), LIMITS)
    assert notification.devices[1].pushkey_ts == 1
    assert refusal(wire.decode_notify, body({"notification": plain(device(pushkey_ts=1e30))})).status == 400


def test_a_badge_update_with_nulls_and_no_prio_is_valid() -> None:
    assert wire.decode_notify(body({"notification": badge_only()}), LIMITS).type is None


def test_null_for_an_optional_field_is_absent() -> None:
    names = ["event_id", "room_id", "type", "sender", "sender_display_name", "room_name", "room_alias"]
    names += ["user_is_target", "content", "counts"]
    sent = plain(device(data=None, tweaks=None, pushkey_ts=None), **dict.fromkeys(names))
    notification = wire.decode_notify(body({"notification": sent}), LIMITS)
    assert all(getattr(notification, name) is None for name in names)


def test_unknown_fields_are_tolerated_everywhere() -> None:
    odd = {"x": [1, {"y": None}]}
    request = {**batch({**encrypted(), **odd, "device": {**device(), **odd}}), **odd}
    request["notifications"][0].update(odd)
    assert len(wire.decode_encrypted_batch(body(request), LIMITS)) == 1


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"ciphertext": CIPHERTEXT[:-1]}, "$.notifications[0].notification.ciphertext"),
        ({"ciphertext": CIPHERTEXT + "A"}, "$.notifications[0].notification.ciphertext"),
        ({"ciphertext": None}, "$.notifications[0].notification.ciphertext"),
        ({"key_identifier": 7}, "$.notifications[0].notification.key_identifier"),
        ({"prio": "normal"}, "$.notifications[0].notification.prio"),
        ({"prio": 1}, "$.notifications[0].notification.prio"),
        ({"counts": {"unread": "2"}}, "$.notifications[0].notification.counts.unread"),
        ({"counts": {"unread": 1.5}}, "$.notifications[0].notification.counts.unread"),
        ({"counts": {"unread": 2**63}}, "$.notifications[0].notification.counts.unread"),
        ({"device": {"app_id": "a"}}, "$.notifications[0].notification.device"),
        ({"device": {"app_id": "a", "pushkey": ["b"]}}, "$.notifications[0].notification.device.pushkey"),
        ({"device": device(pushkey_ts=-(2**63) - 1)}, "$.notifications[0].notification.device.pushkey_ts"),
        ({"device": device(pushkey_ts=True)}, "$.notifications[0].notification.device.pushkey_ts"),
        ({"device": device(data={"n": {"m": [2**64]}})}, "$.notifications[0].notification"),
        ({"device": device(tweaks={"n": -(2**70)})}, "$.notifications[0].notification"),
        ({"device": device(data="x")}, "$.notifications[0].notification.device.data"),
        ({"device": device(data={"format": []})}, "$.notifications[0].notification.device.data.format"),
        ({"device": [device()]}, "$.notifications[0].notification.device"),
    ],
)
def test_an_invalid_encrypted_item_is_named_by_its_path(change: dict[str, Any], path: str) -> None:
    fault = refusal(wire.decode_encrypted_batch, body(batch({**encrypted(), **change})))
    assert (fault.status, fault.error) == (400, "Invalid data format")
    assert fault.details is not None
    assert fault.details["path"] == path


@pytest.mark.parametrize(
    "change",
    [{"devices": None}, {"devices": {}}, {"content": []}, {"content": {"a": 2**64}}, {"user_is_target": "yes"}],
)
def test_an_invalid_plain_notification_is_400(change: dict[str, Any]) -> None:
    for decode, request in (
        (wire.decode_notify, {"notification": plain(**change)}),
        (wire.decode_batch, batch(plain(**change))),
    ):
        fault = refusal(decode, body(request))
        assert (fault.status, fault.error) == (400, "Invalid data format")


def test_a_format_that_is_no_text_is_named_by_its_path_and_may_be_null() -> None:
    wrong = plain(device(data={"format": None}), device(data={}), device(data={"format": 1}))
    for decode, request, start in (
        (wire.decode_notify, {"notification": wrong}, "$.notification"),
        (wire.decode_batch, batch(plain(), wrong), "$.notifications[1].notification"),
    ):
        fault = refusal(decode, body(request))
        assert (fault.status, fault.error) == (400, "Invalid data format")
        assert fault.details == {"path": f"{start}.devices[2].data.format", "reason": "Expected `str`"}


@pytest.mark.parametrize("prio", ["x - at `pushkey-of-alice`", "` - at `$.pushkey-of-alice`", "pushkey-of-alice\n"])
def test_a_word_that_is_not_allowed_is_not_repeated_however_it_is_written(prio: str) -> None:
    fault = refusal(wire.decode_encrypted_batch, body(batch(encrypted(prio=prio))))
    assert fault.details is not None
    assert fault.details["reason"] == "not one of the allowed words"
    assert "alice" not in str(fault.details)


DEEP = 10_000


@pytest.mark.parametrize(
    "request_body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"{}",
        b'{"notifications":[]}',
        b'{"notifications":{}}',
        b'{"notifications":[null]}',
        b"\xff\xfe{}",
        b'{"notifications":[], "x":"\xff"}',
        b'\xef\xbb\xbf{"notifications":[]}',
        b'{"notifications":[NaN]}',
        b'{"notifications":[], "x":Infinity}',
        b'{"notifications":[], "x":1e999}',
        b'{"notifications":[], "x":"\\ud800"}',
        b'{"notifications":[], "x":"\\udc00\\ud800"}',
        b'{"notifications":[], "x":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"notifications":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"x":' * DEEP + b"1" + b"}" * DEEP,
        b'{"notifications":[{"id":1,"notification":{}}]}',
        b'{"notifications":[]} trailing',
    ],
)
def test_what_is_not_a_batch_is_400_without_repeating_it(request_body: bytes) -> None:
    for decode in (wire.decode_batch, wire.decode_encrypted_batch):
        fault = refusal(decode, request_body)
        assert (fault.status, fault.error) == (400, "Invalid data format")
        assert fault.details is not None
        assert set(fault.details) == {"path", "reason"}


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"x": value}
    return value


@pytest.mark.parametrize("text", ["plain", "[{brackets", 'quo"te', "back\\slash\\", '\\"[', '[]{}"[]'])
def test_nesting_is_limited_to_64_levels_wherever_it_is(text: str) -> None:
    around = 4  # body, list, item, notification
    for field, place in (("content", 1), ("unknown", 1)):
        kept = {**plain(), "room_name": text, field: nested(wire.MAX_NESTING - around)}
        wire.decode_batch(body(batch(kept)), LIMITS)
        deep = {**plain(), "room_name": text, field: nested(wire.MAX_NESTING - around + place)}
        fault = refusal(wire.decode_batch, body(batch(deep)))
        assert fault.details == {"path": "$", "reason": "nested deeper than 64 levels"}


def test_errors_come_in_the_order_of_the_contract() -> None:
    big = plain(content={"body": "x" * 70_000})
    items = batch(*[big] * 102)["notifications"]
    items[1]["id"] = items[0]["id"]
    items[101]["notification"] = {"devices": 7}
    request = {"notifications": items}
    assert refusal(wire.decode_batch, body(request)).error == "Invalid data format"
    items[101]["notification"] = big
    fault = refusal(wire.decode_batch, body(request))
    assert (fault.error, fault.details) == ("Batch size exceeds maximum limit", {"max_batch_size": 100})
    del items[100:]
    fault = refusal(wire.decode_batch, body(request))
    assert (fault.error, fault.details) == ("Duplicate notification IDs in batch", {"duplicate_ids": ["item-0"]})
    items[1]["id"] = "other"
    fault = refusal(wire.decode_batch, body(request))
    assert (fault.error, fault.details) == ("Individual notification too large", {"max_notification_size_kb": 64})


def test_duplicate_ids_are_told_once_each_and_identical_items_are_duplicates() -> None:
    items = [{"id": name, "notification": encrypted()} for name in ("a", "b", "a", "a", "c", "b")]
    fault = refusal(wire.decode_encrypted_batch, body({"notifications": items}))
    assert fault.details == {"duplicate_ids": ["a", "b"]}


def test_an_id_has_at_most_64_characters() -> None:
    good = {"notifications": [{"id": "ü" * 64, "notification": encrypted()}]}
    assert len(wire.decode_encrypted_batch(body(good), LIMITS)) == 1
    good["notifications"][0]["id"] = "a" * 65
    assert refusal(wire.decode_encrypted_batch, body(good)).error == "Invalid data format"


def test_a_batch_of_100_full_ones_is_valid() -> None:
    assert len(wire.decode_encrypted_batch(body(batch(*[encrypted()] * 100)), LIMITS)) == 100


def sized(notification_bytes: int) -> bytes:
    """A `/notify` body whose notification object has exactly so many bytes."""
    empty = len(body(plain(content={"body": ""})))
    return body({"notification": plain(content={"body": "x" * (notification_bytes - empty)})})


def test_one_notification_may_have_exactly_its_limit() -> None:
    limit = 64 * 1024
    wire.decode_notify(sized(limit), LIMITS)
    fault = refusal(wire.decode_notify, sized(limit + 1))
    assert (fault.status, fault.error) == (413, "Notification object is too large.")
    assert fault.details == {"max_request_size_kb": 1024, "max_notification_size_kb": 64}
    padded = sized(limit)[:-1] + b', "unknown": "' + b"x" * 100_000 + b'"}'
    wire.decode_notify(padded, LIMITS)


@pytest.mark.parametrize("other", [5, [1], [{"notification": "x" * 70_000}], None])
def test_a_field_of_the_other_api_is_unknown_and_does_not_count(other: object) -> None:
    wire.decode_notify(body({"notification": plain(), "notifications": other, "x": "y" * 70_000}), LIMITS)
    wire.decode_batch(body({**batch(plain()), "notification": other, "x": "y" * 70_000}), LIMITS)


def test_an_encrypted_item_with_much_that_is_unknown_is_too_large() -> None:
    request = batch(*[encrypted()] * 99, encrypted(unknown="x" * 65_536))
    assert refusal(wire.decode_encrypted_batch, body(request)).error == "Individual notification too large"


@given(st.binary(max_size=400))
def test_any_bytes_are_valid_or_400(raw: bytes) -> None:
    for decode in (wire.decode_notify, wire.decode_batch, wire.decode_encrypted_batch):
        try:
            decode(raw, LIMITS)
        except RequestError as fault:
            assert fault.status == 400


@given(st.data())
def test_any_mutation_is_valid_or_400_and_never_told_back(data: st.DataObject) -> None:
    raw = bytearray(body(batch(encrypted())))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        wire.decode_encrypted_batch(bytes(raw), LIMITS)
    except RequestError as fault:
        assert fault.status == 400
        assert SECRET_MARK not in str(fault.details)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@given(st.lists(st.dictionaries(st.sampled_from(["id", "notification"]), JSON), max_size=3) | JSON)
def test_any_json_is_valid_or_400(value: object) -> None:
    for request in (value, {"notifications": value}, {"notification": value}):
        test_bytes = json.dumps(request).encode()
        for decode in (wire.decode_notify, wire.decode_batch, wire.decode_encrypted_batch):
            try:
                decode(test_bytes, LIMITS)
            except RequestError as fault:
                assert fault.status == 400


def test_results_stand_in_the_order_submitted_and_are_summed() -> None:
    verdicts = [Verdict(1), Verdict(1, ("key",)), Verdict(0, (), "no devices"), Verdict(2, (), "unknown app_id 'x'")]
    answer = json.loads(wire.encode_batch(["d", "a", "c", "b"], verdicts))
    assert answer["results"] == [
        {"id": "d", "status": "success", "rejected": []},
        {"id": "a", "status": "partial", "rejected": ["key"]},
        {"id": "c", "status": "failed", "rejected": [], "error": "no devices"},
        {"id": "b", "status": "success", "rejected": [], "error": "unknown app_id 'x'"},
    ]
    assert answer["summary"] == {"total": 4, "successful": 2, "failed": 1, "partial": 1}


def test_rejected_is_always_a_list() -> None:
    assert wire.encode_notify(Verdict(1)) == b'{"rejected":[]}'
    assert wire.encode_notify(Verdict(0, ("k",))) == b'{"rejected":["k"]}'


def test_an_error_has_details_only_when_there_are_some() -> None:
    assert wire.encode_error("x") == b'{"error":"x"}'
    assert wire.encode_error("x", {"a": 1}) == b'{"error":"x","details":{"a":1}}'


def test_a_verdict_does_not_print_pushkeys() -> None:
    assert "key-of-alice" not in repr(Verdict(1, ("key-of-alice",)))
    assert "key-of-alice" not in repr(Verdict(1, ("key-of-alice",)).__rich_repr__())
