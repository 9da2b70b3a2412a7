"""A delivery that a worker holds, and the words by which it tells NATS how it went on."""

from __future__ import annotations

import math
from enum import Enum, auto

from pushgate.model import Delivery

ACK, TERM, PROGRESS = b"+ACK", b"+TERM", b"+WPI"
"""Ended; ended without success; still at it."""


def nak(delay_s: float) -> bytes:
    """Give it again, not before so many seconds from now."""
    return b'-NAK {"delay": %d}' % math.ceil(delay_s * 1e9) if delay_s > 0 else b"-NAK"


class State(Enum):
    """Where it stands."""

    READY = auto()
    LEASED = auto()
    ENDING = auto()
    """NATS is being told."""
    GONE = auto()


class Held:
    """One delivery that NATS gave to us. The token of its leases."""

    __slots__ = ("attempt", "delivery", "lane", "renewed_at", "reply", "seq", "size", "state")

    def __init__(
        self, lane: str, delivery: Delivery, *, reply: str, attempt: int, seq: int, size: int, renewed_at: float
    ) -> None:
        self.lane = lane
        self.delivery = delivery
        self.reply = reply
        """Where NATS is told what became of it."""
        self.attempt = attempt
        self.seq = seq
        self.size = size
        self.renewed_at = renewed_at
        """When NATS was told last that we have it, by the clock of the loop."""
        self.state = State.READY


def numbers_of(reply: str) -> tuple[int, int]:
    """How often it was given and its number in the stream, from where NATS is told (ADR-15). Raises ValueError."""
    parts = reply.split(".")
    if len(parts) == 9:
        return int(parts[4]), int(parts[5])
    if len(parts) >= 11:  # with domain and account
        return int(parts[6]), int(parts[7])
    raise ValueError("not of JetStream")
