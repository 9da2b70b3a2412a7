"""The JSON type of an FCM send request, and whether a value is of it: unknown names, wrong types, wrong words.

https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages, with the proto3 JSON mapping: names in
snake_case or lowerCamelCase, null means absent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeGuard

import msgspec
from msgspec import Struct

from pushgate.emulator.google_errors import Violation

_PACKAGE = "type.googleapis.com/google.firebase.fcm.v1"
_DURATION = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,9})?s")
_HUMP = re.compile(r"(?<=[a-z0-9])[A-Z]")


class Scalar(Struct, frozen=True):
    """A value that is no object."""

    name: str
    """As Google names it in an error."""
    accepts: Callable[[object], bool]
    hint: str = ""
    """What follows the value in an error."""


class ListOf(Struct, frozen=True):
    """A repeated field."""

    item: Scalar


class MapOf(Struct, frozen=True):
    """A map with string keys."""

    value: Scalar


class AnyObject(Struct, frozen=True):
    """A JSON object of any shape (google.protobuf.Struct)."""


class Message(Struct, frozen=True):
    """A message: its fields by their snake_case names, and how many of a oneof may be set."""

    name: str
    fields: Mapping[str, Scalar | ListOf | MapOf | AnyObject | Message]
    oneof: tuple[str, ...] = ()


Type = Scalar | ListOf | MapOf | AnyObject | Message


def _enum(name: str, *words: str) -> Scalar:
    known = {word.casefold() for word in words}
    return Scalar(f"{_PACKAGE}.{name}", lambda value: isinstance(value, str) and value.casefold() in known)


STRING = Scalar("TYPE_STRING", lambda value: isinstance(value, str))
BOOL = Scalar("TYPE_BOOL", lambda value: isinstance(value, bool))
INT32 = Scalar("TYPE_INT32", lambda value: type(value) is int and -(2**31) <= value < 2**31)
FLOAT = Scalar("TYPE_FLOAT", lambda value: isinstance(value, int | float) and not isinstance(value, bool))
TIMESTAMP = Scalar("type.googleapis.com/google.protobuf.Timestamp", lambda value: isinstance(value, str))
DURATION = Scalar(
    "type.googleapis.com/google.protobuf.Duration",
    lambda value: isinstance(value, str) and _DURATION.fullmatch(value) is not None,
    "Illegal duration format; duration must end with 's'",
)
_LABEL = {"analytics_label": STRING}
_COLOR = Message("type.googleapis.com/google.type.Color", dict.fromkeys(("red", "green", "blue", "alpha"), FLOAT))
_LIGHT = Message(
    f"{_PACKAGE}.LightSettings",
    {"color": _COLOR, "light_on_duration": DURATION, "light_off_duration": DURATION},
)
_ANDROID_NOTIFICATION = Message(
    f"{_PACKAGE}.AndroidNotification",
    {
        **dict.fromkeys(("title", "body", "icon", "color", "sound", "tag", "click_action", "body_loc_key"), STRING),
        **dict.fromkeys(("title_loc_key", "channel_id", "ticker", "image"), STRING),
        **dict.fromkeys(("body_loc_args", "title_loc_args"), ListOf(STRING)),
        **dict.fromkeys(("sticky", "local_only", "default_sound", "default_vibrate_timings"), BOOL),
        **dict.fromkeys(("default_light_settings", "bypass_proxy_notification"), BOOL),
        "event_time": TIMESTAMP,
        "notification_priority": _enum(
            "AndroidNotification.NotificationPriority",
            *(f"PRIORITY_{word}" for word in ("UNSPECIFIED", "MIN", "LOW", "DEFAULT", "HIGH", "MAX")),
        ),
        "vibrate_timings": ListOf(DURATION),
        "visibility": _enum("AndroidNotification.Visibility", "VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET"),
        "notification_count": INT32,
        "light_settings": _LIGHT,
        "proxy": _enum("AndroidNotification.Proxy", "PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED"),
    },
)
_ANDROID = Message(
    f"{_PACKAGE}.AndroidConfig",
    {
        "collapse_key": STRING,
        "priority": _enum("AndroidMessagePriority", "NORMAL", "HIGH"),
        "ttl": DURATION,
        "restricted_package_name": STRING,
        "data": MapOf(STRING),
        "notification": _ANDROID_NOTIFICATION,
        "fcm_options": Message(f"{_PACKAGE}.AndroidFcmOptions", _LABEL),
        **dict.fromkeys(("direct_boot_ok", "bandwidth_constrained_ok", "restricted_satellite_ok"), BOOL),
    },
)
_APNS = Message(
    f"{_PACKAGE}.ApnsConfig",
    {
        "headers": MapOf(STRING),
        "payload": AnyObject(),
        "fcm_options": Message(f"{_PACKAGE}.ApnsFcmOptions", {**_LABEL, "image": STRING}),
        "live_activity_token": STRING,
    },
)
_WEBPUSH = Message(
    f"{_PACKAGE}.WebpushConfig",
    {
        "headers": MapOf(STRING),
        "data": MapOf(STRING),
        "notification": AnyObject(),
        "fcm_options": Message(f"{_PACKAGE}.WebpushFcmOptions", {**_LABEL, "link": STRING}),
    },
)
_MESSAGE = Message(
    f"{_PACKAGE}.Message",
    {
        "name": STRING,
        "data": MapOf(STRING),
        "notification": Message(f"{_PACKAGE}.Notification", dict.fromkeys(("title", "body", "image"), STRING)),
        "android": _ANDROID,
        "webpush": _WEBPUSH,
        "apns": _APNS,
        "fcm_options": Message(f"{_PACKAGE}.FcmOptions", _LABEL),
        **dict.fromkeys(("token", "topic", "condition"), STRING),
    },
    oneof=("token", "topic", "condition"),
)
SEND_REQUEST = Message(f"{_PACKAGE}.SendMessageRequest", {"validate_only": BOOL, "message": _MESSAGE})


def snake(name: str) -> str:
    """A field's name in snake_case."""
    return _HUMP.sub(lambda hump: f"_{hump.group().lower()}", name)


