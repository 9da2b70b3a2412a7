"""What has ended is erased (A_27435): nothing opens it any more, in any file beside the spool, whatever happens.

The files are read raw: the database with its free pages, the write-ahead log, and whatever else lies in the folder.
What is looked for is a mark. It stands in pushkey and content, so it would be found where a row is not sealed; and in
the seeds, without which no copy of a sealed row can be opened.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pushgate.model import Delivery, Device, PlainNotification
from pushgate.outcome import Rejected
from pushgate.spool import Lease
from pushgate.spool.cipher import SEED_BYTES
from pushgate.spool.sqlite import SqliteSpool
from pushgate.spool.store import Store

ENDS = ("ack", "bury", "reject", "sweep")
LANE, KEPT_LANE = "de.example.app.apns", "de.example.other.apns"
SIZES = (300, 1500, 1500, 1500, 5000, 20_000, 60_000)
"""Several to a page, one to a page, and many pages to one."""


class Clock:
    """The time of the day, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


class MarkedSeeds:
    """What a spool takes for random: seeds that begin with a mark, and are different all the same."""

    def __init__(self) -> None:
        self.mark = ""
        self._numbers = itertools.count()

    def __call__(self, size: int) -> bytes:
        if not self.mark:
            return secrets.token_bytes(size)
        head = self.mark.encode()
        rest_bytes = SEED_BYTES - len(head)
        return b"".join(head + next(self._numbers).to_bytes(rest_bytes, "big") for _ in range(0, size, SEED_BYTES))


def delivery(mark: str, number: int, *, lane: str, life_s: float) -> Delivery:
    """A delivery that has its mark in pushkey and content."""
    device = Device(app_id=lane, pushkey=f"{mark} pushkey {number}")
    text = (f"{mark} {number} " * 4000)[: SIZES[number % len(SIZES)]]
    now = time.time()
    return Delivery(
        id=f"{mark}-{number}",
        device=device,
        notification=PlainNotification(devices=(device,), content={"body": text}),
        accepted_at=now,
        expires_at=now + life_s,
    )


class Run:
    """An open spool, and what this run does with deliveries that bear a mark."""

    def __init__(self, spool: SqliteSpool, clock: Clock, seeds: MarkedSeeds) -> None:
        self.spool = spool
        self._seeds = seeds
        self._clock = clock

    async def put(
        self, mark: str, *, lane: str = LANE, life_s: float = 3600, count: int = 70, settled: bool = True
    ) -> None:
        """With rows of their own, while their mark is the one that seeds begin with; or as they come, in bundles."""
        for start in range(0, count, 10):
            self._seeds.mark = mark
            await self.spool.put([delivery(mark, start + n, lane=lane, life_s=life_s) for n in range(10)])
            while settled and await self.spool._committer.perform(Store.settle_oldest):
                pass

    def mark(self, mark: str) -> None:
        """Seeds begin with it from now on."""
        self._seeds.mark = mark

    async def end(self, how: str, *, count: int = 70) -> None:
        """End what waits in the lane, in another order than that of the pages."""
        if how == "sweep":
            self._clock.ahead_s = 7200
            assert await self.spool.sweep() == count
            self._clock.ahead_s = 0
            return
        leases: list[Lease] = []
        while len(leases) < count:
            leases += await self.spool.lease(LANE, 1000)
        random.Random(27435).shuffle(leases)
        await self.spool.nack(leases[:10], delay_s=0)
        if how == "reject":
            for lease in leases[10:]:
                await self.spool.reject(lease, Rejected("Unregistered"))
        else:
            for start in range(10, count, 7):
                await getattr(self.spool, how)(leases[start : start + 7])
        for _ in range(10):
            (again,) = await self.spool.lease(LANE, 1)
            await (self.spool.reject(again, Rejected("x")) if how == "reject" else getattr(self.spool, how)([again]))


@asynccontextmanager
async def running(path: Path, *, tidy_idle_s: float = 0.02, tidy_every_s: float = 0.2) -> AsyncIterator[Run]:
    clock, seeds = Clock(), MarkedSeeds()
    spool = await SqliteSpool.open(
        path, clock=clock, tidy_idle_s=tidy_idle_s, tidy_every_s=tidy_every_s, sweep_every_s=3600, entropy=seeds
    )
    try:
        yield Run(spool, clock, seeds)
    finally:
        await spool.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder / "spool.db"


def traces(path: Path, mark: str) -> dict[str, int]:
    """How often the mark stands in each file of the folder, where it does."""
    counts = {each.name: each.read_bytes().count(mark.encode()) for each in path.parent.iterdir()}
    return {name: count for name, count in counts.items() if count}


async def until_gone(path: Path, mark: str) -> None:
    async with asyncio.timeout(10):
        while traces(path, mark):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", ENDS)
