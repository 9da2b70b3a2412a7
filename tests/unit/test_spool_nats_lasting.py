"""What goes on for as long as a spool on NATS is open, and what is seen of deliveries on the way."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from pushgate.spool.jetstream import lasting
from pushgate.spool.jetstream.protocol import Message
from pushgate.spool.jetstream.putting import Row


async def test_what_nobody_has_foreseen_costs_one_turn_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting, "TROUBLE_S", 0)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        turns += 1
        if turns < 3:
            raise ZeroDivisionError("a secret")
        await asyncio.get_running_loop().create_future()

    with capture_logs() as told:
        task = asyncio.create_task(lasting.for_ever(turn, work="counting"))
        while turns < 3:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    event = {"event": "nats upkeep failed unexpectedly", "log_level": "error"}
    assert told == [{**event, "work": "counting", "fault": "ZeroDivisionError"}] * 2


def test_nothing_of_a_delivery_is_in_what_is_shown_of_it() -> None:
    row = Row("lane", "pushgate.q.lane", b"a pushkey", b"", b"mark", 0)
    message = Message("pushgate.q.lane", "", b"", b"a pushkey")
    for shown in (repr(row), str(row), repr(message), f"{message}"):
        assert "a pushkey" not in shown
        assert "mark" not in shown
        assert "lane" in shown