def is_object(value: object) -> TypeGuard[dict[str, object]]:
    """Whether a decoded JSON value is an object."""
    return isinstance(value, dict)


def violations(value: object, kind: Type, at: str = "") -> Iterator[Violation]:
    """Everything that is not of the type, with Google's words. `at` is the path of the value."""
    match kind:
        case Scalar():
            if not kind.accepts(value):
                yield _wrong(value, kind.name, at, kind.hint)
        case ListOf():
            if not isinstance(value, list):
                yield _wrong(value, kind.item.name, at, "")
                return
            for index, item in enumerate(value):
                yield from violations(item, kind.item, f"{at}[{index}]")
        case MapOf():
            if not is_object(value):
                yield _wrong(value, "TYPE_MESSAGE", at, "")
                return
            for index, item in enumerate(value.values()):
                yield from violations(item, kind.value, f"{at}[{index}].value")
        case AnyObject():
            if not is_object(value):
                yield _wrong(value, "type.googleapis.com/google.protobuf.Struct", at, "")
        case Message():
            yield from _message_violations(value, kind, at)


def _message_violations(value: object, kind: Message, at: str) -> Iterator[Violation]:
    if not is_object(value):
        yield _wrong(value, kind.name, at, "")
        return
    where = f" at '{at}'" if at else ""
    chosen = ""
    for name, item in value.items():
        field = kind.fields.get(snake(name))
        if item is None and field is not None:
            continue
        if field is None:
            yield _unknown(name, where, at, "Cannot find field.")
        elif isinstance(item, list) and not isinstance(field, ListOf):
            yield _unknown(name, where, at, "Proto field is not repeating, cannot start list.")
        elif name in kind.oneof and chosen:
            words = f"Invalid value{where} (oneof), oneof field 'target' is already set. Cannot set '{name}'"
            yield Violation(words, at)
        else:
            chosen = name if name in kind.oneof else chosen
            yield from violations(item, field, f"{at}.{name}" if at else name)


def _unknown(name: str, where: str, at: str, what: str) -> Violation:
    return Violation(f'Invalid JSON payload received. Unknown name "{name}"{where}: {what}', at)


def _wrong(value: object, name: str, at: str, hint: str) -> Violation:
    shown = msgspec.json.encode(value).decode() if hint == "" else f"Field '{at.rpartition('.')[2]}', {hint}"
    return Violation(f"Invalid value at '{at}' ({name}), {shown}", at)
