"""The pool in any weather: whatever happens in whatever order, every request ends in time and is acted on at most once.

The peer keeps books by the bodies, which are all different: what it answers it has acted on; what it refuses, or leaves
above the last stream of its GOAWAY, it has not.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from pushgate.errors import NotSent, Unanswered
from pushgate.http2.headers import Response
from pushgate.http2.limits import Limits
from pushgate.http2.pool import Pool
from pushgate.http2.target import Target

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Networks = Callable[..., Any]
LIMITS = Limits(quiet_s=3, ack_s=2, linger_s=0.1)
TIMEOUT_S = 8.0
LONGEST_S = TIMEOUT_S + 0.1

EVENTS = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, 6)),
    st.tuples(st.just("ask"), st.integers(1, 6)),
    st.tuples(st.just("answer"), st.integers(0, 50)),
    st.tuples(st.just("answer"), st.integers(0, 50)),
    st.tuples(st.just("answer_all"), st.just(0)),
    st.tuples(st.just("refuse"), st.integers(0, 50)),
    st.tuples(st.just("reset"), st.integers(0, 50)),
    st.tuples(st.just("go_away"), st.integers(0, 50)),
    st.tuples(st.just("lose"), st.integers(0, 5)),
    st.tuples(st.just("break_rules"), st.integers(0, 5)),
    st.tuples(st.just("allow"), st.sampled_from([0, 1, 3, 100])),
    st.tuples(st.just("cancel"), st.integers(0, 50)),
    st.tuples(st.just("block"), st.integers(0, 5)),
    st.tuples(st.just("unblock"), st.integers(0, 5)),
    st.tuples(st.just("down"), st.integers(1, 3)),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 30, 400])),
)


class Weather:
    """A pool, its peer, and the books."""

    def __init__(self, network: Any, target: Target, owners: int) -> None:
        self.network = network
        self.owners = owners
        self.network.settings = {3: 3}
        self.network.delay_s = 0.05
        self.pool = Pool(
            target,
            max_connections=2,
            limits=LIMITS,
            backoff_first_s=0.2,
            backoff_most_s=1,
            rng=lambda: 0.5,
            opener=network.open,
        )
        self.tasks: dict[bytes, asyncio.Task[Response]] = {}
        self.took_s: dict[bytes, float] = {}
        self.open: dict[tuple[int, int], bytes] = {}
        self.acted: Counter[bytes] = Counter()

    async def request(self, body: bytes) -> Response:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await self.pool.request(b"\x83", body, timeout_s=TIMEOUT_S, owner=int(body) % self.owners)
        finally:
            self.took_s[body] = loop.time() - began

    def ask(self, count: int) -> None:
        for _ in range(count):
            body = b"%d" % len(self.tasks)
            self.tasks[body] = asyncio.get_running_loop().create_task(self.request(body))

    def read(self) -> None:
        """Enter what arrived at the peer. It sees no more requests at a time than it allows."""
        for number, wire in enumerate(self.network.wires):
            for frame in wire.sent():
                if isinstance(frame, DataFrame):
                    self.open[number, frame.stream_id] = frame.data
                elif isinstance(frame, RstStreamFrame):
                    self.open.pop((number, frame.stream_id), None)
                elif isinstance(frame, PingFrame) and not wire.is_closed and "ACK" not in frame.flags and number % 2:
                    wire.receive(PingFrame(0, frame.opaque_data, flags=["ACK"]))
            if wire.is_closed:
                for key in [key for key in self.open if key[0] == number]:
                    del self.open[key]

    def pick(self, nth: int) -> tuple[Any, int] | None:
        """An open stream."""
        self.read()
        if not self.open:
            return None
        number, stream_id = sorted(self.open)[nth % len(self.open)]
        return self.network.wires[number], stream_id

    def end(self, nth: int, frame: Callable[[int], Any], *, acts: bool) -> None:
        if (picked := self.pick(nth)) is not None:
            wire, stream_id = picked
            body = self.open.pop((self.network.wires.index(wire), stream_id))
            self.acted[body] += acts
            wire.receive(frame(stream_id))

    def answer(self, nth: int) -> None:
        flags = ["END_STREAM", "END_HEADERS"]
        self.end(nth, lambda stream_id: HeadersFrame(stream_id, b"\x88", flags=flags), acts=True)

    def answer_all(self, _: int) -> None:
        self.read()
        for _ in range(len(self.open)):
            self.answer(0)

    def refuse(self, nth: int) -> None:
        self.end(nth, lambda stream_id: RstStreamFrame(stream_id, 7), acts=False)

    def reset(self, nth: int) -> None:
        self.end(nth, lambda stream_id: RstStreamFrame(stream_id, 2), acts=True)

    def go_away(self, nth: int) -> None:
        if (picked := self.pick(nth)) is not None:
            wire, last = picked
            number = self.network.wires.index(wire)
            for key in [key for key in self.open if key[0] == number and key[1] > last]:
                del self.open[key]
            wire.receive(GoAwayFrame(0, last, 0))

    def live(self, nth: int) -> Any:
        wires = [wire for wire in self.network.wires if not wire.is_closed]
        return wires[nth % len(wires)] if wires else None

    def lose(self, nth: int) -> None:
        if (wire := self.live(nth)) is not None:
            self.read()
            wire.lose(ConnectionResetError())

    def break_rules(self, nth: int) -> None:
        if (wire := self.live(nth)) is not None:
            self.read()
            wire.receive(DataFrame(2, b"x"))

    def allow(self, streams: int) -> None:
        self.network.settings = {3: max(1, streams)}
        for wire in self.network.wires:
            if not wire.is_closed:
                wire.receive(SettingsFrame(settings={3: streams}))

    def cancel(self, nth: int) -> None:
        pending = [task for task in self.tasks.values() if not task.done()]
        if pending:
            pending[nth % len(pending)].cancel()

    def block(self, nth: int) -> None:
        if (wire := self.live(nth)) is not None:
            wire.connection.pause_writing()

    def unblock(self, nth: int) -> None:
        if (wire := self.live(nth)) is not None:
            wire.connection.resume_writing()

    def down(self, times: int) -> None:
        self.network.refusals = [NotSent("cannot connect") for _ in range(times)]

    async def live_through(self, events: list[tuple[str, int]]) -> None:
        for name, number in events:
            if name == "wait":
                await asyncio.sleep(number / 100)
            else:
                getattr(self, name)(number)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.check_turns()
        if self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=LONGEST_S)
        self.check()
        await self.pool.close(1)
        assert (self.pool.in_flight, self.pool.waiting) == (0, 0)
        assert all(wire.is_closed for wire in self.network.wires)
        assert {share.held for share in self.pool._shares.by_owner.values()} <= {0}

    def check_turns(self) -> None:
        """Nobody waits who may start a request that has room; the books of what is held are right."""
        shares = self.pool._shares
        assert shares.held == self.pool.in_flight
        assert shares.next() is None or self.pool._with_room() is None

    def check(self) -> None:
        for body, task in self.tasks.items():
            assert task.done()
            assert self.took_s.get(body, 0) <= LONGEST_S
            assert self.acted[body] <= 1
            if task.cancelled():
                continue
            error = task.exception()
            if error is None:
                assert self.acted[body] == 1
            else:
                assert isinstance(error, NotSent | Unanswered)
                assert isinstance(error, Unanswered) or not self.acted[body]


@settings(max_examples=300, deadline=None)
@given(events=st.lists(EVENTS, max_size=40), owners=st.integers(1, 4))
def test_every_request_ends_in_time_and_is_acted_on_at_most_once(
    run: Run, network: Networks, target: Target, events: list[tuple[str, int]], owners: int
) -> None:
    async def main() -> None:
        await Weather(network(), target, owners).live_through(events)

    run(main())
