"""The message of FCM for a delivery: data only, all strings, within 4096 bytes (FCM: projects.messages).

Data only, because Android hands a message with a `notification` block to the tray instead of the app, which then
cannot decrypt it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

import msgspec
from msgspec import Struct

from pushgate.model import Counts, Delivery, EncryptedNotification, PlainNotification, Prio
from pushgate.provider.fcm_settings import Settings
from pushgate.provider.shortening import NAMES, cut_entries, cut_text, json_entry_cost, utf8_cost

MAX_DATA_BYTES = 4096
"""Keys and values of `data` together."""
MAX_TTL_S = 86_400
"""Longer than any delivery may live (A_27757)."""
_PRIORITY = {Prio.HIGH: "HIGH", Prio.LOW: "NORMAL"}
_FRAME_BYTES = 128
"""More than the keys and counts of a sealed message take."""
_encode = msgspec.json.encode

Data = dict[str, str]


class Look(Struct, frozen=True):
    """What an app's settings fix about its messages."""

    flatten_content: bool
    forward_data: tuple[str, ...]


class _Android(Struct, frozen=True):
    priority: str
    ttl: str


class _SealedData(Struct, frozen=True, omit_defaults=True):
    ciphertext: str
    time_message_encrypted: str
    key_identifier: str
    identifier: str | None = None
    unread: str | None = None
    missed_calls: str | None = None

    def __repr__(self) -> str:
        return "_SealedData()"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class _Message(Struct, frozen=True):
    token: str
    data: _SealedData | Data
    android: _Android

    def __repr__(self) -> str:
        return f"_Message(android={self.android!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("android", self.android)]


class _Body(Struct, frozen=True):
    message: _Message


def look(settings: Settings) -> Look:
    """What the settings fix."""
    return Look(settings.flatten_content, settings.forward_data)


def payload(delivery: Delivery, look: Look, *, now: float) -> bytes:
    """The body of the request, alive for as long as the delivery still is. `now` in unix seconds."""
    notification = delivery.notification
    ttl_s = max(0, min(int(delivery.expires_at - now), MAX_TTL_S))
    android = _Android(_PRIORITY[notification.prio], f"{ttl_s}s")
    return _encode(_Body(_Message(delivery.device.pushkey, _data(delivery, look), android)))


def fits(delivery: Delivery, look: Look) -> bool:
    """Whether the data is within `MAX_DATA_BYTES`. What is shortened is not looked at: it may be large.

    Cheap, because it is asked for each device of a notification while nobody else runs.
    """
    match delivery.notification:
        case EncryptedNotification() as sealed:
            if not look.forward_data and _surely_fits(sealed):
                return True
            return data_bytes(delivery, look) <= MAX_DATA_BYTES
        case PlainNotification() as plain:
            if len(plain.event_id or "") + len(plain.room_id or "") > MAX_DATA_BYTES:
                return False
            uncut = {name: value for name, value in _short_fields(plain).items() if value is not None}
            uncut |= {name: "" for name in NAMES if getattr(plain, name) == ""}
            return _size(uncut) <= MAX_DATA_BYTES
        case never:
            assert_never(never)


def data_bytes(delivery: Delivery, look: Look) -> int:
    """What the data takes of `MAX_DATA_BYTES`; more than that only where the parts that must stay are."""
    data = _data(delivery, look)
    return _size(data if isinstance(data, dict) else msgspec.to_builtins(data))


def _data(delivery: Delivery, look: Look) -> _SealedData | Data:
    forwarded = _forwarded(delivery.device.data, look) if look.forward_data else {}
    match delivery.notification:
        case EncryptedNotification() as sealed:
            data = _sealed(sealed)
            return msgspec.to_builtins(data) | forwarded if forwarded else data
        case PlainNotification() as plain:
            return _plain(plain, forwarded, look)
        case never:
            assert_never(never)


def _sealed(sealed: EncryptedNotification) -> _SealedData:
    counts = sealed.counts
    if counts is None:
        return _SealedData(sealed.ciphertext, sealed.time_message_encrypted, sealed.key_identifier, sealed.identifier)
    return _SealedData(
        sealed.ciphertext,
        sealed.time_message_encrypted,
        sealed.key_identifier,
        sealed.identifier,
        _number(counts.unread),
        _number(counts.missed_calls),
    )


def _surely_fits(sealed: EncryptedNotification) -> bool:
    """A cheap upper bound, which nearly all stay below."""
    others = len(sealed.time_message_encrypted) + len(sealed.key_identifier) + len(sealed.identifier or "")
    width = 1 if sealed.ciphertext.isascii() else 4
    return len(sealed.ciphertext) * width + others * 4 + _FRAME_BYTES <= MAX_DATA_BYTES


def _plain(plain: PlainNotification, forwarded: Data, look: Look) -> Data:
    fields = _short_fields(plain) | {
        "type": plain.type,
        "sender": plain.sender,
        "sender_display_name": plain.sender_display_name,
        "room_name": plain.room_name,
        "room_alias": plain.room_alias,
    }
    data = {name: value for name, value in fields.items() if value is not None} | forwarded
    return _within_limit(data, plain.content, [*forwarded], look)


def _short_fields(plain: PlainNotification) -> dict[str, str | None]:
    """Those that are never cut."""
    counts = plain.counts or Counts()
    return {
        "event_id": plain.event_id,
        "room_id": plain.room_id,
        "unread": _number(counts.unread),
        "missed_calls": _number(counts.missed_calls),
        "prio": plain.prio.value,
    }


def _within_limit(data: Data, content: Mapping[str, Any] | None, forwarded: list[str], look: Look) -> Data:
    """Content, then names, then what was forwarded. The rest stays as it is."""
    if content is not None:
        data |= _content(content, MAX_DATA_BYTES - _size(data), look)
    over = _size(data) - MAX_DATA_BYTES
    for name in NAMES:
        if over > 0 and data.get(name):
            data[name] = cut_text(data[name], utf8_cost(data[name]) - over, cost=utf8_cost)
            if not data[name]:
                del data[name]
            over = _size(data) - MAX_DATA_BYTES
    while over > 0 and forwarded:
        del data[forwarded.pop()]
        over = _size(data) - MAX_DATA_BYTES
    return data


def _content(content: Mapping[str, Any], room: int, look: Look) -> Data:
    """The content as data in at most `room` bytes: one JSON text, or an entry for each of its keys."""
    if look.flatten_content:
        flat = {f"content_{name}": value for name, value in content.items()}
        return {name: _text(value) for name, value in cut_entries(flat, room, cost=_flat_cost).items()}
    whole = _encode(content)
    room -= len("content")
    if len(whole) > room:
        kept = cut_entries(content, room - 2, cost=json_entry_cost)
        return {"content": _encode(kept).decode()} if kept else {}
    return {"content": whole.decode()}


def _flat_cost(name: str, value: Any) -> int:
    return utf8_cost(name) + utf8_cost(_text(value))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _encode(value).decode()


def _number(count: int | None) -> str | None:
    return None if count is None else str(count)


def _forwarded(data: Mapping[str, Any] | None, look: Look) -> Data:
    return {name: _text(data[name]) for name in look.forward_data if name in data} if data else {}


def _size(data: Mapping[str, str]) -> int:
    return sum(utf8_cost(name) + utf8_cost(value) for name, value in data.items())
