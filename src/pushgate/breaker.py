"""When so many pushkeys of one lane turn dead that the fault must be ours. Arithmetic only: no clock, no I/O.

A key of the wrong environment or a wrong topic makes a provider call every pushkey dead; believing it would unsubscribe
all users of an app (contract: "What the gateway remembers"). So a lane's rejections are believed only while they are
few: at most `share` of the pushkeys that were answered for, or at most `count` of them, within `window_s`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from msgspec import Struct

EVIDENCE = 20
"""It ends when of so many pushkeys, the last that were answered for, no more than the share is dead.

Were half of all dead, ten would look sane by chance once in 18 times, twenty once in 170.
"""
MOST_NAMES = 16_384
"""So many different pushkeys are counted one by one, 3 MB of them. Beyond that a sample is kept, true to about 1 %."""


class BreakerLimits(Struct, frozen=True):
    """Past both of `share` and `count` within `window_s` seconds, rejections are our fault."""

    share: float = 0.2
    count: int = 50
    window_s: float = 300


class Breaker:
    """The breaker of one lane. Closed: rejections are believed. Open: they are held back until answers look sane."""

    def __init__(self, limits: BreakerLimits) -> None:
        self._limits = limits
        self._alive = Lately(limits.window_s)
        self._dead = Lately(limits.window_s)
        """A pushkey is in one of the two: whoever was called dead within the window is not alive."""
        self._evidence: OrderedDict[int, bool] = OrderedDict()
        """While it is open: the last pushkeys that were answered for, and whether they are dead."""
        self._nameless = 0
        self._elsewhere = (0, 0)
        """How many were alive and dead in other processes that have a lane of the same app."""
        self.is_open = False

    def alive(self, now: float, pushkey: str | None = None) -> None:
        """A pushkey was answered for and not called dead. Where nobody says which, it is taken for another one."""
        if pushkey is None:
            self._nameless += 1
        name = self._nameless if pushkey is None else hash(pushkey)
        if self.is_open:
            self._weigh(name, is_dead=False)
            self.is_open = not self._looks_sane()
            return
        self._dead.forget(now)
        if name not in self._dead:
            self._alive.add(name, now)

    def alive_all(self, now: float, pushkeys: Iterable[str]) -> None:
        """The same of several, at once."""
        if self.is_open:
            for pushkey in pushkeys:
                self.alive(now, pushkey)
            return
        self._dead.forget(now)
        names = list(map(hash, pushkeys))
        if len(self._dead):
            names = [name for name in names if name not in self._dead]
        self._alive.add_all(names, now)

    def dead(self, now: float, pushkey: str) -> bool:
        """A pushkey was called dead. Returns whether to believe it."""
        name = hash(pushkey)
        if self.is_open:
            self._weigh(name, is_dead=True)
            return False
        self._alive.discard(name)
        self._dead.add(name, now)
        self._alive.forget(now)
        self._dead.forget(now)
        if self._is_past_limits():
            self.open()
        return not self.is_open

    def tally(self, now: float) -> tuple[int, int]:
        """How many turned out alive and dead within the window; none while it is open."""
        self._alive.forget(now)
        self._dead.forget(now)
        return self._alive.count, self._dead.count

    def hear(self, alive: int, dead: int) -> None:
        """So many were alive and dead elsewhere: they count with our own."""
        self._elsewhere = (alive, dead)

    def open(self) -> None:
        """Believe no rejection from now on, until answers look sane."""
        self.is_open = True
        self._alive.clear()
        self._dead.clear()
        self._evidence.clear()  # what ends it must come after it began

    def _is_past_limits(self) -> bool:
        alive, dead = self._elsewhere
        alive, dead = alive + self._alive.count, dead + self._dead.count
        return dead > self._limits.count and dead > self._limits.share * (dead + alive)

    def _weigh(self, name: int, *, is_dead: bool) -> None:
        self._evidence[name] = is_dead
        self._evidence.move_to_end(name)
        if len(self._evidence) > EVIDENCE:
            self._evidence.popitem(last=False)

    def _looks_sane(self) -> bool:
        """Whether the last answers do, however long they took: at night they are few."""
        return len(self._evidence) == EVIDENCE and sum(self._evidence.values()) <= self._limits.share * EVIDENCE


class Lately:
    """How many different names there were within a window, in bounded memory.

    One by one, up to `most` of them. When there are more, only those are kept whose hash ends with so many zero bits,
    and each counts for all that share its fate.
    """

    def __init__(self, window_s: float, *, most: int = MOST_NAMES) -> None:
        self._window_s = window_s
        self._most = most
        self._told: OrderedDict[int, tuple[float, int]] = OrderedDict()
        """When a name was told and for how many it counts, the oldest first."""
        self._mask = 0
        self.count = 0

    def __len__(self) -> int:
        return len(self._told)

    def __contains__(self, name: int) -> bool:
        return name in self._told

    def add(self, name: int, now: float) -> None:
        """A hash was told, perhaps again. Times never go back."""
        self.add_all((name,), now)

    def add_all(self, names: Iterable[int], now: float) -> None:
        """Several were told."""
        self.forget(now)
        told, entry, mask = self._told, (now, self._mask + 1), self._mask
        for name in [name for name in names if not name & mask] if mask else names:
            if name & self._mask:
                continue  # it has grown meanwhile
            if (before := told.pop(name, None)) is not None:
                self.count -= before[1]
            told[name] = entry
            self.count += self._mask + 1
            while len(told) > self._most:
                self._thin_out()
                told, entry = self._told, (now, self._mask + 1)

    def discard(self, name: int) -> None:
        """Leave it out, if it is there."""
        if (told := self._told.pop(name, None)) is not None:
            self.count -= told[1]

    def forget(self, now: float) -> None:
        """Leave out what is older than the window, and count one by one again where there are few."""
        before = now - self._window_s
        while self._told and next(iter(self._told.values()))[0] <= before:
            self.count -= self._told.popitem(last=False)[1][1]
        while self._mask and 4 * self.count <= self._most * (self._mask + 1):
            self._mask >>= 1

    def clear(self) -> None:
        """Begin anew."""
        self._told.clear()
        self._mask = self.count = 0

    def _thin_out(self) -> None:
        self._mask = 2 * self._mask + 1
        self._told = OrderedDict(
            (name, (at, max(weight, self._mask + 1)))
            for name, (at, weight) in self._told.items()
            if not name & self._mask
        )
        self.count = sum(weight for _, weight in self._told.values())
