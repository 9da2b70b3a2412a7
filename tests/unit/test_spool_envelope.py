"""envelope: a delivery comes back from its bytes as it was, and bytes that are none say so and nothing more."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushgate.model import CIPHERTEXT_CHARS, Counts, Delivery, Device, EncryptedNotification, PlainNotification, Prio
from pushgate.spool.envelope import Unreadable, decode, encode

SECRET = "swordfish"

characters = st.characters(exclude_categories=["Cs"])
texts = st.text(characters, max_size=20)
numbers = st.integers(-(2**63), 2**63 - 1)
times = st.floats(0, 4e9)
content = st.dictionaries(
    texts,
    st.recursive(
        st.none() | st.booleans() | numbers | st.floats(allow_nan=False) | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
devices = st.builds(
    Device,
    app_id=texts,
    pushkey=texts,
    pushkey_ts=st.none() | numbers,
    data=st.none() | content,
    tweaks=st.none() | content,
)
counts = st.none() | st.builds(Counts, unread=st.none() | numbers, missed_calls=st.none() | numbers)
maybe = st.none() | texts
sealed = st.builds(
    EncryptedNotification,
    device=devices,
    ciphertext=characters.map(lambda each: each * CIPHERTEXT_CHARS),
    time_message_encrypted=texts,
    key_identifier=texts,
    identifier=maybe,
    prio=st.sampled_from(Prio),
    counts=counts,
)
plain = st.builds(
    PlainNotification,
    devices=st.tuples(devices),
    event_id=maybe,
    room_id=maybe,
    type=maybe,
    sender=maybe,
    sender_display_name=maybe,
    room_name=maybe,
    room_alias=maybe,
    user_is_target=st.none() | st.booleans(),
    prio=st.sampled_from(Prio),
    content=st.none() | content,
    counts=counts,
)


def delivery(
    notification: EncryptedNotification | PlainNotification,
    *,
    accepted_at: float = 1_760_000_000.25,
    expires_at: float = 1_760_086_400.25,
    fingerprint: bytes = b"",
) -> Delivery:
    return Delivery(
        id="6ff4c9d4-0000-4000-8000-000000000000",
        device=notification.device if isinstance(notification, EncryptedNotification) else notification.devices[0],
        notification=notification,
        accepted_at=accepted_at,
        expires_at=expires_at,
        fingerprint=fingerprint,
    )


DEVICE = Device(app_id="de.example.app.apns", pushkey=SECRET, data={"secret": SECRET})
SEALED = encode(
    delivery(
        EncryptedNotification(
            device=DEVICE, ciphertext=SECRET * 156, time_message_encrypted="2025-11", key_identifier=SECRET
        )
    )
)
PLAIN = encode(delivery(PlainNotification(devices=(DEVICE,), content={"body": SECRET})))


@given(notification=sealed | plain, accepted_at=times, expires_at=times, fingerprint=st.binary(max_size=16))
def test_a_delivery_comes_back_as_it_was(
    notification: EncryptedNotification | PlainNotification, accepted_at: float, expires_at: float, fingerprint: bytes
) -> None:
    before = delivery(notification, accepted_at=accepted_at, expires_at=expires_at, fingerprint=fingerprint)
    assert decode(encode(before)) == before


def test_the_strategies_name_every_field_of_the_model() -> None:
    """A field that is new in the model must be in the round trip above."""
    for struct, known in (
        (Delivery, {"id", "device", "notification", "accepted_at", "expires_at", "fingerprint"}),
        (Device, {"app_id", "pushkey", "pushkey_ts", "data", "tweaks"}),
        (Counts, {"unread", "missed_calls"}),
        (
            EncryptedNotification,
            {"device", "ciphertext", "time_message_encrypted", "key_identifier", "identifier", "prio", "counts"},
        ),
        (
            PlainNotification,
            {"devices", "event_id", "room_id", "type", "sender", "sender_display_name", "room_name", "room_alias"}
            | {"user_is_target", "prio", "content", "counts"},
        ),
    ):
        assert {field.name for field in msgspec.structs.fields(struct)} == known


def test_the_device_stands_in_a_row_once() -> None:
    assert SEALED.count(DEVICE.app_id.encode()) == 1
    assert len(SEALED) < CIPHERTEXT_CHARS + 300


NO_DEVICE = encode(delivery(PlainNotification(devices=(DEVICE,))))[:2] + msgspec.msgpack.encode(
    ("id", 1.0, 2.0, b"", {"devices": [], "event_id": SECRET})
)


@pytest.mark.parametrize(
    "row",
    [
        b"",
        b"\x01",
        b"\x01E",
        b"\x02" + SEALED[1:],
        b"\x01X" + SEALED[2:],
        b"\x01P" + SEALED[2:],
        b"\x01E" + PLAIN[2:],
        SEALED[:-1],
        PLAIN.replace(b"devices", b"dEvices"),
        NO_DEVICE,
        b"\x01E" + b"\x91" * 5000,
        b"\x01P" + msgspec.msgpack.encode(("id", 1.0, 2.0, b"", {"devices": [{}], "prio": SECRET})),
    ],
)
def test_what_is_no_delivery_is_unreadable_and_quotes_nothing(row: bytes) -> None:
    with pytest.raises(Unreadable) as caught:
        decode(row)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(cut=st.integers(0, len(SEALED)), byte=st.integers(0, 255), at=st.integers(0, len(SEALED) - 1))
def test_a_damaged_row_is_read_or_unreadable_never_another_error(cut: int, byte: int, at: int) -> None:
    damaged = bytearray(SEALED)
    damaged[at] = byte
    for row in (bytes(damaged), SEALED[:cut]):
        with suppress(Unreadable):
            assert isinstance(decode(row), Delivery)
