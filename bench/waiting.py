"""What waiting notifications cost: memory, the next start, and how fast others go beside them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from bench import load, served, sink
from bench.load import Kind, Requests, Wish
from bench.measuring import Scene, under_load
from bench.rows import APP, Plan, Row, row_of
from bench.sink import Sink
from tests.faults.backlog import fill, grow

CROWD = "org.example.crowd.apns"
"""The app whose provider does not answer. What is measured goes to another one."""
NEVER_S = 3600.0
SLOW_S = 5.0
"""An answer so late lets a lane have as many in flight as it may."""
FEW = 1000
"""Rows that are made one by one; the others are copies."""
BYTES_A_ROW = 4400
"""On disk at most, while it is made."""
GOES_DOWN_S = 2.0
LOOKS_S = 60.0
"""The status page looks every ten seconds and keeps what it saw of the last minute."""
FIRST = 10_000
TOP_UPS = 2
"""Some are delivered while the others are sent."""


class Held(Struct, frozen=True):
    """Memory with so many accepted and not delivered."""

    in_flight: int
    waiting: int
    """In flight or not."""
    rss_mb: float


class Beside(Struct, frozen=True):
    """A gateway that was started with a backlog, and what it did for another app meanwhile."""

    waiting: int
    start_s: float
    """Until it answers."""
    rss_mb: float
    """After the start."""
    row: Row


async def idle_mb(scene: Scene, *, apps: Sequence[str] = (APP,)) -> float:
    """Memory of a gateway that has nothing to do, with a lane for each of these apps.

    Its metrics have been read twice then, and its status page has looked at them a few times: both cost memory too.
    """
    config = served.write_config(scene.land, dict.fromkeys(apps, (Kind.APNS, scene.sink)))
    async with served.running(config, core=scene.cores.gateway) as gateway:
        for _ in range(2):
            await gateway.until_quiet()
            await gateway.metric("pushgate_in_flight")
            await asyncio.sleep(LOOKS_S / 2)
        return gateway.memory_mb()


async def held(scene: Scene, program: Path, count: int) -> Held:
    """Have so many accepted by a gateway whose provider takes its time, and look at its memory then."""
    async with sink.running(program, scene.land, core=scene.cores.sink, delay_s=SLOW_S) as slow:
        config = served.write_config(scene.land, {CROWD: (Kind.APNS, slow)})
        async with served.running(config, core=scene.cores.gateway) as gateway:
            requests = Requests(Wish([CROWD], 100))
            sent = (await load.send(gateway.peer, requests, FIRST, connections=8, within_s=30)).notifications
            await asyncio.sleep(2 * SLOW_S + GOES_DOWN_S)  # the lane dares more with each answer
            for _ in range(TOP_UPS):
                left = count - (sent - await slow.taken())
                sent += (await load.send(gateway.peer, requests, left, connections=8, within_s=60)).notifications
            in_flight = int(await gateway.metric("pushgate_in_flight"))
            return Held(in_flight, sent - await slow.taken(), gateway.memory_mb("VmHWM"))


@asynccontextmanager
async def mute(scene: Scene, program: Path) -> AsyncIterator[Sink]:
    """A provider that takes everything and never answers."""
    async with sink.running(program, scene.land, core=scene.cores.sink, delay_s=NEVER_S) as never:
        yield never


async def beside(scene: Scene, never: Sink, rows: int, notifications: int) -> Beside:
    """Start with so many waiting, and measure batches of 100 to another app.

    What waits in the folder's spool already counts; no gateway may run there.
    """
    await _pile_up(scene.land.folder, rows)
    plan = Plan(f"beside{rows}", f"beside {rows:,} that wait", notifications, 8, Wish([APP], 100))
    config = served.write_config(scene.land, {APP: (Kind.APNS, scene.sink), CROWD: (Kind.APNS, never)})
    h_before_s = scene.yardstick.measure()
    start_s = await served.start_to_answer(config, APP, core=scene.cores.gateway, keeps_spool=True)
    async with served.running(config, core=scene.cores.gateway, keeps_spool=True) as gateway:
        await gateway.until_quiet()
        rss_mb = gateway.memory_mb()
        measured = await under_load(scene, gateway, plan, sick=CROWD)
    row = row_of(plan, measured, h_before_s=h_before_s, h_after_s=scene.yardstick.measure())
    return Beside(rows, start_s, rss_mb, row)


async def _pile_up(folder: Path, rows: int) -> None:
    """Have so many wait in the spool of a gateway that does not run. Those that wait there already count."""
    need = rows * BYTES_A_ROW
    if shutil.disk_usage(folder).free < need:
        raise SystemExit(f"{folder} has less than {need / 1e9:.1f} GB free")
    path = folder / "spool.db"
    if not path.exists():
        await fill(path, [CROWD], FEW)
    await asyncio.to_thread(grow, path, rows)


async def starts(scene: Scene, times: int) -> Sequence[float]:
    """Seconds from the start of a gateway with an empty spool to its first answer, so many times."""
    config = served.write_config(scene.land, {APP: (Kind.APNS, scene.sink)})
    return [await served.start_to_answer(config, APP, core=scene.cores.gateway) for _ in range(times)]
