"""kill -9 between the writes and the fsync of a commit. For kills at any moment see `test_spool_crash`."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.faults.ledger import Verdict, random_seed
from tests.faults.table import Report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ROUNDS = 200
PROGRAM = Path(__file__).with_name("commit_kills.py")
SETTLED_AT_ONCE = 4


@pytest.mark.fault(
    "kill -9 in the middle of a commit",
    how="200 processes over one spool, each killed microseconds after a COMMIT of SQLite began",
)
async def test_two_hundred_kills_in_a_commit_lose_nothing_and_tear_nothing(tmp_path: Path, table: Report) -> None:
    seed = random_seed()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), str(tmp_path / "spool.db"), str(ROUNDS), str(seed)), stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    rounds = [json.loads(line) for line in out.splitlines()]

    def total(name: str) -> int:
        return sum(each[name] for each in rounds)

    assert (len(rounds), total("killed")) == (ROUNDS, ROUNDS), err.decode()
    assert total("in_commit") > ROUNDS / 2, "too few kills hit a commit"
    assert total("torn") == 0, "a request was stored in part"
    assert total("leased_twice") == 0
    assert total("acked_and_there") == 0, "what had been settled came back"
    table(
        Verdict(taken=total("put"), lost=total("lost"), twice=total("ended_and_there")),
        twice_at_most=ROUNDS * SETTLED_AT_ONCE,
        because="what was being settled when the process was killed",
        remark=f"{total('in_commit')} of the kills were in a commit; no request was stored in part",
    )
