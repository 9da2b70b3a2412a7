"""What one run of the benchmark has found, and how it reads: tables in Markdown, which people can read too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from bench.latency import Latency
from bench.machine import Machine
from bench.rows import Row
from bench.waiting import Beside, Held

BEGIN = "<!-- figures: begin (python -m bench.speed --page writes what is between these two lines) -->"
END = "<!-- figures: end -->"
GOAL_P50_MS, GOAL_P99_MS = 5.0, 25.0
GOAL_START_S = 0.7
GOAL_LANE_KB = 20


class Report(Struct, frozen=True, kw_only=True):
    """All of it. What was not measured is empty or None."""

    date: str
    extent: str
    """A full run, a quick one, or a part."""
    seconds: float
    machine: Machine
    rows: Sequence[Row] = ()
    latencies: Sequence[Latency] = ()
    starts_s: Sequence[float] = ()
    idle_mb: float | None = None
    lane_kb: float | None = None
    """Memory of one lane that has nothing to do."""
    held: Held | None = None
    beside: Sequence[Beside] = ()
    failed: Sequence[str] = ()


def as_markdown(report: Report) -> str:
    """The tables, each with its notes."""
    parts = [_head(report)]
    if report.rows:
        parts.append(_costs(report.rows))
    if report.latencies:
        parts.append(_latencies(report.latencies))
    if rest := [*_starts(report), *_memory(report)]:
        parts.append("\n".join(["| | |", "|---|---:|", *rest]))
    if report.beside:
        parts.append(_beside(report.beside))
    if notes := [*_notes(report)]:
        parts.append("What to know of single figures:\n\n" + "\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts)


def put_into(page: str, report: Report) -> str:
    """The page with the tables between its two marks. Raises `SystemExit` where they are not there."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"the page lacks the lines\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n\n{as_markdown(report)}\n\n{END}{after}"


def _head(report: Report) -> str:
    machine = report.machine
    h_us = [each for row in _all_rows(report) for each in (row.h_before_us, row.h_after_us)]
    unit = f" h was {_middle(h_us):.1f} µs ({min(h_us):.1f} to {max(h_us):.1f})." if h_us else ""
    return (
        f"{report.date}, {report.extent} of {report.seconds / 60:.1f} minutes.{unit} {machine.cpu},"
        f" {machine.cores} cores, {machine.memory_gb:g} GB, {machine.kernel}, {machine.disk}. {machine.versions}."
    )


def _all_rows(report: Report) -> Sequence[Row]:
    return [*report.rows, *(each.row for each in report.beside)]


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _costs(rows: Sequence[Row]) -> str:
    lines = [
        "| | CPU each | in h | goal | rate | core busy | gateway | sink | load | RSS max |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        goal = "" if row.goal_h is None else f"{row.goal_h:g} h"
        shares = (row.core_busy, row.gateway_busy, row.sink_busy, row.load_busy)
        lines.append(
            f"| {row.title} | {row.cpu_us:.1f} µs | {_cost(row)} | {goal} | {row.per_s:,.0f}/s |"
            f" {' | '.join(f'{share:.0%}' for share in shares)} | {row.rss_max_mb:.0f} MB |"
        )
    return "\n".join(lines)


def _cost(row: Row) -> str:
    several = f" ({row.trials_h[0]:.1f} to {row.trials_h[-1]:.1f})" if len(row.trials_h) > 1 else ""
    return f"{row.cost_h:.1f} h{several}"


def _latencies(latencies: Sequence[Latency]) -> str:
    lines = [
        "| answered, at half of the highest rate | rate | p50 | p99 | longest |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {each.title} | {each.asked_per_s:,.0f}/s | {each.p50_ms:.1f} ms | {each.p99_ms:.1f} ms"
        f" | {each.max_ms:.1f} ms |"
        for each in latencies
    ]
    lines.append(f"| goal | | {GOAL_P50_MS:g} ms | {GOAL_P99_MS:g} ms | |")
    return "\n".join(lines)


def _starts(report: Report) -> Iterator[str]:
    if report.starts_s:
        several = f"middle of {len(report.starts_s)}, longest {max(report.starts_s):.2f} s; goal {GOAL_START_S:g} s"
        yield f"| from the start to the first answer ({several}) | {_middle(report.starts_s):.2f} s |"


def _memory(report: Report) -> Iterator[str]:
    if report.idle_mb is not None:
        yield f"| memory, idle | {report.idle_mb:.0f} MB |"
    if report.lane_kb is not None:
        yield f"| memory of each lane that has nothing to do (goal {GOAL_LANE_KB:g} KB) | {report.lane_kb:.1f} KB |"
    if (held := report.held) is not None:
        yield f"| memory, {held.waiting:,} accepted and not delivered, {held.in_flight:,} of them in flight | " + (
            f"{held.rss_mb:.0f} MB |"
        )


def _beside(beside: Sequence[Beside]) -> str:
    lines = [
        "| waiting for another app | start | memory then | CPU each | in h | rate | core busy | RSS max |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in beside:
        row = each.row
        lines.append(
            f"| {each.waiting:,} | {each.start_s:.2f} s | {each.rss_mb:.0f} MB | {row.cpu_us:.1f} µs"
            f" | {row.cost_h:.1f} h | {row.per_s:,.0f}/s | {row.core_busy:.0%} | {row.rss_max_mb:.0f} MB |"
        )
    return "\n".join(lines)


def _notes(report: Report) -> Iterator[str]:
    for row in _all_rows(report):
        yield from (f"{row.title}: {note}" for note in row.notes)
    for latency in report.latencies:
        yield from (f"{latency.title}, answers: {note}" for note in latency.notes)
    yield from report.failed
