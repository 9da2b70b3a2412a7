"""How much may wait in a spool, and what is said when no more may."""

from __future__ import annotations

from msgspec import Struct

from pushgate.errors import SpoolFull

MB = 1 << 20
SMALLEST_BYTES = 500
"""The payload of a small delivery: where not even this has room, nothing has."""
MEND = "see what holds up the lanes where most waits, or raise it; goes on by itself as soon as there is room"


class Limits(Struct, frozen=True):
    """How much may wait. 0: as much as there is space for."""

    max_waiting: int = 0
    """Deliveries, held ones included."""
    max_bytes: int = 0
    """What they may take, with everything that is remembered beside them."""
    share_of_lane: float = 1.0
    """The part of `max_waiting` that one lane may hold."""

    def is_crowded(self, waiting: int) -> bool:
        """Whether a lane that holds so many has its share."""
        return 0 < self.share_of_lane * self.max_waiting <= waiting

    def refusal(self, *, waiting: int, taken_bytes: int) -> SpoolFull | None:
        """Why there cannot be so much, or None when there can."""
        if 0 < self.max_waiting < waiting:
            return SpoolFull(f"the spool is full: spool.max_waiting is {self.max_waiting} deliveries -> {MEND}")
        if 0 < self.max_bytes < taken_bytes:
            return SpoolFull(f"the spool is full: spool.max_mb is {self.max_bytes // MB} MB -> {MEND}")
        return None


NO_LIMITS = Limits()
