"""The payload of APNs for a delivery, within 4096 bytes (Apple: "Generating a remote notification").

A sealed notification shows a neutral alert, without which iOS would not run the extension that decrypts it. A plain
one shows names where it has them. A mere count updates the badge and shows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

import msgspec
from msgspec import Raw, Struct

from pushgate.model import Counts, Delivery, EncryptedNotification, PlainNotification
from pushgate.provider.apns_settings import Alert, Settings
from pushgate.provider.shortening import NAMES, cut_entries, cut_text, json_cost, json_entry_cost

MAX_PAYLOAD_BYTES = 4096
_MAX_BADGE = 2**31 - 1
_FRAME_BYTES = 128
"""More than the keys, braces and badge of a sealed payload take."""
_SAFE_IDS_CHARS = 400
"""Ids of so many characters fit beside any alert, whatever characters they are."""
_encode = msgspec.json.encode


class Look(Struct, frozen=True):
    """What an app's settings fix about its payloads."""

    alert: Mapping[str, Any]
    sealed_aps: bytes
    """The `aps` of a sealed notification, its last brace left open for the badge."""
    badge_includes_missed_calls: bool
    forward_data: tuple[str, ...]


class _Sealed(Struct, frozen=True, omit_defaults=True):
    aps: Raw
    ciphertext: str
    time_message_encrypted: str
    key_identifier: str
    identifier: str | None = None

    def __repr__(self) -> str:
        return "_Sealed()"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


def look(settings: Settings) -> Look:
    """What the settings fix, prepared once."""
    alert = _alert(settings.alert)
    sealed_aps = _encode({"alert": alert, "mutable-content": 1})[:-1]
    return Look(alert, sealed_aps, settings.badge_includes_missed_calls, settings.forward_data)


def payload(delivery: Delivery, look: Look) -> bytes:
    """The body of the request. Longer than `MAX_PAYLOAD_BYTES` only where the parts that must stay are."""
    forwarded = _forwarded(delivery.device.data, look) if look.forward_data else {}
    match delivery.notification:
        case EncryptedNotification() as sealed:
            return _sealed_payload(sealed, forwarded, look)
        case PlainNotification() as plain:
            return _plain_payload(plain, forwarded, look)
        case never:
            assert_never(never)


def fits(delivery: Delivery, look: Look) -> bool:
    """Whether the payload is within `MAX_PAYLOAD_BYTES`. What is shortened is not looked at: it may be large.

    Cheap, because it is asked for each device of a notification while nobody else runs.
    """
    match delivery.notification:
        case EncryptedNotification() as sealed:
            if not look.forward_data and _surely_fits(sealed, look):
                return True
            return len(payload(delivery, look)) <= MAX_PAYLOAD_BYTES
        case PlainNotification() as plain:
            ids_chars = len(plain.event_id or "") + len(plain.room_id or "")
            if ids_chars <= _SAFE_IDS_CHARS or ids_chars > MAX_PAYLOAD_BYTES:
                return ids_chars <= _SAFE_IDS_CHARS
            return len(_encode(_uncut(plain, look))) <= MAX_PAYLOAD_BYTES
        case never:
            assert_never(never)


def is_background(delivery: Delivery, look: Look) -> bool:
    """Whether it shows nothing at all, not even a number: APNs takes that at priority 5 only."""
    plain = delivery.notification
    return isinstance(plain, PlainNotification) and _is_count_only(plain) and _badge(plain.counts, look) is None


def _surely_fits(sealed: EncryptedNotification, look: Look) -> bool:
    """A cheap upper bound, which nearly all stay below."""
    texts = (sealed.ciphertext, sealed.time_message_encrypted, sealed.key_identifier, sealed.identifier)
    return len(_encode(texts)) + len(look.sealed_aps) + _FRAME_BYTES <= MAX_PAYLOAD_BYTES


def _sealed_payload(sealed: EncryptedNotification, forwarded: Mapping[str, Any], look: Look) -> bytes:
    badge = _badge(sealed.counts, look)
    aps = look.sealed_aps + (b"}" if badge is None else b',"badge":%d}' % badge)
    body = _encode(
        _Sealed(
            Raw(aps),
            sealed.ciphertext,
            sealed.time_message_encrypted,
            sealed.key_identifier,
            sealed.identifier,
        )
    )
    return body[:-1] + b"," + _encode(forwarded)[1:] if forwarded else body


