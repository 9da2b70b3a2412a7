"""What is written in one turn of the loop leaves as one piece, in its order, and before an end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pushgate.together import Together


class Transport(asyncio.Transport):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1)})
        self.told: list[Any] = []

    def write(self, data: Any) -> None:
        assert not self.is_closing(), "a loop logs what is written too late"
        self.told.append(bytes(data))

    def close(self) -> None:
        self.told.append("close")

    def abort(self) -> None:
        self.told.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.told or "abort" in self.told

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")


@pytest.fixture
async def below() -> Transport:
    return Transport()


async def test_what_is_written_in_one_turn_is_one_piece(below: Transport) -> None:
    together = Together(below)
    together.write(b"head")
    together.write(b"body")
    assert below.told == []
    await asyncio.sleep(0)
    assert below.told == [b"headbody"]
    together.write(b"next")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert below.told == [b"headbody", b"next"]


async def test_it_leaves_before_what_is_called_later_in_the_turn(below: Transport) -> None:
    together, seen = Together(below), list[Any]()
    together.write(b"a")
    asyncio.get_running_loop().call_soon(lambda: seen.extend(below.told))
    await asyncio.sleep(0)
    assert seen == [b"a"]


async def test_a_close_sends_what_was_written_and_an_abort_does_not(below: Transport) -> None:
    together = Together(below)
    together.write(b"last")
    together.close()
    together.write(b"too late")
    await asyncio.sleep(0)
    assert below.told == [b"last", "close"]
    assert together.is_closing()
    another = Together(other := Transport())
    another.write(b"never")
    another.abort()
    await asyncio.sleep(0)
    assert other.told == ["abort"]


async def test_what_the_other_side_ended_meanwhile_gets_nothing(below: Transport) -> None:
    together = Together(below)
    together.write(b"a")
    below.abort()
    await asyncio.sleep(0)
    assert below.told == ["abort"]


async def test_all_else_is_asked_of_the_transport(below: Transport) -> None:
    together = Together(below)
    together.pause_reading()
    together.resume_reading()
    assert below.told == ["pause", "resume"]
    assert together.get_extra_info("peername") == ("192.0.2.1", 1)
    assert together.get_extra_info("nothing", 3) == 3
