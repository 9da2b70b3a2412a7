"""Requests that wait for a free stream: in their order, each no longer than its own deadline."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from pushgate.errors import NotSent
from pushgate.http2.headers import Response
from pushgate.http2.stream import Stream

if TYPE_CHECKING:
    from pushgate.http2.connection import Connection

TIMER_SLACK_S = 0.01
"""Deadlines this close together share one waking."""


class Call:
    """A request on its way through a pool: waiting, or on a stream of a connection."""

    __slots__ = ("answer", "avoid", "body", "connection", "deadline", "head", "stream", "timeout_s")

    def __init__(
        self, head: bytes, body: bytes, *, timeout_s: float, deadline: float, answer: asyncio.Future[Response]
    ) -> None:
        self.head = head
        self.body = body
        self.timeout_s = timeout_s
        self.deadline = deadline
        """On the loop's clock."""
        self.answer = answer
        self.connection: Connection | None = None
        self.stream: Stream | None = None
        self.avoid: Connection | None = None
        """The connection that did not take it last time."""


class Queue:
    """Calls in order of arrival, those that are placed again before all others. One timer for all of them."""

    __slots__ = ("_again", "_fresh", "_timer")

    def __init__(self) -> None:
        self._again: deque[Call] = deque()
        self._fresh: deque[Call] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._again) + len(self._fresh)

    def append(self, call: Call) -> None:
        """Let a call wait behind the others."""
        self._fresh.append(call)
        self._wake_by(call.deadline)

    def append_again(self, call: Call) -> None:
        """Let a call wait that has waited already: before those that have not."""
        self._again.append(call)
        self._wake_by(call.deadline)

    def first(self) -> Call | None:
        """The call whose turn it is. Those that nobody waits for any more are dropped."""
        for calls in (self._again, self._fresh):
            while calls:
                if not calls[0].answer.done():
                    return calls[0]
                calls.popleft()
        return None

    def take(self) -> None:
        """Remove the call that `first` gave."""
        (self._again or self._fresh).popleft()

    def remove(self, call: Call) -> None:
        """Remove a call, wherever it is."""
        for calls in (self._again, self._fresh):
            with suppress(ValueError):
                calls.remove(call)

    def refuse_all(self, why: str) -> None:
        """End every call as NotSent."""
        calls = [*self._again, *self._fresh]
        self._again.clear()
        self._fresh.clear()
        _refuse(calls, why)

    def _wake_by(self, when: float) -> None:
        if self._timer is None or when < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(when, self._refuse_late)

    def _refuse_late(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        calls = [*self._again, *self._fresh]
        self._again = deque(call for call in self._again if call.deadline > now)
        self._fresh = deque(call for call in self._fresh if call.deadline > now)
        _refuse([call for call in calls if call.deadline <= now], "no free stream in time")
        if self:
            soonest = min(call.deadline for call in calls if call.deadline > now)
            self._wake_by(max(now + TIMER_SLACK_S, soonest))


def _refuse(calls: list[Call], why: str) -> None:
    for call in calls:
        if not call.answer.done():
            call.answer.set_exception(NotSent(why))
