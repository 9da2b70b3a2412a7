"""Our OpenAPI 3.1 document: the API of the gateway in our own words, with the limits that this gateway has.

The facts are those of the Push Gateway API 1.0.0 (A_27164). Beside each answer stands, as `x-do`, what a caller should
do about it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from pushgate import __version__, wire
from pushgate.openapi.answers import answer, examples_of, shared, shared_responses, too_large
from pushgate.openapi.schemas import ref, schemas

Json = dict[str, Any]

DAY_S = 86_400


def _about(*, max_age_s: float, dedup_window_s: float, remember_s: float) -> str:
    """What the API is for, with the times of this gateway."""
    return f"""\
Takes notifications from backend services and hands them to Apple (APNs) and Google (FCM).

**200 means: it is on disk.** From then on the gateway answers for it, for {duration(max_age_s)} at most. \
Whether and when a phone gets it, nobody can tell. A provider \
in trouble is never your trouble: it is tried again later, and you see 200.

**`rejected` means: delete this registration.** It names a pushkey only when Apple or Google have called it dead. They \
say so after you got your 200, so you learn of it at your next request that names the pushkey, and at every one in the \
next {duration(remember_s)}, unless the device registers again (`pushkey_ts` later than the death).

What is tolerated:

- Fields that are not described here are ignored. `null` in an optional field is as good as leaving it out.
- `prio` may be missing: it is `high` then. A device may stand in a notification twice: it is woken once.
- The content type may be missing. Where it is given it must be JSON. Bodies must not be compressed.

What is not: numbers beyond 64 bits, text that is no UTF-8, and nesting deeper than 64 levels are answered 400.

{_repeats(dedup_window_s)}

