"""What became of the notifications: one result for each, and what they amount to."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct


class ItemStatus(StrEnum):
    """How the gateway answered for one notification of a batch."""

    SUCCESS = "success"
    """On its way to every device (to those that could be taken, where `error` says otherwise)."""
    PARTIAL = "partial"
    """On its way to some devices; the pushkeys of others are dead."""
    FAILED = "failed"
    """On its way to nobody."""


class ItemResult(Struct, frozen=True, kw_only=True):
    """What became of one notification of a batch."""

    id: str
    status: ItemStatus
    rejected: tuple[str, ...] = ()
    """Pushkeys of this very notification that are dead: delete their registrations, now."""
    error: str = ""
    """Why, in the gateway's own words; empty where it gave none. Never a reason to delete a registration."""

    def __repr__(self) -> str:
        return f"ItemResult(id={self.id!r}, status={str(self.status)!r}, rejected={len(self.rejected)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("id", self.id), ("status", str(self.status)), ("rejected", len(self.rejected))]


class Summary(Struct, frozen=True, kw_only=True):
    """How many notifications of a batch ended how. Counted from the results, not taken from an answer."""

    total: int
    successful: int
    failed: int
    partial: int


class BatchResult(Struct, frozen=True):
    """What became of a batch, over all the requests it took."""

    results: tuple[ItemResult, ...]
    """One for each notification, in the order submitted."""
    request_ids: tuple[str, ...] = ()
    """The X-Request-Id of each answer that had one: by it the gateway knows what became of the deliveries."""

    @property
    def summary(self) -> Summary:
        """How many ended how."""
        ended = [item.status for item in self.results]
        return Summary(
            total=len(ended),
            successful=ended.count(ItemStatus.SUCCESS),
            failed=ended.count(ItemStatus.FAILED),
            partial=ended.count(ItemStatus.PARTIAL),
        )

    @property
    def dead_pushkeys(self) -> tuple[str, ...]:
        """Every pushkey whose registration is to be deleted, each once."""
        return tuple(dict.fromkeys(pushkey for item in self.results for pushkey in item.rejected))

    def __repr__(self) -> str:
        return f"BatchResult({self.summary!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("summary", self.summary)]


class NotifyResult(Struct, frozen=True):
    """The answer to a single plain notification: it is on its way to every device but the rejected ones."""

    rejected: tuple[str, ...]
    """Pushkeys of the notification that are dead: delete their registrations, now."""
    request_id: str = ""
    """The X-Request-Id of the answer; empty where it had none."""

    @property
    def dead_pushkeys(self) -> tuple[str, ...]:
        """Every pushkey whose registration is to be deleted, each once."""
        return tuple(dict.fromkeys(self.rejected))

    def __repr__(self) -> str:
        return f"NotifyResult(rejected={len(self.rejected)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("rejected", len(self.rejected))]
