"""How the gateway fares, for people: what the status page shows and `/status.json` says. Pure.

Bounded, whatever the metrics hold: names are cut, of long lists the part that matters most is told, and how much more
there is. Times are unix seconds, durations end in `_s`, rates in `_per_s`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isinf
from operator import sub

from pushgate.console import advice
from pushgate.console.history import History, point, rate
from pushgate.console.notices import OLD_S, credentials, has_no_answer, notices
from pushgate.console.reading import CallerReading, LaneReading, PeerReading, Reading
from pushgate.console.shapes import (
    MOST_CALLERS,
    MOST_CREDENTIALS,
    MOST_LANES,
    MOST_NOTICES,
    MOST_PEERS,
    MOST_REASONS,
    CallerStatus,
    Health,
    LaneStatus,
    Machine,
    PeerStatus,
    Status,
    Totals,
    shown,
)


def status(now: Reading, history: History, *, unready: str) -> Status:
    """How it fares. `unready` is why no notifications are taken, or nothing."""
    lanes = sorted((_lane(name, each, now, history) for name, each in now.lanes.items()), key=_urgency)
    callers = sorted(
        (_caller(name, now, history) for name in now.callers), key=lambda each: (-each.requests, each.caller)
    )
    totals = _totals(now, history)
    return Status(
        at=round(now.at, 1),
        health=_health(now, unready),
        totals=totals,
        notices=notices(now, totals, history, unready=unready)[:MOST_NOTICES],
        lanes=lanes[:MOST_LANES],
        more_lanes=max(len(lanes) - MOST_LANES, 0),
        callers=callers[:MOST_CALLERS],
        more_callers=max(len(callers) - MOST_CALLERS, 0),
        peers=[_peer(name, each) for name, each in sorted(now.peers.items())][:MOST_PEERS],
        credentials=credentials(now)[:MOST_CREDENTIALS],
        machine=_machine(now, history),
        hour=history.span(),
        bounds=[bound for bound in now.bounds if bound != float("inf")],
    )


def _health(now: Reading, unready: str) -> Health:
    state = "ok" if not unready else unready if unready in ("draining", "starting") else "not ready"
    return Health(state, shown(unready), now.version, now.numbers.get("process_start_time_seconds", 0.0))


def _totals(now: Reading, history: History) -> Totals:
    at_last = point(now)
    lately = history.lately
    then = at_last if lately is None else point(lately)
    first = history.an_hour_ago() or at_last
    return Totals(
        notifications_per_s=rate(at_last.notifications - then.notifications, now.at - then.at),
        accepted_per_s=rate(at_last.accepted - then.accepted, now.at - then.at),
        waiting=int(at_last.waiting),
        oldest_s=int(max((lane.oldest_s for lane in now.lanes.values()), default=0)),
        in_flight=int(sum(lane.in_flight for lane in now.lanes.values())),
        hour_notifications=_more(at_last.notifications, first.notifications),
        hour_accepted=_more(at_last.accepted, first.accepted),
        hour_rejected=_more(at_last.rejected, first.rejected),
        hour_undeliverable=_more(at_last.undeliverable, first.undeliverable),
        hour_expired=_more(at_last.expired, first.expired),
        hour_broken=_more(at_last.broken, first.broken),
    )


# --- lanes


def _urgency(lane: LaneStatus) -> tuple[int, int, str]:
    return -lane.severity, -lane.waiting if lane.severity else 0, lane.lane


def _lane(name: str, lane: LaneReading, now: Reading, history: History) -> LaneStatus:
    lately, minutes = history.lately, history.minutes_ago
    then = lane if lately is None else lately.lanes.get(name, _NO_LANE)
    earlier = lane if minutes is None else minutes.lanes.get(name, _NO_LANE)
    spread = _since(lane.buckets, earlier.buckets) or [0] * len(now.bounds)
    state, severity = _state(lane)
    accepted = lane.endings.get("accepted", 0.0)
    reasons = sorted(lane.reasons.items(), key=lambda each: -each[1])[:MOST_REASONS]
    return LaneStatus(
        lane=shown(name),
        provider=lane.provider,
        state=state,
        severity=severity,
        waiting=int(lane.waiting),
        oldest_s=int(lane.oldest_s),
        in_flight=int(lane.in_flight),
        limit=int(lane.limit),
        pause_s=ceil(lane.pause_s),
        failures=int(lane.failures),
        failing_s=int(lane.failing_s),
        accepted_per_s=rate(accepted - then.endings.get("accepted", 0.0), 0 if lately is None else now.at - lately.at),
        accepted=int(accepted),
        rejected=int(lane.endings.get("rejected", 0)),
        undeliverable=int(lane.endings.get("undeliverable", 0)),
        expired=int(lane.endings.get("expired", 0)),
        deferred=int(lane.attempts.get("deferred", 0)),
        reasons=[(outcome, shown(reason), int(count)) for (outcome, reason), count in reasons],
        p50_s=quantile(0.5, now.bounds, spread),
        p95_s=quantile(0.95, now.bounds, spread),
        spread=spread,
    )


def _state(lane: LaneReading) -> tuple[str, int]:
    if not lane.provider:
        return "no app", 3 if lane.waiting else 0
    for kind, told in advice.ALARMS.items():
        if kind in lane.alarms:
            return kind.replace("_", " "), 3 if told.urgent else 2
    if has_no_answer(lane):
        return "no answer", 2
    if lane.pause_s > 0:
        return "paused", 2
    return ("ok", 1) if lane.oldest_s > OLD_S else ("ok", 0)


def quantile(share: float, bounds: Sequence[float], counts: Sequence[float]) -> float:
    """Where that share of what was counted lies, by straight lines within each bucket; 0 where nothing was counted."""
    wanted, below = share * sum(counts), 0.0
    if not wanted:
        return 0.0
    for place, count in enumerate(counts):
        if count and below + count >= wanted:
            low = bounds[place - 1] if place else 0.0
            high = bounds[place]
            return round(low if isinf(high) else low + (high - low) * (wanted - below) / count, 4)
        below += count
    return 0.0


def _since(now: Sequence[float], then: Sequence[float]) -> list[int]:
    if len(then) == len(now) and min(more := [*map(sub, now, then)], default=0.0) >= 0:
        return [*map(int, more)]
    return [*map(int, now)]  # it began anew


# --- the rest


def _caller(name: str, now: Reading, history: History) -> CallerStatus:
    caller, lately = now.callers[name], history.lately
    requests = sum(caller.statuses.values())
    then = caller if lately is None else lately.callers.get(name, _NO_CALLER)
    seconds = 0 if lately is None else now.at - lately.at
    notified = caller.notifications
    return CallerStatus(
        caller=shown(name),
        per_s=rate(requests - sum(then.statuses.values()), seconds),
        requests=int(requests),
        refused=int(sum(count for status, count in caller.statuses.items() if status.startswith("4"))),
        broken=int(sum(count for status, count in caller.statuses.items() if status.startswith("5"))),
        notifications=int(sum(notified.values())),
        failed=int(notified.get("failed", 0)),
    )


def _peer(name: str, peer: PeerReading) -> PeerStatus:
    events = peer.events
    return PeerStatus(
        shown(name),
        int(peer.connections),
        int(peer.streams),
        int(peer.queue),
        int(events.get("opened", 0)),
        int(events.get("failed", 0)),
        int(events.get("lost", 0) + events.get("mute", 0)),
    )


def _machine(now: Reading, history: History) -> Machine:
    lately, numbers = history.lately, now.numbers
    seconds = 0 if lately is None else now.at - lately.at
    bounds = [bound for bound, _ in now.commits]
    counts = _apart(now.commits)
    before = [0.0] * len(counts) if lately is None else _apart(lately.commits)
    spread = _since(counts, before)

    def per_s(name: str) -> float:
        return rate(numbers.get(name, 0.0) - (0.0 if lately is None else lately.numbers.get(name, 0.0)), seconds)

    return Machine(
        cpu=per_s("process_cpu_seconds_total"),
        memory_bytes=int(numbers.get("process_resident_memory_bytes", 0)),
        open_files=int(numbers.get("process_open_fds", 0)),
        spool_bytes=int(numbers.get("pushgate_spool_bytes", 0)),
        commits_per_s=rate(sum(spread), seconds),
        commit_p95_s=quantile(0.95, bounds, spread),
        repeats=int(numbers.get("pushgate_repeats_total", 0)),
    )


def _apart(added_up: Sequence[tuple[float, float]]) -> list[float]:
    """The counts of each bucket alone."""
    counts = [count for _, count in added_up]
    return [late - early for late, early in zip(counts, [0.0, *counts], strict=False)]


def _more(now: float, then: float) -> int:
    """How many more; all of them where counting began anew."""
    return int(now - then if now >= then else now)


_NO_LANE, _NO_CALLER = LaneReading(), CallerReading()