async def test_it_is_gone_when_the_spool_is_idle(path: Path, how: str) -> None:
    async with running(path) as run:
        await run.put("stays", lane=KEPT_LANE, life_s=86_400)
        await run.put("leaves")
        assert traces(path, "leaves")
        await run.end(how)
        await until_gone(path, "leaves")
        assert (await run.spool.backlog())[KEPT_LANE].waiting == 70
        assert traces(path, "stays")


@pytest.mark.parametrize("how", ["ack", "bury", "reject"])
@pytest.mark.parametrize("tidy_idle_s", [0.02, 3600])
async def test_it_is_gone_when_it_ends_in_a_bundle(path: Path, how: str, tidy_idle_s: float) -> None:
    """All of a bundle, or beside others of it that stay: then as soon as those have rows of their own."""
    async with running(path, tidy_idle_s=tidy_idle_s) as run:
        await run.put("leaves", settled=False)
        assert traces(path, "leaves")
        run.mark("stays")
        await run.spool.put([delivery("stays", n, lane=KEPT_LANE, life_s=86_400) for n in range(70)])
        (kept,) = await run.spool.lease(LANE, 1)
        await run.end(how, count=69)
        await run.spool.put([delivery("more", n, lane=KEPT_LANE, life_s=86_400) for n in range(10)])
        await until_gone(path, "leaves 1")
        await run.spool.ack([kept])
        await asyncio.sleep(0.5)
        await run.spool.put([delivery("more", 11, lane=KEPT_LANE, life_s=86_400)])
        await until_gone(path, "leaves")


@pytest.mark.parametrize("how", ENDS)
async def test_it_is_gone_while_the_spool_is_busy(path: Path, how: str) -> None:
    async with running(path, tidy_idle_s=3600) as run:

        async def keep_busy() -> None:
            while True:
                await run.put("others", lane=KEPT_LANE, life_s=86_400, count=10)
                await run.spool.ack(await run.spool.lease(KEPT_LANE, 1000))

        busy = asyncio.create_task(keep_busy())
        await run.put("leaves")
        await run.end(how)
        await until_gone(path, "leaves")
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)


@pytest.mark.parametrize("how", ENDS)
async def test_it_is_gone_when_the_spool_was_closed(path: Path, how: str) -> None:
    async with running(path, tidy_idle_s=3600, tidy_every_s=3600) as run:
        await run.put("stays", lane=KEPT_LANE, life_s=86_400)
        await run.put("leaves")
        await run.end(how)
        assert traces(path, "leaves"), "the log still has it"
    assert not traces(path, "leaves")
    assert traces(path, "stays")
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_it_is_gone_when_its_disk_space_is_given_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushgate.spool.store.KEEP_FREE_PAGES", 10)
    async with running(path) as run:
        for turn in range(5):
            await run.put(f"leaves {turn}")
            await run.put("stays", lane=KEPT_LANE, life_s=86_400, count=10)
        async with asyncio.timeout(10):
            while path.with_name("spool.db-wal").stat().st_size:
                await asyncio.sleep(0.02)
        before = path.stat().st_size
        await run.end("ack", count=350)
        await until_gone(path, "leaves")
        async with asyncio.timeout(10):
            while path.stat().st_size > before / 2:
                await asyncio.sleep(0.02)
        assert not traces(path, "leaves")


CHILD = """
import asyncio, importlib.util, sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("erasure", sys.argv[1])
erasure = importlib.util.module_from_spec(spec)
spec.loader.exec_module(erasure)

async def main(path, how):
    async with erasure.running(path, tidy_idle_s=3600, tidy_every_s=3600) as run:
        await run.put("stays", lane=erasure.KEPT_LANE, life_s=86_400)
        for turn in range(1000):
            await run.put(f"leaves {turn} ")
            await run.end(how)
            print(turn, flush=True)

asyncio.run(main(Path(sys.argv[2]), sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ENDS)
def test_it_is_gone_when_a_killed_process_has_its_successor(path: Path, how: str) -> None:
    """Killed in the middle of the work: what had ended is in the log then, or half-way in the database."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, __file__, str(path), how], stdout=subprocess.PIPE, env={**os.environ}
    )
    assert child.stdout is not None
    for turn in range(3):
        assert child.stdout.readline() == f"{turn}\n".encode()
    time.sleep(random.Random(how).random() * 0.2)
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    last = 2 + len(child.stdout.read().splitlines())
    child.stdout.close()
    assert any(traces(path, f"leaves {turn} ") for turn in range(last + 1)), "as the process left it"

    async def reopen() -> None:
        async with running(path, tidy_idle_s=3600, tidy_every_s=3600) as run:
            for turn in range(last + 1):
                assert not traces(path, f"leaves {turn} "), "at once, before it does anything else"
            assert (await run.spool.backlog())[KEPT_LANE].waiting == 70

    asyncio.run(reopen())
