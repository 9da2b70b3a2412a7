"""Curves as SVG, without a library: throughput and CPU against batch size, against what waits, and against lanes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from msgspec import Struct

from bench.report import Report
from bench.rows import Row

PANEL_W, PANEL_H = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 78, 40, 44, 52
HEAD = 62
TICKS = 5
HEADROOM = 1.08
"""Above the highest point, for its label."""
CLOSE = 0.15
"""Points that are nearer to each other, as a part of the axis, have no room for two labels side by side."""
INK, GREY, GRID, PAPER = "#222222", "#666666", "#dddddd", "#ffffff"
RATE, COST = "#1f6fb4", "#c2571a"
STYLE = (
    "text{font-family:system-ui,sans-serif;font-size:12px;fill:" + INK + "}"
    ".t{font-size:14px;font-weight:600}.s{font-size:11px;fill:" + GREY + "}.h{font-size:17px;font-weight:600}"
)


class Point(Struct, frozen=True):
    """One measurement."""

    x: float
    y: float


class Panel(Struct, frozen=True):
    """One curve: at least one point."""

    title: str
    x_label: str
    y_label: str
    colour: str
    points: Sequence[Point]
    log_x: bool = False
    """Ticks at the points themselves, at equal steps for equal factors."""


def panels(report: Report) -> Sequence[Panel]:
    """What there is to show: a panel needs two points."""
    rows = {row.name: row for row in report.rows}

    def named(names: Mapping[int, str]) -> Sequence[tuple[int, Row]]:
        return [(x, rows[name]) for x, name in names.items() if name in rows]

    batches = named({1: "batch1", 10: "batch10", 100: "batch100"})
    lanes = named({1: "batch100", 100: "lanes100", 1000: "lanes1000"})
    waiting = [(0, rows["batch100"])] if "batch100" in rows else []
    waiting = sorted({**dict(waiting), **{each.waiting: each.row for each in report.beside}}.items())
    found = []
    for title, x_label, curve, log_x in (
        ("batch size", "notifications in a request (logarithmic)", batches, True),
        ("what waits", "notifications that wait for another app", waiting, False),
        ("lanes", "apps, in batches of 100 (logarithmic)", lanes, True),
    ):
        rate = [Point(x, row.per_s) for x, row in curve]
        cost = [Point(x, row.cpu_us) for x, row in curve]
        found += [
            Panel(f"Throughput against {title}", x_label, "notifications a second", RATE, rate, log_x),
            Panel(f"CPU against {title}", x_label, "µs of CPU for each", COST, cost, log_x),
        ]
    return [panel for panel in found if len(panel.points) > 1]


def svg(report: Report) -> str:
    """The drawing. Raises `SystemExit` where nothing was measured that makes a curve."""
    shown = panels(report)
    if not shown:
        raise SystemExit("nothing to plot: it takes two of batch1, batch10 and batch100, or waiting")
    width, height = 2 * PANEL_W, HEAD + math.ceil(len(shown) / 2) * PANEL_H + 10
    machine = report.machine
    python = machine.versions.partition(",")[0]
    under = f"{report.date}, {machine.cpu}, one core for the gateway, {machine.disk}, {python}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        '<text class="h" x="20" y="28">pushgate: sealed notifications through one core</text>',
        f'<text class="s" x="20" y="48">{escape(under)}</text>',
    ]
    for position, panel in enumerate(shown):
        x, y = position % 2 * PANEL_W, HEAD + position // 2 * PANEL_H
        parts += [f'<g transform="translate({x},{y})">', *_drawn(panel), "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def _drawn(panel: Panel) -> Sequence[str]:
    right, floor = PANEL_W - RIGHT, PANEL_H - BOTTOM
    step = nice_step(max(point.y for point in panel.points) / TICKS)
    top = math.ceil(max(point.y for point in panel.points) * HEADROOM / step) * step

    def across(x: float) -> float:
        low, high = panel.points[0].x, panel.points[-1].x
        share = math.log(x / low) / math.log(high / low) if panel.log_x else (x - low) / (high - low)
        return LEFT + share * (right - LEFT)

    def up(y: float) -> float:
        return floor - y / top * (floor - TOP)

    parts = [f'<text class="t" x="{LEFT}" y="24">{escape(panel.title)}</text>']
    for number in range(round(top / step) + 1):
        y = up(number * step)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number * step:,.10g}</text>')
    for x in _x_ticks(panel):
        parts.append(f'<line x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{floor}" y2="{floor + 5}" stroke="{INK}"/>')
        parts.append(f'<text x="{across(x):.1f}" y="{floor + 19}" text-anchor="middle">{x:,.10g}</text>')
    parts += [
        f'<line x1="{LEFT}" x2="{right}" y1="{floor}" y2="{floor}" stroke="{INK}"/>',
        f'<line x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{floor}" stroke="{INK}"/>',
        f'<text x="{(LEFT + right) / 2}" y="{PANEL_H - 12}" text-anchor="middle">{escape(panel.x_label)}</text>',
        f'<text transform="translate(16,{(TOP + floor) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(panel.y_label)}</text>",
    ]
    line = " ".join(f"{across(point.x):.1f},{up(point.y):.1f}" for point in panel.points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{panel.colour}" stroke-width="2"/>')
    for point in panel.points:
        x, y = across(point.x), up(point.y)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{panel.colour}"/>')
        parts.append(_label(panel, point, x, y))
    return parts


def _label(panel: Panel, point: Point, x: float, y: float) -> str:
    """Its value, where the curve does not run through it."""
    anchor, aside, above = "middle", 0, 9
    if point is panel.points[-1]:
        anchor = "end"
    elif point is panel.points[0]:
        second, last = panel.points[1], panel.points[-1]
        is_crowded = not panel.log_x and second.x - point.x < CLOSE * (last.x - point.x)
        anchor, aside, above = "start", 7, -18 if second.y > point.y or is_crowded else 9
    return f'<text x="{x + aside:.1f}" y="{y - above:.1f}" text-anchor="{anchor}">{point.y:,.0f}</text>'


def _x_ticks(panel: Panel) -> Sequence[float]:
    if panel.log_x:
        return [point.x for point in panel.points]
    step = nice_step(panel.points[-1].x / TICKS)
    return [number * step for number in range(math.floor(panel.points[-1].x / step) + 1)]


def nice_step(about: float) -> float:
    """1, 2 or 5 times a power of ten, at least as large as asked for."""
    power = 10.0 ** math.floor(math.log10(about))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= about * 0.999)
