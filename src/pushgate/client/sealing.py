"""Seal a message so that only the phone can read it, and open it again.

    padded   = "PNM1" ‖ n as 2 bytes big-endian ‖ n spaces ‖ message = 1024 bytes: hides the size (A_27610)
    blob     = IV (12 random bytes) ‖ AES-256-GCM(padded) ‖ tag (16), no additional data (A_27161)
    text     = standard Base64 of the blob with padding: always 1404 characters

Keys come from `keychain`. The month of the key travels beside the ciphertext, unsigned (A_27162).
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterable
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from pushgate.client.errors import CiphertextError, MessageError, PaddingError, UnknownKeyError
from pushgate.client.keychain import MonthKey, check_month
from pushgate.model import Counts, Device, EncryptedNotification, Prio

PADDED_BYTES = 1024
CIPHERTEXT_CHARS = 1404
"""Base64 of IV, 1024 bytes and tag."""

_MAGIC = b"PNM1"
_HEAD_BYTES = len(_MAGIC) + 2
_FILLER = b" "
_IV_BYTES = 12
_TAG_BYTES = 16

MAX_MESSAGE_BYTES = PADDED_BYTES - _HEAD_BYTES
"""1018: what the padding leaves for a message."""


class Sealed(Struct, frozen=True, kw_only=True):
    """A sealed message with what the phone needs to find its key. Fields as the API spells them."""

    ciphertext: str
    time_message_encrypted: str
    """The key's month, `YYYY-MM`."""
    key_identifier: str

    def for_device(
        self,
        device: Device,
        *,
        prio: Prio = Prio.HIGH,
        counts: Counts | None = None,
        identifier: str | None = None,
    ) -> EncryptedNotification:
        """The notification that carries this message to the one device that holds the key."""
        return EncryptedNotification(
            device=device,
            ciphertext=self.ciphertext,
            time_message_encrypted=self.time_message_encrypted,
            key_identifier=self.key_identifier,
            identifier=identifier,
            prio=prio,
            counts=counts,
        )

    def __repr__(self) -> str:
        return f"Sealed(time_message_encrypted={self.time_message_encrypted!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("time_message_encrypted", self.time_message_encrypted)]


def seal(message: str | bytes, *, key: MonthKey, entropy: Callable[[int], bytes] = secrets.token_bytes) -> Sealed:
    """Seal at most 1018 bytes (a `str` counts as UTF-8) with the key of the month: `chain.newest`.

    Each call draws a new IV, so no two seals of one message are alike. `entropy` is for tests: an IV that comes
    twice under one key gives the key away. Raises MessageError.
    """
    iv = entropy(_IV_BYTES)
    blob = iv + AESGCM(key.key.reveal()).encrypt(iv, pad(_as_bytes(message)), None)
    return Sealed(
        ciphertext=base64.b64encode(blob).decode("ascii"),
        time_message_encrypted=check_month(key.month),
        key_identifier=key.key_identifier,
    )


def open_sealed(sealed: Sealed, *, keys: Iterable[MonthKey]) -> bytes:
    """The message in `sealed`, as a phone opens it (A_27179, A_27181). `keys` may belong to several chains.

    Looked up by key identifier and month, so a message of the month before opens as long as its key is kept.
    Nothing of the plaintext is looked at before the tag is verified. Raises UnknownKeyError, MonthError,
    CiphertextError, PaddingError.
    """
    key = _find(sealed, keys)
    blob = _decode(sealed.ciphertext)
    try:
        padded = AESGCM(key.key.reveal()).decrypt(blob[:_IV_BYTES], blob[_IV_BYTES:], None)
    except InvalidTag as error:
        raise CiphertextError("not sealed with this key, or changed since") from error
    return unpad(padded)


def pad(message: bytes) -> bytes:
    """The message with PNM1 padding before it: always 1024 bytes. Raises MessageError above 1018 bytes."""
    filler_bytes = MAX_MESSAGE_BYTES - len(message)
    if filler_bytes < 0:
        raise MessageError(f"a message has at most {MAX_MESSAGE_BYTES} bytes, not {len(message)}")
    return _MAGIC + filler_bytes.to_bytes(2, "big") + _FILLER * filler_bytes + message


def unpad(padded: bytes) -> bytes:
    """The message behind PNM1 padding. Raises PaddingError for anything that `pad` would not have made."""
    if len(padded) != PADDED_BYTES:
        raise PaddingError(f"a padded message has {PADDED_BYTES} bytes, not {len(padded)}")
    if not padded.startswith(_MAGIC):
        raise PaddingError("the padding does not begin with PNM1")
    filler_bytes = int.from_bytes(padded[len(_MAGIC) : _HEAD_BYTES], "big")
    if filler_bytes > MAX_MESSAGE_BYTES:
        raise PaddingError("the padding is longer than the message may be")
    start = _HEAD_BYTES + filler_bytes
    if padded[_HEAD_BYTES:start] != _FILLER * filler_bytes:
        raise PaddingError("the padding holds something other than spaces")
    return padded[start:]


def _as_bytes(message: str | bytes) -> bytes:
    if isinstance(message, bytes):
        return message
    try:
        return message.encode("utf-8")
    except UnicodeEncodeError:
        # Without its cause: the cause holds the message.
        raise MessageError("the message is not text: it holds half of a surrogate pair") from None


def _find(sealed: Sealed, keys: Iterable[MonthKey]) -> MonthKey:
    month = check_month(sealed.time_message_encrypted)
    ours = {key.month: key for key in keys if key.key_identifier == sealed.key_identifier}
    if not ours:
        raise UnknownKeyError("no key has this key_identifier")
    if month in ours:
        return ours[month]
    if month > max(ours):
        raise UnknownKeyError(f"the key of {month} is not derived yet: advance the chain by your own clock")
    raise UnknownKeyError(f"the key of {month} is not kept any more")


def _decode(ciphertext: str) -> bytes:
    if len(ciphertext) != CIPHERTEXT_CHARS:
        raise CiphertextError(f"a ciphertext has {CIPHERTEXT_CHARS} characters, not {len(ciphertext)}")
    try:
        blob = base64.b64decode(ciphertext, validate=True)
    except ValueError as error:
        raise CiphertextError("the ciphertext is not Base64") from error
    # Only one spelling of the same bytes is accepted: b64decode ignores the unused bits of the last character.
    if len(blob) != _IV_BYTES + PADDED_BYTES + _TAG_BYTES or base64.b64encode(blob).decode() != ciphertext:
        raise CiphertextError("the ciphertext is not Base64 as sealing writes it")
    return blob
