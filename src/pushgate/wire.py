"""Bytes to requests and results to bytes: what the contract calls valid, and in which order its errors come.

Everything that enters here is untrusted; everything that leaves here is valid or a `RequestError`. No error repeats
content, a pushkey or a ciphertext: the place of a fault is its JSON path, its reason comes from a fixed set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from pushgate.errors import RequestError
from pushgate.model import Device, EncryptedNotification, Notification, PlainNotification

MAX_BATCH_SIZE = 100
MAX_NESTING = 64
INVALID_FORMAT = "Invalid data format"
BATCH_TOO_LONG = "Batch size exceeds maximum limit"
DUPLICATE_IDS = "Duplicate notification IDs in batch"
NOTIFICATION_TOO_LARGE = "Individual notification too large"
NOTIFY_TOO_LARGE = "Notification object is too large."
BATCH_BODY_TOO_LARGE = "Batch request payload is too large."

N = TypeVar("N", bound=Notification)


class Limits(Struct, frozen=True):
    """How much one request may hold (contract: Limits)."""

    max_request_kb: int = 1024
    max_notification_kb: int = 64


class Item(Struct, Generic[N], frozen=True, gc=False):
    """One notification of a batch with the caller's own id for it."""

    id: Annotated[str, Meta(max_length=64)]
    notification: N


class Verdict(Struct, frozen=True, gc=False):
    """What becomes of one notification: how many deliveries are on disk, who is known dead, what was at fault."""

    taken: int
    rejected: tuple[str, ...] = ()
    error: str | None = None
    """Names app_ids at most, never a pushkey."""
    crowded: bool = False
    """Whether something of it was not taken because too much waits for its app."""

    @property
    def status(self) -> str:
        """`success`, `partial` or `failed`, as the contract tells them apart."""
        if not self.taken:
            return "failed"
        return "partial" if self.rejected else "success"

    def __repr__(self) -> str:
        return f"Verdict(status={self.status!r}, taken={self.taken}, rejected={len(self.rejected)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("status", self.status)]


# --- in ---------------------------------------------------------------------------------------------------------


class _NotifyBody(Struct, frozen=True):
    notification: PlainNotification


class _BatchBody(Struct, Generic[N], frozen=True):
    notifications: tuple[Item[N], ...]


class _RawItem(Struct, frozen=True):
    notification: msgspec.Raw


class _RawBatch(Struct, frozen=True):
    notifications: tuple[_RawItem, ...]


_notify = msgspec.json.Decoder(_NotifyBody)
_plain_batch = msgspec.json.Decoder(_BatchBody[PlainNotification])
_encrypted_batch = msgspec.json.Decoder(_BatchBody[EncryptedNotification])
_raw_notify = msgspec.json.Decoder(_RawItem)
_raw_batch = msgspec.json.Decoder(_RawBatch)


def decode_notify(body: bytes, limits: Limits) -> PlainNotification:
    """The body of `/notify`. Raises `RequestError` 400 (format) or 413 (the notification is over its limit)."""
    notification = _decode(_notify, body).notification
    _check_values([notification], "$.notification")
    limit = limits.max_notification_kb * 1024
    if len(body) > limit and len(_raw_notify.decode(body).notification) > limit:
        raise RequestError(
            413,
            NOTIFY_TOO_LARGE,
            details={
                "max_request_size_kb": limits.max_request_kb,
                "max_notification_size_kb": limits.max_notification_kb,
            },
        )
    return notification


def decode_batch(body: bytes, limits: Limits) -> Sequence[Item[PlainNotification]]:
    """The body of `/notify/batch`: 1 to 100 items, ids unique. Raises `RequestError` 400."""
    return _batch(_decode(_plain_batch, body).notifications, body, limits)


def decode_encrypted_batch(body: bytes, limits: Limits) -> Sequence[Item[EncryptedNotification]]:
    """The body of `/notifyEncrypted/batch`: 1 to 100 items, ids unique. Raises `RequestError` 400."""
    return _batch(_decode(_encrypted_batch, body).notifications, body, limits)


