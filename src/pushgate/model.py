"""What the API talks about: who calls, notifications and devices, and the delivery of one notification to one device.

Field names are the API's own (contract: Push Gateway API 1.0.0, A_27164). Values here are valid: `wire` has checked
them. Nothing here prints what it holds: a pushkey, a ciphertext or a name must not reach a log by way of a repr.
"""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Any

from msgspec import Meta, Struct

CIPHERTEXT_CHARS = 1404
"""Base64 of 12 bytes IV, 1024 bytes sealed, 16 bytes tag. The length is normative, the alphabet is not checked."""

# `gc=False`: decoded from JSON they hold no cycles, and the collector need not look at them.

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Ciphertext = Annotated[str, Meta(min_length=CIPHERTEXT_CHARS, max_length=CIPHERTEXT_CHARS)]


class Caller(Struct, frozen=True):
    """Who sends: a name for logs and metrics, and the apps it may send to (patterns, the whole app_id)."""

    name: str
    apps: tuple[str, ...] = ("*",)
    plain: bool = True
    """Whether it may send notifications that are not sealed (A_27539)."""

    def may_send_to(self, app_id: str) -> bool:
        """Whether one of its patterns matches the whole app_id, upper and lower case told apart."""
        return self.apps == ("*",) or any(fnmatchcase(app_id, pattern) for pattern in self.apps)


class Prio(StrEnum):
    """How urgent a notification is (A_27167). Missing in a request means HIGH."""

    HIGH = "high"
    LOW = "low"


class Counts(Struct, frozen=True, omit_defaults=True, gc=False):
    """Unacknowledged things of the user, as numbers for the badge of the app. None means: not said."""

    unread: Int64 | None = None
    missed_calls: Int64 | None = None


class Device(Struct, frozen=True, omit_defaults=True, gc=False):
    """One device to wake: the app that runs there and the pushkey that its provider gave it."""

    app_id: str
    pushkey: str
    pushkey_ts: Int64 | None = None
    """When the pushkey was last updated, in unix seconds."""
    data: dict[str, Any] | None = None
    tweaks: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Device(app_id={self.app_id!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("app_id", self.app_id)]


class PlainNotification(Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """A notification that the gateway can read, for any number of devices."""

    devices: tuple[Device, ...]
    event_id: str | None = None
    room_id: str | None = None
    type: str | None = None
    sender: str | None = None
    sender_display_name: str | None = None
    room_name: str | None = None
    room_alias: str | None = None
    user_is_target: bool | None = None
    prio: Prio = Prio.HIGH
    content: dict[str, Any] | None = None
    counts: Counts | None = None

    def __repr__(self) -> str:
        return f"PlainNotification(devices={len(self.devices)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("devices", len(self.devices))]


class EncryptedNotification(Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """A notification sealed end to end, for exactly one device. The gateway cannot open it."""

    device: Device
    ciphertext: Ciphertext
    time_message_encrypted: str
    """Year and month of the key, `YYYY-MM`."""
    key_identifier: str
    identifier: str | None = None
    prio: Prio = Prio.HIGH
    counts: Counts | None = None

    def __repr__(self) -> str:
        return "EncryptedNotification()"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


Notification = PlainNotification | EncryptedNotification


class Delivery(Struct, frozen=True, kw_only=True, gc=False):
    """One notification for one device, from acceptance until it is handed over or its time is up."""

    id: str
    """A canonical lower-case UUID. The same on every attempt (it goes out as `apns-id`)."""
    device: Device
    notification: Notification
    """Names exactly one device, the one above: a delivery never carries another device's pushkey."""
    accepted_at: float
    """When it was put on disk, in unix seconds."""
    expires_at: float
    """When it must be gone whatever happened (A_27757), in unix seconds."""
    fingerprint: bytes = b""
    """What a repeat of it would share: a keyed hash of 16 bytes; empty where repeats are not looked for."""

    @property
    def lane(self) -> str:
        """The lane it travels on: its app_id."""
        return self.device.app_id

    def __repr__(self) -> str:
        return f"Delivery(id={self.id!r}, lane={self.device.app_id!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("id", self.id), ("lane", self.device.app_id)]
