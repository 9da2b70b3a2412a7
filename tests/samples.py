"""Requests as real callers send them (E-Rezept, Synapse), as plain JSON values to be bent by a test."""

from __future__ import annotations

import json
from typing import Any

APNS_APP = "de.example.app.apns"
FCM_APP = "example-project.app.firebase"
CIPHERTEXT = "AAECAwQFBgcICQoL" + "Q2lwaGVydGV4dA++" * 86 + "Q2lwaGVydGV="
SECRET_MARK = "Q2lwaGVydGV4dA"
"""Stands in every sample ciphertext: must not appear in an error or a log."""


def device(app_id: str = APNS_APP, pushkey: str = "ab" * 32, **more: Any) -> dict[str, Any]:
    return {"app_id": app_id, "pushkey": pushkey, "pushkey_ts": 1634025600, **more}


def plain(*devices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "event_id": "$event:example.org",
        "room_id": "!room:example.org",
        "type": "m.room.message",
        "sender": "@alice:example.org",
        "sender_display_name": "Alice",
        "room_name": "Ward 3",
        "prio": "high",
        "content": {"msgtype": "m.text", "body": "Hello"},
        "counts": {"unread": 2, "missed_calls": 1},
        "devices": list(devices) or [device()],
        **more,
    }


def encrypted(**more: Any) -> dict[str, Any]:
    return {
        "ciphertext": CIPHERTEXT,
        "time_message_encrypted": "2026-11",
        "key_identifier": "123e4567-e89b-12d3-a456-426614174000",
        "prio": "low",
        "device": device(),
        **more,
    }


def badge_only() -> dict[str, Any]:
    """What a Matrix home server sends to update a badge: no prio, and nulls."""
    return {"id": "", "type": None, "sender": "", "prio": None, "counts": {"unread": 3}, "devices": [device()]}


def batch(*notifications: dict[str, Any]) -> dict[str, Any]:
    return {"notifications": [{"id": f"item-{n}", "notification": each} for n, each in enumerate(notifications)]}


def body(request: object) -> bytes:
    return json.dumps(request).encode()
