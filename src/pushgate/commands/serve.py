"""`pushgate serve`: run the gateway until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import structlog
import uvloop
from cyclopts import Parameter

from pushgate import cli, logs
from pushgate.commands.check_config import load_or_explain
from pushgate.config import Settings, load
from pushgate.errors import SpoolUnusable
from pushgate.gateway import Gateway, Ports

log = structlog.get_logger(__name__)


def serve(
    *,
    config: Annotated[Path, Parameter(help="The configuration (TOML). Environment variables PUSHGATE_… win over it.")],
    role: Annotated[
        Literal["all", "api", "worker"],
        Parameter(help="`all` takes and sends. `api` and `worker` need a spool that several machines share."),
    ] = "all",
) -> int:
    """Run the gateway.

    The first SIGTERM drains it: new requests are answered 503, what is on its way to a provider is awaited for
    `delivery.drain_s` seconds, everything else stays in the spool. A second one ends it at once. Either way nothing
    is lost.

    A changed configuration is taken over while it runs, as soon as the file or one that it names is changed, or at
    SIGHUP: apps, keys, certificates, callers. One that has faults is refused and logged.
    """
    settings = load_or_explain(config)
    if settings is None:
        return cli.USAGE
    if role != "all":
        print(
            f"--role {role} needs a spool that several machines share; this one is {settings.spool.url}",
            file=sys.stderr,
        )
        return cli.USAGE
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    logs.configure(level=settings.log.level, form=settings.log.format)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        return uvloop.run(_serve(settings, config))
    except (SpoolUnusable, OSError) as fault:
        told = fault.strerror if isinstance(fault, OSError) and fault.strerror else fault
        print(f"pushgate cannot start: {told}", file=sys.stderr)
        return cli.FAILED


async def _serve(settings: Settings, config: Path) -> int:
    stop = asyncio.Event()
    gateway = Gateway(settings, config_file=config, load=lambda: load(config, environ=os.environ))

    def asked_to_stop() -> None:
        if stop.is_set():
            os._exit(cli.FAILED)  # asked twice: what is in the spool is safe
        log.info("draining")
        stop.set()

    def started(ports: Ports) -> None:
        log.info("serving", listen=settings.api.listen, port=ports.api, management_port=ports.management)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, gateway.reload)
    cut_off = await gateway.run(stop=stop, started=started)
    log.info("stopped", cut_off=cut_off)
    return cli.DONE
