"""The schemas of our OpenAPI document: what a request holds and what an answer holds (JSON Schema 2020-12).

A request schema takes exactly what `wire` takes, as far as JSON Schema can say it. What it cannot say stands in words:
ids that repeat, sizes in bytes, depth, integers beyond 64 bits inside free-form objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pushgate import wire
from pushgate.model import CIPHERTEXT_CHARS, Prio

Schema = dict[str, Any]

INT64 = {"format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1}


def ref(name: str) -> Schema:
    """A reference to one of the schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def schemas(*, max_request_kb: int, max_notification_kb: int, knows_repeats: bool) -> Mapping[str, Schema]:
    """All of them, by name."""
    return {
        **_requests(max_notification_kb, knows_repeats),
        **_parts(),
        **_answers(),
        **_errors(max_request_kb, max_notification_kb),
    }


def _object(description: str, required: tuple[str, ...], properties: Mapping[str, Schema], **more: Any) -> Schema:
    return {
        "type": "object",
        "description": description,
        "required": list(required),
        "properties": dict(properties),
        **more,
    }


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def _optional(kind: str, description: str, **more: Any) -> Schema:
    """A field that may be missing; `null` is as good as missing."""
    return {"type": [kind, "null"], "description": description, **more}


# --- requests ---------------------------------------------------------------------------------------------------


def _requests(max_notification_kb: int, knows_repeats: bool) -> Mapping[str, Schema]:
    return {
        "NotifyRequest": _object(
            "One notification that the gateway can read.",
            ("notification",),
            {"notification": ref("PlainNotification")},
        ),
        "BatchRequest": _batch("PlainNotification", max_notification_kb),
        "SealedBatchRequest": _batch("SealedNotification", max_notification_kb),
        "PlainNotification": _object(
            "A notification that the gateway can read, for any number of devices. Without `event_id` it only brings "
            "the badge of the app up to date" + (", and is never taken for a repeat." if knows_repeats else "."),
            ("devices",),
            _plain_fields(knows_repeats),
        ),
        "SealedNotification": _object(
            "A notification that was sealed for one device. Only the app there can open it; the gateway hands it on.",
            ("device", "ciphertext", "time_message_encrypted", "key_identifier"),
            _sealed_fields(),
        ),
    }


def _batch(notification: str, max_notification_kb: int) -> Schema:
    item = _object(
        "One notification with your own name for it.",
        ("id", "notification"),
        {
            "id": _text("Comes back with the result. Use each one once in a batch.", maxLength=64, examples=["n-1"]),
            "notification": ref(notification),
        },
    )
    items = {
        "type": "array",
        "description": f"{wire.MAX_BATCH_SIZE} notifications at the most, each up to {max_notification_kb} KB.",
        "minItems": 1,
        "maxItems": wire.MAX_BATCH_SIZE,
        "items": item,
    }
    return _object("Up to 100 notifications at once.", ("notifications",), {"notifications": items})


def _plain_fields(knows_repeats: bool) -> Mapping[str, Schema]:
    once = " A repeat with the same one is not sent again." if knows_repeats else ""
    return {
        "devices": {
            "type": "array",
            "description": "Whom to wake. The same device twice is woken once. None at all: nothing to do.",
            "items": ref("Device"),
        },
        "event_id": _optional("string", f"Your id of what happened.{once}"),
        "room_id": _optional("string", "Where it happened."),
        "type": _optional("string", "What kind of event it is.", examples=["m.room.message"]),
        "sender": _optional("string", "Who caused it, as an id."),
        "sender_display_name": _optional("string", "Who caused it, as a name to show."),
        "room_name": _optional("string", "The room's name to show."),
        "room_alias": _optional("string", "Another name of the room to show."),
        "user_is_target": _optional("boolean", "Whether the event is about the user who is notified."),
        "prio": ref("Prio"),
        "content": _optional(
            "object", "The event itself, free-form. The first thing to be left out when the provider takes less."
        ),
        "counts": ref("Counts"),
    }


def _sealed_fields() -> Mapping[str, Schema]:
    return {
        "device": ref("Device"),
        "ciphertext": _text(
            f"The sealed message, always {CIPHERTEXT_CHARS} characters: Base64 of 1052 bytes. Its length is checked, "
            "its alphabet is not.",
            minLength=CIPHERTEXT_CHARS,
            maxLength=CIPHERTEXT_CHARS,
        ),
        "time_message_encrypted": _text(
            "Year and month of the key. In another form than `YYYY-MM` it is useless to the phone: the item fails.",
            examples=["2026-03"],
        ),
        "key_identifier": _text("Which key of the app opens it.", examples=["0d6f2b4a-6c1e-4f0e-9f52-1c7f3a5b9e10"]),
        "identifier": _optional("string", "Your id of the notification, handed on to the app. Need not be unique."),
        "prio": ref("Prio"),
        "counts": ref("Counts"),
    }


