"""Keyed hashes: what a spool remembers of a pushkey or of a notification instead of the thing itself."""

from __future__ import annotations

import hashlib

KEY_BYTES = 32
HASH_BYTES = 16
REPEAT = b"pushgate repeat"
REJECTION = b"pushgate reject"


class KeyedHash:
    """BLAKE2b (RFC 7693) with a secret key, for one purpose: equal parts under another purpose hash differently."""

    __slots__ = ("_begun",)

    def __init__(self, key: bytes, purpose: bytes) -> None:
        self._begun = hashlib.blake2b(digest_size=HASH_BYTES, key=key, person=purpose)

    def __call__(self, *parts: str) -> bytes:
        """16 bytes. Each part stands behind its length, so that ("ab", "c") and ("a", "bc") differ."""
        told = []
        for part in parts:
            raw = part.encode()
            told.append(len(raw).to_bytes(4, "big"))
            told.append(raw)
        done = self._begun.copy()
        done.update(b"".join(told))
        return done.digest()
