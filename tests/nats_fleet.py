"""Several gateways as real processes on one NATS: those that take, those that send, and the ledger's way to them."""

from __future__ import annotations

import asyncio
import itertools
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from pushgate.client import PushGatewayClient, Retries
from pushgate.stage import Stage, set_stage
from tests.nats_cluster import Nats, NatsCluster, nats_cluster
from tests.ports import free_port
from tests.processes import Run

ACK_WAIT_S = 3.0
STREAM = "pushgate"


class Fleet(Run):
    """All of them as one run: a caller speaks to one that takes, the next caller to the next."""

    def __init__(
        self,
        stage: Stage,
        nats: NatsCluster,
        *,
        apis: int,
        workers: int,
        environ: Mapping[str, str],
        first_at: Nats | None = None,
    ) -> None:
        """`first_at`: the first that takes and the first worker know only this server, until it tells of others."""
        super().__init__(stage, 0)
        self.nats = nats
        self._first_at = first_at
        shared = {
            "PUSHGATE_SPOOL__URL": nats.url,
            "PUSHGATE_SPOOL__NATS__NAME": STREAM,
            "PUSHGATE_SPOOL__NATS__ACK_WAIT_S": str(ACK_WAIT_S),
            **environ,
        }
        self.apis = [self._member(f"api-{n}", "api", shared) for n in range(apis)]
        self.workers = [self._member(f"worker-{n}", "worker", shared) for n in range(workers)]
        self._turn = itertools.cycle(self.apis)

    def _member(self, name: str, role: str, environ: Mapping[str, str]) -> Run:
        port = free_port()
        own = {"PUSHGATE_API__LISTEN": f"127.0.0.1:{port}"}
        if self._first_at is not None and name in ("api-0", "worker-0"):
            own["PUSHGATE_SPOOL__URL"] = f"nats://{self._first_at.server}"
        return Run(self.stage, port, {**environ, **own}, name=name, role=role)

    @property
    def members(self) -> list[Run]:
        return [*self.apis, *self.workers]

    async def begin(self) -> None:
        """Start all of them."""
        await self.nats.until_ready()
        await self.apis[0].start()  # it makes the stream
        await asyncio.gather(*(each.start() for each in self.members[1:]))

    async def finish(self) -> None:
        """Stop all that run, and see that nobody has crashed."""
        running = [each for each in self.members if each.is_running]
        assert await asyncio.gather(*(each.end(signal.SIGTERM) for each in running)) == [0] * len(running)
        for each in self.members:
            assert b"Traceback" not in each.log and b'"crashed"' not in each.log, each.log_file

    def client(
        self,
        attempts: int = 0,
        *,
        retries: Retries | None = None,
        timeout_s: float = 10.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> PushGatewayClient:
        return next(self._turn).client(attempts, retries=retries, timeout_s=timeout_s, sleep=sleep)

    @property
    def is_running(self) -> bool:
        return any(each.is_running for each in self.apis)

    @property
    def log(self) -> bytes:
        return b"".join(each.log for each in self.members if each.log_file.exists())

    async def leader(self) -> Nats:
        """The server that leads the stream of deliveries."""
        return await self.nats.leader_of(STREAM)


@asynccontextmanager
async def fleet(
    folder: Path, *, servers: int = 3, apis: int = 2, workers: int = 3, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Fleet]:
    """A stage, servers that run, and gateways that are not started yet. All of it ends with the block."""
    with tempfile.TemporaryDirectory() as data, nats_cluster(Path(data), size=servers) as nats:
        async with fleet_on(nats, folder, apis=apis, workers=workers, environ=environ) as run:
            yield run


@asynccontextmanager
async def fleet_on(
    nats: NatsCluster,
    folder: Path,
    *,
    apis: int = 2,
    workers: int = 3,
    environ: Mapping[str, str] | None = None,
    first_at: Nats | None = None,
) -> AsyncIterator[Fleet]:
    """The same on servers that run already."""
    async with set_stage(folder) as stage:
        run = Fleet(stage, nats, apis=apis, workers=workers, environ=environ or {}, first_at=first_at)
        try:
            yield run
        finally:
            for each in run.members:
                if each.is_running:
                    each.signal(signal.SIGCONT)
                    await each.end(signal.SIGKILL)
