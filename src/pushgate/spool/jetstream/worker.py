"""What a worker does beside its lanes: signs of life for what it holds, and what it has deferred."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress

import structlog

from pushgate.errors import SpoolUnavailable
from pushgate.spool.envelope import Unreadable
from pushgate.spool.jetstream.api import JetStream
from pushgate.spool.jetstream.cluster import Cluster
from pushgate.spool.jetstream.consumers import Consumers
from pushgate.spool.jetstream.endings import Endings
from pushgate.spool.jetstream.held import PROGRESS, Held, State, nak, numbers_of
from pushgate.spool.jetstream.lasting import for_ever
from pushgate.spool.jetstream.layout import NS, Layout, token
from pushgate.spool.jetstream.protocol import Message
from pushgate.spool.jetstream.pull import EXPIRES_S, HEARTBEAT_S, Pull
from pushgate.spool.jetstream.wrapping import Wrapping

log = structlog.get_logger(__name__)

LOOKS = 6
"""In the time that a delivery is left to a silent worker, so often it is looked what is due for a sign of life."""
UNREADABLE_S = 60.0
"""What cannot be read may be read by a worker with another key, or a later version."""
MOST_DEFERRED = 10_000
"""Of so many of a lane it is kept where NATS is told that they are due now."""


class Worker:
    """The lanes of this process."""

    def __init__(self, js: JetStream, cluster: Cluster, layout: Layout, wrapping: Wrapping) -> None:
        self._js = js
        self._cluster = cluster
        self._layout = layout
        self._wrapping = wrapping
        self._loop = asyncio.get_running_loop()
        self._pulls: dict[str, Pull] = {}
        self._endings: dict[str, Endings] = {}
        self._held: dict[Held, None] = {}
        """What NATS has given to us and was not told the end of, that which it has heard of longest ago first."""
        self._deferred: dict[str, dict[int, tuple[str, float]]] = {}
        """By lane and number: where NATS is told, and when it is due (of the loop's clock)."""
        self._consumers = Consumers(js, cluster, layout, begin=self._begin)
        self._looking: asyncio.Task[None] | None = None
        js.link.came_back = self._came_back

    # --- what the spool asks for

    def pull(self, lane: str) -> Pull:
        """The lane of this name."""
        pull = self._pulls.get(lane)
        if pull is None:
            if self._looking is None:
                self._looking = asyncio.create_task(for_ever(self._look, work="signs of life"), name="signs of life")
            pull = self._pulls[lane] = Pull(
                lane, self, subscribe=self._js.link.subscribe, lapse_s=self._cluster.ack_wait_s
            )
            self._endings[lane] = Endings(self._js, self._layout.name, request_s=self._cluster.request_s)
        return pull

    async def end(self, held: Sequence[Held], word: bytes) -> None:
        """Tell NATS. Where that is not certain they are still leased."""
        by_lane: dict[str, list[Held]] = {}
        for each in held:
            by_lane.setdefault(each.lane, []).append(each)
        try:
            await asyncio.gather(*(self._endings[lane].tell(some, word) for lane, some in by_lane.items()))
        except BaseException:
            for each in held:
                each.state = State.LEASED
            raise
        for each in held:
            each.state = State.GONE
            self._held.pop(each, None)

    def defer(self, held: Sequence[Held], delay_s: float) -> None:
        """They come again later: remember where to say that they are to come at once."""
        due = self._loop.time() + delay_s
        for each in held:
            deferred = self._deferred.setdefault(each.lane, {})
            deferred[each.seq] = (each.reply, due)
            if len(deferred) > MOST_DEFERRED:
                del deferred[next(iter(deferred))]

    async def hasten(self, lane: str) -> int:
        """What this process has deferred is due now. Returns how many there were."""
        now = self._loop.time()
        later = {seq: reply for seq, (reply, due) in self._deferred.pop(lane, {}).items() if due > now}
        replies = [later[seq] for seq in sorted(later)]
        for reply in replies[:-1]:
            self._js.link.send(reply, nak(0))
        if replies:
            await self._js.link.request(replies[-1], nak(0), within_s=self._cluster.request_s)
        return len(replies)

    async def close(self, fault: Exception) -> None:
        """Give back what is held: other workers get it at once."""
        await self._consumers.close()
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        for pull in self._pulls.values():
            pull.refuse(fault)
        for endings in self._endings.values():
            await endings.close()
        self._js.link.unsubscribe()  # or it would be given to us again
        with suppress(SpoolUnavailable):
            for held in self._held:
                self._js.link.send(held.reply, nak(0))
        self._held.clear()

    # --- what a lane needs

    def ask(self, lane: str, count: int, reply: str) -> None:
        """See `pull.Ways.ask`."""
        asked = {"batch": count, "expires": EXPIRES_S * NS, "no_wait": True, "idle_heartbeat": HEARTBEAT_S * NS}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._layout.name}.{token(lane)}"
        self._js.link.send(subject, json.dumps(asked).encode(), reply=reply)

    def hold(self, lane: str, message: Message) -> Held | None:
        """See `pull.Ways.hold`."""
        try:
            attempt, seq = numbers_of(message.reply)
            delivery = self._wrapping.unwrap(lane, message.payload)
        except (Unreadable, ValueError) as fault:
            log.error("nats message cannot be read, kept until its time is up", lane=lane, fault=str(fault))
            with suppress(SpoolUnavailable):
                self._js.link.send(message.reply, nak(UNREADABLE_S))
            return None
        held = Held(
            lane,
            delivery,
            reply=message.reply,
            attempt=attempt,
            seq=seq,
            size=len(message.payload),
            renewed_at=self._loop.time(),
        )
        if (deferred := self._deferred.get(lane)) is not None:
            deferred.pop(seq, None)
        self._held[held] = None
        return held

    def let_go(self, held: Held) -> None:
        """See `pull.Ways.let_go`."""
        held.state = State.GONE
        self._held.pop(held, None)

    def want_consumer(self, lane: str) -> None:
        """See `pull.Ways.want_consumer`."""
        self._consumers.want(lane)

    def wake(self, lane: str) -> None:
        """Something was put into this lane."""
        self._consumers.wake(lane)

    def _begin(self, lane: str) -> None:
        self._pulls[lane].begin()

    # --- signs of life

    def _came_back(self) -> None:
        """What was asked over the old connection is lost."""
        for pull in self._pulls.values():
            pull.retry()

    async def _look(self) -> None:
        await asyncio.sleep(min(self._cluster.ack_wait_s / LOOKS, 1.0))
        now = self._loop.time()
        with suppress(SpoolUnavailable):
            self._leave_unwanted(now)
            self._give_signs(now)

    def _leave_unwanted(self, now: float) -> None:
        for pull in self._pulls.values():
            for held in pull.look(now):
                self.let_go(held)  # first: what is renewed and in no queue would be nobody's until its time is up
                with suppress(SpoolUnavailable):
                    self._js.link.send(held.reply, nak(0))  # where that is lost, NATS gives it again after `ack_wait`

    def _give_signs(self, now: float) -> None:
        due = now - self._cluster.ack_wait_s / 3
        renewed = []
        for held in self._held:
            if held.renewed_at > due:
                break
            self._js.link.send(held.reply, PROGRESS)
            renewed.append(held)
        for held in renewed:
            held.renewed_at = now
            del self._held[held]
            self._held[held] = None
