"""Refused requests in the log: who, and with which words; now and then, for there may be thousands a second."""

from __future__ import annotations

import structlog

TELL_EVERY_S = 5.0

log = structlog.get_logger(__name__)


class Refusals:
    """Tells the first refusal of a kind at once, those that follow every few seconds with their number."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, int], _Kind] = {}
        """By caller and status: as many as there are of both."""

    def tell(self, caller: str, status: int, error: str, now: float) -> None:
        """Of one request. `caller` is a name from the configuration. `now` is of a clock that is never set back."""
        kind = self._kinds.setdefault((caller, status), _Kind())
        kind.untold += 1
        if now >= kind.again_at:
            log.warning("requests refused", caller=caller, status=status, error=error, count=kind.untold)
            kind.untold, kind.again_at = 0, now + TELL_EVERY_S


class _Kind:
    __slots__ = ("again_at", "untold")

    def __init__(self) -> None:
        self.untold = 0
        self.again_at = 0.0
