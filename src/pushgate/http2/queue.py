"""Requests that wait for a free stream: each owner's in their order, each no longer than its own deadline."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from pushgate.errors import Http2Error, NotSent
from pushgate.http2.headers import Response
from pushgate.http2.shares import Share, Shares
from pushgate.http2.stream import Stream

if TYPE_CHECKING:
    from pushgate.http2.connection import Connection

TIMER_SLACK_S = 0.01
"""Deadlines this close together share one waking,"""
SLACK_PER_CALL_S = 4e-6
"""and where very many wait, this much for each: a waking looks at all of them, at up to 0.4 µs each."""
OWNERS_FULL = 10
"""As many owners as fill the queue. When it is full, each may still have its equal part of it."""
_DEADLINE = attrgetter("deadline")


class Call(ABC):
    """A request on its way through a pool: waiting, or on a stream of a connection, whose end is told to it.

    Whoever makes one says by `told` what to do with its end.
    """

    __slots__ = (
        "attempts",
        "avoid",
        "body",
        "connection",
        "deadline",
        "head",
        "is_over",
        "pool",
        "share",
        "stream",
        "timeout_s",
    )

    pool: Repeater
    share: Share
    deadline: float
    """On the loop's clock."""

    def __init__(self, head: bytes, body: bytes, *, timeout_s: float) -> None:
        self.head = head
        self.body = body
        self.timeout_s = timeout_s
        self.attempts = 0
        self.is_over = False
        """Nobody waits for it: its end was told, or it was cancelled."""
        self.connection: Connection | None = None
        self.stream: Stream | None = None
        self.avoid: Connection | None = None
        """The connection that did not take it last time."""

    @abstractmethod
    def told(self, end: Response | Http2Error) -> None:
        """The peer's answer, or NotSent or Unanswered. Called once at most, not after `cancel`."""

    def cancel(self) -> None:
        """Nobody waits for it any more. The peer is told, where it has it."""
        if not self.is_over:
            self.is_over = True
            self.pool.withdraw(self)

    def submit(self, connection: Connection) -> None:
        """Send it on a connection that has room."""
        self.attempts += 1
        self.connection = connection
        self.stream = connection.submit(
            self.head, self.body, answer=self, deadline=self.deadline, timeout_s=self.timeout_s
        )
        self.share.begin()

    def refuse(self, why: str) -> None:
        """Nobody acted on it, and nobody will."""
        if not self.is_over:
            self.is_over = True
            self.told(NotSent(why))

    # What a stream tells, exactly once: the stream is free again, whether or not somebody still waits for the answer.

    def done(self) -> bool:
        """Whether the end of the stream was told."""
        return self.stream is None

    def set_result(self, result: Response, /) -> None:
        """The peer answered."""
        self.stream = None
        self.share.end()
        if not self.is_over:
            self.is_over = True
            self.told(result)

    def set_exception(self, exception: Http2Error, /) -> None:
        """NotSent or Unanswered."""
        self.stream = None
        self.share.end()
        if self.is_over or (isinstance(exception, NotSent) and self.pool.will_repeat(self)):
            return
        self.is_over = True
        self.told(exception)


class AwaitedCall(Call):
    """One whose end is a future's."""

    __slots__ = ("answer",)

    def __init__(self, head: bytes, body: bytes, *, timeout_s: float, answer: asyncio.Future[Response]) -> None:
        super().__init__(head, body, timeout_s=timeout_s)
        self.answer = answer

    def told(self, end: Response | Http2Error) -> None:
        """See `Call.told`."""
        if self.answer.done():
            return
        if isinstance(end, Response):
            self.answer.set_result(end)
        else:
            self.answer.set_exception(end)


class Repeater(Protocol):
    """The part of a pool that its calls need."""

    def will_repeat(self, call: Call) -> bool:
        """Whether a call that nobody acted on is sent again."""
        ...

    def withdraw(self, call: Call) -> None:
        """Nobody waits for this one any more."""
        ...


class Queue:
    """Calls in order of arrival for each owner, those that are placed again before its others. One timer for all."""

    __slots__ = ("_max_waiting", "_shares", "_timer", "_wake_at")

    def __init__(self, shares: Shares, *, max_waiting: int) -> None:
        """`max_waiting` of one owner."""
        self._shares = shares
        self._max_waiting = max_waiting
        self._timer: asyncio.Handle | None = None
        self._wake_at = inf

    def __len__(self) -> int:
        return self._shares.waiting

    def is_full_for(self, share: Share) -> bool:
        """Whether this owner must not let more calls wait."""
        most = self._max_waiting
        if self._shares.waiting >= most * OWNERS_FULL:
            most = max(1, most * OWNERS_FULL // max(1, len(self._shares.by_owner)))
        return len(share.calls) >= min(most, self._max_waiting)

    def append(self, call: Call) -> None:
        """Let a call wait behind the others of its owner."""
        call.share.calls.append(call)
        self._enter(call)

    def append_again(self, call: Call) -> None:
        """Let a call wait that has waited already: before those of its owner that have not."""
        share = call.share
        share.calls.insert(share.repeats, call)
        share.repeats += 1
        self._enter(call)

    def first(self) -> Call | None:
        """The call whose turn it is; None where nobody waits, or nobody who may start one now."""
        return self._shares.next()

    def take(self, call: Call) -> None:
        """Remove the call that `first` just gave: the turn passes to the next owner."""
        call.share.pop()
        self._shares.pass_on()

    def remove(self, call: Call) -> None:
        """Remove a call, wherever it is."""
        call.share.remove(lambda each: each is call)
        self._tidy(call.share)

    def refuse_all(self, why: str) -> None:
        """End every call as NotSent."""
        for share in self._shares.with_waiting():
            calls = share.remove(lambda _: True)
            self._tidy(share)
            _refuse(calls, why)

    def _tidy(self, share: Share) -> None:
        """Who is set aside has calls that wait: else it could start one meanwhile."""
        if share.parked_at and not share.calls:
            self._shares.let_back(share)

    def _enter(self, call: Call) -> None:
        self._shares.waiting += 1
        if not call.share.is_in_turn:
            self._shares.enter(call.share)
        if call.deadline < self._wake_at:
            self._wake_by(call.deadline)

    def _wake_by(self, when: float) -> None:
        """What `call_at` returns is not asked when it wakes: it does not always know (uvloop, within 0.5 ms)."""
        if when < self._wake_at:
            if self._timer is not None:
                self._timer.cancel()
            self._wake_at = when
            self._timer = asyncio.get_running_loop().call_at(when, self._refuse_late)

    def _refuse_late(self) -> None:
        self._timer, self._wake_at = None, inf
        now = asyncio.get_running_loop().time()
        soonest = inf
        for share in self._shares.with_waiting():
            if _soonest(share) <= now:
                late = share.remove(lambda call: call.deadline <= now)
                self._tidy(share)
                _refuse(late, "no free stream in time")
            soonest = min(soonest, _soonest(share))
        if soonest < inf:
            slack_s = max(TIMER_SLACK_S, self._shares.waiting * SLACK_PER_CALL_S)
            self._wake_by(max(now + slack_s, soonest))


def _soonest(share: Share) -> float:
    return min(map(_DEADLINE, share.calls), default=inf)


def _refuse(calls: list[Call], why: str) -> None:
    for call in calls:
        call.refuse(why)
