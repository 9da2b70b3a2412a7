"""The rows of the table: what each sends, what it cost, and what makes it doubtful."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from bench.load import Kind, Wish
from bench.machine import CoreTime

APP = "org.example.health.apns"
FCM_APP = "example-project.app.firebase"
BUSY = 0.9
"""A core with less to do was not the limit."""
MUCH_LOAD = 0.6
"""Sink and load generator that use more than that of a full core filled it."""
OTHERS = 0.05
"""More of the gateway's core than this for others spoils a row."""
DRIFT = 0.15
"""h before and after a row may differ by so much."""


class Plan(Struct, frozen=True):
    """One row: what is sent, over how many connections."""

    name: str
    title: str
    notifications: int
    connections: int
    wish: Wish
    goal_h: float | None = None


class Measured(Struct, frozen=True, kw_only=True):
    """What happened while a row was measured."""

    notifications: int
    seconds: float
    """From the first request until the provider had the last one. So long were measured:"""
    core: CoreTime
    """the gateway's core,"""
    gateway_s: float
    """CPU of the gateway,"""
    sink_s: float
    """CPU of the sink,"""
    load_s: float
    """CPU of the generator,"""
    load_core: CoreTime
    """and its core."""
    cpu_s: float
    """CPU of the gateway until everything was also written down and erased."""
    rss_max_mb: float
    notes: Sequence[str] = ()


class Row(Struct, frozen=True, kw_only=True):
    """What it cost."""

    name: str
    title: str
    goal_h: float | None
    notifications: int
    per_s: float
    """From the first request until the provider has the last one."""
    cpu_us: float
    """CPU of the gateway for one notification, user and system, until everything is written down and erased."""
    cost_h: float
    """The same, measured in what h2load spends on one request."""
    h_us: float
    """The mean of before and after."""
    h_before_us: float
    h_after_us: float
    core_busy: float
    """Share of the time that the gateway's core did anything."""
    gateway_busy: float
    """Share of the time that the gateway itself ran; the rest of its core went to interrupts and others."""
    sink_busy: float
    load_busy: float
    rss_max_mb: float
    notes: Sequence[str]
    trials_h: Sequence[float]
    """What each trial cost, of which this is the middle one."""


def middle_of(trials: Sequence[Row]) -> Row:
    """The one of several trials of a row that half of the others cost less than, with what all of them cost."""
    in_order = sorted(trials, key=lambda row: row.cost_h)
    return replace(in_order[len(in_order) // 2], trials_h=[row.cost_h for row in in_order])


def lanes(count: int) -> list[str]:
    """So many apps."""
    return [f"org.example.lane{number:04}" for number in range(count)]


def plans(scale: float) -> list[Plan]:
    """All rows, with this part of their notifications."""

    def plan(name: str, title: str, count: int, connections: int, wish: Wish, goal_h: float | None = None) -> Plan:
        return Plan(name, title, int(count * scale) // 1000 * 1000, connections, wish, goal_h)

    one = [APP]
    return [
        plan("batch100", "sealed, batches of 100, 8 connections", 120_000, 8, Wish(one, 100), 7),
        plan("plain", "plain, `/notify`, 50 connections", 40_000, 50, Wish(one, 1, Kind.PLAIN), 20),
        plan("batch1", "sealed, batches of one, 50 connections", 40_000, 50, Wish(one, 1), 22),
        plan("fcm", "FCM: sealed, batches of 100, 8 connections", 120_000, 8, Wish([FCM_APP], 100, Kind.FCM), 8),
        plan("http2", "`http2` alone, 500 in flight", 200_000, 1, Wish(one, 1, Kind.HTTP2), 2),
        plan("batch10", "sealed, batches of 10, 16 connections", 60_000, 16, Wish(one, 10)),
        plan("lanes100", "sealed, batches of 100 over 100 lanes", 80_000, 8, Wish(lanes(100), 100)),
        plan("lanes1000", "sealed, batches of 100 over 1,000 lanes", 80_000, 8, Wish(lanes(1000), 100)),
    ]


def row_of(plan: Plan, found: Measured, *, h_before_s: float, h_after_s: float) -> Row:
    """In the words of the table, with what makes it doubtful."""
    cpu_us, h_us = found.cpu_s / found.notifications * 1e6, (h_before_s + h_after_s) / 2 * 1e6
    return Row(
        name=plan.name,
        title=plan.title,
        goal_h=plan.goal_h,
        notifications=found.notifications,
        per_s=found.notifications / found.seconds,
        cpu_us=cpu_us,
        cost_h=cpu_us / h_us,
        h_us=h_us,
        h_before_us=h_before_s * 1e6,
        h_after_us=h_after_s * 1e6,
        core_busy=found.core.busy_s / found.seconds,
        gateway_busy=found.gateway_s / found.seconds,
        sink_busy=found.sink_s / found.seconds,
        load_busy=found.load_s / found.seconds,
        rss_max_mb=found.rss_max_mb,
        notes=[*_doubts(found), *_drift(h_before_s * 1e6, h_after_s * 1e6), *found.notes],
        trials_h=[cpu_us / h_us],
    )


def _doubts(found: Measured) -> Sequence[str]:
    """What says that the gateway was not the limit, or was not alone."""
    doubts = []
    core, load_core = found.core.busy_s / found.seconds, found.load_core.busy_s / found.seconds
    load = (found.sink_s + found.load_s) / found.seconds
    if core < BUSY:
        why = "the gateway waited, for the disk or for answers" if load_core < BUSY else "the load's core was the limit"
        doubts.append(f"the core was not full ({core:.0%}): {why}")
    if load_core >= BUSY:
        who = "sink and load generator, which may have been the limit" if load >= MUCH_LOAD else "others"
        doubts.append(f"the load's core was full ({load_core:.0%}), of {who}")
    others = (found.core.busy_s - found.core.interrupts_s - found.gateway_s) / found.seconds
    if others > OTHERS:
        doubts.append(f"others took {others:.0%} of the gateway's core")
    if (stolen := found.core.stolen_s / found.seconds) > OTHERS:
        doubts.append(f"the host took {stolen:.0%} of the gateway's core")
    return doubts


def _drift(before_us: float, after_us: float) -> Sequence[str]:
    if max(before_us, after_us) <= min(before_us, after_us) * (1 + DRIFT):
        return []
    return [f"h was {before_us:.1f} µs before and {after_us:.1f} µs after: the machine is not steady"]
