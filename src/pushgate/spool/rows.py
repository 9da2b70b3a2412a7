"""A row of the table of deliveries, as it is written."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pushgate.model import Delivery
from pushgate.spool import envelope
from pushgate.spool.cipher import SEED_BYTES, Cipher
from pushgate.spool.lane import Row

Values = tuple[int, str, int, int, int, int, bytes]
"""A row, in the order of its columns: id, lane, due, accepted, expires (unix milliseconds), attempt, payload."""

INSERT_ROW = "INSERT INTO deliveries VALUES (?,?,?,?,?,?,?)"


def values_of(
    number: int, delivery: Delivery, cipher: Cipher, seed: bytes, *, due_ms: int, attempt: int, encoded: bytes = b""
) -> Values:
    """The row of a delivery, sealed with this seed. `encoded` is its envelope, where somebody has it already."""
    lane = delivery.device.app_id
    payload = cipher.seal(lane, encoded or envelope.encode(delivery), seed)
    accepted_ms, expires_ms = int(delivery.accepted_at * 1000), math.ceil(delivery.expires_at * 1000)
    return number, lane, due_ms, accepted_ms, expires_ms, attempt, payload


def values_of_all(
    rows: Sequence[Row], payloads: Sequence[bytes], cipher: Cipher, seeds: bytes, *, due_ms: int
) -> Sequence[Values]:
    """Those of new deliveries with their envelopes, each sealed with its part of the seeds, which are joined."""
    return [
        values_of(
            row.id,
            row.delivery,
            cipher,
            seeds[n * SEED_BYTES : (n + 1) * SEED_BYTES],
            due_ms=due_ms,
            attempt=1,
            encoded=payload,
        )
        for n, (row, payload) in enumerate(zip(rows, payloads, strict=True))
    ]
