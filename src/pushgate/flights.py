"""What flies of a lane: leases that were sent, or answered and being settled; and how many may in all together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Any, Generic, Protocol, TypeVar

from pushgate.outcome import Outcome
from pushgate.spool import Lease

MOST_AT_ONCE = 20_000
"""Attempts of all lanes together. Each takes some 4 KB."""

How = TypeVar("How")


class Attempt(Protocol):
    """See `provider.Attempt`."""

    def cancel(self) -> object:
        """See `provider.Attempt.cancel`."""
        ...


class Room:
    """How many attempts there may be at once in all lanes together.

    A lane may have as many as are left for others (a dynamic threshold): however many lanes hang, something is left
    for the next. One attempt each lane always may have.
    """

    __slots__ = ("most", "used")

    def __init__(self, most: int = MOST_AT_ONCE) -> None:
        self.most = most
        self.used = 0

    def left_for(self, in_flight: int) -> int:
        """How many more a lane with so many in flight may have: each of them leaves less for the next."""
        if in_flight >= max(self.most - self.used, 1):
            return 0
        return max((self.most - self.used - in_flight + 1) // 2, 1)


class Flight(Generic[How]):
    """A lease on its way: sent, or answered and being settled."""

    __slots__ = ("_attempt", "_tell", "how", "is_cancelled", "lease", "started")

    def __init__(self, lease: Lease, how: How, started: float, tell: Callable[[Flight[How], Outcome], None]) -> None:
        self.lease = lease
        self.how = how
        """With which settings it was sent."""
        self.started = started
        self.is_cancelled = False
        self._attempt: Attempt | None = None
        self._tell: Callable[[Flight[How], Outcome], None] | None = tell

    def sent(self, attempt: Attempt) -> None:
        """It is on its way, unless the outcome was told meanwhile."""
        if self._tell is not None:
            self._attempt = attempt

    def landed(self, outcome: Outcome) -> None:
        """The provider has answered, or will not. What is said after that counts no more."""
        tell, self._tell = self._tell, None
        if tell is not None:
            self._attempt = None  # it knows us: each would keep the other
            tell(self, outcome)

    def cancel(self) -> None:
        """Leave it to a successor."""
        self.is_cancelled = True
        if self._attempt is not None:
            self._attempt.cancel()


class Landing:
    """Some flights of a lane, to be awaited."""

    def __init__(self, flights: Collection[Flight[Any]]) -> None:
        self.left = set(flights)
        self._all: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.strike(())

    def strike(self, flights: Iterable[Flight[Any]]) -> bool:
        """These have ended. Whether all have."""
        self.left.difference_update(flights)
        if not self.left and not self._all.done():
            self._all.set_result(None)
        return not self.left

    async def wait(self, timeout_s: float | None = None) -> None:
        """Until all have ended, at most so long."""
        await asyncio.wait((self._all,), timeout=timeout_s)


class Flights:
    """All that flies of one lane."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._all: set[Flight[Any]] = set()
        self._landings: list[Landing] = []

    def __len__(self) -> int:
        return len(self._all)

    def room(self) -> int:
        """How many more there may be, as far as the other lanes are concerned."""
        return self._room.left_for(len(self._all))

    def add(self, flights: Collection[Flight[Any]]) -> None:
        """So many more."""
        self._all.update(flights)
        self._room.used += len(flights)

    def end(self, flights: Collection[Flight[Any]]) -> None:
        """They are settled, or left to a successor."""
        before = len(self._all)
        self._all.difference_update(flights)
        self._room.used -= before - len(self._all)
        if self._landings:
            self._landings = [landing for landing in self._landings if not landing.strike(flights)]

    def landing(self) -> Landing:
        """What flies now, to be awaited."""
        landing = Landing(self._all)
        if landing.left:
            self._landings.append(landing)
        return landing
