"""Consumers: NATS keeps one for each lane where something waits, and forgets it when nothing has come for long.

With copies on three servers each consumer is a group of its own that has to be kept together: a thousand of them that
have nothing to do would cost more than all the work. So a lane gets one when there is something for it: whoever puts
says so when a lane was quiet, and NATS is asked now and then, for what was said may be lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from pushgate.errors import SpoolUnavailable
from pushgate.spool.jetstream.api import JetStream
from pushgate.spool.jetstream.cluster import Cluster
from pushgate.spool.jetstream.lasting import for_ever
from pushgate.spool.jetstream.layout import NS, Layout, text_of, token
from pushgate.spool.jetstream.protocol import Message

log = structlog.get_logger(__name__)

ASK_EVERY_S = 1.0
TELL_EVERY_S = 5.0
AT_ONCE = 16
FORGOTTEN_AFTER_S = 3600
"""Longer than a lane is dormant before it asks no more."""
SOON_S = 0.02


class Consumers:
    """Those of the lanes of this worker."""

    def __init__(
        self,
        js: JetStream,
        cluster: Cluster,
        layout: Layout,
        *,
        begin: Callable[[str], None],
    ) -> None:
        """`begin` is told of a lane that has a consumer."""
        self._js = js
        self._cluster = cluster
        self._layout = layout
        self._begin = begin
        self._wanted: dict[str, None] = {}
        """Lanes where somebody waits."""
        self._asked = asyncio.Event()
        """Set when a lane was added to them."""
        self._told_at = -TELL_EVERY_S
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._making: dict[str, asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None

    def want(self, lane: str) -> None:
        """Somebody waits in this lane."""
        if self._watching is None:
            self._js.link.listen(self._layout.wake("*"), self._woken)
            self._watching = asyncio.create_task(
                for_ever(self._watch, work="watching for lanes"), name="watching lanes"
            )
        self._wanted[lane] = None
        self._asked.set()

    def wake(self, lane: str) -> None:
        """There is something in this lane."""
        if lane in self._wanted and lane not in self._making:
            task = asyncio.create_task(self._make(lane), name=f"consumer of {lane}")
            self._making[lane] = task
            task.add_done_callback(lambda _: self._making.pop(lane, None))

    async def close(self) -> None:
        """Make no more."""
        for task in (self._watching, *self._making.values()):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def _woken(self, message: Message) -> None:
        self.wake(text_of(message.subject.rpartition(".")[2]))

    async def _watch(self) -> None:
        if not self._wanted:
            await self._asked.wait()
        await asyncio.sleep(SOON_S)  # many lanes are asked for at once, at a start
        self._asked.clear()
        await self._look()
        with suppress(TimeoutError):
            async with asyncio.timeout(ASK_EVERY_S):
                await self._asked.wait()

    async def _look(self) -> None:
        """Which of the lanes have something."""
        try:
            info = await self._js.ask(f"STREAM.INFO.{self._layout.name}", subjects_filter=self._layout.lanes)
        except SpoolUnavailable as fault:
            self._tell(fault)
            return
        found = self._layout.counts(info.get("state") or {})
        for lane in list(self._wanted):
            if found.get(lane):
                self.wake(lane)

    def _tell(self, fault: SpoolUnavailable) -> None:
        """Once for all lanes, and not at each attempt: who waits goes on waiting."""
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            log.error("nats gives nothing", fault=str(fault), lanes=len(self._wanted))

    async def _make(self, lane: str) -> None:
        stream, name, subject = self._layout.name, token(lane), self._layout.lane(lane)
        config = {
            "name": name,
            "durable_name": name,
            "ack_policy": "explicit",
            "ack_wait": int(self._cluster.ack_wait_s * NS),
            "max_deliver": -1,
            "max_ack_pending": -1,
            "filter_subject": subject,
            "inactive_threshold": FORGOTTEN_AFTER_S * NS,
        }
        try:
            async with self._slots:
                await self._js.ask(f"CONSUMER.CREATE.{stream}.{name}.{subject}", stream_name=stream, config=config)
        except SpoolUnavailable as fault:
            self._tell(fault)  # tried again at the next look
            return
        self._begin(lane)
        self._wanted.pop(lane, None)
