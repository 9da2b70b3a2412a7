"""What somebody can read who has the files of a spool as they are: whole pages, stale copies and the log.

He knows the format and searches for two things, whether SQLite still counts them as data or not: seeds, in whatever
page they may stand, and the beginnings of sealed payloads and bundles. Each seed is tried on each. No tag is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from pushgate.spool.cipher import ID_BYTES, SEED_BYTES, key_id
from pushgate.spool.database import PAGE_BYTES
from pushgate.spool.seeds import CHUNK_ROWS

WAL_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
FIRST_COUNTER = bytes(12) + (2).to_bytes(4, "big")
"""GCM encrypts from here on, under a nonce of zeros (NIST SP 800-38D §7.1)."""
PAYLOADS = (b"\x01E", b"\x01P")
BUNDLES = (*(bytes((0x90 | few, 0x92)) for few in range(1, 16)), *(bytes((0xDC, many)) for many in range(16)))
"""MessagePack of an array of up to 4,095 pairs."""
BEGINNINGS = (*PAYLOADS, *BUNDLES)
NO_KEY = b""


def readable(files: Iterable[bytes], *, keys: Iterable[bytes] = ()) -> bytes:
    """The files themselves, and every payload that one of their seeds opens, with one of the keys or without any."""
    raw = list(files)
    seeds = {seed for each in raw for page in _pages(each) for seed in _seeds(page)}
    opened = [text for key in (*keys, NO_KEY) for text in _opened(raw, seeds, key)]
    return b"\n".join([*raw, *opened])


def _pages(raw: bytes) -> Iterator[bytes]:
    """Of a database; and of a log, in which each stands behind a header."""
    for start in range(0, len(raw) - PAGE_BYTES + 1, PAGE_BYTES):
        yield raw[start : start + PAGE_BYTES]
    frame_bytes = FRAME_HEADER_BYTES + PAGE_BYTES
    for start in range(WAL_HEADER_BYTES + FRAME_HEADER_BYTES, len(raw) - PAGE_BYTES + 1, frame_bytes):
        yield raw[start : start + PAGE_BYTES]


def _seeds(page: bytes) -> Iterator[bytes]:
    """What may be seeds, where this is the last overflow page of something."""
    if any(page[:4]):
        return
    for start in range(PAGE_BYTES - CHUNK_ROWS * SEED_BYTES, PAGE_BYTES, SEED_BYTES):
        seed = page[start : start + SEED_BYTES]
        if any(seed):
            yield seed


def _opened(raw: Iterable[bytes], seeds: Iterable[bytes], key: bytes) -> Iterator[bytes]:
    by_beginning: dict[bytes, set[bytes]] = {}
    for each in raw:
        for start in _starts(each, key_id(key)):
            sealed = each[start : start + PAGE_BYTES]
            by_beginning.setdefault(sealed[:2], set()).add(sealed)
    for seed in seeds:
        row_key = hashlib.sha256((1).to_bytes(4, "big") + key + seed + b"row").digest()
        stream = Cipher(algorithms.AES(row_key), modes.CTR(FIRST_COUNTER)).encryptor().update(bytes(PAGE_BYTES))
        for beginning in BEGINNINGS:
            for sealed in by_beginning.get(_xor(stream[:2], beginning), ()):
                yield _xor(stream, sealed)


def _starts(raw: bytes, name: bytes) -> Iterator[int]:
    at = raw.find(name)
    while at >= 0:
        yield at + ID_BYTES
        at = raw.find(name, at + 1)


def _xor(one: bytes, other: bytes) -> bytes:
    count = min(len(one), len(other))
    mixed = int.from_bytes(one[:count], "big") ^ int.from_bytes(other[:count], "big")
    return mixed.to_bytes(count, "big")
