"""The supervisor: starts the cells, restarts those that die, stops them together, and has the management port.

Takes no notification and opens no spool. When it dies the cells end by themselves.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from socket import socketpair

import structlog
from msgspec import Struct

from pushgate.cells.agreement import Agreement
from pushgate.cells.child import Child
from pushgate.cells.counts import States, own_families
from pushgate.cells.messages import AskTakeOver, Drain, Found, FromCell, Link, Serving, Start
from pushgate.cells.port import Port
from pushgate.cells.restarts import Restarts
from pushgate.cells.together import Together
from pushgate.config import Settings, load
from pushgate.config.files import files_of
from pushgate.config.settings import read
from pushgate.console import Console
from pushgate.errors import ConfigError, ConfigFault, SpoolUnavailable
from pushgate.listener import Listener
from pushgate.metrics.families import Family, summed
from pushgate.reload import Reload

log = structlog.get_logger(__name__)

PORT_WITHIN_S = 5.0
"""How long cells whose supervisor has died may hold the port."""
END_WITHIN_S = 15.0
"""How long a cell may take to end, beside `delivery.drain_s`."""
COLLECT_EVERY_S = 5.0
MANAGEMENT_CONNECTIONS = 100
Faults = list[tuple[str, str, str]]


class Ports(Struct, frozen=True):
    """Where the cells and the supervisor listen."""

    api: int
    management: int | None


class CannotStart(Exception):  # noqa: N818 - what was found
    """A cell has ended before it could serve, and has said why. `code` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Supervisor:
    """Of all cells, from the start to the end."""

    def __init__(
        self, settings: Settings, *, config_file: Path, content: bytes, cells: int, left_over: Sequence[int], role: str
    ) -> None:
        """`settings` are those of the `content` of the file, `left_over` cells whose files are to be emptied."""
        self._settings = settings
        self._config_file = config_file
        self._content = self._loaded = content
        self._cells = cells
        self._left_over = left_over
        self._role = role
        self._port: Port | None = None
        self._children: dict[int, Child] = {}
        self._restarts: dict[int, Restarts] = {}
        self._agreement = Agreement()
        self._together = Together(lambda: [each for _, each in sorted(self._children.items()) if each.is_serving])
        self._stage: str | None = "starting"
        self._all_serve = asyncio.Event()
        self._stopping = asyncio.Event()
        self._cut_off = 0
        self._refused = _Flag()
        self._reload: Reload | None = None

    def reload(self) -> None:
        """Take over the configuration as it is now."""
        if self._reload is not None:
            self._reload.ask()

    def kill(self) -> None:
        """End every cell at once."""
        for child in self._children.values():
            child.kill()

    async def run(self, *, stop: asyncio.Event, started: Callable[[Ports], None]) -> int:
        """Serve until `stop` is set, then drain. Returns how many attempts were cut off.

        Raises `OSError` when an address cannot be had, `CannotStart` when a cell cannot.
        """
        async with AsyncExitStack() as stack:
            if self._role != "worker":
                self._port = await Port.reserve(self._settings.api.listen, within_s=PORT_WITHIN_S)
                stack.callback(self._port.close)
            stack.callback(self.kill)
            console, management = self._management()
            async with asyncio.TaskGroup() as tasks:
                keeping = [tasks.create_task(self._keep(cell), name=f"cell {cell}") for cell in range(self._cells)]
                keeping += [tasks.create_task(self._keep_left_over(cell)) for cell in self._left_over]
                if management is not None:
                    tasks.create_task(management.serve(), name="management port")
                await _first(self._all_serve, stop)
                upkeep = [
                    tasks.create_task(self._reload_for_ever(console), name="reload"),
                    tasks.create_task(self._collect_for_ever(), name="collect"),
                ]
                if management is not None:
                    upkeep.append(tasks.create_task(console.watch(), name="status"))
                if not stop.is_set():
                    self._stage = None
                    port = 0 if self._port is None else self._port.number
                    started(Ports(port, None if management is None else management.port))
                await stop.wait()
                self._stage = "draining"
                console.drain()
                for task in upkeep:
                    task.cancel()
                await self._drain(keeping)
                if management is not None:
                    management.stop()
        return self._cut_off

    # --- cells

    async def _keep(self, cell: int) -> None:
        """Have this cell run until all are to stop."""
        restarts = self._restarts.setdefault(cell, Restarts())
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            code = await self._run_once(cell, role=self._role)
            if self._stopping.is_set():
                return
            if not self._all_serve.is_set():
                raise CannotStart(code)
            wait_s = restarts.died(loop.time())
            if restarts.keeps_dying(loop.time()):
                log.error("cell keeps dying", cell=cell, code=code, again_in_s=wait_s)
            else:
                log.error("cell has died", cell=cell, code=code, again_in_s=wait_s)
            await _first(self._stopping, within_s=wait_s)

    async def _keep_left_over(self, cell: int) -> None:
        """Have what waits in a file of before sent."""
        restarts = Restarts()
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            code = await self._run_once(cell, role="worker", is_left_over=True)
            if self._stopping.is_set() or code == 0:
                return
            wait_s = restarts.died(loop.time())
            log.error("left-over spool cannot be sent", cell=cell, code=code, again_in_s=wait_s)
            await _first(self._stopping, within_s=wait_s)

    async def _run_once(self, cell: int, *, role: str, is_left_over: bool = False) -> int:
        """Have a process until it ends. Returns its exit code, 1 where it could not even be started."""
        try:
            child = await self._spawn(cell, role=role, is_left_over=is_left_over)
        except OSError as fault:
            log.error("cell cannot be started", cell=cell, fault=fault.strerror)
            return 1
        code = await child.wait()
        self._has_ended(child)
        return code

    async def _spawn(self, cell: int, *, role: str, is_left_over: bool) -> Child:
        listening = None if role == "worker" or self._port is None else self._port.one_more()
        try:
            child = await Child.spawn(cell, content=self._content, hear=self._hear)
        except BaseException:
            if listening is not None:
                listening.close()
            raise
        self._agreement.expect(cell)
        file = str(self._config_file)
        start = Start(cell, self._cells, file, self._content, role, is_left_over, listening is not None)
        child.send(start, listening)
        for sibling in self._children.values():
            ours, theirs = socketpair()
            child.send(Link(sibling.cell), ours)
            sibling.send(Link(cell), theirs)
        self._children[cell] = child
        if self._stopping.is_set():
            child.send(Drain())  # the others were told while it was made
        return child

    def _has_ended(self, child: Child) -> None:
        self._children.pop(child.cell, None)
        self._together.gone(child)
        self._agree(self._agreement.gone(child.cell))
        if child.stopped is not None:
            self._cut_off += child.stopped.cut_off

    def _hear(self, child: Child, message: FromCell) -> None:
        match message:
            case Found():
                self._agree(self._agreement.found(child.cell, message))
            case Serving():
                log.info("cell serves", cell=child.cell, pid=child.pid)
                if child.content is not self._content:
                    asyncio.get_running_loop().create_task(self._bring_up_to_date(child))
                if sum(each.is_serving for each in self._children.values() if each.cell < self._cells) == self._cells:
                    self._all_serve.set()
            case _:
                pass

    def _agree(self, cells: Sequence[int]) -> None:
        for cell in cells:
            if (child := self._children.get(cell)) is not None:
                child.send(self._agreement.answer)

    async def _drain(self, keeping: Iterable[asyncio.Task[None]]) -> None:
        """Have all cells end, and end those at last that do not."""
        self._stopping.set()
        for child in self._children.values():
            child.send(Drain())
        _, late = await asyncio.wait(keeping, timeout=self._settings.delivery.drain_s + END_WITHIN_S)
        if late:
            log.error("cells do not end and are killed", cells=sorted(self._children))
            self.kill()

    # --- the management port

    def _management(self) -> tuple[Console, Listener | None]:
        address = self._settings.management.listen
        console = Console(
            unready=self._unready,
            collect=self._collect,
            explain=self._together.explain,
            rejections=self._together,
            address=address,
            token=self._settings.management.token(),
        )
        if not address:
            return console, None
        return console, Listener(console, address=address, most=MANAGEMENT_CONNECTIONS, idle_make_way=True)

    def _unready(self) -> str | None:
        """Why no cell takes notifications; None while one does: connections go to those that listen."""
        if self._stage is not None:
            return self._stage
        cells = [each for each in self._children.values() if each.cell < self._cells]
        if any(not each.unready for each in cells):
            return None
        return next((each.unready for each in cells), "no cell is running")

    async def _collect(self) -> Sequence[Family]:
        return summed([await self._together.families(), self._own_families()])

    async def _collect_for_ever(self) -> None:
        """Keep in mind what each has counted: it may die at any time."""
        while True:
            await asyncio.sleep(COLLECT_EVERY_S)
            await self._together.families()

    def _own_families(self) -> Sequence[Family]:
        cells = [each for each in self._children.values() if each.cell < self._cells]
        taking = sum(not each.unready for each in cells)
        states = States(
            taking, len(cells) - taking, dead=self._cells - len(cells), left_over=len(self._children) - len(cells)
        )
        now = asyncio.get_running_loop().time()
        is_ready = self._unready() is None
        return own_families(states, self._restarts, refused=self._refused.value, is_ready=is_ready, now=now)

    # --- a changed configuration

    async def _reload_for_ever(self, console: Console) -> None:
        async def apply(settings: Settings) -> None:
            await self._take_over(settings, console)

        self._reload = Reload(load=self._load, apply=apply, files=self._files, refused=self._refused)
        await self._reload.run()

    def _load(self) -> Settings:
        """In a thread: checked here first, with all that it names. Raises `ConfigError`."""
        self._loaded = read(self._config_file)
        return load(self._config_file, environ=os.environ, content=self._loaded)

    def _files(self) -> list[Path]:
        tables = [*self._settings.apps.values(), self._settings.api, self._settings.management]
        return [self._config_file, *(path for table in tables for path in files_of(table))]

    async def _take_over(self, settings: Settings, console: Console) -> None:
        """One cell first: what it refuses nobody runs. Raises `ConfigError` or `OSError`."""
        content, token = self._loaded, settings.management.token()
        serving = [each for _, each in sorted(self._children.items()) if each.is_serving]
        if not serving:
            raise OSError("no process is running -> see in the log why")
        first, *others = serving
        if faults := await self._tell(first, content):
            raise ConfigError([ConfigFault(*each) for each in faults])
        self._settings, self._content = settings, content
        console.change_token(token)
        await asyncio.gather(*map(self._bring_up_to_date, others))

    async def _bring_up_to_date(self, child: Child) -> None:
        for at, fault, mend in await self._tell(child, self._content):
            log.error("configuration refused by a cell", cell=child.cell, at=at, fault=fault, mend=mend)

    async def _tell(self, child: Child, content: bytes) -> Faults:
        try:
            faults: Faults = await child.ask(AskTakeOver(content), Faults)
        except (SpoolUnavailable, TimeoutError):
            return [("cells", f"cell {child.cell} does not answer", "see why in its log")]
        if not faults:
            child.content = content
        return faults


class _Flag:
    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        """See `reload.Flag`."""
        self.value = float(value)


async def _first(*events: asyncio.Event, within_s: float | None = None) -> None:
    """Wait until one of them is set, at most so long."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
