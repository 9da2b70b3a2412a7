"""The file of the SQLite spool: who may open it, what is left in it, and what happens when its disk does not play."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import secrets
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pushgate.errors import SpoolFull, SpoolUnavailable, SpoolUnusable
from pushgate.model import Delivery, Device, PlainNotification
from pushgate.outcome import Rejected
from pushgate.spool import Lease
from pushgate.spool.database import APPLICATION_ID, FORMAT, PAGE_BYTES, open_database
from pushgate.spool.sqlite import SqliteSpool

LANE = "de.example.app.apns"
MARKER = "the swordfish swims at midnight"
PUSHKEY = "pushkey-that-must-not-stay"
SEED = "without which it"
"""16 bytes that open the rows of a test. Without it no copy of one can be opened."""
NOBODY = 65534


def delivery(number: int = 0, *, lane: str = LANE, size: int = 1000, life_s: float = 86400, **more: Any) -> Delivery:
    device = Device(app_id=lane, pushkey=f"{PUSHKEY}-{number}")
    text = (f"{MARKER} {number} " * (size // 30 + 1))[:size]
    now = time.time()
    return Delivery(
        id=str(number),
        device=device,
        notification=PlainNotification(devices=(device,), content={"body": text}),
        accepted_at=now,
        expires_at=now + life_s,
        **more,
    )


async def drain(spool: SqliteSpool, lane: str = LANE) -> list[Lease]:
    leases: list[Lease] = []
    async with asyncio.timeout(10):
        while (backlog := await spool.backlog()).get(lane) and backlog[lane].waiting > len(leases):
            leases += await spool.lease(lane, 1000)
    return leases


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder / "spool.db"


def contents(path: Path) -> bytes:
    """Everything that stands in any file beside the spool."""
    return b"".join(each.read_bytes() for each in path.parent.iterdir())


async def until_gone(path: Path, *marks: str) -> None:
    """Fails where one of them is still in some file after five seconds."""
    async with asyncio.timeout(5):
        while any(mark.encode() in contents(path) for mark in marks):
            await asyncio.sleep(0.02)


# --- group commit


async def test_puts_at_the_same_time_share_few_commits(path: Path) -> None:
    spool = await SqliteSpool.open(path)
    await asyncio.gather(*(spool.put([delivery(n)]) for n in range(200)))
    assert spool.commits <= 3
    leases = await drain(spool)
    before = spool.commits
    await asyncio.gather(*(spool.ack([lease]) for lease in leases))
    assert spool.commits - before <= 3
    await spool.close()


async def test_what_was_just_put_is_leased_without_another_transaction(path: Path) -> None:
    spool = await SqliteSpool.open(path)
    waiting = asyncio.create_task(spool.lease(LANE, 10))
    await asyncio.sleep(0)
    sent = [delivery(n) for n in range(10)]
    await spool.put(sent)
    leases = await waiting
    assert [lease.delivery for lease in leases] == sent
    assert all(lease.delivery is each for lease, each in zip(leases, sent, strict=True)), "handed over from memory"
    assert spool.commits == 1
    await spool.close()


async def test_a_thousand_lanes_that_wait_cost_nothing(path: Path) -> None:
    spool = await SqliteSpool.open(path)
    waiting = [asyncio.create_task(spool.lease(f"lane-{n}", 1)) for n in range(1000)]
    await asyncio.sleep(0.05)
    commits, cpu = spool.commits, time.process_time()
    await asyncio.sleep(0.5)
    assert spool.commits == commits
    assert time.process_time() - cpu < 0.1
    await spool.put([delivery(1, lane="lane-500")])
    assert (await waiting[500])[0].delivery.lane == "lane-500"
    await spool.close()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_more_than_memory_may_hold_waits_on_disk_and_loses_its_turn_to_nobody(path: Path) -> None:
    spool = await SqliteSpool.open(path, memory_rows=100)
    for start in range(0, 1000, 100):
        await spool.put([delivery(n) for n in range(start, start + 100)])
    assert 0 < spool._lanes.memory.used_bytes < 100 * 3000, "of 1,000 only 100 lie in memory"
    got = list(await spool.lease(LANE, 50))
    await spool.nack(got[:5], delay_s=0)  # due at once, behind what waits already
    for n in range(1000, 3000, 10):  # and more comes all the time, as fast as it goes
        await spool.put([delivery(each) for each in range(n, n + 10)])
        leases = await spool.lease(LANE, 10)
        await spool.ack(leases)
        got += leases
    order = [int(lease.delivery.id) for lease in got]
    assert max(order) <= 2100, "what came later waits behind what came before"
    assert [n for n in order if order.count(n) > 1] == [*range(5), *range(5)], "the deferred had their turn"
    await spool.close()


async def test_lanes_that_nobody_leases_leave_memory_to_the_others(path: Path) -> None:
    spool = await SqliteSpool.open(path, memory_bytes=200_000)
    for n in range(5):
        await spool.put([delivery(each, lane=f"paused-{n}") for each in range(50)])
    sent = [delivery(each) for each in range(20)]
    await spool.put(sent)
    assert [lease.delivery for lease in await spool.lease(LANE, 20)] == sent
    for n in range(5):
        assert len(await drain(spool, f"paused-{n}")) == 50
    await spool.close()


async def test_many_lanes_that_start_at_once_do_not_fill_the_memory(path: Path) -> None:
    spool = await SqliteSpool.open(path)
    for n in range(60):
        await spool.put([delivery(each, lane=f"lane-{n}") for each in range(100)])
    await spool.close()
    spool = await SqliteSpool.open(path, memory_bytes=1_000_000, memory_rows=100)
    leases = await asyncio.gather(*(spool.lease(f"lane-{n}", 1) for n in range(60)))
    assert all(len(each) == 1 for each in leases)
    assert 0 < spool._lanes.memory.used_bytes < 3_000_000, "all of them are 12 MB"
    for n in range(60):
        assert len(leases[n]) + len(await drain_rest(spool, f"lane-{n}", 99)) == 100
    assert spool._lanes.memory.used_bytes == 0
    await spool.close()


async def drain_rest(spool: SqliteSpool, lane: str, count: int) -> list[Lease]:
    leases: list[Lease] = []
    async with asyncio.timeout(10):
        while len(leases) < count:
            leases += await spool.lease(lane, 1000)
    return leases


# --- what stays on the disk


class Seeds:
    """What a spool takes for random. Where `known`, each seed is the same one, so that the files can be searched."""

    def __init__(self) -> None:
        self.known = False

    def __call__(self, size: int) -> bytes:
        return SEED.encode() * (size // len(SEED)) if self.known else secrets.token_bytes(size)


async def ended_by(verb: str, spool: SqliteSpool, leases: Sequence[Lease]) -> None:
    match verb:
        case "ack":
            await spool.ack(leases)
        case "bury":
            await spool.bury(leases)
        case "reject":
            for lease in leases:
                await spool.reject(lease, Rejected("Unregistered"))
        case "nack and ack":
            await spool.nack(leases, delay_s=0)
            await spool.ack(await drain_rest(spool, LANE, len(leases)))
        case _:
            raise ValueError(verb)


@pytest.mark.parametrize("memory_rows", [1, 1024])
@pytest.mark.parametrize("verb", ["ack", "bury", "reject", "nack and ack"])
async def test_nothing_of_an_ended_delivery_is_left_in_any_file(path: Path, verb: str, memory_rows: int) -> None:
    seeds = Seeds()
    spool = await SqliteSpool.open(path, tidy_idle_s=0.02, memory_rows=memory_rows, entropy=seeds)
    sizes = (300, 1500, 1500, 1500, 5000, 20_000, 60_000)
    seeds.known = True
    await spool.put([delivery(n, size=sizes[n % 7]) for n in range(70)])
    assert SEED.encode() in contents(path)
    assert MARKER.encode() not in contents(path)
    assert PUSHKEY.encode() not in contents(path)
    leases = await drain(spool)
    for start in (1, 2, 0):  # not in the order in which they lie in the pages
        await ended_by(verb, spool, leases[start::3])
    await until_gone(path, SEED)
    await spool.close()


async def test_nothing_of_an_expired_delivery_is_left_in_any_file(path: Path) -> None:
    expired: list[tuple[str, int]] = []
    seeds = Seeds()
    spool = await SqliteSpool.open(
        path,
        tidy_idle_s=0.02,
        sweep_every_s=0.05,
        on_expired=lambda lane, count: expired.append((lane, count)),
        entropy=seeds,
    )
    seeds.known = True
    await spool.put([delivery(n, life_s=0.2) for n in range(50)])
    async with asyncio.timeout(5):
        while await spool.backlog():
            await asyncio.sleep(0.05)
    assert sum(count for _, count in expired) == 50
    await until_gone(path, MARKER, PUSHKEY, SEED)
    await spool.close()


async def test_under_load_erased_content_leaves_the_log_at_an_interval_and_the_log_stays_small(path: Path) -> None:
    seeds = Seeds()
    spool = await SqliteSpool.open(path, tidy_idle_s=60, tidy_every_s=0.1, entropy=seeds)
    largest = 0
    until = time.monotonic() + 1.5
    seeds.known = True
    await spool.put([delivery(-1)])
    seeds.known = False
    assert SEED.encode() in contents(path)
    await spool.ack(await drain(spool))
    seen_gone = False
    while time.monotonic() < until:
        await asyncio.gather(*(spool.put([delivery(n, size=4000) for n in range(50)]) for _ in range(5)))
        await spool.ack(await drain(spool))
        largest = max(largest, path.with_name("spool.db-wal").stat().st_size)
        seen_gone = seen_gone or SEED.encode() not in contents(path)
    assert seen_gone
    assert largest < 40 << 20
    await spool.close()


async def test_what_lapsed_is_forgotten_on_disk_too_in_small_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushgate.spool.store.FORGET_AT_ONCE", 2)
    monkeypatch.setattr("pushgate.spool.repeat_log.FORGET_AT_ONCE", 2)
    clock = [time.time()]
    spool = await SqliteSpool.open(path, clock=lambda: clock[0], dedup_window_s=600, remember_s=600)
    for n in range(7):
        await spool.put([delivery(n, fingerprint=f"{n:016}".encode())])
        (lease,) = await spool.lease(LANE, 1)
        await spool.reject(lease, Rejected("Unregistered"))
    clock[0] += 599
    await spool.sweep()
    assert (rows_of(path, "repeats"), rows_of(path, "rejections")) == (14, 7), "each was put, and each was taken back"
    clock[0] += 1
    await spool.sweep()
    await spool.close()
    assert (rows_of(path, "repeats"), rows_of(path, "rejections")) == (0, 0)


def rows_of(path: Path, table: str) -> int:
    """In a copy: the spool itself lets nobody in."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(path.parent, Path(folder) / "copy")) / path.name
        connection = sqlite3.connect(copy)
        count = int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        connection.close()
    return count


