"""One cell: a gateway process that a supervisor has started, from its first message to its end."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Literal, assert_never, cast

import structlog
import uvloop

from pushgate import collector, logs
from pushgate.cells.answers import Answers
from pushgate.cells.channel import Channel
from pushgate.cells.messages import Agreed, Ask, Drain, Found, Link, Serving, Start, Stopped, ToCell, Told, Unready
from pushgate.cells.shares import share_of
from pushgate.cells.siblings import Siblings
from pushgate.config import Settings, load
from pushgate.errors import ConfigError, SpoolUnusable
from pushgate.gateway import Gateway, Parts
from pushgate.spool.sharing import Changes

log = structlog.get_logger(__name__)

Role = Literal["all", "api", "worker"]

DONE, FAILED, USAGE = 0, 1, 2
"""Exit codes, as those of `cli`, which would bring the parser of all commands with it."""

LOCK_WAIT_S = 10.0
"""How long the cell of before may take to let go of its file."""
ORPHANED_DRAIN_S = 3.0
"""How long a cell whose supervisor has died waits for what flies: the next supervisor wants port and file."""
FLUSHED_WITHIN_S = 2.0
LOOK_EVERY_S = 0.2
EMPTY_FOR_S = 2.0
"""How long nothing must wait in what was left over, before its cell ends."""


class Cell:
    """See `gateway.Cell`. Talks to its supervisor over one socket, and ends when that does."""

    def __init__(self, control: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[Start] = self._loop.create_future()
        self._agreed: asyncio.Future[bytes] = self._loop.create_future()
        self._stop = asyncio.Event()
        self._gateway: Gateway | None = None
        self._answers: Answers | None = None
        self._parts: Parts | None = None
        self._answering: set[asyncio.Task[Told]] = set()
        self._telling: asyncio.Task[None] | None = None
        self._serving = asyncio.Event()
        self._told_unready: str | None = "starting"
        self.listening: socket.socket | None = None
        self.is_left_over = False
        self._is_empty = False
        self.siblings = Siblings()
        self.lock_wait_s = LOCK_WAIT_S
        self._control: Channel[ToCell] = Channel(control, ToCell, on_message=self._hear, on_end=self._orphaned)

    @property
    def sharing(self) -> Cell:
        """See `gateway.Cell`."""
        return self

    async def run(self) -> int:
        """Be a cell until it is to stop. Returns the exit code."""
        start = await self._started
        try:
            settings = self._settings_of(start, start.config_text)
        except ConfigError as error:
            return _cannot_start("; ".join(f"{each.path}: {each.fault} -> {each.mend}" for each in error.faults), USAGE)
        logs.configure(level=settings.log.level, form=settings.log.format, cell=start.cell)
        gateway = self._gateway = Gateway(settings, role=cast(Role, start.role), cell=self)
        self._answers = Answers(gateway, read=lambda text: self._settings_of(start, text))
        beside = asyncio.create_task(self._beside(gateway), name="beside")
        try:
            cut_off = await gateway.run(stop=self._stop, started=lambda _: self._has_started())
        except (SpoolUnusable, OSError) as fault:
            told = fault.strerror if isinstance(fault, OSError) and fault.strerror else fault
            return _cannot_start(str(told), FAILED)
        finally:
            beside.cancel()
            self.siblings.close()
        if self._is_empty and (path := settings.spool.sqlite_path) is not None:
            path.unlink()  # the siblings know what it held, and nothing waits
        self._control.send(Stopped(cut_off, gateway.metrics.families()))
        await self._control.flushed(within_s=FLUSHED_WITHIN_S)
        return DONE

    def _settings_of(self, start: Start, text: bytes) -> Settings:
        """Raises `ConfigError`."""
        settings = load(Path(start.config_file), environ=os.environ, content=text)
        return share_of(settings, cell=start.cell, cells=start.cells)

    # --- for the gateway

    def agree(self, secret: bytes, *, is_binding: bool) -> bytes:
        """See `spool.sharing.Sharing.agree`."""
        self._loop.call_soon_threadsafe(self._control.send, Found(secret, is_binding))
        return asyncio.run_coroutine_threadsafe(self._agreement(), self._loop).result()

    async def _agreement(self) -> bytes:
        return await asyncio.shield(self._agreed)

    def tell(self, changes: Changes) -> None:
        """See `spool.sharing.Sharing.tell`."""
        self.siblings.tell(changes)

    async def join(self, parts: Parts) -> None:
        """See `gateway.Cell.join`."""
        self._parts = parts
        if parts.siblings is not None:
            await self.siblings.join(parts.siblings, parts.dispatcher.lanes, parts.application.allowances)

    # --- beside the gateway

    def _has_started(self) -> None:
        collector.settle()
        self._serving.set()

    async def _beside(self, gateway: Gateway) -> None:
        """Tell supervisor and siblings what becomes of us, for ever."""
        await self._serving.wait()
        self._control.send(Serving())
        assert self._parts is not None
        if self._parts.siblings is not None:
            self._telling = asyncio.create_task(self.siblings.run(), name="siblings")
        empty_since = self._loop.time()
        try:
            while True:
                if (unready := gateway.health.unready() or "") != self._told_unready:
                    self._told_unready = unready
                    self._control.send(Unready(unready))
                if not self.is_left_over or await self._parts.spool.backlog() or not self.siblings.is_quiet:
                    empty_since = self._loop.time()
                elif self._loop.time() >= empty_since + EMPTY_FOR_S:
                    self._is_empty = True
                    self.drain()
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            if self._telling is not None:
                self._telling.cancel()

    # --- what the supervisor says

    def _hear(self, message: ToCell, file: socket.socket | None) -> None:
        match message:
            case Start():
                self.listening = file
                self.is_left_over = message.is_left_over
                self._started.set_result(message)
            case Link():
                assert file is not None
                self.siblings.add(message.cell, file)
            case Agreed():
                if not self._agreed.done():
                    self._agreed.set_result(message.secret)
            case Ask():
                self._answer(message)
            case Drain():
                self.drain()
            case _:
                assert_never(message)

    def _answer(self, asked: Ask) -> None:
        assert self._answers is not None and self._parts is not None
        task = asyncio.create_task(self._answers.to(asked, self._parts))
        self._answering.add(task)
        task.add_done_callback(self._told)

    def _told(self, task: asyncio.Task[Told]) -> None:
        self._answering.discard(task)
        if not task.cancelled():
            self._control.send(task.result())

    def drain(self) -> None:
        """Stop. May be asked for more than once."""
        self._stop.set()
        self.siblings.is_ending = True
        if not self._agreed.done():
            self._agreed.set_exception(SpoolUnusable("stopped before it could start"))
            self._agreed.exception()  # nobody may wait for it

    def _orphaned(self) -> None:
        """The supervisor has died: leave port and file to the next one, soon."""
        log.error("supervisor is gone", drain_s=ORPHANED_DRAIN_S)
        if not self._started.done():
            os._exit(FAILED)
        if self._gateway is not None:
            self._gateway.hasten_drain(ORPHANED_DRAIN_S)
        self.drain()


def _cannot_start(why: str, code: int) -> int:
    sys.stderr.write(f"pushgate cannot start: {why}\n")
    return code


async def _run(control: socket.socket) -> int:
    cell = Cell(control)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, cell.drain)
    return await cell.run()


def main(file: int) -> int:
    """Be the cell at the other end of this open file. Returns the exit code."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # they reach all of a terminal: the supervisor says what is to be done
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return uvloop.run(_run(socket.socket(fileno=file)))