def _batch(items: Sequence[Item[N]], body: bytes, limits: Limits) -> Sequence[Item[N]]:
    """The contract's order of errors: format, batch size, duplicate ids, notification size."""
    if not items:
        raise _invalid("Expected `array` of length >= 1", "$.notifications")
    _check_values([item.notification for item in items], "$.notifications[{}].notification")
    if len(items) > MAX_BATCH_SIZE:
        raise RequestError(400, BATCH_TOO_LONG, details={"max_batch_size": MAX_BATCH_SIZE})
    if len({item.id for item in items}) != len(items):
        raise RequestError(400, DUPLICATE_IDS, details={"duplicate_ids": _repeated(items)})
    limit = limits.max_notification_kb * 1024
    if len(body) - _least_size(items) > limit and _largest(body) > limit:
        raise RequestError(
            400, NOTIFICATION_TOO_LARGE, details={"max_notification_size_kb": limits.max_notification_kb}
        )
    return items


def _repeated(items: Sequence[Item[Any]]) -> list[str]:
    seen: set[str] = set()
    return list(dict.fromkeys(item.id for item in items if item.id in seen or seen.add(item.id)))  # type: ignore[func-returns-value]  # set.add is the idiom's other half


def _least_size(items: Sequence[Item[Any]]) -> int:
    """Bytes that all items but one need at the least: what is left bounds the largest one from above."""
    notification = items[0].notification
    each = len(notification.ciphertext) if isinstance(notification, EncryptedNotification) else 0
    return (len(items) - 1) * each


def _largest(body: bytes) -> int:
    """Size in bytes of the largest `notification` object of a batch, as it was sent."""
    return max(len(item.notification) for item in _raw_batch.decode(body).notifications)


T = TypeVar("T")


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        if not body.isascii():
            body.decode()
        value = decoder.decode(body)
        deep = _may_nest_deeper_than(MAX_NESTING, body, value) and _nests_deeper_than(MAX_NESTING, body)
    except msgspec.ValidationError as fault:
        if (mended := _spelled_our_way(body)) is not None:
            return _decode(decoder, mended)
        raise _invalid(*_place_of(str(fault))) from None
    except UnicodeError:
        raise _invalid("not UTF-8", "$") from None
    except msgspec.DecodeError as fault:
        raise _invalid(*_place_of(str(fault))) from None
    except RecursionError:
        deep = True
    if deep:
        raise _invalid(f"nested deeper than {MAX_NESTING} levels", "$")
    return value


_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"\\'))
_STRING = re.compile(rb'"[^"]*"')
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_SEALED_BRACKETS = 3
"""At least: the item, its notification, the device."""
_SEALED_DEPTH = 5
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def _may_nest_deeper_than(levels: int, body: bytes, value: object) -> bool:
    """Whether there are so many brackets beside those that a batch of sealed notifications has by itself.

    Text without the bracket tells how often it is there: for a byte that is rare the quickest way to count.
    """
    own = 0
    if isinstance(value, _BatchBody):
        own = sum(
            [_SEALED_BRACKETS for item in value.notifications if isinstance(item.notification, EncryptedNotification)]
        )
    opened = 2 * len(body) - len(body.replace(b"{", b"")) - len(body.replace(b"[", b""))
    return opened - own > levels - _SEALED_DEPTH


def _nests_deeper_than(levels: int, body: bytes) -> bool:
    """Whether valid JSON nests deeper than so many levels. Linear, and nearly free for a body that is mostly text."""
    if b"\\" in body:
        body = _ESCAPE.sub(b"", body)
    marks = body.translate(None, _NOT_STRUCTURE)
    brackets = marks.replace(b'""', b"")
    if b'"' in brackets:  # a string that holds brackets
        brackets = _STRING.sub(b"", marks)
    if len(brackets) <= 2 * levels:
        return False
    return max(accumulate(map(_STEP.__getitem__, brackets))) > levels


def _check_values(notifications: Sequence[Notification], place: str) -> None:
    """What our types cannot say of free-form objects: integers beyond 64 bits, and `data.format`, which is a text."""
    for position, notification in enumerate(notifications):
        if isinstance(notification, EncryptedNotification):
            device = notification.device
            if device.data is None and device.tweaks is None:
                continue
            devices: Sequence[Device] = (device,)
            free: list[object] = [device.data, device.tweaks]
        else:
            devices = notification.devices
            free = [notification.content]
            for device in devices:
                free += (device.data, device.tweaks)
        if any(value is not None and _has_huge_integer(value) for value in free):
            raise _invalid("integer beyond 64 bits", place.format(position))
        for number, device in enumerate(devices):
            if device.data is not None and not isinstance(device.data.get("format"), str | None):
                name = "device" if isinstance(notification, EncryptedNotification) else f"devices[{number}]"
                raise _invalid("Expected `str`", f"{place.format(position)}.{name}.data.format")


