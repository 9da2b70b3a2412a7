"""The gateway: builds everything from the settings, starts it, drains it, closes it.

The only file that names concrete spools and providers. Order of start: spool, providers, dispatcher, management port,
API port. Order of end: refuse what is new (503), let land what flies, close in reverse. Nothing is lost on the way:
what did not land stays in the spool.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import assert_never

import structlog
from msgspec import Struct

from pushgate import callers, openapi, retry, wire
from pushgate.breaker import BreakerLimits
from pushgate.config import Settings
from pushgate.console import Console
from pushgate.dispatch import Dispatcher, LaneSettings, Timing
from pushgate.errors import SpoolError
from pushgate.intake import App, Intake
from pushgate.listener import Listener, server_tls
from pushgate.metrics import Metrics
from pushgate.model import Caller
from pushgate.provider import Provider, apns, fcm
from pushgate.provider.sharing import Sharing
from pushgate.server import Application, Document, Identify
from pushgate.spool import Spool
from pushgate.spool.memory import MemorySpool
from pushgate.spool.sqlite import SqliteSpool

log = structlog.get_logger(__name__)

BACKLOG_EVERY_S = 5.0
PROBE_WITHIN_S = 10.0


class Ports(Struct, frozen=True):
    """Where a running gateway listens."""

    api: int
    management: int | None


class Gateway:
    """One gateway process, from its settings to its end."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._jitter = jitter
        self._metrics = Metrics(settings.apps)
        self._unready: str | None = "starting"
        self._spool_fault: str | None = None

    async def run(self, *, stop: asyncio.Event, started: Callable[[Ports], None]) -> int:
        """Serve until `stop` is set, then drain. Returns how many attempts were cut off and left to a successor.

        Raises `SpoolUnusable` when the spool is not ours to use, `OSError` when an address cannot be had.
        """
        settings = self._settings
        async with AsyncExitStack() as stack:
            spool = await self._open_spool()
            stack.push_async_callback(spool.close)
            providers = self._open_providers()
            for provider in providers.values():
                stack.push_async_callback(provider.close)
            await self._warn_of_orphans(spool)
            dispatcher = self._dispatcher(spool, providers)
            application = self._application(spool, providers)
            management = self._management()
            api = Listener(application, address=settings.api.listen, tls=self._tls())
            async with asyncio.TaskGroup() as tasks:
                if management is not None:
                    tasks.create_task(management.serve(), name="management port")
                dispatching = tasks.create_task(dispatcher.run(), name="dispatcher")
                serving = tasks.create_task(api.serve(), name="api port")
                watching = tasks.create_task(self._watch(spool, dispatcher), name="backlog metrics")
                self._unready = None
                started(Ports(api.port, None if management is None else management.port))
                await stop.wait()
                self._unready = "draining"
                application.draining = True
                cut_off = await dispatcher.drain(settings.delivery.drain_s)
                api.stop()
                await asyncio.gather(serving, dispatching)
                watching.cancel()
                if management is not None:
                    management.stop()
        return cut_off

    async def _open_spool(self) -> Spool:
        settings = self._settings
        window_s, remember_s = settings.dedup.window_s, settings.rejections.remember_s
        if (path := settings.spool.sqlite_path) is None:
            return MemorySpool(
                clock=self._clock,
                dedup_window_s=window_s,
                remember_s=remember_s,
                on_expired=self._count_expired,
            )
        return await SqliteSpool.open(
            path,
            clock=self._clock,
            dedup_window_s=window_s,
            remember_s=remember_s,
            on_expired=self._count_expired,
        )

    def _count_expired(self, lane: str, count: int) -> None:
        if (ending := self._metrics.endings.get((lane, "expired"))) is not None:
            ending.inc(count)
        log.warning("out of time", lane=lane, count=count, reason="never leased")

    def _open_providers(self) -> Mapping[str, Provider]:
        """One provider for each app. Lanes of one key share its token; connections too, where trust is equal."""
        sharing = Sharing()
        opened: dict[str, Provider] = {}
        for app_id, app in self._settings.apps.items():
            match app:
                case apns.Settings():
                    opened[app_id] = apns.ApnsProvider.open(app, sharing=sharing, clock=self._clock)
                case fcm.Settings():
                    opened[app_id] = fcm.FcmProvider.open(app, sharing=sharing, clock=self._clock)
                case _:
                    assert_never(app)
        return opened

    def _dispatcher(self, spool: Spool, providers: Mapping[str, Provider]) -> Dispatcher:
        policies: Mapping[str, retry.Policy] = {"apns": retry.APNS, "fcm": retry.FCM}
        apps, rejections = self._settings.apps, self._settings.rejections
        breaker = BreakerLimits(rejections.breaker_share, rejections.breaker_count, rejections.breaker_window_s)
        return Dispatcher(
            spool,
            lanes={
                app_id: LaneSettings(provider, policies[apps[app_id].provider], apps[app_id].max_in_flight, breaker)
                for app_id, provider in providers.items()
            },
            timing=Timing(
                clock=self._clock,
                monotonic=time.monotonic,
                jitter=self._jitter,
                scale=self._settings.delivery.retry_scale,
            ),
            metrics=self._metrics,
        )

    def _application(self, spool: Spool, providers: Mapping[str, Provider]) -> Application:
        settings = self._settings
        intake = Intake(
            spool,
            apps={
                app_id: App(provider.refuse, frozenset(settings.apps[app_id].forward_data))
                for app_id, provider in providers.items()
            },
            metrics=self._metrics,
            clock=self._clock,
            max_age_s=settings.spool.max_age_s,
            look_for_repeats=settings.dedup.window_s > 0,
        )
        return Application(
            intake,
            limits=wire.Limits(settings.api.max_request_kb, settings.api.max_notification_kb),
            base_path=settings.api.base_path,
            request_timeout_s=settings.api.request_timeout_s,
            identify=self._identify(),
            documents=self._documents(),
            metrics=self._metrics,
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

    def _identify(self) -> Identify:
        if self._settings.api.auth == "none":
            return callers.anyone
        return callers.by_certificate(
            [
                callers.Entry(
                    Caller(client.name, client.apps, client.plain),
                    san=client.san,
                    subject=client.subject,
                    sha256=client.sha256,
                    spki_sha256=client.spki_sha256,
                )
                for client in self._settings.clients
            ]
        )

    def _management(self) -> Listener | None:
        address = self._settings.management.listen
        if not address:
            return None
        return Listener(
            Console(unready=lambda: self._unready or self._spool_fault, metrics=self._metrics.text), address=address
        )

    async def _watch(self, spool: Spool, dispatcher: Dispatcher) -> None:
        """Keep readiness and the metrics of what waits and flies up to date."""
        while True:
            try:
                async with asyncio.timeout(PROBE_WITHIN_S):
                    await spool.probe()
                    backlog = await spool.backlog()
            except (SpoolError, TimeoutError) as fault:
                told = str(fault) or "no answer in time"
                log.error("spool takes nothing", fault=told)
                self._spool_fault = f"the spool takes nothing: {told}"
            else:
                self._spool_fault = None
                now = self._clock()
                self._metrics.backlog(
                    {lane: (each.waiting, max(now - each.oldest_at, 0.0)) for lane, each in backlog.items()}
                )
            for lane in dispatcher.lanes.values():
                self._metrics.in_flight[lane.name].set(lane.in_flight)
            await asyncio.sleep(BACKLOG_EVERY_S)

    async def _warn_of_orphans(self, spool: Spool) -> None:
        """Say which lanes have deliveries but no app that would send them: they wait until their time is up."""
        for lane, backlog in (await spool.backlog()).items():
            if lane not in self._settings.apps:
                log.error("deliveries wait for an app that is not configured", lane=lane, waiting=backlog.waiting)

    def _tls(self) -> ssl.SSLContext | None:
        tls = self._settings.api.tls
        return None if tls is None else server_tls(tls.cert_file, tls.key_file, tls.client_ca_file)
