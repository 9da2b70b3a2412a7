"""Keyed hashes: what a spool remembers of a pushkey or of a notification instead of the thing itself."""

from __future__ import annotations

import hashlib
from struct import pack

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
HASH_BYTES = 16
LONG_BYTES = 512
_NONCE = bytes(12)
REPEAT = b"pushgate repeat"
REJECTION = b"pushgate reject"


class KeyedHash:
    """BLAKE2b (RFC 7693) with a secret key, for one purpose: equal parts under another purpose hash differently.

    Of a part that is long, a ciphertext, its GMAC (NIST SP 800-38D) under a key of the same secret is hashed in its
    place, which takes a quarter of the time. Who does not know the key finds no two texts with the same one but by
    2^115 trials, and BLAKE2b keeps what it tells.
    """

    __slots__ = ("_begun", "_shortened")

    def __init__(self, key: bytes, purpose: bytes) -> None:
        self._begun = hashlib.blake2b(digest_size=HASH_BYTES, key=key, person=purpose)
        self._shortened = AESGCM(
            hashlib.blake2b(b"long parts", digest_size=32, key=key, person=purpose).digest()
        ).encrypt

    def __call__(self, *parts: str) -> bytes:
        """16 bytes. All lengths stand before the parts, so that ("ab", "c") and ("a", "bc") differ."""
        raw = [part.encode() for part in parts]
        sizes = [*map(len, raw)]
        if max(sizes) > LONG_BYTES:
            raw = [each if len(each) <= LONG_BYTES else self._shortened(_NONCE, b"", each) for each in raw]
        done = self._begun.copy()
        done.update(pack(f">{len(sizes)}I", *sizes) + b"".join(raw))
        return done.digest()
