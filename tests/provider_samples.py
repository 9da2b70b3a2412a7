"""Deliveries and credential files for the tests of providers. Every key is made when it is asked for."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from pushgate.model import Counts, Delivery, Device, EncryptedNotification, PlainNotification, Prio

NOW = 1_750_000_000.0
ID = "0f4c2f6e-7f1c-4e7a-9d5e-2f6f1d2c3b4a"
TOKEN = "ab" * 32
CIPHERTEXT = "Q2lwaGVydGV4dA+/" * 87 + "Q2lwaGVydGV="
"""1404 characters of Base64, as the contract wants."""


def device(pushkey: str = TOKEN, **more: Any) -> Device:
    return Device(app_id="de.example.app", pushkey=pushkey, **more)


def delivery(notification: EncryptedNotification | PlainNotification, to: Device) -> Delivery:
    return Delivery(id=ID, device=to, notification=notification, accepted_at=NOW - 400, expires_at=NOW + 86_000.5)


def sealed(to: Device | None = None, **more: Any) -> Delivery:
    to = to or device()
    fields: dict[str, Any] = {
        "ciphertext": CIPHERTEXT,
        "time_message_encrypted": "2026-11",
        "key_identifier": "123e4567-e89b-12d3-a456-426614174000",
        "prio": Prio.LOW,
    } | more
    return delivery(EncryptedNotification(device=to, **fields), to)


def plain(to: Device | None = None, **more: Any) -> Delivery:
    to = to or device()
    fields: dict[str, Any] = {
        "event_id": "$event:example.org",
        "room_id": "!room:example.org",
        "type": "m.room.message",
        "sender": "@alice:example.org",
        "sender_display_name": "Alice",
        "room_name": "Ward 3",
        "content": {"msgtype": "m.text", "body": "Hello"},
        "counts": Counts(unread=2, missed_calls=1),
    } | more
    return delivery(PlainNotification(devices=(to,), **fields), to)


def badge_only(counts: Counts | None = None, **more: Any) -> Delivery:
    to = device()
    return delivery(PlainNotification(devices=(to,), counts=counts or Counts(unread=3), **more), to)


def private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes | None = None) -> bytes:
    cipher = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher)


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_signing_key(folder: Path) -> Path:
    return write(folder / "AuthKey_KEY1234567.p8", private_pem(ec.generate_private_key(ec.SECP256R1())))


def certificate(key: ec.EllipticCurvePrivateKey, *, begins: datetime | None = None, days: int = 30) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "push.example.org")])
    begins = begins or datetime.now(UTC) - timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )


def certificate_pem(found: x509.Certificate) -> bytes:
    return found.public_bytes(serialization.Encoding.PEM)


def service_account(key: rsa.RSAPrivateKey, **more: Any) -> dict[str, Any]:
    return {
        "type": "service_account",
        "project_id": "my-project",
        "private_key": private_pem(key).decode(),
        "client_email": "push@my-project.example.org",
        "token_uri": "https://oauth2.example.org/token",
    } | more


def write_service_account(folder: Path, account: dict[str, Any]) -> Path:
    return write(folder / "service-account.json", json.dumps(account))
