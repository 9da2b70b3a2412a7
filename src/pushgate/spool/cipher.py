"""Payloads as they stand on disk: sealed with AES-256-GCM (NIST SP 800-38D) where keys are given, plain where none are.

A sealed row: format byte, id of the key (4 bytes), salt (16), nonce (12), ciphertext with its tag (16 more than the
payload). The lane is authenticated with it, so a row that was moved to another lane cannot be read. Each opening of
a spool has a random salt and with it a subkey of its own (HKDF-SHA256, RFC 5869), under which a counter gives each
row its nonce: none comes twice, whatever a crash forgets and however often row ids begin anew.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from itertools import count

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

from pushgate.spool.envelope import Unreadable

SEALED = b"\x02"
KEY_BYTES = 32
ID_BYTES = 4
SALT_BYTES = 16
NONCE_BYTES = 12
SUBKEYS_KEPT = 64
"""One for each opening whose rows still wait: of more, some are derived again."""

_SALT_AT = len(SEALED) + ID_BYTES
_NONCE_AT = _SALT_AT + SALT_BYTES
HEADER_BYTES = _NONCE_AT + NONCE_BYTES


def key_id(key: bytes) -> bytes:
    """What a key is called on disk: 4 bytes that tell nothing of it."""
    return hashlib.sha256(b"pushgate spool key id" + key).digest()[:ID_BYTES]


class Keys(Struct, frozen=True):
    """What payloads are sealed with (the first) and opened with (each of them): 32 bytes each, or none at all."""

    values: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return f"Keys({len(self.values)})"


NO_KEYS = Keys()


class Cipher:
    """Seals with the first key and opens with all of them. Without a key it leaves payloads as they are."""

    def __init__(self, keys: Keys, *, salt: bytes) -> None:
        self._keys = {key_id(key): key for key in keys.values}
        self.ids = frozenset(self._keys)
        """Of all keys that are given."""
        self.sealing_id = key_id(keys.values[0]) if keys.values else b""
        """Of the key that seals; empty where none does."""
        self._subkey = lru_cache(SUBKEYS_KEPT)(self._derive)
        self._header = SEALED + self.sealing_id + salt
        self._sealing = self._derive(self.sealing_id, salt) if keys.values else None
        self._nonces = count(1)

    def seal(self, lane: str, payload: bytes) -> bytes:
        """What goes to the disk."""
        if self._sealing is None:
            return payload
        nonce = next(self._nonces).to_bytes(NONCE_BYTES, "big")
        return self._header + nonce + self._sealing.encrypt(nonce, payload, lane.encode())

    def open(self, lane: str, row: bytes) -> bytes:
        """The payload of a row. Raises `Unreadable`, which says nothing of what the row holds."""
        if row[: len(SEALED)] != SEALED:
            return row
        name, salt, nonce = row[len(SEALED) : _SALT_AT], row[_SALT_AT:_NONCE_AT], row[_NONCE_AT:HEADER_BYTES]
        if name not in self._keys:
            raise Unreadable("sealed by a key that is not given")
        try:
            return self._subkey(name, salt).decrypt(nonce, row[HEADER_BYTES:], lane.encode())
        except (InvalidTag, ValueError) as fault:  # a ValueError: cut off within the header
            raise Unreadable(type(fault).__name__) from None

    def _derive(self, name: bytes, salt: bytes) -> AESGCM:
        derivation = HKDF(SHA256(), KEY_BYTES, salt=salt, info=b"pushgate spool payload")
        return AESGCM(derivation.derive(self._keys[name]))
