"""A delivery as the bytes of one row, and back: a format byte, a kind byte, then MessagePack.

The notification stands there by the names of its fields, so that a field more or less does not make a row
unreadable. Its device is the device of the delivery (`Delivery.notification`) and stands there once.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from pushgate.errors import SpoolError
from pushgate.model import Delivery, Device, EncryptedNotification, PlainNotification

_SEALED = b"\x01E"
_PLAIN = b"\x01P"


class Unreadable(SpoolError):  # noqa: N818 - a state, not a mistake
    """A row does not hold a delivery that this program can read."""


class _Sealed(Struct, frozen=True, array_like=True):
    id: str
    accepted_at: float
    expires_at: float
    fingerprint: bytes
    notification: EncryptedNotification


class _Plain(Struct, frozen=True, array_like=True):
    id: str
    accepted_at: float
    expires_at: float
    fingerprint: bytes
    notification: PlainNotification


_encode = msgspec.msgpack.Encoder().encode
_decode_sealed = msgspec.msgpack.Decoder(_Sealed).decode
_decode_plain = msgspec.msgpack.Decoder(_Plain).decode


def encode(delivery: Delivery) -> bytes:
    """The row of a delivery."""
    sealed = isinstance(delivery.notification, EncryptedNotification)
    return (_SEALED if sealed else _PLAIN) + _encode(
        (delivery.id, delivery.accepted_at, delivery.expires_at, delivery.fingerprint, delivery.notification)
    )


def decode(row: bytes) -> Delivery:
    """The delivery of a row. Raises `Unreadable`, which says nothing of what the row holds."""
    kind, body = row[:2], memoryview(row)[2:]
    try:
        if kind == _SEALED:
            sealed = _decode_sealed(body)
            return _delivery(sealed, sealed.notification.device)
        if kind == _PLAIN:
            plain = _decode_plain(body)
            (device,) = plain.notification.devices
            return _delivery(plain, device)
    except (ValueError, RecursionError) as fault:
        raise Unreadable(type(fault).__name__) from None  # its text may quote the row
    raise Unreadable(f"kind {row[:2].hex()}, this program reads {_SEALED.hex()} and {_PLAIN.hex()}")


def _delivery(row: _Sealed | _Plain, device: Device) -> Delivery:
    return Delivery(
        id=row.id,
        device=device,
        notification=row.notification,
        accepted_at=row.accepted_at,
        expires_at=row.expires_at,
        fingerprint=row.fingerprint,
    )
