"""What providers refuse beforehand: what could not be sent anyway, measured at little cost for each device."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pushgate.model import Counts, Delivery, Device, PlainNotification
from pushgate.provider import apns_payload, fcm_payload
from pushgate.provider.apns_settings import Alert
from pushgate.provider.apns_settings import Settings as ApnsSettings
from tests.provider_samples import delivery, device, plain, sealed

DEVICES = 2000
LIMIT_S = 0.15 if sys.gettrace() is None else 1.5
"""Of CPU time for that many; a tracer (coverage) multiplies it."""

Look = apns_payload.Look | fcm_payload.Look


def apns_look(*, forward_data: tuple[str, ...] = (), alert: Alert | None = None, badge: bool = False) -> Look:
    fields = {
        "bundle_id": "de.example.app",
        "alert": alert or Alert(title="New notification"),
        "badge_includes_missed_calls": badge,
        "forward_data": forward_data,
    }
    return apns_payload.look(ApnsSettings.model_construct(**(ApnsSettings.model_construct().__dict__ | fields)))


def fits(each: Delivery, look: Look) -> bool:
    if isinstance(look, apns_payload.Look):
        return apns_payload.fits(each, look)
    return fcm_payload.fits(each, look)


def size_of(each: Delivery, look: Look) -> int:
    """Of what is sent, shortened."""
    if isinstance(look, apns_payload.Look):
        return len(apns_payload.payload(each, look))
    return fcm_payload.data_bytes(each, look)


LOOKS = {
    "apns": apns_look(),
    "apns-forwarding": apns_look(forward_data=("f1", "f2"), badge=True),
    "apns-long-alert": apns_look(alert=Alert(title="t" * 500, loc_key="k" * 200, loc_args=("a" * 200,))),
    "fcm": fcm_payload.Look(False, ()),
    "fcm-forwarding": fcm_payload.Look(False, ("f1", "f2")),
    "fcm-flat": fcm_payload.Look(True, ("f1",)),
}
some_look = st.sampled_from(sorted(LOOKS)).map(LOOKS.__getitem__)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
sized = st.tuples(st.sampled_from(["$", "\x01", "ä", "€", "😀", '"']), st.integers(0, 4200)).map(lambda s: s[0] * s[1])
data = st.dictionaries(st.sampled_from(["f1", "f2"]), sized | st.integers(), max_size=2)
counts = st.none() | st.builds(Counts, unread=st.none() | st.integers(), missed_calls=st.none() | st.integers())
NAMES = ("type", "sender", "sender_display_name", "room_name", "room_alias")


@given(
    event_id=st.none() | sized,
    room_id=st.none() | sized,
    names=st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, st.just("") | texts | sized)),
    content=st.none() | st.dictionaries(texts, texts | sized, max_size=3),
    data=st.none() | data,
    counts=counts,
    look=some_look,
)
def test_a_plain_one_is_said_to_fit_exactly_when_its_shortened_message_does(
    event_id: str | None,
    room_id: str | None,
    names: dict[str, str],
    content: dict[str, Any] | None,
    data: dict[str, Any] | None,
    counts: Counts | None,
    look: Look,
) -> None:
    each = plain(device(data=data), event_id=event_id, room_id=room_id, content=content, counts=counts, **names)
    assert fits(each, look) == (size_of(each, look) <= apns_payload.MAX_PAYLOAD_BYTES)


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("character", ["$", "\x01", "€"])
def test_the_border_of_what_fits_is_found_to_the_byte(look: Look, character: str) -> None:
    verdicts = []
    for length in range(500, 4100):
        each = plain(event_id=character * length, content={"body": "b" * 3000}, room_name="")
        verdicts.append(fits(each, look))
        if verdicts[-1] != verdicts[0]:
            assert size_of(each, look) > apns_payload.MAX_PAYLOAD_BYTES
            shorter = plain(event_id=character * (length - 1), content={"body": "b" * 3000}, room_name="")
            assert size_of(shorter, look) <= apns_payload.MAX_PAYLOAD_BYTES
            return
    pytest.fail("no border")


@given(
    ciphertext=st.text(st.characters(codec="utf-8"), min_size=1404, max_size=1404),
    key_identifier=sized,
    identifier=st.none() | sized,
    data=st.none() | data,
    counts=counts,
    look=some_look,
)
def test_a_sealed_one_is_said_to_fit_exactly_when_its_message_does(
    ciphertext: str,
    key_identifier: str,
    identifier: str | None,
    data: dict[str, Any] | None,
    counts: Counts | None,
    look: Look,
) -> None:
    each = sealed(
        device(data=data), ciphertext=ciphertext, key_identifier=key_identifier, identifier=identifier, counts=counts
    )
    assert fits(each, look) == (size_of(each, look) <= apns_payload.MAX_PAYLOAD_BYTES)


LARGE: dict[str, dict[str, Any]] = {
    "large content": {"event_id": "e" * 900, "content": {f"key{n}": "x" * 40 for n in range(3000)}},
    "long names": {"event_id": "e" * 900, "room_name": "ä" * 60_000, "sender": "s" * 60_000},
    "long id": {"event_id": "ä" * 100_000},
    "longest id that may fit": {"event_id": "\x01" * 600},
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("large", LARGE.values(), ids=LARGE)
def test_many_devices_of_one_large_notification_are_measured_in_no_time(look: Look, large: dict[str, Any]) -> None:
    to = [Device(app_id="de.example.app", pushkey=f"{n:064}", data={"f1": n}) for n in range(DEVICES)]
    deliveries = [delivery(PlainNotification(devices=(each,), **large), each) for each in to]
    taken = []
    for _ in range(3):
        start = time.process_time()
        for each in deliveries:
            fits(each, look)
        taken.append(time.process_time() - start)
    assert min(taken) < LIMIT_S


@pytest.mark.parametrize(
    "secret",
    [
        apns_payload._Sealed(Raw(b"{}"), "ciphertext", "2026-11", "key", "identifier"),
        fcm_payload._SealedData("ciphertext", "2026-11", "key", "identifier", "7", "7"),
        fcm_payload._Message("pushkey", {"body": "content"}, fcm_payload._Android("HIGH", "1s")),
        fcm_payload._Body(fcm_payload._Message("pushkey", {"body": "content"}, fcm_payload._Android("HIGH", "1s"))),
    ],
    ids=lambda secret: type(secret).__name__,
)
def test_no_part_of_a_message_shows_what_it_holds(secret: Any) -> None:
    for shown in (repr(secret), str(secret), f"{secret}", repr(secret.__rich_repr__())):
        for word in ("ciphertext", "2026-11", "key", "identifier", "7", "content"):
            assert word not in shown
