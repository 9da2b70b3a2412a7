"""Keyed hashes: what a spool remembers of a pushkey or of a notification instead of the thing itself."""

from __future__ import annotations

import hashlib

KEY_BYTES = 32
HASH_BYTES = 16
REPEAT = b"pushgate repeat"
REJECTION = b"pushgate reject"


class KeyedHash:
    """BLAKE2b (RFC 7693) with a secret key, for one purpose: equal parts under another purpose hash differently."""

    __slots__ = ("_key", "_purpose")

    def __init__(self, key: bytes, purpose: bytes) -> None:
        self._key = key
        self._purpose = purpose

    def __call__(self, *parts: str) -> bytes:
        """16 bytes. Each part stands behind its length, so that ("ab", "c") and ("a", "bc") differ."""
        told = bytearray()
        for part in parts:
            raw = part.encode()
            told += len(raw).to_bytes(4, "big")
            told += raw
        return hashlib.blake2b(told, digest_size=HASH_BYTES, key=self._key, person=self._purpose).digest()
