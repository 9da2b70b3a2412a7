"""Keyed hashes: what a spool remembers of a pushkey or of a notification instead of the thing itself."""

from __future__ import annotations

import hashlib

import msgspec

KEY_BYTES = 32
HASH_BYTES = 16
REPEAT = b"pushgate repeat"
REJECTION = b"pushgate reject"
_BLOCK_BYTES = 64
_encode = msgspec.msgpack.Encoder().encode


class KeyedHash:
    """SHA-256 (FIPS 180-4) behind a secret key, for one purpose: equal parts under another purpose hash differently.

    A hash with its key in front is a keyed one only where nothing hashed is the beginning of another. MessagePack says
    how many parts there are and how long each is, before each: so it is here. Processors have instructions for SHA-256.
    """

    __slots__ = ("_begun",)

    def __init__(self, key: bytes, purpose: bytes) -> None:
        self._begun = hashlib.sha256((key + purpose).ljust(_BLOCK_BYTES, b"\0"))

    def __call__(self, *parts: str) -> bytes:
        """16 bytes. ("ab", "c") and ("a", "bc") differ."""
        done = self._begun.copy()
        done.update(_encode(parts))
        return done.digest()[:HASH_BYTES]
