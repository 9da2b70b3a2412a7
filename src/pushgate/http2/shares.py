"""The streams of a pool among its owners: who may start a request, and whose turn it is.

A dynamic threshold (Choudhury and Hahne, 1998): nobody holds more than `ALPHA` times what is left for the others. So N
owners whose requests hang hold C / (N + 1 / ALPHA) of C streams each, and something stays free for one more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pushgate.http2.queue import Call

ALPHA = 2
"""One busy owner gets 2/3 of the streams, of five that hang each gets 2/11 and 1/11 stays free."""


class Share:
    """One owner's part: how many streams it holds, and its calls that wait."""

    __slots__ = ("_shares", "calls", "held", "is_in_turn", "parked_at", "repeats")

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self.held = 0
        """Streams of its requests, on whatever connection."""
        self.calls: deque[Call] = deque()
        """Those that wait."""
        self.repeats = 0
        """So many of them, those in front, were sent before."""
        self.is_in_turn = False
        self.parked_at = 0
        """What it held when it was set aside because it held too much, else 0."""

    def begin(self) -> None:
        """One of its requests has got a stream."""
        self.held += 1
        self._shares.held += 1

    def end(self) -> None:
        """One of its streams has ended."""
        self.held -= 1
        shares = self._shares
        shares.held -= 1
        if self.parked_at:
            shares.let_back(self)

    def first(self) -> Call | None:
        """Its call whose turn it is. Those that nobody waits for any more are dropped."""
        calls = self.calls
        while calls:
            if not (call := calls[0]).is_over:
                return call
            self.pop()
        return None

    def pop(self) -> None:
        """Remove the first of its calls."""
        self.calls.popleft()
        self._shares.waiting -= 1
        if self.repeats:
            self.repeats -= 1

    def remove(self, leaving: Callable[[Call], bool]) -> list[Call]:
        """Remove these of its calls, wherever they stand. Returns them."""
        left = [call for call in self.calls if leaving(call)]
        if left:
            self.repeats -= sum(map(leaving, islice(self.calls, self.repeats)))
            self.calls = deque(call for call in self.calls if not leaving(call))
            self._shares.waiting -= len(left)
        return left


class Shares:
    """All owners' parts. Those with waiting calls take turns; one that holds too much is set aside until it does not.

    What has to be looked at for one call does not grow with the number of owners.
    """

    __slots__ = ("_parked", "_turn", "by_owner", "held", "is_shared", "streams", "waiting")

    def __init__(self) -> None:
        self.streams = 0
        """How many there are now: what is free on connections that take requests, and what is held."""
        self.held = 0
        self.waiting = 0
        """Calls of all owners."""
        self.is_shared = False
        """Whether there is more than one owner. A lone one may take everything."""
        self.by_owner: dict[Hashable, Share] = {}
        self._turn: deque[Share] = deque()
        self._parked: dict[int, dict[Share, None]] = {}
        """By what they hold, in the order in which they were set aside."""

    def add(self, owner: Hashable) -> Share:
        """The part of an owner, who is known from now on."""
        share = self.by_owner.setdefault(owner, Share(self))
        self.is_shared = len(self.by_owner) > 1
        return share

    def forget(self, owner: Hashable) -> None:
        """This owner makes no more requests."""
        self.by_owner.pop(owner, None)
        self.is_shared = len(self.by_owner) > 1

    def may_start(self, share: Share) -> bool:
        """Whether its owner may take a stream, if one is free. The last one is for an owner who has none."""
        held = share.held
        return not held or not self.is_shared or held < ALPHA * (self.streams - self.held - 1)

    # Turns

    def enter(self, share: Share) -> None:
        """A call of this owner waits: it takes its turn with the others."""
        if not share.is_in_turn and not share.parked_at:
            share.is_in_turn = True
            self._turn.append(share)

    def next(self) -> Call | None:
        """The call whose turn it is, None where nobody waits, or nobody who may start one now."""
        turn = self._turn
        while turn:
            share = turn[0]
            if (call := share.first()) is not None and self.may_start(share):
                return call
            turn.popleft()
            share.is_in_turn = False
            if call is not None:
                self._park(share)
        # Of those set aside the one that holds least: if not even that one may, none may.
        # They hold different numbers of streams, which add up: there are few such numbers.
        while self._parked:
            share = next(iter(self._parked[min(self._parked)]))
            if (call := share.first()) is not None and not self.may_start(share):
                return None
            self.let_back(share)
            if share.is_in_turn:
                return call
        return None

    def pass_on(self) -> None:
        """The owner whose turn it was has started a call: it stands behind the others."""
        self._turn.rotate(-1)

    def let_back(self, share: Share) -> None:
        """Let one that was set aside take its turn again, if it has calls that wait."""
        bucket = self._parked[share.parked_at]
        del bucket[share]
        if not bucket:
            del self._parked[share.parked_at]
        share.parked_at = 0
        if share.calls:
            self.enter(share)

    def with_waiting(self) -> list[Share]:
        """All owners' parts in which calls wait, or just waited."""
        return [*self._turn, *(share for bucket in self._parked.values() for share in bucket)]

    def _park(self, share: Share) -> None:
        share.parked_at = share.held
        self._parked.setdefault(share.held, {})[share] = None
