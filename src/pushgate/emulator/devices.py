"""The phones: which are dead, and what each of them got. Bounded, however long an emulator runs."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

MAX_DEAD = 1_000_000
"""Killed tokens above this push out the oldest."""


class Received(Struct, frozen=True, omit_defaults=True):
    """What a device got."""

    received_at: float
    """UNIX time in seconds, by the emulator's clock."""
    headers: Mapping[str, str]
    """The request's headers, without credentials."""
    payload: object
    """The APNs payload, or FCM's `message`, as JSON; text where it is no JSON."""
    apns_id: str = ""
    """APNs: the notification's id."""
    name: str = ""
    """FCM: the message's name, projects/<project>/messages/<id>."""


class Devices:
    """Every token is a living device unless it begins with `dead_prefix` or was killed.

    Keeps the last `per_device` messages of each device and the last `total` of all.
    """

    def __init__(self, *, dead_prefix: str, per_device: int = 20, total: int = 10_000) -> None:
        self._dead_prefix = dead_prefix
        self._per_device = per_device
        self._total = total
        self._dead: OrderedDict[str, float] = OrderedDict()
        self._order: OrderedDict[int, str] = OrderedDict()
        self._inboxes: dict[str, deque[tuple[int, Received]]] = {}
        self._serial = 0

    def put(self, token: str, received: Received) -> None:
        """The device got it. The oldest messages give way."""
        self._serial += 1
        inbox = self._inboxes.setdefault(token, deque())
        inbox.append((self._serial, received))
        self._order[self._serial] = token
        if len(inbox) > self._per_device:
            serial, _ = inbox.popleft()
            del self._order[serial]
        if len(self._order) > self._total:
            _, owner = self._order.popitem(last=False)
            self._inboxes[owner].popleft()
            if not self._inboxes[owner]:
                del self._inboxes[owner]

    def inbox(self, token: str) -> Sequence[Received]:
        """What is kept of one device's messages, oldest first."""
        return tuple(received for _, received in self._inboxes.get(token, ()))

    def inboxes(self) -> Mapping[str, Sequence[Received]]:
        """What is kept of every device's messages."""
        return {token: self.inbox(token) for token in self._inboxes}

    def kill(self, tokens: Iterable[str], *, at: float) -> None:
        """The app was removed from these devices at UNIX time `at`."""
        for token in tokens:
            self._dead[token] = at
            if len(self._dead) > MAX_DEAD:
                self._dead.popitem(last=False)

    def revive(self, tokens: Iterable[str]) -> None:
        """The app is back on these devices."""
        for token in tokens:
            self._dead.pop(token, None)

    def died_at(self, token: str, *, now: float) -> float | None:
        """Since when a device is dead (UNIX time), or None while it lives. By its prefix: since now."""
        if token in self._dead:
            return self._dead[token]
        return now if self._dead_prefix and token.startswith(self._dead_prefix) else None

    def forget(self) -> None:
        """Empty every inbox. The dead stay dead."""
        self._order.clear()
        self._inboxes.clear()
