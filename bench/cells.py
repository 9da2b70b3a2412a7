"""What a second process brings: notifications a second and CPU for each, of one process and of two, on two cores.

    python -m bench.cells [--row batch100] [--count 60000] [--times 2]

The gateway, the load and the sink in C share the same two cores, and all connections go over the one port. "Alone" is
what two cores would do that had nothing but the gateway to run: two seconds of CPU a second, over the CPU for one
notification, of all its processes. One process fills one core: it is pinned there, as in bench.speed, and the rest has
the other core.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop
from msgspec import Struct

from bench import load, machine, rows, served, sink
from bench.load import Kind, LoadError, Requests
from bench.rows import Plan
from bench.served import Gateway
from bench.sink import Sink
from pushgate.emulator import Landscape

CONNECTIONS = 64
"""Many: the kernel gives each to one process for good, and few would fall unevenly."""
WARM = 6000
WITHIN_S = 60.0
QUIET_SHARE = 0.06
"""Of a core: what so many processes use that have nothing to do."""


class Found(Struct, frozen=True):
    """Of one run."""

    per_s: float
    cpu_us: float
    supervisor_us: float
    rss_mb: Sequence[float]


@asynccontextmanager
async def _running(config: Path, *, processes: int, cores: str) -> AsyncIterator[Gateway]:
    for old in config.parent.glob("spool*.db*"):
        old.unlink()
    log = config.parent / "gateway.log"
    command = (machine.tool("taskset"), "-c", cores, sys.executable, "-m", "pushgate", "serve", "--config", str(config))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PUSHGATE_")}
    environ["PUSHGATE_API__PROCESSES"] = str(processes)
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=DEVNULL, stderr=file, env=environ
        )
    try:
        yield Gateway(process, await served._serving(process, log), log)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


async def _until_quiet(pids: Sequence[int]) -> None:
    before = sum(map(machine.cpu_s, pids))
    while True:
        await asyncio.sleep(1)
        now = sum(map(machine.cpu_s, pids))
        if now - before < QUIET_SHARE:
            return
        before = now


async def measure(land: Landscape, to: Sink, plan: Plan, *, processes: int, cores: str, count: int) -> Found:
    """One run. Raises `LoadError` where not everything is accepted once."""
    kind = Kind.FCM if plan.wish.kind is Kind.FCM else Kind.APNS
    config = served.write_config(land, dict.fromkeys(plan.wish.apps, (kind, to)))
    requests = Requests(plan.wish)

    async def send(gateway: Gateway, many: int) -> None:
        first = await to.taken()
        await load.send(gateway.peer, requests, many, connections=CONNECTIONS, within_s=WITHIN_S)
        if not await to.until(first + many, within_s=WITHIN_S):
            raise LoadError(f"{many:,} were taken, and the provider got {await to.taken() - first:,}")

    async with served.token_endpoint(land), _running(config, processes=processes, cores=cores) as gateway:
        pids = _family(gateway.pid)
        await send(gateway, WARM)
        await _until_quiet(pids)
        cpu, supervisor, begin = sum(map(machine.cpu_s, pids)), machine.cpu_s(pids[0]), time.perf_counter()
        await send(gateway, count)
        took_s = time.perf_counter() - begin
        await _until_quiet(pids)
        cpu, supervisor = sum(map(machine.cpu_s, pids)) - cpu, machine.cpu_s(pids[0]) - supervisor
        if (accepted := await gateway.accepted()) != WARM + count:
            raise LoadError(f"{accepted:,} of {WARM + count:,} accepted")
        rss = [machine.memory_mb(pid, "VmRSS") for pid in pids]
    return Found(count / took_s, cpu / count * 1e6, supervisor / count * 1e6 if processes > 1 else 0.0, rss)


async def _run(options: argparse.Namespace, folder: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    plan = next(each for each in rows.plans(1) if each.name == options.row)
    land = Landscape(folder, project_id=served.PROJECT_ID)
    found: dict[int, list[Found]] = {1: [], 2: []}
    async with sink.running(sink.compiled(folder), land, core=cores[1]) as to:
        for _ in range(options.times):
            for processes, mine in ((1, str(cores[0])), (2, f"{cores[0]},{cores[1]}")):
                os.sched_setaffinity(0, {cores[1]} if processes == 1 else set(cores))
                each = await measure(land, to, plan, processes=processes, cores=mine, count=options.count)
                found[processes].append(each)
                print(f"{processes}: {each}", file=sys.stderr, flush=True)
    print(_table(found))


def _table(found: dict[int, list[Found]]) -> str:
    lines = [
        "| processes | beside load and sink | CPU for one | of it the supervisor | two cores alone | memory |",
        "|---|---|---|---|---|---|",
    ]
    alone = {}
    for processes, each in found.items():
        cpu_us = statistics.median(run.cpu_us for run in each)
        alone[processes] = processes / cpu_us * 1e6
        per_s = statistics.median(run.per_s for run in each)
        rss = " + ".join(f"{mb:.0f}" for mb in each[-1].rss_mb)
        supervisor_us = statistics.median(run.supervisor_us for run in each)
        lines.append(
            f"| {processes} | {per_s:,.0f}/s | {cpu_us:.1f} µs | {supervisor_us:.2f} µs | {alone[processes]:,.0f}/s "
            f"| {rss} MB |"
        )
    beside = [statistics.median(run.per_s for run in found[processes]) for processes in (1, 2)]
    lines.append(
        f"\nTwo are {beside[1] / beside[0]:.2f} × one beside load and sink, {alone[2] / alone[1]:.2f} × alone."
    )
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [plan.name for plan in rows.plans(1) if plan.name != "http2"]
    parser.add_argument("--row", default="batch100", choices=names)
    parser.add_argument("--count", type=int, default=60_000)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; default: the temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cells-", dir=options.folder) as folder:
        uvloop.run(_run(options, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
