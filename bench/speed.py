"""What a notification costs: CPU of the whole gateway for each, in h, and what comes with it.

    python -m bench.speed [--quick] [--json FILE] [--plot FILE.svg] [--page FILE.md]
    python -m bench.speed --only batch100,latency [--flame FILE.svg]
    python -m bench.speed --read FILE.json --plot FILE.svg

h is the CPU that nghttp2's h2load spends on one request: it is measured on the gateway's core, against the same sink on
the other core, right before and right after each row. The gateway is `pushgate serve` with its default configuration on
a core of its own; the provider is a sink in C; it, and this process which makes the load, have the other cores. A row
counts only when each notification was settled exactly once as accepted.

Rows with a goal are measured five times, and the middle one counts (`--quick`: once).

Takes eight minutes and 5 GB of disk, with --quick a minute and 300 MB. Needs two cores, h2load, taskset, gcc and, to
compile the sink, libnghttp2-dev, libevent-dev and libssl-dev. Other work on the machine spoils it: notes say so.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import uvloop

from bench import latency, measuring, plot, report, rows, sink, waiting
from bench.latency import Latency
from bench.load import LoadError
from bench.machine import Cores, Machine, Yardstick
from bench.measuring import Scene
from bench.profiling import Profiler
from bench.report import Report
from bench.rows import Row
from bench.served import PROJECT_ID
from bench.waiting import Beside, Held
from pushgate.emulator import Landscape

QUICK_ROWS = ("batch100", "plain", "batch1", "fcm", "http2", "batch10")
LATENCY_OF = ("batch1", "plain", "batch100")
QUICK_LATENCY_OF = ("batch1",)
OTHERS = ("latency", "starts", "memory", "waiting")
MANY_LANES = 1000

T = TypeVar("T")


class Extent(msgspec.Struct, frozen=True):
    """How much is measured."""

    name: str
    scale: float
    """Of the notifications of each row."""
    trials: int
    """Of each row that has a goal: the middle one counts, for a machine that others use too is not steady."""
    latency_of: Sequence[str]
    latency_s: float
    starts: int
    held: int
    """Accepted and not delivered; 0: not measured."""
    waiting: Sequence[int]
    beside: int
    """Notifications that are measured beside those that wait."""
    minutes: float
    """What has not begun by then is left out."""


FULL = Extent("a full run", 1.0, 5, LATENCY_OF, 8.0, 7, 100_000, (100_000, 300_000, 1_000_000), 60_000, 8.5)
QUICK = Extent("a quick run", 0.12, 1, QUICK_LATENCY_OF, 3.0, 3, 0, (20_000,), 12_000, 1.15)


class Run:
    """One run of the benchmark: step by step, told on stderr. A step that fails is told, and the others go on."""

    def __init__(self, extent: Extent, only: Sequence[str], *, is_whole: bool) -> None:
        self._extent = extent
        self._only = only
        self._is_whole = is_whole
        self._begin = time.monotonic()
        self._failed: list[str] = []

    async def all(self, scene: Scene, program: Path) -> Report:
        """Measure."""
        date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        found = await self._rows(scene)
        latencies = await self._latencies(scene, found)
        starts: Sequence[float] = ()
        if "starts" in self._only:
            starts = await self._step("start", partial(waiting.starts, scene, self._extent.starts)) or ()
        idle_mb, lane_kb, held = await self._memory(scene, program)
        beside = await self._beside(scene, program)
        return Report(
            date=date,
            extent=f"{self._extent.name}{'' if self._is_whole else ', a part of it,'}",
            seconds=time.monotonic() - self._begin,
            machine=Machine.this(scene.land.folder),
            rows=found,
            latencies=latencies,
            starts_s=starts,
            idle_mb=idle_mb,
            lane_kb=lane_kb,
            held=held,
            beside=beside,
            failed=self._failed,
        )

    async def _rows(self, scene: Scene) -> Sequence[Row]:
        found = []
        for plan in rows.plans(self._extent.scale):
            if plan.name in self._only:
                times = range(self._extent.trials if plan.goal_h is not None else 1)
                trials = [await self._step(plan.title, partial(measuring.measure, scene, plan)) for _ in times]
                found += [rows.middle_of(done)] if (done := [row for row in trials if row is not None]) else []
        return found

    async def _latencies(self, scene: Scene, measured: Sequence[Row]) -> Sequence[Latency]:
        plans = {plan.name: plan for plan in rows.plans(1)}
        found = []
        for row in measured:
            if "latency" in self._only and row.name in self._extent.latency_of:
                work = partial(latency.measure, scene, plans[row.name], row, seconds=self._extent.latency_s)
                each = await self._step(f"latency: {row.title}", work)
                found += [each] if each is not None else []
        return found

    async def _memory(self, scene: Scene, program: Path) -> tuple[float | None, float | None, Held | None]:
        if "memory" not in self._only:
            return None, None, None
        idle_mb = await self._step("memory, idle", partial(waiting.idle_mb, scene))
        many = rows.lanes(1 + MANY_LANES)
        many_mb = await self._step(
            f"memory, idle with {MANY_LANES:,} lanes more", partial(waiting.idle_mb, scene, apps=many)
        )
        lane_kb = None if idle_mb is None or many_mb is None else (many_mb - idle_mb) * 1000 / MANY_LANES
        held, count = None, self._extent.held
        if count:
            held = await self._step(f"memory, {count:,} held", partial(waiting.held, scene, program, count))
        return idle_mb, lane_kb, held

    async def _beside(self, scene: Scene, program: Path) -> Sequence[Beside]:
        if "waiting" not in self._only:
            return ()
        for old in scene.land.folder.glob("spool.db*"):
            old.unlink()
        found = []
        async with waiting.mute(scene, program) as never:
            for count in self._extent.waiting:
                work = partial(waiting.beside, scene, never, count, self._extent.beside)
                each = await self._step(f"beside {count:,} that wait", work)
                found += [each] if each is not None else []
        return found

    async def _step(self, title: str, work: Callable[[], Awaitable[T]]) -> T | None:
        """One measurement, unless time is up; told with what came of it."""
        begin = time.monotonic()
        if begin - self._begin > self._extent.minutes * 60:
            self._failed.append(f"{title}: left out, time was up")
            return None
        telling = asyncio.create_task(_tell(title))
        try:
            found = await work()
        except (LoadError, TimeoutError, OSError) as fault:
            self._failed.append(f"{title}: failed: {str(fault) or type(fault).__name__}")
            found = None
        finally:
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling
        said = self._failed[-1] if found is None else _in_short(found)
        print(f"{_BACK}{time.monotonic() - self._begin:5.0f} s  {title}: {said}", file=sys.stderr, flush=True)
        return found


_BACK = "\r\x1b[K" if sys.stderr.isatty() else ""


async def _tell(title: str) -> None:
    """On a terminal: for how long it has been going on."""
    begin = time.monotonic()
    while _BACK:
        print(f"{_BACK}         {title} … {time.monotonic() - begin:.0f} s", end="", file=sys.stderr, flush=True)
        await asyncio.sleep(1)


def _in_short(found: object) -> str:
    match found:
        case Row():
            doubts = "".join(f"\n         ({note})" for note in found.notes)
            return f"{found.cost_h:.1f} h, {found.cpu_us:.0f} µs, {found.per_s:,.0f}/s{doubts}"
        case Latency():
            return f"p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms at {found.asked_per_s:,.0f}/s"
        case Held():
            return f"{found.rss_mb:.0f} MB with {found.waiting:,}, {found.in_flight:,} in flight"
        case Beside():
            return f"start {found.start_s:.2f} s, {found.rss_mb:.0f} MB, {_in_short(found.row)}"
        case [*values]:
            return ", ".join(f"{value:.2f} s" for value in values)
        case _:
            return f"{found:.0f} MB"


async def measure(options: argparse.Namespace, folder: Path) -> Report:
    """A whole run, with its files in this folder."""
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, {cores.load})
    land = Landscape(folder, project_id=PROJECT_ID)
    program = options.sink or sink.compiled(folder)
    profiler = Profiler.found(options.flame, core=cores.load) if options.flame else None
    async with sink.running(program, land, core=cores.sink) as running:
        yardstick = Yardstick(running.port, core=cores.gateway, folder=folder)
        scene = Scene(land, cores, running, yardstick, profiler)
        run = Run(QUICK if options.quick else FULL, chosen(options), is_whole=options.only is None)
        return await run.all(scene, program)


def chosen(options: argparse.Namespace) -> Sequence[str]:
    """The names of what is measured. Raises `SystemExit`."""
    known = [*(plan.name for plan in rows.plans(1)), *OTHERS]
    if options.only is None:
        return [*QUICK_ROWS, *OTHERS] if options.quick else known
    asked: Sequence[str] = options.only.split(",")
    if unknown := set(asked) - set(known):
        raise SystemExit(f"--only knows {', '.join(known)}, not {', '.join(sorted(unknown))}")
    if options.flame and len({*asked} & {plan.name for plan in rows.plans(1)} - {"http2"}) != 1:
        raise SystemExit("--flame needs --only with one row of the gateway, batch100 for example")
    return asked


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer notifications and fewer rows: about a minute")
    parser.add_argument("--only", help="names with commas between: rows, latency, starts, memory, waiting")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; default: the temporary one")
    parser.add_argument("--sink", type=Path, help="the sink, where it is compiled already")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--plot", type=Path, help="draw throughput and CPU as SVG")
    parser.add_argument("--page", type=Path, help="write the tables into this page, between its two marks")
    parser.add_argument("--read", type=Path, help="measure nothing, take the figures of this --json file")
    parser.add_argument("--flame", type=Path, help="a flame graph (SVG) of the one row that --only names; needs py-spy")
    options = parser.parse_args()
    if options.flame and not options.only:
        parser.error("--flame needs --only with one row, batch100 for example")
    return options


def main() -> int:
    """Measure and print; 1 where something failed."""
    options = arguments()
    if options.read:
        found = msgspec.json.decode(options.read.read_bytes(), type=Report)
    else:
        chosen(options)
        with tempfile.TemporaryDirectory(prefix="speed-", dir=options.folder) as folder:
            found = uvloop.run(measure(options, Path(folder)))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    if options.plot:
        options.plot.write_text(plot.svg(found))
    if options.page:
        options.page.write_text(report.put_into(options.page.read_text(), found))
    print(report.as_markdown(found))
    return 1 if found.failed else 0


if __name__ == "__main__":
    sys.exit(main())
