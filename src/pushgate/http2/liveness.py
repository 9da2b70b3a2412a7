"""When to ask a peer for a sign of life, and when to give it up: arithmetic over times, without a clock."""

from __future__ import annotations

from enum import Enum, auto

from msgspec import Struct

from pushgate.http2.limits import Limits


class Verdict(Enum):
    """What to do about a peer's silence."""

    WAIT = auto()
    PING = auto()
    DEAD = auto()


class Silence(Struct, frozen=True, kw_only=True):
    """What is known of a peer's silence, in seconds of one clock."""

    heard_at: float
    """When anything at all arrived last."""
    busy_since: float | None
    """Since when there has been at least one request in flight. None: there is none."""
    asked_at: float | None
    """When the PING was sent that is not acknowledged yet. None: there is none."""


def judge(silence: Silence, limits: Limits, *, now: float) -> tuple[Verdict, float]:
    """What to do now, and when to ask again.

    Whatever arrives is a sign of life: a peer that still answers requests is not dead for an acknowledgement that is
    late (RFC 9113 §6.7).
    """
    if silence.asked_at is not None:
        due = max(silence.heard_at, silence.asked_at) + limits.ack_s
        return (Verdict.DEAD if now >= due else Verdict.WAIT), due
    if silence.busy_since is not None:
        due = max(silence.heard_at, silence.busy_since) + limits.quiet_s
    else:
        due = silence.heard_at + limits.idle_ping_s
    return (Verdict.PING, now + limits.ack_s) if now >= due else (Verdict.WAIT, due)
