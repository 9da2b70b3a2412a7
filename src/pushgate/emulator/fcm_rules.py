"""Google's rules for one FCM message whose types are right: request in, the first fault out.

https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode (INVALID_ARGUMENT) and …/projects.messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal

import msgspec
from msgspec import Struct

from pushgate.emulator.fcm_schema import SEND_REQUEST, is_object, snake, violations
from pushgate.emulator.google_errors import Refusal, Violation, invalid, malformed

MAX_PAYLOAD_BYTES = 4096
MAX_TOPIC_PAYLOAD_BYTES = 2048
MAX_TTL_S = 2_419_200
"""Four weeks."""
MAX_TOKEN_CHARS = 4096
RESERVED_KEYS = {"from", "message_type", "gcm"}
RESERVED_PREFIXES = ("google", "gcm.notification.")

_TOKEN = re.compile(r"[A-Za-z0-9_:.%-]+")
_TOPIC = re.compile(r"[A-Za-z0-9_.~%-]+")


class Send(Struct, frozen=True):
    """A send request that can be understood."""

    request: Mapping[str, object]
    """The whole body, as it came."""
    message: Mapping[str, object]
    """The message, as it came."""
    fields: Mapping[str, object]
    """The message with snake_case names at the top, without nulls."""
    validate_only: bool

    @property
    def target(self) -> str:
        """The device's token; for a topic or a condition, its name with a prefix that no token has."""
        if "token" in self.fields:
            return str(self.fields["token"])
        kind = "topic" if "topic" in self.fields else "condition"
        return f"/{kind}s/{self.fields.get(kind, '')}"


def _fields(value: object) -> dict[str, object]:
    """A message's fields under their snake_case names, without nulls; empty for anything else."""
    return {snake(name): item for name, item in value.items() if item is not None} if is_object(value) else {}


def read(body: bytes) -> Send | Refusal:
    """The send request of a body; a refusal where it is no JSON with a message in it."""
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return malformed([Violation("Invalid JSON payload received. Unexpected token.")])
    fields = _fields(request)
    message = fields.get("message")
    if not is_object(request) or not is_object(message):
        faults = list(violations(request, SEND_REQUEST))
        return malformed(faults) if faults else _no_recipient()
    return Send(
        request=request,
        message=message,
        fields=_fields(message),
        validate_only=fields.get("validate_only") is True,
    )


def type_fault(send: Send) -> Refusal | None:
    """Names and types: everything that is wrong comes in one answer."""
    faults = list(violations(send.request, SEND_REQUEST))
    return malformed(faults) if faults else None


def value_faults(send: Send) -> Iterator[Refusal]:
    """What is wrong with the values of a message whose types are right."""
    fields = send.fields
    android, apns = _fields(fields.get("android")), _fields(fields.get("apns"))
    if not fields.keys() & {"token", "topic", "condition"}:
        yield _no_recipient()
    if not _is_target(fields):
        words = "The registration token is not a valid FCM registration token"
        yield invalid(words, Violation("Invalid registration token", "message.token"))
    for at, data in (("message.data", fields.get("data")), ("message.android.data", android.get("data"))):
        for key in data if is_object(data) else ():
            if key in RESERVED_KEYS or key.startswith(RESERVED_PREFIXES):
                words = f"Invalid data payload key: {key}"
                yield invalid(words, Violation(words, at))
    ttl = android.get("ttl")
    if isinstance(ttl, str) and not 0 <= Decimal(ttl.removesuffix("s")) <= MAX_TTL_S:
        words = "Invalid TTL: must be between 0 and 2419200 seconds"
        yield invalid(words, Violation(words, "message.android.ttl"))
    if _payload_bytes(fields, android) > (MAX_PAYLOAD_BYTES if "token" in fields else MAX_TOPIC_PAYLOAD_BYTES):
        yield invalid("Android message is too big")
    if _is_urgent_data(fields, apns):
        words = "A data-only message to an Apple device must have apns-priority 5"
        yield invalid("Request contains an invalid argument.", Violation(words, "message.apns.headers"))


def _no_recipient() -> Refusal:
    words = "Recipient of the message is not set."
    return invalid(words, Violation(words, "message"))


def _is_target(fields: Mapping[str, object]) -> bool:
    token, topic = fields.get("token"), fields.get("topic")
    if isinstance(token, str):
        return len(token) <= MAX_TOKEN_CHARS and _TOKEN.fullmatch(token) is not None
    return not isinstance(topic, str) or _TOPIC.fullmatch(topic) is not None


def _payload_bytes(fields: Mapping[str, object], android: Mapping[str, object]) -> int:
    """Keys and values of data and notification; Android's own data replaces the common."""
    data = android.get("data") or fields.get("data")
    return _size(data) + _size(fields.get("notification")) + _size(android.get("notification"))


def _size(value: object) -> int:
    if not is_object(value):
        return 0
    return sum(len(key.encode()) + len(str(item).encode()) for key, item in value.items())


def _is_urgent_data(fields: Mapping[str, object], apns: Mapping[str, object]) -> bool:
    """Google: "only normal priority is allowed" where a payload to an Apple device has only data."""
    headers, payload = apns.get("headers"), apns.get("payload")
    aps = payload.get("aps") if is_object(payload) else None
    visible = "notification" in fields or (is_object(aps) and any(key in aps for key in ("alert", "badge", "sound")))
    return is_object(headers) and headers.get("apns-priority") == "10" and not visible