def _plain_payload(plain: PlainNotification, forwarded: Mapping[str, Any], look: Look) -> bytes:
    fields = {
        "event_id": plain.event_id,
        "room_id": plain.room_id,
        "type": plain.type,
        "sender": plain.sender,
        "sender_display_name": plain.sender_display_name,
        "room_name": plain.room_name,
        "room_alias": plain.room_alias,
        "content": plain.content,
    }
    whole = {
        "aps": _aps(plain, look),
        **{name: value for name, value in fields.items() if value is not None},
        **forwarded,
    }
    body = _encode(whole)
    return body if len(body) <= MAX_PAYLOAD_BYTES else _shortened(whole, [*forwarded])


def _aps(plain: PlainNotification, look: Look) -> dict[str, Any]:
    aps: dict[str, Any] = {}
    badge = _badge(plain.counts, look)
    if _is_count_only(plain):
        if badge is None:
            aps["content-available"] = 1
    else:
        aps["alert"] = _named_alert(plain, look.alert)
        aps["mutable-content"] = 1
    if badge is not None:
        aps["badge"] = badge
    return aps


def _uncut(plain: PlainNotification, look: Look) -> dict[str, Any]:
    """What `_shortened` leaves in the worst case. It takes away no text that is empty already."""
    aps = _aps(plain, look)
    if alert := aps.get("alert"):
        aps["alert"] = {name: value for name, value in alert.items() if name not in ("subtitle", "title") or not value}
    fields = {"event_id": plain.event_id, "room_id": plain.room_id, "content": None if plain.content else plain.content}
    fields |= {name: value for name in NAMES if (value := getattr(plain, name)) == ""}
    return {"aps": aps, **{name: value for name, value in fields.items() if value is not None}}


def _shortened(whole: dict[str, Any], forwarded: list[str]) -> bytes:
    """Content, then names, then the text of the alert, then what was forwarded. The rest stays as it is."""
    over = len(_encode(whole)) - MAX_PAYLOAD_BYTES
    if over > 0 and whole.get("content"):
        content = whole["content"]
        whole["content"] = cut_entries(content, len(_encode(content)) - over - 1, cost=json_entry_cost)
        if not whole["content"]:
            del whole["content"]
        over = len(_encode(whole)) - MAX_PAYLOAD_BYTES
    alert = whole["aps"].get("alert", {})
    for holder, name in [*((whole, name) for name in NAMES), (alert, "subtitle"), (alert, "title")]:
        if over > 0 and holder.get(name):
            holder[name] = cut_text(holder[name], json_cost(holder[name]) - over, cost=json_cost)
            if not holder[name]:
                del holder[name]
            over = len(_encode(whole)) - MAX_PAYLOAD_BYTES
    while over > 0 and forwarded:
        del whole[forwarded.pop()]
        over = len(_encode(whole)) - MAX_PAYLOAD_BYTES
    return _encode(whole)


def _is_count_only(plain: PlainNotification) -> bool:
    """A notification about no event is there for its counts (contract: badge-only)."""
    return plain.event_id is None and plain.counts is not None


def _badge(counts: Counts | None, look: Look) -> int | None:
    if counts is None:
        return None
    number = counts.unread
    if look.badge_includes_missed_calls and counts.missed_calls is not None:
        number = (number or 0) + counts.missed_calls
    return None if number is None else min(max(number, 0), _MAX_BADGE)


def _forwarded(data: Mapping[str, Any] | None, look: Look) -> dict[str, Any]:
    return {name: data[name] for name in look.forward_data if name in data} if data else {}


def _named_alert(plain: PlainNotification, neutral: Mapping[str, Any]) -> dict[str, Any]:
    """Who wrote, and where. The neutral text moves into the body, so that something is said beside the names."""
    room = plain.room_name or plain.room_alias
    title = plain.sender_display_name or room
    if not title:
        return dict(neutral)
    alert: dict[str, Any] = {"title": title}
    if room and room != title:
        alert["subtitle"] = room
    body = {name: neutral[name] for name in ("body", "loc-key", "loc-args") if name in neutral}
    moved = {"title": "body", "title-loc-key": "loc-key", "title-loc-args": "loc-args"}
    return alert | (body or {moved[name]: value for name, value in neutral.items() if name in moved})


def _alert(alert: Alert) -> dict[str, Any]:
    """With Apple's names: hyphens for underscores, nothing empty."""
    return {name.replace("_", "-"): value for name, value in alert if value}
