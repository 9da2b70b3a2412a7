"""Payloads as they stand on disk: each sealed with AES-256-GCM (NIST SP 800-38D) by a key that no other row has.

The key of a row is derived (one-step key derivation, NIST SP 800-56C §4.1) from the key that is configured, where one
is, and from the seed of the row: random bytes that stand apart from it and are overwritten when it ends (`seeds`). From
then on no copy of the payload can be opened, whoever has the configured key. Since a row key seals once, its nonce is
zero. A nonce would not do in place of a seed: whoever has key, ciphertext and tag can calculate it.

A sealed payload: id of the configured key (4 bytes), ciphertext, tag (16). The lane is authenticated with it, so a row
that was moved to another lane cannot be read.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from pushgate.spool.envelope import Unreadable

KEY_BYTES = 32
SEED_BYTES = 16
ID_BYTES = 4
OVERHEAD_BYTES = ID_BYTES + 16

_COUNTER = (1).to_bytes(4, "big")
_PURPOSE = b"row"
"""As long as it may be for SHA-256 to have a single block to do."""
_NONCE = bytes(12)
_NO_KEY = b""


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
    """Seals with the first key and opens with all of them. Without a key the seeds alone open."""

    def __init__(self, keys: Keys) -> None:
        self.ids = frozenset(map(key_id, keys.values))
        """Of all keys that are given."""
        self.sealing_id = key_id(keys.values[0]) if keys.values else b""
        """Of the key that seals; empty where none is given."""
        self._keys = {key_id(key): key for key in (*keys.values, _NO_KEY)}
        self._header = self.sealing_id or key_id(_NO_KEY)

    def seal(self, lane: str, payload: bytes, seed: bytes) -> bytes:
        """What goes to the disk. No seed may come twice."""
        row_key = _row_key(self._keys[self._header], seed)
        return self._header + AESGCM(row_key).encrypt(_NONCE, payload, lane.encode())

    def open(self, lane: str, sealed: bytes, seed: bytes) -> bytes:
        """The payload of a row. Raises `Unreadable`, which says nothing of what the row holds."""
        key = self._keys.get(sealed[:ID_BYTES])
        if key is None:
            raise Unreadable("sealed by a key that is not given")
        try:
            return AESGCM(_row_key(key, seed)).decrypt(_NONCE, sealed[ID_BYTES:], lane.encode())
        except InvalidTag:
            raise Unreadable("changed, or its seed is not") from None


def _row_key(key: bytes, seed: bytes) -> bytes:
    return hashlib.sha256(_COUNTER + key + seed + _PURPOSE).digest()