HTTP/1.1, with or without keep-alive. Every answer is JSON, errors too. None waits for Apple or Google."""


def _repeats(window_s: float) -> str:
    if not window_s:
        return "Repeats are not looked for: what is sent again reaches the phone again."
    return (
        "A repeat (the same `event_id` or the same `ciphertext` for the same device within "
        f"{duration(window_s)}) is answered like the first one and not sent again."
    )


def duration(seconds: float) -> str:
    """In the largest unit that tells it exactly; a day in hours."""
    for unit, length in (("days", DAY_S), ("hours", 3600), ("minutes", 60)):
        if seconds % length == 0 and seconds > length:
            return f"{seconds // length:g} {unit}"
    return f"{seconds:g} second{'' if seconds == 1 else 's'}"


_SECURITY = """\
TLS with a certificate of yours (mutual TLS). The operator of the gateway decides which certificates are known and \
which apps each may send to. A gateway for trials may let in everybody."""


def document(
    *,
    base_path: str,
    max_request_kb: int,
    max_notification_kb: int,
    max_age_s: float = DAY_S,
    dedup_window_s: float = 600,
    remember_s: float = 30 * DAY_S,
) -> Json:
    """The document for a gateway with these settings, ready to be encoded as JSON.

    `max_age_s`: how long a delivery is tried; `dedup_window_s`: how long a repeat is known as one (0: never);
    `remember_s`: how long a dead pushkey is reported.
    """
    knows_repeats = dedup_window_s > 0
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pushgate",
            "summary": "Push Gateway API 1.0.0",
            "description": _about(max_age_s=max_age_s, dedup_window_s=dedup_window_s, remember_s=remember_s),
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": f"{base_path}/push/v1", "description": "This gateway"}],
        "security": [{"mutualTLS": []}],
        "tags": [
            {"name": "Notifications", "description": "Wake phones."},
            {"name": "Documentation", "description": "This text, for machines and for people."},
        ],
        "paths": {
            "/notify": {"post": _notify()},
            "/notify/batch": {"post": _batch()},
            "/notifyEncrypted/batch": {"post": _sealed_batch()},
            "/openapi.json": {"get": _document("this document", "application/json", {"type": "object"})},
            "/docs": {"get": _document("this document as a page", "text/html", {"type": "string"})},
        },
        "components": {
            "securitySchemes": {"mutualTLS": {"type": "mutualTLS", "description": _SECURITY}},
            "schemas": dict(
                schemas(
                    max_request_kb=max_request_kb, max_notification_kb=max_notification_kb, knows_repeats=knows_repeats
                )
            ),
            "responses": shared_responses(knows_repeats=knows_repeats),
            "headers": {
                "Retry-After": {
                    "description": "Wait so many seconds before the next request.",
                    "required": True,
                    "schema": {"type": "integer", "minimum": 1},
                },
                "Allow": {
                    "description": "The methods that the path takes.",
                    "required": True,
                    "schema": {"type": "string"},
                },
            },
        },
    }


def encode(openapi: Mapping[str, Any]) -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(openapi)


# --- operations -------------------------------------------------------------------------------------------------

_PHONE: Json = {"app_id": "de.example.app.apns", "pushkey": "9f2c41d07be85a36", "pushkey_ts": 1767225600}
_TABLET: Json = {"app_id": "de.example.app.firebase", "pushkey": "fKq0-example:APA91b"}
_MESSAGE: Json = {
    "event_id": "$rqD2x1",
    "room_id": "!ward3:example.org",
    "type": "m.room.message",
    "sender_display_name": "Ward 3",
    "prio": "high",
    "counts": {"unread": 2},
    "devices": [_PHONE],
}
_SEALED: Json = {
    "ciphertext": base64.b64encode(bytes((position * 89 + 7) % 256 for position in range(1052))).decode(),
    "time_message_encrypted": "2026-03",
    "key_identifier": "0d6f2b4a-6c1e-4f0e-9f52-1c7f3a5b9e10",
    "prio": "low",
    "device": _PHONE,
}


def _notify() -> Json:
    return _operation(
        "notify",
        "One notification for several devices",
        "For what the gateway may read. The answer has no place for a fault of a single device: when not one device "
        "could be taken and none is dead, the whole request is answered 400, for silence would hide your mistake. "
        "When some could be taken, the others are left out in silence; `/notify/batch` would tell you.",
        request=_body(
            "NotifyRequest",
            message=("A message", {"notification": _MESSAGE}),
            badge=("A new number on the badge", {"notification": {"counts": {"unread": 0}, "devices": [_TABLET]}}),
        ),
        responses={
            "200": answer(
                "Taken. `rejected` names the pushkeys that are known to be dead.",
                "Delete the registrations that `rejected` names. Otherwise you are done.",
                ref("NotifyAnswer"),
                taken=("Taken, and nobody is dead", {"rejected": []}),
                dead=("One pushkey is dead", {"rejected": [_PHONE["pushkey"]]}),
            ),
            "400": answer(
                "The request is not valid, or no device of it belongs to an app that you may send to.",
                "Correct it: `details` says where. The same request will fail again.",
                ref("InvalidFormat"),
                missing=(
                    "A field is missing",
                    _error(
                        wire.INVALID_FORMAT, path="$.notification", reason="Object missing required field `devices`"
                    ),
                ),
            ),
            "413": too_large("The request or its notification is too large.", "NotifyTooLarge"),
        },
    )


def _batch() -> Json:
    partial = {
        "results": [
            {"id": "n-1", "status": "success", "rejected": []},
            {"id": "n-2", "status": "partial", "rejected": [_PHONE["pushkey"]]},
            {"id": "n-3", "status": "failed", "rejected": [], "error": "unknown app_id 'de.exmaple.app'"},
        ],
        "summary": {"total": 3, "successful": 1, "failed": 1, "partial": 1},
    }
    return _operation(
        "notifyBatch",
        "Up to 100 notifications",
        "Each for several devices, for what the gateway may read. Each is judged by itself and has its own result.",
        request=_body(
            "BatchRequest",
            two=(
                "Two notifications",
                {
                    "notifications": [
                        {"id": "n-1", "notification": _MESSAGE},
                        {
                            "id": "n-2",
                            "notification": {**_MESSAGE, "event_id": "$rqD2x2", "devices": [_PHONE, _TABLET]},
                        },
                    ]
                },
            ),
        ),
        responses=_batch_responses(mixed=("One of each kind", partial)),
    )


def _sealed_batch() -> Json:
    dead = {
        "results": [
            {
                "id": "b6a1c3de-5a0f-4f6b-8f0c-2f6c7f1f0a11",
                "status": "failed",
                "rejected": [_PHONE["pushkey"]],
                "error": "the pushkey is dead",
            }
        ],
        "summary": {"total": 1, "successful": 0, "failed": 1, "partial": 0},
    }
    return _operation(
        "notifyEncryptedBatch",
        "Up to 100 sealed notifications",
        "Each sealed for one device, so that only the app there can read it. To be used for a single one too. A result "
        "is never `partial` here: a notification for a dead pushkey is `failed`, with the pushkey in `rejected`.",
        request=_body(
            "SealedBatchRequest",
            one=(
                "One notification",
                {"notifications": [{"id": "b6a1c3de-5a0f-4f6b-8f0c-2f6c7f1f0a11", "notification": _SEALED}]},
            ),
        ),
        responses=_batch_responses(dead=("The pushkey is dead", dead)),
    )


def _batch_responses(**examples: tuple[str, Json]) -> Json:
    kinds = ("InvalidFormat", "BatchTooLong", "DuplicateIds", "NotificationTooLarge")
    return {
        "200": answer(
            "Every notification was judged. The results stand in the order of the request.",
            "Look at each result. Delete the registrations that `rejected` names, whatever the status. `failed` with "
            "an empty `rejected`: `error` says why, and the same again fails again until that is mended.",
            ref("BatchAnswer"),
            **examples,
        ),
        "400": answer(
            "The request is not valid, and nothing of it was taken. Where several faults are present, `error` is the "
            "first of: invalid format, too many notifications, ids that repeat, a notification that is too large.",
            "Correct it: `details` says where. The same request will fail again.",
            {"oneOf": [ref(kind) for kind in kinds]},
            format=(
                "A field is missing",
                _error(
                    wire.INVALID_FORMAT,
                    path="$.notifications[3].notification",
                    reason="Object missing required field `device`",
                ),
            ),
            long=("101 notifications", _error(wire.BATCH_TOO_LONG, max_batch_size=wire.MAX_BATCH_SIZE)),
            repeated=("An id twice", _error(wire.DUPLICATE_IDS, duplicate_ids=["n-1"])),
        ),
        "413": too_large("The request is too large. Said as soon as that is known.", "BatchTooLarge"),
    }


def _document(what: str, media_type: str, schema: Json) -> Json:
    return {
        "operationId": "getDocs" if media_type == "text/html" else "getOpenapi",
        "tags": ["Documentation"],
        "summary": what[0].upper() + what[1:],
        "responses": {
            "200": {"description": what, "content": {media_type: {"schema": schema}}},
            "401": shared("401"),
            "405": shared("405"),
        },
    }


# --- parts ------------------------------------------------------------------------------------------------------


def _operation(name: str, summary: str, description: str, *, request: Json, responses: Json) -> Json:
    common = {status: shared(status) for status in ("401", "404", "405", "415", "429", "500", "503")}
    return {
        "operationId": name,
        "tags": ["Notifications"],
        "summary": summary,
        "description": description,
        "requestBody": request,
        "responses": dict(sorted({**responses, **common}.items())),
    }


def _body(schema: str, **examples: tuple[str, Json]) -> Json:
    return {
        "required": True,
        "content": {"application/json": {"schema": ref(schema), "examples": examples_of(examples)}},
    }


def _error(error: str, **details: object) -> Json:
    return {"error": error, "details": details}
