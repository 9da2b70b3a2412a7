"""What lanes share: one token for a key, one pool of connections for a peer, closed when the last lane lets go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Protocol, TypeVar

from msgspec import Struct


class Closable(Protocol):
    """What can be shared."""

    async def close(self) -> None:
        """Let go of what it holds."""
        ...


T = TypeVar("T", bound=Closable)
Release = Callable[[], Awaitable[None]]
"""Lets go of a shared thing, once."""


class _Held(Struct):
    thing: Any
    holders: int


class Sharing:
    """Things by their identity. One for a process; passed to every provider that is opened."""

    def __init__(self) -> None:
        self._held: dict[Hashable, _Held] = {}

    def things(self, kind: type[T]) -> list[T]:
        """What is held of a kind just now."""
        return [held.thing for held in self._held.values() if isinstance(held.thing, kind)]

    def take(self, key: Hashable, make: Callable[[], T]) -> tuple[T, Release]:
        """The thing of that key, made if nobody holds it yet, and the way to let go of it (once)."""
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = _Held(make(), 0)
        held.holders += 1

        async def release() -> None:
            held.holders -= 1
            if held.holders == 0:
                del self._held[key]
                await held.thing.close()

        return held.thing, release
