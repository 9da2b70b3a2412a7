"""The gateway: builds everything from the settings, starts it, drains it, closes it.

Names the concrete spools; `apps` the concrete providers. Order of start: spool, providers, dispatcher, management port,
API port. Order of end: refuse what is new (503), let land what flies, close in reverse. Nothing is lost on the way:
what did not land stays in the spool. In between a changed configuration is taken over (`reload`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
from msgspec import Struct

from pushgate import admission, openapi, wire
from pushgate.admission import Admission
from pushgate.allowance import Allowances
from pushgate.apps import Apps
from pushgate.config import Settings
from pushgate.config.changes import waiting_for_restart
from pushgate.config.files import files_of
from pushgate.console import Console
from pushgate.dispatch import Dispatcher
from pushgate.health import Health
from pushgate.intake import Intake
from pushgate.listener import Listener
from pushgate.metrics import Metrics
from pushgate.reload import Reload
from pushgate.server import Application, Document
from pushgate.settling import Timing
from pushgate.spool import Spool
from pushgate.spool.cipher import Keys
from pushgate.spool.limits import MB, Limits
from pushgate.spool.memory import MemorySpool
from pushgate.spool.sqlite import SqliteSpool

log = structlog.get_logger(__name__)

MANAGEMENT_CONNECTIONS = 100


def _steady(clock: Callable[[], float]) -> Callable[[], float]:
    """The time by a clock as it is now, running on whatever becomes of that."""
    ahead_s = clock() - time.monotonic()
    return lambda: ahead_s + time.monotonic()


class Ports(Struct, frozen=True):
    """Where a running gateway listens."""

    api: int
    management: int | None


async def open_spool(
    settings: Settings,
    *,
    clock: Callable[[], float] = time.time,
    on_expired: Callable[[str, int], None] | None = None,
) -> Spool:
    """The spool that the settings name. Raises `SpoolUnusable`."""
    window_s, remember_s = settings.dedup.window_s, settings.rejections.remember_s
    limits = Limits(settings.spool.max_waiting, settings.spool.max_mb * MB, settings.spool.max_share_per_app)
    if (path := settings.spool.sqlite_path) is None:
        return MemorySpool(
            clock=clock,
            due_clock=_steady(clock),
            dedup_window_s=window_s,
            remember_s=remember_s,
            on_expired=on_expired,
            limits=limits,
        )
    return await SqliteSpool.open(
        path,
        clock=clock,
        due_clock=_steady(clock),
        dedup_window_s=window_s,
        remember_s=remember_s,
        on_expired=on_expired,
        limits=limits,
        keys=Keys(tuple(each.get_secret_value() for each in settings.spool.encryption_keys())),
    )


class _Parts(Struct, frozen=True):
    """What runs, and can be changed while it does."""

    spool: Spool
    apps: Apps
    dispatcher: Dispatcher
    intake: Intake
    application: Application
    api: Listener
    console: Console


class Gateway:
    """One gateway process, from its settings to its end."""

    def __init__(
        self,
        settings: Settings,
        *,
        config_file: Path | None = None,
        load: Callable[[], Settings] | None = None,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """With `load`, which reads the settings of `config_file` again, a changed configuration is taken over."""
        self._began_with = settings
        self._settings = settings
        """Those that run now, but for what waits for a restart."""
        self._config_file = config_file
        self._load = load
        self._clock = clock
        self._jitter = jitter
        self._metrics = Metrics(settings.apps)
        self._health = Health(self._metrics, clock=clock)
        self._reload: Reload | None = None

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
            async with asyncio.TaskGroup() as tasks:
                if management is not None:
                    tasks.create_task(management.serve(), name="management port")
                dispatching = tasks.create_task(parts.dispatcher.run(), name="dispatcher")
                serving = tasks.create_task(parts.api.serve(), name="api port")
                upkeep = [
                    tasks.create_task(self._health.watch(parts.spool, parts.dispatcher.lanes), name="health"),
                    tasks.create_task(self._reload_for_ever(parts), name="reload"),
                ]
                self._health.stage = None
                started(Ports(parts.api.port, None if management is None else management.port))
                await stop.wait()
                self._health.stage = "draining"
                parts.application.draining = True
                for task in upkeep:
                    task.cancel()
                cut_off = await parts.dispatcher.drain(self._settings.delivery.drain_s)
                parts.api.stop()
                await asyncio.gather(serving, dispatching)
                if management is not None:
                    management.stop()
        return cut_off

    # --- the parts

    async def _build(self, stack: AsyncExitStack) -> _Parts:
        settings = self._settings
        spool = await open_spool(settings, clock=self._clock, on_expired=self._count_expired)
        stack.push_async_callback(spool.close)
        apps = Apps(clock=self._clock)
        stack.push_async_callback(apps.close)
        apps.change(settings.apps)
        await self._warn_of_orphans(spool)
        timing = Timing(
            clock=self._clock, monotonic=time.monotonic, jitter=self._jitter, scale=settings.delivery.retry_scale
        )
        dispatcher = Dispatcher(spool, lanes=apps.lanes(settings), timing=timing, metrics=self._metrics)
        intake = Intake(
            spool,
            apps=apps.intakes(),
            metrics=self._metrics,
            clock=self._clock,
            max_age_s=settings.spool.max_age_s,
            look_for_repeats=settings.dedup.window_s > 0,
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
            allowances=Allowances(admitted.limits),
        )
        api = Listener(application, address=settings.api.listen, tls=admitted.tls, count=self._metrics.count_connection)
        console = Console(
            unready=self._health.unready,
            metrics=self._metrics.text,
            rejections=spool,
            address=settings.management.listen,
            token=settings.management.token(),
        )
        return _Parts(spool, apps, dispatcher, intake, application, api, console)

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
        return Listener(console, address=address, most=MANAGEMENT_CONNECTIONS) if address else None

    def _count_expired(self, lane: str, count: int) -> None:
        if (ending := self._metrics.endings.get((lane, "expired"))) is not None:
            ending.inc(count)
        log.warning("out of time", lane=lane, count=count, reason="never leased")

    async def _warn_of_orphans(self, spool: Spool) -> None:
        """Say which lanes have deliveries but no app that would send them: they wait until their time is up."""
        for lane, backlog in (await spool.backlog()).items():
            if lane not in self._settings.apps:
                log.error("deliveries wait for an app that is not configured", lane=lane, waiting=backlog.waiting)

    # --- a changed configuration

    async def _reload_for_ever(self, parts: _Parts) -> None:
        if self._load is None:
            return

        async def apply(settings: Settings) -> None:
            await self._take_over(settings, parts)

        self._reload = Reload(load=self._load, apply=apply, files=self._files, refused=self._metrics.refused)
        await self._reload.run()

    def _files(self) -> list[Path]:
        """What a running gateway was configured by."""
        tables = [*self._settings.apps.values(), self._settings.api, self._settings.management]
        named = [path for table in tables for path in files_of(table)]
        return [self._config_file, *named] if self._config_file else named

    async def _take_over(self, settings: Settings, parts: _Parts) -> None:
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

    def _admit(self, admitted: Admission, parts: _Parts) -> None:
        """Put in place who may call from now on."""
        before, self._admitted = self._admitted, admitted
        parts.application.identify = admitted.identify
        parts.application.allowances.change(admitted.limits)
        if admitted.tls is not None and admitted.tls is not before.tls:
            parts.api.change_tls(admitted.tls)
        self._tell_of(admitted)

    def _tell_of(self, admitted: Admission) -> None:
        self._metrics.add_callers(admitted.names)
        self._metrics.lists_end_at.set(admitted.lists_end_at)
        admitted.tell(self._clock())
