"""siblings: spools of several processes know the same repeats and rejections, and who was away catches up."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from pushgate.cells import siblings as module
from pushgate.cells.siblings import Siblings
from pushgate.errors import SpoolUnusable
from pushgate.model import Delivery, Device, EncryptedNotification
from pushgate.outcome import Rejected
from pushgate.spool.sharing import Changes
from pushgate.spool.sqlite import SqliteSpool

SECRET = bytes(range(32))
APP = "a"
NUMBERS = itertools.count()


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class FakeLane:
    """See `siblings.Lane`."""

    def __init__(self) -> None:
        self.counts = (0, 0)
        self.is_disbelieving = False
        self.heard = (0, 0)
        self.opened = 0

    def tally(self) -> tuple[int, int]:
        return self.counts

    def hear_tally(self, alive: int, dead: int) -> None:
        self.heard = (alive, dead)

    def hear_opened(self) -> None:
        self.opened += 1
        self.is_disbelieving = True


class FakeAllowances:
    """See `siblings.Allowances`."""

    def __init__(self) -> None:
        self.used: dict[str, int] = {}
        self.heard: dict[str, int] = {}

    def take_used(self) -> Mapping[str, int]:
        used, self.used = self.used, {}
        return used

    def use(self, caller: str, count: int) -> None:
        self.heard[caller] = self.heard.get(caller, 0) + count


class Cell:
    """One process of several, as far as siblings go; all in this one. See `spool.sharing.Sharing`."""

    def __init__(self, number: int, path: Path, clock: Clock, *, is_left_over: bool = False) -> None:
        self.number = number
        self.path = path
        self.is_left_over = is_left_over
        self.siblings = Siblings(clock=clock)
        self.lane = FakeLane()
        self.allowances = FakeAllowances()
        self.spool: SqliteSpool
        self._clock = clock
        self._running: asyncio.Task[None] | None = None

    def agree(self, secret: bytes, *, is_binding: bool) -> bytes:
        return SECRET

    def tell(self, changes: Changes) -> None:
        self.siblings.tell(changes)

    async def open(self) -> None:
        self.spool = await SqliteSpool.open(
            self.path, clock=self._clock, dedup_window_s=600, remember_s=86_400, sharing=self
        )

    async def join(self) -> None:
        await self.siblings.join(self.spool.siblings, {APP: self.lane}, self.allowances)
        self._running = asyncio.create_task(self.siblings.run())

    async def close(self) -> None:
        self.siblings.is_ending = True
        if self._running is not None:
            self._running.cancel()
        self.siblings.close()
        await self.spool.close()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TELL_EVERY_S", 0.005)
    monkeypatch.setattr(module, "CATCH_UP_WITHIN_S", 2.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def link(one: Cell, other: Cell) -> None:
    ours, theirs = socket.socketpair()
    one.siblings.add(other.number, ours)
    other.siblings.add(one.number, theirs)


@asynccontextmanager
async def group(folder: Path, clock: Clock, *numbers: int) -> AsyncIterator[list[Cell]]:
    """So many that have started together."""
    cells = [Cell(number, folder / f"{number}.db", clock) for number in numbers]
    async with AsyncExitStack() as stack:
        for cell in cells:
            await cell.open()
            stack.push_async_callback(cell.close)
        for one, other in itertools.combinations(cells, 2):
            link(one, other)
        async with asyncio.timeout(5):
            await asyncio.gather(*(cell.join() for cell in cells))
        yield cells


def delivery(clock: Clock, fingerprint: bytes = b"", pushkey: str = "k") -> Delivery:
    device = Device(APP, pushkey)
    note = EncryptedNotification(device=device, ciphertext="c", time_message_encrypted="2026-11", key_identifier="k")
    return Delivery(
        id=f"00000000-0000-4000-8000-{next(NUMBERS):012x}",
        device=device,
        notification=note,
        accepted_at=clock(),
        expires_at=clock() + 86_400,
        fingerprint=fingerprint,
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def is_repeat(cell: Cell, clock: Clock, fingerprint: bytes) -> bool:
    return bool(await cell.spool.put([delivery(clock, fingerprint)]))


async def until_dead(cell: Cell, pushkey: str, *, dead: bool = True) -> None:
    async with asyncio.timeout(5):
        while bool(await cell.spool.rejected_among([Device(APP, pushkey)])) != dead:
            await asyncio.sleep(0.002)


async def reject(cell: Cell, clock: Clock, pushkey: str, fingerprint: bytes = b"") -> None:
    await cell.spool.put([delivery(clock, fingerprint, pushkey)])
    while (lease := (await cell.spool.lease(APP, 1))[0]).delivery.device.pushkey != pushkey:
        await cell.spool.ack([lease])
    await cell.spool.reject(lease, Rejected("Unregistered", None))


def fingerprints(count: int) -> list[bytes]:
    return [b"%016d" % number for number in range(count)]


async def test_what_one_has_stored_is_a_repeat_everywhere_as_soon_as_it_is_answered(
    tmp_path: Path, clock: Clock
) -> None:
    async with group(tmp_path, clock, 0, 1, 2) as (first, second, third):
        for fingerprint in fingerprints(50):
            assert not await is_repeat(first, clock, fingerprint)
            await asyncio.sleep(0.002)  # the caller gets its answer and comes again
            assert await is_repeat(second, clock, fingerprint)
            assert await is_repeat(third, clock, fingerprint)
        assert first.spool.fingerprint("x") == second.spool.fingerprint("x"), "one key"
        clock.now += 601
        assert not await is_repeat(third, clock, fingerprints(1)[0])


async def test_a_rejection_is_known_by_all_and_its_notification_is_no_repeat(tmp_path: Path, clock: Clock) -> None:
    async with group(tmp_path, clock, 0, 1) as (first, second):
        await reject(first, clock, "dead", fingerprints(1)[0])
        await until_dead(second, "dead")
        assert not await is_repeat(second, clock, fingerprints(1)[0])
        clock.now += 5
        assert await second.spool.rejected_among([Device(APP, "dead", int(clock.now))]) == frozenset()
        await until_dead(first, "dead", dead=False)  # registered again, as the other one was told
        await reject(second, clock, "dead2")
        await until_dead(first, "dead2")
        assert await first.spool.forget_rejections(APP) == 1
        await until_dead(second, "dead2", dead=False)


async def test_who_was_killed_reads_its_file_and_is_told_the_rest(tmp_path: Path, clock: Clock) -> None:
    known, missed = fingerprints(2000)[:1000], fingerprints(2000)[1000:]
    async with group(tmp_path, clock, 0, 1) as (first, second):
        await first.spool.put([delivery(clock, each) for each in known])
        await reject(first, clock, "dead")
        await until_dead(second, "dead")
        await second.spool.siblings.note_known()
        await second.close()
        await first.spool.put([delivery(clock, each) for each in missed])
        await reject(first, clock, "dead too")
        back = Cell(1, second.path, clock)
        await back.open()
        link(first, back)
        await back.join()
        try:
            assert await back.spool.put([delivery(clock, each) for each in (*known, *missed)]) == 2000
            assert len(await back.spool.rejected_among([Device(APP, "dead"), Device(APP, "dead too")])) == 2
        finally:
            await back.close()


async def test_telling_again_and_again_lets_no_log_grow(tmp_path: Path, clock: Clock) -> None:
    async with group(tmp_path, clock, 0, 1, 2) as cells:
        await cells[0].spool.put([delivery(clock, each) for each in fingerprints(1000)])
    sizes = []
    for _ in range(4):
        async with group(tmp_path, clock, 0, 1, 2) as cells:
            for cell in cells:
                await cell.spool.siblings.note_known()
            told = [[each async for each in cell.spool.siblings.told_since(0, 0)] for cell in cells]
            sizes.append([sum(len(each.claimed) for each in of_cell) for of_cell in told])
    assert sizes == [[16_000] * 3] * 4


async def test_who_was_away_for_long_forgets_what_the_others_have_taken_back(tmp_path: Path, clock: Clock) -> None:
    async with group(tmp_path, clock, 0, 1, 2) as cells:
        for pushkey in ("wrong", "right"):
            await reject(cells[0], clock, pushkey)
        for cell in cells:
            await until_dead(cell, "right")
            await cell.spool.siblings.note_known()
    clock.now += 3600
    async with group(tmp_path, clock, 0, 1) as (first, second):  # fewer processes
        name = first.spool._dead._name_of(APP, "wrong").hex()
        assert await first.spool.forget_rejections(APP, prefix=name) == 1
        await until_dead(second, "wrong", dead=False)
        for cell in (first, second):
            await cell.spool.siblings.note_known()
    async with group(tmp_path, clock, 0, 1, 2) as cells:  # more again, all started at once
        for cell in cells:
            await until_dead(cell, "wrong", dead=False)
            await until_dead(cell, "right")


async def test_a_taken_back_rejection_that_comes_late_by_another_way_does_not_count(
    tmp_path: Path, clock: Clock
) -> None:
    async with group(tmp_path, clock, 0, 1) as (first, second):
        await reject(first, clock, "late")
        ((name, rejection),) = [
            dead async for changes in first.spool.siblings.told_since(0, 0) for dead in changes.dead
        ]
        clock.now += 1
        await first.spool.forget_rejections(APP)
        await until_dead(second, "late", dead=False)
        second.spool.siblings.learn(Changes(int(clock.now * 1000), dead=[(name, rejection)]))
        assert await second.spool.rejected_among([Device(APP, "late")]) == frozenset()
        clock.now += 1
        await reject(first, clock, "late")  # and now it is dead indeed
        await until_dead(second, "late")


async def test_a_sibling_that_reads_nothing_holds_nobody_up_and_gets_the_rest_later(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with group(tmp_path, clock, 0, 1) as (first, second):
        to_second = first.siblings._links[1].channel
        from_first = second.siblings._links[0].channel
        to_second._most_waiting_bytes = 50_000
        asyncio.get_running_loop().remove_reader(from_first._end.fileno())
        many = fingerprints(40_000)
        for start in range(0, len(many), 500):
            await first.spool.put([delivery(clock, each) for each in many[start : start + 500]])
        assert first.siblings._links[1].missed_ms
        assert not first.siblings.is_quiet
        to_second._most_waiting_bytes = 32 << 20
        asyncio.get_running_loop().add_reader(from_first._end.fileno(), from_first._read)
        await until(lambda: first.siblings.is_quiet)
        await asyncio.sleep(0.05)
        assert await second.spool.put([delivery(clock, each) for each in many]) == len(many)


async def test_sums_and_requests_are_told_and_a_breaker_opens_everywhere_once(tmp_path: Path, clock: Clock) -> None:
    async with group(tmp_path, clock, 0, 1, 2) as (first, second, third):
        first.lane.counts, second.lane.counts = (100, 7), (50, 3)
        await until(lambda: third.lane.heard == (150, 10) and first.lane.heard == (50, 3))
        first.allowances.used = {"erp": 3}
        await until(lambda: second.allowances.heard == {"erp": 3} == third.allowances.heard)
        assert first.allowances.heard == {}
        first.lane.is_disbelieving = True
        await until(lambda: (second.lane.opened, third.lane.opened) == (1, 1))
        await asyncio.sleep(0.05)
        assert (first.lane.opened, second.lane.opened, third.lane.opened) == (0, 1, 1), "who heard of it tells nobody"
        first.lane.is_disbelieving = second.lane.is_disbelieving = False
        await asyncio.sleep(0.05)
        second.lane.is_disbelieving = True
        await until(lambda: first.lane.opened == 1)
        await second.close()
        await until(lambda: third.lane.heard == (100, 7))


async def test_a_file_that_was_never_one_of_several_is_not_emptied(tmp_path: Path, clock: Clock) -> None:
    alone = await SqliteSpool.open(tmp_path / "5.db", clock=clock)
    await alone.put([delivery(clock)])
    await alone.close()
    with pytest.raises(SpoolUnusable, match="no process of this gateway"):
        await Cell(5, tmp_path / "5.db", clock, is_left_over=True).open()
    assert (tmp_path / "5.db").exists()
