"""Cells of a running gateway, for tests: which processes they are, how they are killed and come back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from pushgate.client import BatchResult
from pushgate.model import EncryptedNotification
from tests.processes import Run


def pids(run: Run) -> dict[int, int]:
    """The processes of this run's cells, as they last said that they serve."""
    return {int(str(event["cell"])): int(str(event["pid"])) for event in run.events("cell serves")}


def kill(run: Run, cell: int, number: signal.Signals = signal.SIGKILL) -> int:
    """Send a signal to one cell. Returns its process."""
    pid = pids(run)[cell]
    os.kill(pid, number)
    return pid


async def until_another_serves(run: Run, cell: int, before: int, *, within_s: float = 30.0) -> None:
    """Wait until another process is this cell."""
    async with asyncio.timeout(within_s):
        while pids(run)[cell] == before:
            await asyncio.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether a process has not ended. One that has keeps its number until its parent has looked at it.

    Cells whose supervisor is dead are looked at by the machine's first process, which may take seconds.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


async def until_gone(processes: Sequence[int], *, within_s: float = 30.0) -> None:
    """Wait until these have ended."""
    async with asyncio.timeout(within_s):
        while any(is_running(pid) for pid in processes):
            await asyncio.sleep(0.02)


async def send_by_many(run: Run, notes: Sequence[EncryptedNotification], *, times: int) -> list[BatchResult]:
    """Send the same on so many connections, one after the other: the kernel spreads them over the cells."""
    answers = []
    for _ in range(times):
        async with run.client() as client:
            answers.append(await client.notify_encrypted_batch(notes))
    return answers
