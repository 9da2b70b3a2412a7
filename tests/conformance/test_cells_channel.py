"""channel: messages and open files between two processes of a gateway, whatever the socket does with them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest
import uvloop
from msgspec import Struct

from pushgate.cells.channel import Channel


class Said(Struct, frozen=True, tag=True):
    number: int
    body: bytes = b""
    has_file: bool = False


class Ends:
    """Both ends, and what each has heard."""

    def __init__(self, *, most_waiting_bytes: int) -> None:
        one, other = socket.socketpair()
        self.heard: list[Said] = []
        self.files: list[socket.socket] = []
        self.ended: list[str] = []
        self.here = self._channel(one, "here", most_waiting_bytes)
        self.there = self._channel(other, "there", most_waiting_bytes)

    def _channel(self, end: socket.socket, name: str, most_waiting_bytes: int) -> Channel[Said]:
        return Channel(
            end,
            Said,
            on_message=self._hear,
            on_end=lambda: self.ended.append(name),
            most_waiting_bytes=most_waiting_bytes,
        )

    def _hear(self, message: Said, file: socket.socket | None) -> None:
        self.heard.append(message)
        if file is not None:
            self.files.append(file)

    async def until_heard(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.heard) < count:
                await asyncio.sleep(0.001)

    async def until_ended(self, *names: str) -> None:
        async with asyncio.timeout(5):
            while sorted(self.ended) != sorted(names):
                await asyncio.sleep(0.001)


@asynccontextmanager
async def ends(*, most_waiting_bytes: int = 32 << 20) -> AsyncIterator[Ends]:
    both = Ends(most_waiting_bytes=most_waiting_bytes)
    try:
        yield both
    finally:
        both.here.close()
        both.there.close()


def on_each_loop(check: Callable[[], Coroutine[None, None, None]]) -> Callable[..., None]:
    """The supervisor runs on asyncio's own event loop, a cell on uvloop."""

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    def test(run: Callable[[Coroutine[None, None, None]], None]) -> None:
        run(check())

    test.__name__ = check.__name__
    return test


@on_each_loop
async def test_messages_come_whole_and_in_order_however_large() -> None:
    async with ends() as both:
        said = [
            Said(number, bytes([number % 251]) * size) for number, size in enumerate((0, 1, 70_000, 3_000_000, 5) * 4)
        ]
        assert all(both.here.send(each) for each in said)
        await both.until_heard(len(said))
        assert both.heard == said
        assert both.here.waiting_bytes == 0


@on_each_loop
async def test_an_open_file_comes_with_its_own_message() -> None:
    async with ends() as both:
        ours = []
        for number in range(40):  # more than one read takes, and messages without a file in between
            mine, theirs = socket.socketpair()
            ours.append(mine)
            assert both.here.send(Said(2 * number, b"x" * 9000, has_file=True), theirs)
            assert theirs.fileno() == -1 or both.here.waiting_bytes, "it is closed here once it is sent"
            assert both.here.send(Said(2 * number + 1))
        await both.until_heard(80)
        assert [each.number for each in both.heard] == list(range(80))
        for number, (mine, theirs) in enumerate(zip(ours, both.files, strict=True)):
            theirs.send(b"%d" % number)
            assert mine.recv(10) == b"%d" % number
            mine.close()
            theirs.close()


@on_each_loop
async def test_who_reads_nothing_is_owed_no_more_than_the_limit() -> None:
    async with ends(most_waiting_bytes=4 << 20) as both:
        asyncio.get_running_loop().remove_reader(both.there._end.fileno())
        sent = 0
        while both.here.send(Said(sent, b"x" * 100_000)):
            sent += 1
        assert 4 << 20 >= both.here.waiting_bytes > (4 << 20) - 110_000
        asyncio.get_running_loop().add_reader(both.there._end.fileno(), both.there._read)
        await both.until_heard(sent)
        assert [each.number for each in both.heard] == list(range(sent)), "what was refused leaves no gap in the rest"
        assert both.here.send(Said(sent))
        await both.until_heard(sent + 1)


@on_each_loop
async def test_the_end_of_one_is_told_to_the_other_once() -> None:
    async with ends() as both:
        both.here.send(Said(1))
        both.here.close()
        await both.until_ended("there")
        assert [each.number for each in both.heard] == [1], "what was said before the end is heard"
        assert not both.there.send(Said(2))
        mine, theirs = socket.socketpair()
        assert not both.there.send(Said(3, has_file=True), theirs)
        assert theirs.fileno() == -1, "nobody else would close it"
        mine.close()
        await asyncio.sleep(0.01)
        assert both.ended == ["there"]


@on_each_loop
async def test_flushed_waits_for_the_other_end_and_not_for_ever() -> None:
    async with ends() as both:
        asyncio.get_running_loop().remove_reader(both.there._end.fileno())
        both.here.send(Said(1, b"x" * 3_000_000))
        await both.here.flushed(within_s=0.05)
        assert both.here.waiting_bytes
        asyncio.get_running_loop().add_reader(both.there._end.fileno(), both.there._read)
        await both.here.flushed(within_s=5)
        assert not both.here.waiting_bytes
