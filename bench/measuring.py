"""How a row is measured: h, a fresh gateway, some notifications to warm it, the clocks, all of the row's, h again."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from msgspec import Struct

from bench import load, machine, served
from bench.load import Kind, LoadError, Requests
from bench.machine import Cores, CoreTime, Yardstick
from bench.profiling import Profiler
from bench.rows import Measured, Plan, Row, row_of
from bench.served import Gateway
from bench.sink import Sink
from pushgate.emulator import Landscape

WARM = 3000
"""Notifications before the clock starts: connections are there, code and lanes have found their speed."""
SENT_WITHIN_S = 25.0
ARRIVES_WITHIN_S = 60.0
SETTLED_WITHIN_S = 30


class Scene(Struct, frozen=True):
    """What is there for all measurements."""

    land: Landscape
    cores: Cores
    sink: Sink
    yardstick: Yardstick
    profiler: Profiler | None = None


async def measure(scene: Scene, plan: Plan) -> Row:
    """A row of the table. Raises `LoadError` where not every notification reaches the provider."""
    h_before_s = scene.yardstick.measure()
    if plan.wish.kind is Kind.HTTP2:
        measured = await _http2_alone(scene, plan)
    else:
        kind = Kind.FCM if plan.wish.kind is Kind.FCM else Kind.APNS
        config = served.write_config(scene.land, dict.fromkeys(plan.wish.apps, (kind, scene.sink)))
        async with served.token_endpoint(scene.land), served.running(config, core=scene.cores.gateway) as gateway:
            measured = await under_load(scene, gateway, plan)
    return row_of(plan, measured, h_before_s=h_before_s, h_after_s=scene.yardstick.measure())


async def under_load(scene: Scene, gateway: Gateway, plan: Plan, *, sick: str = "") -> Measured:
    """Warm a gateway and measure it. The provider of the app `sick` is meant to be so. Raises `LoadError`."""
    requests = Requests(plan.wish)
    await _send(scene, gateway, plan, requests, WARM)
    await gateway.until_quiet()
    arrived, accepted = await scene.sink.taken(), await gateway.accepted()
    async with _profiled(scene, gateway):
        clocks = _Clocks(scene, gateway.cpu_s)
        sent = await _send(scene, gateway, plan, requests, plan.notifications)
        passed = clocks.read()
    await gateway.until_quiet()
    cpu_s, rss_max_mb = clocks.read().gateway_s, gateway.memory_mb("VmHWM")
    notes = [*gateway.faults(sick=sick)]
    if not await _settled(gateway, accepted + sent):
        raise LoadError(f"{sent:,} were taken, {await gateway.accepted() - accepted:,} accepted. {' '.join(notes)}")
    if repeats := await scene.sink.taken() - arrived - sent:
        notes.append(f"the provider got {repeats:,} of them once more: it was told late, and the rate is too good")
    if sent < plan.notifications:
        notes.append(f"cut after {SENT_WITHIN_S:.0f} s: {sent:,} of {plan.notifications:,} were sent")
    if scene.profiler is not None:
        notes.append("a profiler looked on: the figures are not those of a gateway alone")
    return passed.measured(sent, cpu_s, rss_max_mb, *notes)


async def _send(scene: Scene, gateway: Gateway, plan: Plan, requests: Requests, count: int) -> int:
    """Send so many and wait until the provider has got as many."""
    first = await scene.sink.taken()
    sent = await load.send(gateway.peer, requests, count, connections=plan.connections, within_s=SENT_WITHIN_S)
    if not await scene.sink.until(first + sent.notifications, within_s=ARRIVES_WITHIN_S):
        got = await scene.sink.taken() - first
        faults = " ".join(gateway.faults())
        raise LoadError(f"{sent.notifications:,} were taken, and the provider got {got:,}. {faults}")
    return sent.notifications


async def _settled(gateway: Gateway, count: int) -> bool:
    """Wait until so many deliveries are settled as accepted, no more and no fewer. Whether that is so in time."""
    for _ in range(SETTLED_WITHIN_S):
        if await gateway.accepted() >= count:
            break
        await asyncio.sleep(1)
    return await gateway.accepted() == count


@asynccontextmanager
async def _profiled(scene: Scene, gateway: Gateway) -> AsyncIterator[None]:
    if scene.profiler is None:
        yield
    else:
        async with scene.profiler.looking_at(gateway.pid):
            yield


async def _http2_alone(scene: Scene, plan: Plan) -> Measured:
    """The same of a process that does nothing but requests to the provider."""
    what = ("-m", "bench.pool_alone", str(scene.sink.port), str(scene.land.ca_file), str(plan.notifications))
    process = await asyncio.create_subprocess_exec(
        *machine.pinned(scene.cores.gateway, sys.executable, *what), stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(ARRIVES_WITHIN_S):
            if await process.stdout.readline() != b"ready\n":
                raise LoadError("http2 alone did not come to work")
            first = await scene.sink.taken()
            clocks = _Clocks(scene, lambda: machine.cpu_s(process.pid))
            process.stdin.write(b"\n")
            said = await process.stdout.readline()
            passed = clocks.read()
            got = await scene.sink.taken() - first
        if said != b"done\n" or got != plan.notifications:
            raise LoadError(
                f"http2 alone did not get {plan.notifications:,} answers; the provider got {got:,} requests"
            )
        return passed.measured(got, passed.gateway_s, machine.memory_mb(process.pid, "VmHWM"))
    finally:
        process.kill()
        await process.communicate()


class _Passed(Struct, frozen=True):
    """All clocks at a moment, or what has passed on them between two."""

    seconds: float
    gateway_s: float
    sink_s: float
    load_s: float
    core: CoreTime
    load_core: CoreTime

    def measured(self, notifications: int, cpu_s: float, rss_max_mb: float, *notes: str) -> Measured:
        """With what the clocks do not know."""
        return Measured(
            notifications=notifications,
            seconds=self.seconds,
            core=self.core,
            gateway_s=self.gateway_s,
            sink_s=self.sink_s,
            load_s=self.load_s,
            load_core=self.load_core,
            cpu_s=cpu_s,
            rss_max_mb=rss_max_mb,
            notes=notes,
        )


class _Clocks:
    """All that is counted, from now on."""

    def __init__(self, scene: Scene, gateway_s: Callable[[], float]) -> None:
        self._scene = scene
        self._gateway_s = gateway_s
        self._begin = self._now()

    def read(self) -> _Passed:
        """What has passed since the beginning."""
        now, begin = self._now(), self._begin
        return _Passed(
            now.seconds - begin.seconds,
            now.gateway_s - begin.gateway_s,
            now.sink_s - begin.sink_s,
            now.load_s - begin.load_s,
            now.core.since(begin.core),
            now.load_core.since(begin.load_core),
        )

    def _now(self) -> _Passed:
        cores = self._scene.cores
        return _Passed(
            time.perf_counter(),
            self._gateway_s(),
            machine.cpu_s(self._scene.sink.pid),
            time.process_time(),
            CoreTime.of(cores.gateway),
            CoreTime.of(cores.load),
        )
