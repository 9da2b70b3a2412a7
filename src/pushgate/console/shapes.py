"""The shape of `/status.json`, and its bounds. Times are unix seconds, durations end in `_s`, rates in `_per_s`."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from msgspec import Struct

from pushgate.console.history import Span

MOST_LANES = 1000
MOST_CALLERS = 200
MOST_PEERS = 50
MOST_NOTICES = 50
MOST_CREDENTIALS = 100
MOST_REASONS = 6
NAME_CHARS = 120


class Notice(Struct, frozen=True):
    """Something that an operator should know. `until` is 0 while it lasts, `since` where nobody knows."""

    key: str
    what: str
    lane: str
    urgent: bool
    since: float
    until: float
    meaning: str
    mend: str
    reasons: Sequence[tuple[str, int]] = ()
    """What was said meanwhile, the most frequent first."""


class LaneStatus(Struct, frozen=True):
    """One lane. `state` is `ok`, the name of an alarm, `no answer`, `paused`, or `no app`; `severity` 0 (well) to 3.

    `failing_s` is how long the first of `failures` is ago, the attempts that failed since the provider's last proper
    answer. The latencies are those of the last minutes, 0 where nothing was sent.
    """

    lane: str
    provider: str
    state: str
    severity: int
    waiting: int
    oldest_s: int
    in_flight: int
    limit: int
    pause_s: int
    failures: int
    failing_s: int
    accepted_per_s: float
    accepted: int
    rejected: int
    undeliverable: int
    expired: int
    deferred: int
    reasons: Sequence[tuple[str, str, int]]
    p50_s: float
    p95_s: float
    spread: Sequence[int]
    """How many attempts took how long: by the bounds of the histogram."""


class CallerStatus(Struct, frozen=True):
    """One caller, since the start."""

    caller: str
    per_s: float
    requests: int
    refused: int
    broken: int
    notifications: int
    failed: int


class PeerStatus(Struct, frozen=True):
    """The connections to one provider, and what became of them since the start."""

    peer: str
    connections: int
    streams: int
    queue: int
    opened: int
    failed: int
    lost: int


class Credential(Struct, frozen=True):
    """Something that ends."""

    what: str
    lane: str
    ends_at: float


class Health(Struct, frozen=True):
    """`state` is `ok`, `not ready` or `draining`."""

    state: str
    reason: str
    version: str
    started_at: float


class Totals(Struct, frozen=True):
    """All lanes and callers together. `hour_…` counts the last hour, or since the gateway is watched."""

    notifications_per_s: float
    accepted_per_s: float
    waiting: int
    oldest_s: int
    in_flight: int
    hour_notifications: int
    hour_accepted: int
    hour_rejected: int
    hour_undeliverable: int
    hour_expired: int
    hour_broken: int


class Machine(Struct, frozen=True):
    """The process and its spool."""

    cpu: float
    """Cores in use."""
    memory_bytes: int
    open_files: int
    spool_bytes: int
    commits_per_s: float
    commit_p95_s: float
    repeats: int


class Status(Struct, frozen=True):
    """All of it."""

    at: float
    health: Health
    totals: Totals
    notices: Sequence[Notice]
    lanes: Sequence[LaneStatus]
    more_lanes: int
    callers: Sequence[CallerStatus]
    more_callers: int
    peers: Sequence[PeerStatus]
    credentials: Sequence[Credential]
    machine: Machine
    hour: Span
    bounds: Sequence[float]
    """Of every `spread`, in seconds; the last one has no end."""


def shown(name: str) -> str:
    """A name from outside: cut where it is long, but still another one than others that begin so; nothing invisible."""
    if not name.isprintable():
        name = "".join([each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in name])
    if len(name) <= NAME_CHARS + 10:
        return name
    return f"{name[:NAME_CHARS]}… {crc32(name.encode(errors='replace')):08x}"
