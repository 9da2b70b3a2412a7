"""One cell as its supervisor sees it: a process, what it says, and what it is asked."""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from pushgate.cells.channel import Channel
from pushgate.cells.messages import Ask, Found, FromCell, Question, Serving, Stopped, Told, Unready
from pushgate.errors import SpoolUnavailable
from pushgate.metrics.families import Family

T = TypeVar("T")
ANSWER_WITHIN_S = 60.0


class Child:
    """A running process. Made by `spawn`."""

    def __init__(self, cell: int, process: Process, content: bytes) -> None:
        self.cell = cell
        self.content = content
        """Of the configuration file: what it was told to run."""
        self.is_serving = False
        self.unready = "starting"
        """Why it takes nothing; empty where it does."""
        self.families: Sequence[Family] = ()
        """What it counted when it was asked last."""
        self.stopped: Stopped | None = None
        self._process = process
        self._channel: Channel[FromCell]
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[bytes]] = {}

    @classmethod
    async def spawn(cls, cell: int, *, content: bytes, hear: Callable[[Child, FromCell], None]) -> Child:
        """Start the process. `hear` is told what concerns others than this one."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-P",
                    "-m",
                    "pushgate.cells",
                    str(theirs.fileno()),
                ),  # nothing of the working directory
                stdin=DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        child = cls(cell, process, content)
        child._channel = Channel(
            ours, FromCell, on_message=lambda message, _: child._hear(message, hear), on_end=child._ended
        )
        return child

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for its end. Returns the exit code, negative where a signal ended it."""
        code = await self._process.wait()
        self._channel.close()
        self._ended()
        return code

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def send(self, message: object, file: socket.socket | None = None) -> None:
        """Say something. The file is closed here."""
        self._channel.send(message, file)

    async def ask(self, question: Question, kind: type[T] | Any, *, within_s: float = ANSWER_WITHIN_S) -> T:
        """Its answer. Raises `SpoolUnavailable` where it cannot give any, `TimeoutError` where it does not."""
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            if not self._channel.send(Ask(number, question)):
                raise SpoolUnavailable(f"cell {self.cell} is gone")
            async with asyncio.timeout(within_s):
                decoded: T = msgspec.msgpack.decode(await answer, type=kind)
                return decoded
        finally:
            del self._asked[number]

    def _hear(self, message: FromCell, hear: Callable[[Child, FromCell], None]) -> None:
        match message:
            case Told():
                if (asked := self._asked.get(message.number)) is None or asked.done():
                    return
                if message.fault:
                    asked.set_exception(SpoolUnavailable(message.fault))
                else:
                    asked.set_result(message.answer)
            case Unready():
                self.unready = message.reason
            case Stopped():
                self.stopped = message
            case Serving():
                self.is_serving = True
                hear(self, message)
            case Found():
                hear(self, message)

    def _ended(self) -> None:
        self.is_serving = False
        self.unready = "gone"
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(SpoolUnavailable(f"cell {self.cell} is gone"))