def _parts() -> Mapping[str, Schema]:
    return {
        "Device": _object(
            "One app on one device.",
            ("app_id", "pushkey"),
            {
                "app_id": _text("Which app, as the operator of the gateway has named it.", examples=["de.example.app"]),
                "pushkey": _text("The address that Apple or Google gave to the app on this device. Keep it secret."),
                "pushkey_ts": _optional(
                    "integer",
                    "When the app last registered this pushkey, in unix seconds, as a number without fraction or "
                    "exponent. A pushkey that had been dead is tried again when this is later than its death.",
                    **INT64,
                    examples=[1767225600],
                ),
                "data": _optional(
                    "object",
                    "More about the device, free-form. Stays here, but for keys that the operator lets through.",
                    properties={"format": _optional("string", "Not looked at.", examples=["event_id_only"])},
                ),
                "tweaks": _optional("object", "Wishes about how it is shown, free-form. Not looked at."),
            },
        ),
        "Counts": {
            "type": ["object", "null"],
            "description": "Numbers for the badge of the app. Leave out what you do not know.",
            "properties": {
                "unread": _optional("integer", "Messages that were not read.", **INT64, examples=[3]),
                "missed_calls": _optional("integer", "Calls that were missed.", **INT64, examples=[1]),
            },
        },
        "Prio": {
            "type": ["string", "null"],
            "description": "`high` wakes the phone now, `low` spares its battery and may take a while.",
            "enum": [*(str(prio) for prio in Prio), None],
            "default": str(Prio.HIGH),
        },
    }


# --- answers ----------------------------------------------------------------------------------------------------


def _answers() -> Mapping[str, Schema]:
    return {
        "Rejected": {
            "type": "array",
            "description": "Pushkeys that their provider has called dead, now or at an earlier request. Delete their "
            "registrations. Never holds a pushkey for any other reason.",
            "items": {"type": "string"},
        },
        "NotifyAnswer": _object(
            "What became of the notification.",
            ("rejected",),
            {"rejected": ref("Rejected")},
        ),
        "BatchAnswer": _object(
            "What became of each notification.",
            ("results", "summary"),
            {
                "results": {
                    "type": "array",
                    "description": "One for each notification, in the order of the request.",
                    "items": ref("Result"),
                },
                "summary": _summary(),
            },
        ),
        "Result": _object(
            "What became of one notification.",
            ("id", "status", "rejected"),
            {
                "id": _text("As you sent it."),
                "status": {
                    "enum": ["success", "partial", "failed"],
                    "description": "`success`: on disk for every device that could be taken, and no pushkey is "
                    "dead. `partial`: on disk for some, and at least one pushkey is dead (plain only). `failed`: "
                    "nothing was taken.",
                },
                "rejected": ref("Rejected"),
                "error": _text(
                    "What was wrong with it, or with some of its devices. May stand beside `success`: then a device "
                    "was left out that is not dead, for example of an unknown app. Names no pushkey."
                ),
            },
        ),
    }


def _summary() -> Schema:
    names = {
        "total": "All of them.",
        "successful": "Those with `success`.",
        "failed": "Those with `failed`.",
        "partial": "Those with `partial`.",
    }
    counts = {name: {"type": "integer", "minimum": 0, "description": text} for name, text in names.items()}
    return _object("How many results there are of each kind.", tuple(names), counts)


def _errors(max_request_kb: int, max_notification_kb: int) -> Mapping[str, Schema]:
    request_kb = {"const": max_request_kb, "description": "The largest request, in KB of 1024 bytes."}
    notification_kb = {"const": max_notification_kb, "description": "The largest notification, in KB of 1024 bytes."}
    place = _object(
        "Where and what. Repeats nothing of what was sent.",
        ("path", "reason"),
        {
            "path": _text("The place, as a JSON path.", examples=["$.notifications[3].notification.device.app_id"]),
            "reason": _text("What is wrong there.", examples=["Object missing required field `app_id`"]),
        },
    )
    return {
        "Error": _object("What went wrong.", ("error",), {"error": _text("In words.")}),
        "InvalidFormat": _error(wire.INVALID_FORMAT, place),
        "BatchTooLong": _error(
            wire.BATCH_TOO_LONG, _details(max_batch_size={"const": wire.MAX_BATCH_SIZE, "description": "So many fit."})
        ),
        "DuplicateIds": _error(
            wire.DUPLICATE_IDS,
            _details(
                duplicate_ids={
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "Each id that stands there more than once.",
                }
            ),
        ),
        "NotificationTooLarge": _error(wire.NOTIFICATION_TOO_LARGE, _details(max_notification_size_kb=notification_kb)),
        "NotifyTooLarge": _error(
            wire.NOTIFY_TOO_LARGE,
            {
                **_details(max_request_size_kb=request_kb),
                "properties": {"max_request_size_kb": request_kb, "max_notification_size_kb": notification_kb},
            },
        ),
        "BatchTooLarge": _error(wire.BATCH_BODY_TOO_LARGE, _details(max_request_size_kb=request_kb)),
    }


def _details(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _error(text: str, details: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["error", "details"],
        "properties": {"error": {"const": text, "description": "Always this text."}, "details": details},
    }
