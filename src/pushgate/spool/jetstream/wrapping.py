"""Deliveries as they stand in the stream: plain (`envelope`), or sealed where a key is configured (`cipher`).

A sealed one is a byte 02, the seed, and what `cipher` gives. The seed lies beside what it seals: the configured key
alone protects it.
"""

from __future__ import annotations

from collections.abc import Callable

from pushgate.model import Delivery
from pushgate.spool import envelope
from pushgate.spool.cipher import SEED_BYTES, Cipher
from pushgate.spool.envelope import Unreadable

_SEALED = b"\x02"


class Wrapping:
    """Of this gateway: it opens what any other with one of its keys has wrapped."""

    def __init__(self, cipher: Cipher, *, entropy: Callable[[int], bytes]) -> None:
        self._cipher = cipher
        self._entropy = entropy

    def wrap(self, delivery: Delivery) -> bytes:
        """What is published."""
        payload = envelope.encode(delivery)
        if not self._cipher.sealing_id:
            return payload
        seed = self._entropy(SEED_BYTES)
        return _SEALED + seed + self._cipher.seal(delivery.lane, payload, seed)

    def unwrap(self, lane: str, payload: bytes) -> Delivery:
        """The delivery. Raises `Unreadable`, which says nothing of what it holds."""
        if payload[:1] == _SEALED:
            seed, sealed = payload[1 : 1 + SEED_BYTES], payload[1 + SEED_BYTES :]
            payload = self._cipher.open(lane, sealed, seed)
        delivery = envelope.decode(payload)
        if delivery.lane != lane:
            raise Unreadable("of another lane")
        return delivery