async def test_the_file_shrinks_when_a_backlog_is_gone(path: Path) -> None:
    spool = await SqliteSpool.open(path, tidy_idle_s=0.01, memory_rows=10)
    await asyncio.gather(*(spool.put([delivery(n, size=60_000) for n in range(100)]) for _ in range(8)))
    await asyncio.sleep(0.1)
    full = path.stat().st_size
    await spool.ack(await drain(spool))
    async with asyncio.timeout(10):
        while path.stat().st_size > full // 2:
            await asyncio.sleep(0.05)
    await spool.put([delivery(1)])
    assert len(await drain(spool)) == 1
    await spool.close()
    assert full > 40 << 20


async def test_only_the_owner_may_read_the_files(path: Path) -> None:
    spool = await SqliteSpool.open(path)
    await spool.put([delivery(1)])
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == {"spool.db": 0o600, "spool.db-wal": 0o600}
    await spool.close()
    assert [each.name for each in path.parent.iterdir()] == ["spool.db"]


@pytest.mark.parametrize("mode", [0o666, 0o644, 0o640, 0o606])
@pytest.mark.parametrize("what", ["an empty file", "a spool", "a spool after a crash"])
async def test_a_file_that_others_may_read_is_closed_to_them_before_anything_is_written(
    path: Path, mode: int, what: str
) -> None:
    path.touch()
    if what != "an empty file":
        spool = await SqliteSpool.open(path)
        await spool.put([delivery(1)])
        if what == "a spool after a crash":
            shutil.copytree(path.parent, path.parent.with_name("crashed"))
            path = path.parent.with_name("crashed") / path.name
            assert path.with_name("spool.db-wal").stat().st_size
        await spool.close()
    for each in path.parent.iterdir():
        each.chmod(mode)
    spool = await SqliteSpool.open(path)
    await spool.put([delivery(2)])
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == {"spool.db": 0o600, "spool.db-wal": 0o600}
    assert len(await drain(spool)) == (1 if what == "an empty file" else 2)
    await spool.close()


