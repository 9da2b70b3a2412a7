"""Keyed hashes: what a spool remembers of a pushkey or of a notification instead of the thing itself."""

from __future__ import annotations

import hashlib

KEY_BYTES = 32
HASH_BYTES = 16
REPEAT = b"pushgate repeat"
REJECTION = b"pushgate reject"
_BLOCK_BYTES = 64


class KeyedHash:
    """SHA-256 (FIPS 180-4) behind a secret key, for one purpose: equal parts under another purpose hash differently.

    What is hashed begins with the lengths of its parts, so that nothing hashed is the beginning of another: that is
    what a hash with the key in front needs to be a keyed one. Processors have instructions for it.
    """

    __slots__ = ("_begun",)

    def __init__(self, key: bytes, purpose: bytes) -> None:
        self._begun = hashlib.sha256((key + purpose).ljust(_BLOCK_BYTES, b"\0"))

    def __call__(self, *parts: str) -> bytes:
        """16 bytes. Each part is known by its length, so that ("ab", "c") and ("a", "bc") differ."""
        lengths = ""
        for part in parts:
            lengths += f"{len(part)}:"
        done = self._begun.copy()
        done.update(f"{lengths} {''.join(parts)}".encode())
        return done.digest()[:HASH_BYTES]
