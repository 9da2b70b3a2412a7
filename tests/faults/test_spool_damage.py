"""The spool's file is deleted, overwritten, cut, replaced: nothing is taken on top of that, and it is never emptied."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from pushgate.emulator import Step
from tests.faults.ledger import Ledger
from tests.faults.table import Report
from tests.processes import Run, pushgate, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def hold(run: Run, *, is_held: bool) -> None:
    """Both providers answer 503 to everything, or take it."""
    for emulator in (run.stage.apns, run.stage.fcm):
        emulator.script("*", [Step(status=503, repeat=True)] if is_held else [])


@pytest.mark.fault(
    "spool file deleted while running",
    how="everything has been sent; `spool.db` is unlinked; callers go on sending; then a restart",
)
async def test_nothing_is_taken_into_a_deleted_file(tmp_path: Path, table: Report) -> None:
    async with staged(tmp_path, retry_scale=0.002) as run, Ledger(run) as ledger:
        await run.start()
        async with ledger.load(tasks=3):
            await ledger.until_taken(300)
        await ledger.settle()
        taken = len(ledger.taken)
        with ledger.fault():
            (tmp_path / "spool.db").unlink()
            async with ledger.load(tasks=3):
                async with asyncio.timeout(30):
                    while ledger.statuses.get(503, 0) < 20:
                        await asyncio.sleep(0.05)
                await run.until_ready(503)
                assert "removed or replaced" in (await run.ready())[1]
            taken_afterwards = len(ledger.taken) - taken
            assert await run.end() == 0
            await run.start()
        async with ledger.load(tasks=3):
            await ledger.until_taken(50)
        verdict = await ledger.settle()
        assert await run.end() == 0
    assert taken_afterwards == 0
    table(
        verdict,
        twice_at_most=0,
        because="everything had been settled",
        remark=f"taken while the file was gone: {taken_afterwards} (all answered 503). "
        "What still waits in a file is lost with it: that is the hand that deletes it",
    )


@pytest.mark.fault(
    "spool file overwritten while running",
    how="deliveries wait; the middle of `spool.db` and of its log is overwritten with noise; then providers recover",
)
async def test_noise_in_the_file_costs_nothing_while_the_process_lives(tmp_path: Path, table: Report) -> None:
    async with staged(tmp_path, retry_scale=0.002) as run, Ledger(run) as ledger:
        hold(run, is_held=True)
        await run.start()
        async with ledger.load(tasks=3):
            await ledger.until_taken(300)
        assert await run.end() == 0  # so that everything is in the file and none of it in memory only
        await run.start()
        async with ledger.load(tasks=3):
            await ledger.until_taken(300)
            with ledger.fault():
                sizes = [overwrite_middle(tmp_path / name, ledger) for name in ("spool.db", "spool.db-wal")]
                await ledger.until_answered(50)
                hold(run, is_held=False)
        verdict = await ledger.settle()
        assert await run.end() == 0
        try:
            await run.start()  # where the noise has been written over meanwhile
        except AssertionError as refused:
            assert "spool.db: it is damaged -> keep a copy" in str(refused)
            (tmp_path / "spool.db").rename(tmp_path / "damaged.db")
            await run.start()
        assert await run.end() == 0
        assert b"Traceback" not in run.log
    assert min(sizes) > 0
    table(
        verdict,
        twice_at_most=0,
        because="nothing was restarted before all of it had been sent",
        remark="a start refuses a damaged file. What still waits in it then can only be recovered by hand",
    )


def overwrite_middle(path: Path, ledger: Ledger) -> int:
    """Half of the file is noise now. Returns how many bytes."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 4)
        return file.write(ledger.chance.randbytes(size // 2))


def _noise(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 4)
        file.write(bytes(range(256)) * (size // 512))


def _cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _text(path: Path) -> None:
    path.write_text("not a spool but a letter\n" * 1000)


def _other_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE cookies (name TEXT)")
    other.close()


def _other_format(path: Path) -> None:
    with sqlite3.connect(path) as spool:
        spool.execute("PRAGMA user_version = 4711")
    spool.close()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "overwritten": (_noise, "it is damaged -> keep a copy"),
    "cut in half": (_cut, "it is damaged -> keep a copy"),
    "a text": (_text, "it is not a spool but another kind of file -> name another file"),
    "of another program": (_other_program, "an SQLite file of another program -> name another file"),
    "of another format": (_other_format, "format 4711, this program reads"),
}


@pytest.mark.fault(
    "spool file damaged before the start",
    how="deliveries wait in it: overwritten, cut in half, a text, another program's, another format's; then put back",
)
async def test_a_damaged_file_is_refused_and_never_silently_emptied(tmp_path: Path, table: Report) -> None:
    async with staged(tmp_path, retry_scale=0.002) as run, Ledger(run) as ledger:
        hold(run, is_held=True)
        await run.start()
        async with ledger.load(tasks=3):
            await ledger.until_taken(300)
        with ledger.fault():
            assert await run.end() == 0
            path, whole = tmp_path / "spool.db", tmp_path / "whole.db"
            path.rename(whole)
            for name, (damage, expected) in DAMAGES.items():
                shutil.copy(whole, path)
                damage(path)
                before = path.read_bytes()
                code, _, said = await pushgate("serve", "--config", str(run.stage.config_file))
                assert (code, "Traceback" in said) == (1, False), said
                assert f"pushgate cannot start: {path}: " in said, name
                assert expected in said, name
                assert path.read_bytes() == before, f"{name}: the file was changed"
                path.unlink()
            whole.rename(path)
            hold(run, is_held=False)
            await run.start()
        verdict = await ledger.settle()
        assert await run.end() == 0
    table(
        verdict,
        twice_at_most=0,
        because="nothing had been sent before the end",
        remark="each time: exit code 1, a message that says how to mend it, and the file as it was",
    )


async def test_a_file_cut_to_nothing_is_refused_while_its_log_holds_deliveries(tmp_path: Path) -> None:
    """After a kill the last deliveries may stand in the write-ahead log alone: an empty file beside it is not new."""
    async with staged(tmp_path) as run, Ledger(run) as ledger:
        hold(run, is_held=True)
        await run.start()
        async with ledger.load(tasks=3):
            await ledger.until_taken(100)
            await run.kill()
        path, wal = tmp_path / "spool.db", tmp_path / "spool.db-wal"
        kept = wal.read_bytes()
        assert kept
        path.write_bytes(b"")
        code, _, said = await pushgate("serve", "--config", str(run.stage.config_file), within_s=15)
        assert (code, "Traceback" in said) == (1, False), said
        assert f"pushgate cannot start: {path}" in said
        assert (path.read_bytes(), wal.read_bytes()) == (b"", kept)