def _has_huge_integer(value: object) -> bool:
    stack = [value]
    while stack:
        match stack.pop():
            case dict() as mapping:
                stack.extend(mapping.values())
            case list() as items:
                stack.extend(items)
            case int() as number if not -(2**63) <= number < 2**63:
                return True
    return False


def _spelled_our_way(body: bytes) -> bytes | None:
    """A request that spells something valid in a way that the decoder does not take, rewritten; None if nothing does.

    `"prio": null` stands for an absent one, like every optional null. A number without a fraction is an integer to
    JSON Schema, however it is written: `1634025600.0`, `2e0`.
    """
    try:
        request = msgspec.json.decode(body)
        holders = request.get("notifications", [request])
        changes = [_respell(holder["notification"]) for holder in holders]
        return msgspec.json.encode(request) if any(changes) else None
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # not that fault alone: the first message stands


def _respell(notification: dict[str, Any]) -> bool:
    """Mend one notification in place. Says whether there was anything to mend."""
    changed = False
    if notification.get("prio", ...) is None:
        del notification["prio"]
        changed = True
    devices = notification.get("devices", [notification.get("device")])
    for holder in (notification.get("counts"), *devices):
        for name in ("unread", "missed_calls", "pushkey_ts") if isinstance(holder, dict) else ():
            value = holder.get(name)
            if isinstance(value, float) and value.is_integer():
                holder[name] = int(value)
                changed = True
    return changed


_PLACE = re.compile(r"(?s)(.*?)(?: - at `(\$[\w.\[\]]*)`)?")
_KNOWN_REASONS = re.compile(
    r"Expected `[a-z |`,]+`(, got `[a-z ]+`| of length [<>]= \d+| [<>]= -?\d+)?"
    r"|Object missing required field `\w+`|Number out of range|Input data was truncated"
    r"|JSON is malformed: [a-z0-9 ,:-]+( \(byte \d+\))?"
)


def _place_of(message: str) -> tuple[str, str]:
    """Reason and JSON path of a decoder's message, with nothing of the input in them."""
    found = _PLACE.fullmatch(message)
    reason, path = (found[1], found[2] or "$") if found else (message, "$")
    if reason.startswith("Invalid enum value"):
        return "not one of the allowed words", path
    return (reason if _KNOWN_REASONS.fullmatch(reason) else "does not fit the schema"), path


def _invalid(reason: str, path: str) -> RequestError:
    return RequestError(400, INVALID_FORMAT, details={"path": path, "reason": reason})


# --- out --------------------------------------------------------------------------------------------------------


class _Rejected(Struct, frozen=True):
    rejected: Sequence[str]

    def __repr__(self) -> str:
        return f"_Rejected({len(self.rejected)})"


class _Result(Struct, frozen=True, gc=False):
    id: str
    status: str
    rejected: tuple[str, ...]
    error: str | UnsetType

    def __repr__(self) -> str:
        return f"_Result(status={self.status!r})"


class _Summary(Struct, frozen=True):
    total: int
    successful: int
    failed: int
    partial: int


class _BatchAnswer(Struct, frozen=True):
    results: Sequence[_Result]
    summary: _Summary


class _Error(Struct, frozen=True):
    error: str
    details: Mapping[str, object] | UnsetType = UNSET


_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


def encode_notify(verdict: Verdict) -> bytes:
    """The 200 of `/notify`: the pushkeys that are known to be dead."""
    return _encode(_Rejected(verdict.rejected))


def encode_batch(ids: Sequence[str], verdicts: Sequence[Verdict]) -> bytes:
    """The 200 of a batch: one result for each item in the order submitted, and their sums."""
    results = [
        _Result(item_id, verdict.status, verdict.rejected, UNSET if verdict.error is None else verdict.error)
        for item_id, verdict in zip(ids, verdicts, strict=True)
    ]
    statuses = [result.status for result in results]
    summary = _Summary(len(statuses), statuses.count("success"), statuses.count("failed"), statuses.count("partial"))
    return _encode(_BatchAnswer(results, summary))


def encode_error(error: str, details: Mapping[str, object] | None = None) -> bytes:
    """The body of every answer that is not a 200."""
    return _encode(_Error(error, UNSET if details is None else details))
