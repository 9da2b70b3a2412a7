"""The gateway: builds everything from the settings, starts it, drains it, closes it.

`spools` names the concrete spools, `apps` the concrete providers. Order of start: spool, providers, dispatcher,
management port, API port. Order of end: refuse what is new (503), let land what flies, close in reverse. Nothing is
lost on the way: what did not land stays in the spool. In between a changed configuration is taken over (`reload`).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from socket import socket
from typing import Literal, Protocol

import structlog
from msgspec import Struct

from pushgate import admission, openapi, wire
from pushgate.admission import Admission
from pushgate.allowance import Allowances
from pushgate.apps import REASONS, Apps
from pushgate.config import Settings
from pushgate.config.changes import waiting_for_restart
from pushgate.config.files import files_of
from pushgate.console import Console
from pushgate.dispatch import Dispatcher
from pushgate.gauges import Gauges, certificate_ends_at
from pushgate.health import Health
from pushgate.intake import Intake
from pushgate.journal import Explained, Journal
from pushgate.listener import Listener
from pushgate.metrics import Metrics
from pushgate.metrics.families import Family
from pushgate.provider.peer import tls_context
from pushgate.reload import Reload
from pushgate.server import Application, Document
from pushgate.settling import Timing
from pushgate.spool import Spool
from pushgate.spool.database import LOCK_WAIT_S
from pushgate.spool.sharing import Sharing
from pushgate.spool.sibling_book import SiblingBook
from pushgate.spools import open_spool, siblings_of
from pushgate.tracing import Tracing

log = structlog.get_logger(__name__)

MANAGEMENT_CONNECTIONS = 100


class Ports(Struct, frozen=True):
    """Where a running gateway listens. The port of the API is 0 where it takes nothing."""

    api: int
    management: int | None


class Parts(Struct, frozen=True):
    """What runs, and can be changed while it does."""

    spool: Spool
    apps: Apps
    dispatcher: Dispatcher
    intake: Intake
    application: Application
    api: Listener | None
    console: Console
    siblings: SiblingBook | None
    """What the spool shares with other processes, where it can."""


class Cell(Protocol):
    """What surrounds a gateway that is one of several on a machine."""

    @property
    def sharing(self) -> Sharing:
        """The siblings of its spool."""
        ...

    @property
    def lock_wait_s(self) -> float:
        """How long a process of before may take to let go of the spool."""
        ...

    @property
    def listening(self) -> socket | None:
        """Bound to the port that all share."""
        ...

    async def join(self, parts: Parts) -> None:
        """Wait until the spool knows what the siblings know: nothing is taken before."""
        ...


class Gateway:
    """One gateway process, from its settings to its end."""

    def __init__(
        self,
        settings: Settings,
        *,
        config_file: Path | None = None,
        load: Callable[[], Settings] | None = None,
        role: Literal["all", "api", "worker"] = "all",
        cell: Cell | None = None,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """With `load`, which reads the settings of `config_file` again, a changed configuration is taken over.

        A worker takes nothing and sends what waits; with the role of the API it is the other way round. `cell` is what
        surrounds one of several on this machine.
        """
        self._began_with = settings
        self._role = role
        self._cell = cell
        self._settings = settings
        """Those that run now, but for what waits for a restart."""
        self._config_file = config_file
        self._load = load
        self._clock = clock
        self._jitter = jitter
        self._metrics = Metrics(settings.apps, provider_of=self._provider_of, reasons=REASONS)
        self._journal = Journal(settings.management.journal, clock=clock)
        self._health = Health(self._metrics, clock=clock)
        self._reload: Reload | None = None
        self._most_drain_s = math.inf

    @property
    def health(self) -> Health:
        """Whether it takes notifications."""
        return self._health

    @property
    def metrics(self) -> Metrics:
        """What it counts."""
        return self._metrics

    @property
    def journal(self) -> Journal:
        """What happened to the last deliveries."""
        return self._journal

    def hasten_drain(self, most_s: float) -> None:
        """Wait no longer than that for what flies, when it is to stop."""
        self._most_drain_s = most_s

    def reload(self) -> None:
        """Take over the configuration as it is now, and try again whatever waits for somebody to mend it."""
        if self._reload is not None:
            self._reload.ask()

    async def run(self, *, stop: asyncio.Event, started: Callable[[Ports], None]) -> int:
        """Serve until `stop` is set, then drain. Returns how many attempts were cut off and left to a successor.

        Raises `SpoolUnusable` when the spool is not ours to use, `OSError` when an address cannot be had.
        """
        async with AsyncExitStack() as stack:
            parts = await self._build(stack)
            management = self._management(parts.console)
            if self._cell is not None:
                await self._cell.join(parts)
            async with asyncio.TaskGroup() as tasks:
                if management is not None:
                    tasks.create_task(management.serve(), name="management port")
                working = []
                if self._role != "api":
                    working.append(tasks.create_task(parts.dispatcher.run(), name="dispatcher"))
                if parts.api is not None:
                    working.append(tasks.create_task(parts.api.serve(), name="api port"))
                upkeep = [
                    tasks.create_task(self._health.watch(parts.spool, parts.dispatcher.lanes), name="health"),
                    tasks.create_task(self._reload_for_ever(parts), name="reload"),
                ]
                if management is not None:
                    upkeep.append(tasks.create_task(parts.console.watch(), name="status"))
                self._health.stage = None
                port = 0 if parts.api is None else parts.api.port
                started(Ports(port, None if management is None else management.port))
                await stop.wait()
                self._health.stage = "draining"
                parts.application.draining = True
                parts.console.drain()
                for task in upkeep:
                    task.cancel()
                cut_off = await parts.dispatcher.drain(min(self._settings.delivery.drain_s, self._most_drain_s))
                if parts.api is not None:
                    parts.api.stop()
                await asyncio.gather(*working)
                if management is not None:
                    management.stop()
        return cut_off

    # --- the parts

    async def _build(self, stack: AsyncExitStack) -> Parts:
        settings = self._settings
        tracing = self._traced(stack)
        spool = await open_spool(
            settings,
            clock=self._clock,
            on_expired=self._count_expired,
            sharing=None if self._cell is None else self._cell.sharing,
            lock_wait_s=LOCK_WAIT_S if self._cell is None else self._cell.lock_wait_s,
            on_commit=self._metrics.count_commit,
        )
        stack.push_async_callback(spool.close)
        apps = Apps(clock=self._clock, sends=self._role != "api")
        stack.push_async_callback(apps.close)
        apps.change(settings.apps)
        await self._warn_of_orphans(spool)
        timing = Timing(
            clock=self._clock, monotonic=time.monotonic, jitter=self._jitter, scale=settings.delivery.retry_scale
        )
        dispatcher = Dispatcher(
            spool,
            lanes=apps.lanes(settings),
            timing=timing,
            metrics=self._metrics,
            journal=self._journal,
            tracing=tracing,
        )
        table = settings.spool
        self._metrics.limit_spool(table.max_waiting, share_of_app=table.max_share_per_app, mb=table.max_mb)
        gauges = Gauges(self._metrics, lanes=dispatcher.lanes, apps=apps, spool_file=table.sqlite_path)
        self._metrics.looks.append(gauges.look)
        if self._cell is None:  # of several the supervisor says it
            self._metrics.looks.append(self._health.look)
        intake = Intake(
            spool,
            apps=apps.intakes(),
            metrics=self._metrics,
            clock=self._clock,
            max_age_s=settings.spool.max_age_s,
            look_for_repeats=settings.dedup.window_s > 0,
            tracing=tracing,
        )
        admitted = self._admitted = admission.of(settings)
        self._tell_of(admitted)
        application = Application(
            intake,
            limits=wire.Limits(settings.api.max_request_kb, settings.api.max_notification_kb),
            base_path=settings.api.base_path,
            request_timeout_s=settings.api.request_timeout_s,
            identify=admitted.identify,
            documents=self._documents(),
            metrics=self._metrics,
            journal=self._journal,
            allowances=Allowances(admitted.limits),
            tracing=tracing,
        )
        api = None if self._role == "worker" else self._listener(application, admitted)
        console = Console(
            unready=self._health.unready,
            collect=self._collect,
            explain=self._explain,
            rejections=spool,
            address=settings.management.listen,
            token=settings.management.token(),
        )
        return Parts(spool, apps, dispatcher, intake, application, api, console, siblings_of(spool))

    def _traced(self, stack: AsyncExitStack) -> Tracing | None:
        """What makes traces, where they are on."""
        table = self._settings.tracing
        if not table.endpoint:
            return None
        from pushgate.otlp import OtlpSpans  # needs opentelemetry-proto, which nothing else does

        tls = tls_context(ca_file=table.ca_file)
        spans = OtlpSpans(table.endpoint, headers=table.headers(), timeout_s=table.timeout_s, tls=tls)
        stack.push_async_callback(spans.close)

        def look() -> None:
            self._metrics.spans_dropped.value = spans.dropped

        self._metrics.looks.append(look)
        return Tracing(spans, sample=table.sample, provider_of=self._provider_of_any)

    def _provider_of_any(self, lane: str) -> str:
        """That of a lane that may be gone from the configuration while it still flies, too."""
        app = self._settings.apps.get(lane)
        return "" if app is None else app.provider

    def _provider_of(self, lane: str) -> str:
        return self._settings.apps[lane].provider

    async def _explain(self, asked: str) -> Explained:
        return self._journal.explain(asked)

    async def _collect(self) -> Iterable[Family]:
        return self._metrics.each_family()

    def _listener(self, application: Application, admitted: Admission) -> Listener:
        return Listener(
            application,
            address=self._settings.api.listen,
            tls=admitted.tls,
            count=self._metrics.count_connection,
            bound=None if self._cell is None else self._cell.listening,
        )

    def _documents(self) -> Mapping[str, Document]:
        settings, api = self._settings, self._settings.api
        document = openapi.document(
            base_path=api.base_path,
            max_request_kb=api.max_request_kb,
            max_notification_kb=api.max_notification_kb,
            max_age_s=settings.spool.max_age_s,
            dedup_window_s=settings.dedup.window_s,
            remember_s=settings.rejections.remember_s,
        )
        return {
            "openapi.json": Document("application/json", openapi.encode(document)),
            "docs": Document("text/html; charset=utf-8", openapi.render(document).encode()),
        }

    def _management(self, console: Console) -> Listener | None:
        address = self._settings.management.listen
        return Listener(console, address=address, most=MANAGEMENT_CONNECTIONS, idle_make_way=True) if address else None

    def _count_expired(self, lane: str, count: int) -> None:
        if (counts := self._metrics.lanes.get(lane)) is not None:
            counts.count_ending("expired", count)
        log.warning("out of time", lane=lane, count=count, reason="never leased")

    async def _warn_of_orphans(self, spool: Spool) -> None:
        """Say which lanes have deliveries but no app that would send them: they wait until their time is up."""
        for lane, backlog in (await spool.backlog()).items():
            if lane not in self._settings.apps:
                log.error("deliveries wait for an app that is not configured", lane=lane, waiting=backlog.waiting)

    # --- a changed configuration

    async def _reload_for_ever(self, parts: Parts) -> None:
        if self._load is None:
            return

        async def apply(settings: Settings) -> None:
            await self.take_over(settings, parts)

        self._reload = Reload(load=self._load, apply=apply, files=self._files, refused=self._metrics.refused)
        await self._reload.run()

    def _files(self) -> list[Path]:
        """What a running gateway was configured by."""
        apps = self._settings.apps.values() if self._role != "api" else ()
        tables = [*apps, self._settings.api, self._settings.management]
        named = [path for table in tables for path in files_of(table)]
        return [self._config_file, *named] if self._config_file else named

    async def take_over(self, settings: Settings, parts: Parts) -> None:
        """Run with other settings. What may fail comes first: either all of it is taken over, or nothing.

        Raises `ConfigError`, `CredentialError`, or `OSError` (`ssl.SSLError` is one).
        """
        admitted, token = admission.of(settings, before=self._admitted), settings.management.token()
        replaced = parts.apps.change(settings.apps)
        self._settings = settings
        self._metrics.add(settings.apps)
        flying = await parts.dispatcher.change(parts.apps.lanes(settings))
        parts.apps.close_behind(replaced, flying)
        parts.intake.apps = parts.apps.intakes()
        self._admit(admitted, parts)
        parts.console.change_token(token)
        await parts.dispatcher.retry_now()
        log.info("configuration taken over", apps=len(settings.apps), providers_replaced=len(replaced))
        if waiting := waiting_for_restart(self._began_with, settings):
            log.warning("configuration changed where only a restart helps", keys=waiting)
        await self._warn_of_orphans(parts.spool)

    def _admit(self, admitted: Admission, parts: Parts) -> None:
        """Put in place who may call from now on."""
        before, self._admitted = self._admitted, admitted
        parts.application.identify = admitted.identify
        parts.application.allowances.change(admitted.limits)
        if admitted.tls is not None and admitted.tls is not before.tls and parts.api is not None:
            parts.api.change_tls(admitted.tls)
        self._tell_of(admitted)

    def _tell_of(self, admitted: Admission) -> None:
        self._metrics.add_callers(admitted.names)
        self._metrics.lists_end_at.set(admitted.lists_end_at)
        table = admitted.tls_table
        self._metrics.certificate_ends_at.set(certificate_ends_at(table.cert_file) if table else 0.0)
        admitted.tell(self._clock())
