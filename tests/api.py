"""A running API for tests: the real listener and the real path down to a spool, and nobody who empties that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

from pushgate import openapi
from pushgate.allowance import Allowances
from pushgate.intake import App, Intake
from pushgate.listener import Listener
from pushgate.metrics import Metrics
from pushgate.model import Caller, Delivery
from pushgate.outcome import Rejected
from pushgate.server import Application, Document, Identify
from pushgate.spool.limits import NO_LIMITS
from pushgate.spool.limits import Limits as SpoolLimits
from pushgate.spool.memory import MemorySpool
from pushgate.wire import Limits
from tests.samples import APNS_APP, FCM_APP, batch, device, encrypted

NOTIFY, BATCH, SEALED = "/push/v1/notify", "/push/v1/notify/batch", "/push/v1/notifyEncrypted/batch"
OTHER_APP = "org.example.other"


class Api:
    """A running API with a spool behind it and nobody who empties that."""

    def __init__(
        self, listener: Listener, application: Application, spool: MemorySpool, base_path: str, metrics: Metrics
    ) -> None:
        self.port = listener.port
        self.application = application
        self.spool = spool
        self.metrics = metrics
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.port}{base_path}", timeout=5)

    async def post(self, path: str, request: object) -> tuple[int, dict[str, Any]]:
        answer = await self.http.post(path, json=request)
        assert answer.headers["content-type"] == "application/json"
        return answer.status_code, answer.json()

    async def waiting(self) -> int:
        return sum(lane.waiting for lane in (await self.spool.backlog()).values())

    async def provider_rejects(self, pushkey: str, *, app_id: str = APNS_APP, since_ms: int | None = None) -> None:
        """Send something to the pushkey, and let the provider call it dead."""
        await self.post(SEALED, batch(encrypted(device=device(app_id, pushkey))))
        for lease in await self.spool.lease(app_id, 100):
            if lease.delivery.device.pushkey == pushkey:
                await self.spool.reject(lease, Rejected("Unregistered", since_ms))

    async def raw(self, request: bytes, *, then: bytes = b"", pause_s: float = 0.0) -> bytes:
        """Everything that is answered to these bytes until the connection is closed or falls silent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        answer = b""
        try:
            writer.write(request)
            await writer.drain()
            if then:
                await asyncio.sleep(pause_s)
                writer.write(then)
            with suppress(TimeoutError, ConnectionError):
                while True:
                    async with asyncio.timeout(0.3 if answer else 5):
                        chunk = await reader.read(65536)
                    if not chunk:
                        break
                    answer += chunk
        finally:
            writer.close()
        return answer


def too_long_key(delivery: Delivery) -> str | None:
    return "the pushkey is longer than 4096 characters" if len(delivery.device.pushkey) > 4096 else None


@asynccontextmanager
async def serving(
    *,
    base_path: str = "",
    identify: Identify = lambda scope: Caller("anyone"),
    request_timeout_s: float = 10,
    room: SpoolLimits = NO_LIMITS,
    allowances: Allowances | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    most: int | None = None,
) -> AsyncIterator[Api]:
    app = App(too_long_key, frozenset({"format"}))
    apps: Mapping[str, App] = dict.fromkeys((APNS_APP, FCM_APP, OTHER_APP), app)
    metrics = Metrics(apps)
    spool = MemorySpool(clock=lambda: 1_800_000_000.0, dedup_window_s=600, remember_s=2_592_000, limits=room)
    intake = Intake(
        spool,
        apps=apps,
        metrics=metrics,
        clock=lambda: 1_800_000_000.0,
        max_age_s=86_400,
        look_for_repeats=True,
    )
    document = openapi.document(base_path=base_path, max_request_kb=1024, max_notification_kb=64)
    application = Application(
        intake,
        limits=Limits(),
        base_path=base_path,
        request_timeout_s=request_timeout_s,
        identify=identify,
        documents={
            "openapi.json": Document("application/json", openapi.encode(document)),
            "docs": Document("text/html; charset=utf-8", openapi.render(document).encode()),
        },
        metrics=metrics,
        allowances=allowances,
        monotonic=monotonic,
    )
    listener = Listener(application, address="127.0.0.1:0", most=most)
    running = asyncio.create_task(listener.serve())
    api = Api(listener, application, spool, base_path, metrics)
    try:
        yield api
    finally:
        await api.http.aclose()
        listener.stop()
        await running
        await spool.close()
