"""`pushgate serve`: run the gateway until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import structlog
from cyclopts import Parameter

from pushgate import cli, collector, logs
from pushgate.cells.shares import cells_of, left_over
from pushgate.commands.check_config import load_or_explain
from pushgate.config import Settings, load
from pushgate.errors import SpoolUnusable

log = structlog.get_logger(__name__)


def serve(
    *,
    config: Annotated[Path, Parameter(help="The configuration (TOML). Environment variables PUSHGATE_… win over it.")],
    role: Annotated[
        Literal["all", "api", "worker"],
        Parameter(
            help="`all` takes and sends. `api` and `worker` need a spool that several machines share. `api` needs none "
            "of the files that `[apps]` names."
        ),
    ] = "all",
) -> int:
    """Run the gateway.

    The first SIGTERM drains it: new requests are answered 503, what is on its way to a provider is awaited for
    `delivery.drain_s` seconds, everything else stays in the spool. A second one ends it at once. Either way nothing
    is lost.

    A changed configuration is taken over while it runs, as soon as the file or one that it names is changed, or at
    SIGHUP: apps, keys, certificates, callers. One that has faults is refused and logged.

    With `api.processes` over 1 this process takes nothing itself: it starts so many others, restarts those that die,
    and hands on what it is told by signals.
    """
    settings = load_or_explain(config, sends=role != "api")
    if settings is None:
        return cli.USAGE
    if role != "all" and not settings.spool.is_shared:
        print(
            f"--role {role} needs a spool that several machines share; this one is {settings.spool.url}",
            file=sys.stderr,
        )
        return cli.USAGE
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    logs.configure(level=settings.log.level, form=settings.log.format)
    cells = cells_of(settings.api)
    rest = left_over(settings.spool.sqlite_path, cells)
    try:
        if cells == 1 and not rest:
            return _alone(settings, config, role)
        return _together(settings, config, role, cells=cells, rest=rest)
    except (SpoolUnusable, OSError) as fault:
        told = fault.strerror if isinstance(fault, OSError) and fault.strerror else fault
        print(f"pushgate cannot start: {told}", file=sys.stderr)
        return cli.FAILED


def _alone(settings: Settings, config: Path, role: Literal["all", "api", "worker"]) -> int:
    """One process, which is the gateway."""
    import uvloop

    from pushgate.gateway import Gateway, Ports

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def load_again() -> Settings:
        return load(config, environ=os.environ, sends=role != "api")

    gateway = Gateway(settings, config_file=config, load=load_again, role=role)

    async def run() -> int:
        stop = _signals(reload=gateway.reload, kill=lambda: None)
        return await gateway.run(stop=stop, started=started)

    def started(ports: Ports) -> None:
        collector.settle()
        _tell(settings, ports.api, ports.management)

    return _ended(uvloop.run(run()))


def _together(settings: Settings, config: Path, role: str, *, cells: int, rest: Sequence[int]) -> int:
    """A supervisor, and so many processes that are a gateway each. What they need is not even imported here.

    `rest` are processes of before, whose spools have to be emptied.
    """
    from pushgate.cells.supervisor import CannotStart, Supervisor

    supervisor = Supervisor(
        settings, config_file=config, content=config.read_bytes(), cells=cells, left_over=rest, role=role
    )

    async def run() -> int:
        stop = _signals(reload=supervisor.reload, kill=supervisor.kill)
        return await supervisor.run(stop=stop, started=lambda ports: _tell(settings, ports.api, ports.management))

    try:
        return _ended(asyncio.run(run()))
    except* CannotStart as group:
        found = group.exceptions[0]
        assert isinstance(found, CannotStart)
        code = found.code
    return code if code in (cli.FAILED, cli.USAGE) else cli.FAILED


def _signals(*, reload: Callable[[], None], kill: Callable[[], None]) -> asyncio.Event:
    """What is set at the first SIGTERM or SIGINT; the second one ends everything at once."""
    stop = asyncio.Event()

    def asked_to_stop() -> None:
        if stop.is_set():
            kill()
            os._exit(cli.FAILED)  # asked twice: what is in the spool is safe
        log.info("draining")
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    return stop


def _tell(settings: Settings, port: int, management_port: int | None) -> None:
    log.info("serving", listen=settings.api.listen, port=port, management_port=management_port)


def _ended(cut_off: int) -> int:
    log.info("stopped", cut_off=cut_off)
    return cli.DONE