@pytest.mark.parametrize("name", ["spool.db", "spool.db-wal"])
async def test_a_file_of_another_user_is_refused_and_left_as_it_was(
    path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.touch()
    victim = path.with_name(name)
    victim.touch()
    victim.chmod(0o666)
    if os.geteuid() == 0:
        os.chown(victim, NOBODY, NOBODY)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with pytest.raises(SpoolUnusable, match=r"spool\.db.*: belongs to another user .*-> .*chown"):
        await SqliteSpool.open(path)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o666


async def test_a_file_that_cannot_be_closed_to_others_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch(0o644)

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    with pytest.raises(SpoolUnusable, match=r"others can read it.*-> .*chmod 600"):
        await SqliteSpool.open(path)


async def test_a_file_of_another_program_keeps_its_mode(path: Path) -> None:
    write_other_application(path)
    path.chmod(0o644)
    with pytest.raises(SpoolUnusable, match="another program"):
        await SqliteSpool.open(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


# --- what it is not


def write_other_application(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE shopping (item TEXT)")
    other.close()


def write_other_version(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        other.execute("PRAGMA user_version = 99")
    other.close()


def write_text(path: Path) -> None:
    path.write_text("Dear diary, " * 500)


def write_damaged(path: Path) -> None:
    async def fill() -> None:
        spool = await SqliteSpool.open(path)
        await spool.put([delivery(n) for n in range(500)])
        await spool.close()

    asyncio.run(fill())
    with path.open("r+b") as file:
        file.seek(8 * PAGE_BYTES)
        file.write(b"\xff" * 20 * PAGE_BYTES)


def write_cut_off(path: Path) -> None:
    write_damaged(path)
    os.truncate(path, 5 * PAGE_BYTES + 100)


def write_without_tables(path: Path) -> None:
    write_other_version(path)
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA user_version = {FORMAT}")
        other.execute("PRAGMA journal_mode = WAL")
    other.close()


def make_folder(path: Path) -> None:
    path.mkdir()


def remove_parent(path: Path) -> None:
    path.parent.rmdir()


@pytest.mark.parametrize(
    ("prepare", "what", "mend"),
    [
        (write_other_application, "another program", "name another file"),
        (write_other_version, f"format 99, this program reads {FORMAT}", "use the release that made it"),
        (write_text, "not a spool", "name another file"),
        (write_damaged, "damaged", "keep a copy"),
        (write_cut_off, "damaged", "keep a copy"),
        (write_without_tables, "damaged", "keep a copy"),
        (make_folder, "is a folder", "name a file in it"),
        (remove_parent, "no folder", "create it"),
    ],
)
def test_what_is_no_usable_spool_is_refused_and_left_as_it_was(
    path: Path, prepare: Callable[[Path], None], what: str, mend: str
) -> None:
    prepare(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(SpoolUnusable) as caught:
        asyncio.run(SqliteSpool.open(path))
    text = str(caught.value)
    assert str(path) in text
    assert what in text
    assert mend in text.split("->")[1]
    assert (path.read_bytes() if path.is_file() else None) == before
    if path.parent.is_dir():
        assert [each.name for each in path.parent.iterdir()] == [path.name], "nothing else is left there"


def test_the_check_of_an_old_file_takes_no_longer_than_it_may(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_damaged(path)
    monkeypatch.setattr("pushgate.spool.database.CHECK_STEPS", 1)
    open_database(path, entropy=lambda: b"", check_s=-1).close()
    with pytest.raises(SpoolUnusable, match="damaged"):
        open_database(path, entropy=lambda: b"", check_s=60)


async def test_a_disk_without_room_for_a_new_spool_is_refused(path: Path) -> None:
    with disk_of(100), pytest.raises(SpoolUnusable, match=r"spool\.db: .* -> "):
        await SqliteSpool.open(path)
    await (await SqliteSpool.open(path)).close()


async def test_an_empty_file_becomes_a_spool(path: Path) -> None:
    path.touch()
    spool = await SqliteSpool.open(path)
    await spool.put([delivery(1)])
    await spool.close()


async def test_too_old_an_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(SpoolUnusable, match=r"too old -> .*3\.35"):
        await SqliteSpool.open(path)


HOLDER = """
import asyncio, sys
from pathlib import Path
from pushgate.spool.sqlite import SqliteSpool
async def main():
    await SqliteSpool.open(Path(sys.argv[1]))
    print("open", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_a_second_process_is_refused_until_the_first_is_gone(path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"open\n"
    try:
        with pytest.raises(SpoolUnusable, match="another process is using it -> stop that one"):
            await SqliteSpool.open(path)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    await (await SqliteSpool.open(path)).close()


async def test_a_second_spool_of_the_same_process_is_refused(path: Path) -> None:
    spool = await SqliteSpool.open(path)
    with pytest.raises(SpoolUnusable, match="another process is using it"):
        await SqliteSpool.open(path)
    await spool.put([delivery(1)])
    await spool.close()


@contextmanager
def without_privileges(path: Path) -> Iterator[None]:
    """Root may write everywhere, and pytest's folder is root's alone."""
    if os.geteuid() != 0:
        yield
        return
    for folder in path.parent.parents:
        if folder.owner() == "root" and str(folder).startswith("/tmp/pytest-"):
            folder.chmod(0o755)
    for each in (path.parent, *path.parent.iterdir()):
        os.chown(each, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("what", ["file", "folder", "folder without a file"])
async def test_what_cannot_be_written_is_refused(path: Path, what: str) -> None:
    if what != "folder without a file":
        await (await SqliteSpool.open(path)).close()
    if what == "file":
        path.chmod(0o400)
    else:
        path.parent.chmod(0o500)
    with without_privileges(path), pytest.raises(SpoolUnusable, match=r"cannot be (written|created)[^>]*-> see"):
        await SqliteSpool.open(path)
    path.parent.chmod(0o700)


# --- when the disk does not play


async def test_a_file_that_is_removed_while_in_use_takes_nothing_more(path: Path) -> None:
    spool = await SqliteSpool.open(path)
    await spool.put([delivery(1)])
    path.unlink()
    for _ in range(2):
        with pytest.raises(SpoolUnavailable, match=r"removed or replaced.*restart"):
            await spool.put([delivery(2)])
    with pytest.raises(SpoolUnavailable):
        await spool.ack(await spool.lease(LANE, 1))
    await spool.close()


@pytest.mark.parametrize("name", ["spool.db", "spool.db-wal"])
async def test_a_file_that_is_replaced_while_in_use_takes_nothing_more(path: Path, name: str) -> None:
    spool = await SqliteSpool.open(path)
    await spool.put([delivery(1)])
    victim = path.with_name(name)
    shutil.copy(victim, path.with_name("copy"))
    path.with_name("copy").replace(victim)
    with pytest.raises(SpoolUnavailable, match=r"removed or replaced.*restart"):
        await spool.put([delivery(2)])
    await spool.close()


@contextmanager
def disk_of(limit_bytes: int) -> Iterator[None]:
    """As if the disk were full: no file of this process grows beyond that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def until_refused(put: Callable[[int], Awaitable[object]]) -> int:
    """How many went well."""
    for n in range(10_000):
        try:
            await put(n)
        except SpoolUnavailable:
            return n
    raise AssertionError("never full")


async def test_a_full_disk_refuses_loses_nothing_and_goes_on_when_mended(path: Path) -> None:
    spool = await SqliteSpool.open(path, dedup_window_s=600)

    def sent(n: int) -> list[Delivery]:
        return [delivery(10 * n + each, size=3000, fingerprint=f"{10 * n + each:016}".encode()) for each in range(10)]

    async def put(n: int) -> None:
        await spool.put(sent(n))

    with disk_of(2 << 20):
        stored = await until_refused(put)
        assert stored > 20
        later = range(stored, stored + 30)
        results = await asyncio.gather(*(put(n) for n in later), return_exceptions=True)
        refused = {n: result for n, result in zip(later, results, strict=True) if result is not None}
        assert len(refused) > 20
        for fault in refused.values():
            assert isinstance(fault, SpoolUnavailable)
            assert not isinstance(fault, SpoolFull)
            assert re.search(r"spool\.db: SQLITE_(FULL|IOERR_WRITE): .*goes on by itself", str(fault))
        leases = await drain(spool)
        assert len(leases) == 10 * (stored + len(later) - len(refused)), "all that was taken, nothing that was refused"
    for n in refused:
        assert await spool.put(sent(n)) == 0, "what was refused is not taken for a repeat"
    for n in set(later) - set(refused):
        assert await spool.put(sent(n)) == 10
    await spool.close()
    successor = await SqliteSpool.open(path)
    left = {int(lease.delivery.id) for lease in await drain(successor)}
    assert left >= {10 * n + each for n in refused for each in range(10)}
    assert len(left) == len(leases) + 10 * len(refused)
    await successor.close()


async def test_a_probe_tells_of_a_full_disk_and_when_it_is_mended(path: Path) -> None:
    spool = await SqliteSpool.open(path)
    await spool.probe()
    with disk_of(100), pytest.raises(SpoolUnavailable, match="goes on by itself"):
        await spool.probe()
    await spool.probe()
    await spool.close()


@pytest.mark.parametrize("name", ["spool.db", "spool.db-wal"])
async def test_a_probe_tells_of_a_file_that_was_removed(path: Path, name: str) -> None:
    spool = await SqliteSpool.open(path)
    path.with_name(name).unlink()
    for _ in range(2):
        with pytest.raises(SpoolUnavailable, match=r"removed or replaced.*restart"):
            await spool.probe()
    await spool.close()


async def test_a_probe_writes_one_page_and_leaves_nothing(path: Path) -> None:
    spool = await SqliteSpool.open(path)
    size = path.stat().st_size
    for _ in range(10):
        await spool.probe()
    assert 10 * PAGE_BYTES < path.with_name("spool.db-wal").stat().st_size < 11 * PAGE_BYTES
    assert spool.commits == 10
    await asyncio.gather(*(spool.probe() for _ in range(100)))
    assert spool.commits <= 13, "those at the same time share a commit"
    await spool.close()
    assert path.stat().st_size == size


async def test_an_end_that_could_not_be_written_can_be_tried_again(path: Path) -> None:
    spool = await SqliteSpool.open(path)
    await spool.put([delivery(n) for n in range(4)])
    acked, nacked, rejected, buried = await drain(spool)
    with disk_of(100):
        for verb in (
            spool.ack([acked]),
            spool.nack([nacked], delay_s=0),
            spool.reject(rejected, Rejected("Unregistered")),
            spool.bury([buried]),
        ):
            with pytest.raises(SpoolUnavailable):
                await verb
    assert (await spool.backlog())[LANE].waiting == 4
    assert await spool.rejected_among([rejected.delivery.device]) == frozenset()
    await spool.ack([acked])
    await spool.nack([nacked], delay_s=0)
    await spool.reject(rejected, Rejected("Unregistered"))
    await spool.bury([buried])
    assert [lease.delivery.id for lease in await spool.lease(LANE, 10)] == [nacked.delivery.id]
    assert (await spool.backlog())[LANE].waiting == 1
    await spool.close()


async def test_a_sweep_that_could_not_be_written_changes_nothing_and_is_tried_again(path: Path) -> None:
    now = time.time()
    clock = [now]
    spool = await SqliteSpool.open(path, clock=lambda: clock[0], sweep_every_s=0.02)
    await spool.put([delivery(n, life_s=10) for n in range(4)])
    with disk_of(100), capture_logs() as logs:
        clock[0] = now + 11
        await asyncio.sleep(0.2)
        leased = await spool.lease(LANE, 1)
    assert {"event": "spool cannot be swept", "log_level": "error"}.items() <= logs[0].items()
    async with asyncio.timeout(5):
        while (await spool.backlog())[LANE].waiting > 1:
            await asyncio.sleep(0.02)
    await spool.ack(leased)
    assert await spool.backlog() == {}
    await spool.close()


async def test_who_waits_is_told_when_the_store_cannot_be_read_and_the_next_one_gets_it(path: Path) -> None:
    spool = await SqliteSpool.open(path)
    await spool.put([delivery(1)])
    (lease,) = await drain(spool)
    await spool.nack([lease], delay_s=0)
    real = spool._committer._store.due
    spool._committer._store.due = _unreadable_disk  # type: ignore[method-assign, assignment]  # the disk fails
    with pytest.raises(SpoolUnavailable, match="OperationalError"):
        await spool.lease(LANE, 1)
    spool._committer._store.due = real  # type: ignore[method-assign]  # the disk is mended
    assert [again.attempt for again in await spool.lease(LANE, 1)] == [2]
    await spool.close()


def _unreadable_disk(*_: object) -> None:
    raise sqlite3.OperationalError("disk I/O error")


async def test_a_row_that_cannot_be_read_holds_nobody_up_and_is_kept_until_its_time_is_up(path: Path) -> None:
    spool = await SqliteSpool.open(path)
    await spool.put([delivery(n) for n in range(5)])
    await spool.close()
    database = open_database(path, entropy=lambda: b"")
    database.execute("UPDATE deliveries SET payload = ? WHERE id IN (1, 3)", (f"{MARKER}".encode(),))
    database.close()

    clock = [time.time()]
    spool = await SqliteSpool.open(path, clock=lambda: clock[0])
    with capture_logs() as logs:
        assert [lease.delivery.id for lease in await spool.lease(LANE, 10)] == ["1", "3", "4"]
        await spool.put([delivery(9)])
        assert [lease.delivery.id for lease in await spool.lease(LANE, 10)] == ["9"]
    unreadable = [log for log in logs if log["log_level"] == "error"]
    assert [(log["lane"], log["row"]) for log in unreadable] == [(LANE, 1), (LANE, 3)]
    assert MARKER not in str(logs)
    assert (await spool.backlog())[LANE].waiting == 6
    clock[0] += 86401
    assert await spool.sweep() == 2
    assert (await spool.backlog())[LANE].waiting == 4
    await spool.close()


async def test_secrets_do_not_show_in_what_a_spool_prints(path: Path) -> None:
    spool = await SqliteSpool.open(path)
    await spool.put([delivery(1)])
    leases = await drain(spool)
    shown = f"{spool!r} {leases!r} {leases[0]!r} {await spool.backlog()!r}"
    assert PUSHKEY not in shown
    assert MARKER not in shown
    await spool.close()
