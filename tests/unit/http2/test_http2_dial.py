"""The race of addresses: none can hold the others up, and what loses is closed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pushgate.http2 import dial

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class FakeSocket:
    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Net:
    """Addresses that answer after a time, or fail after one."""

    def __init__(self, after_s: dict[str, float], failing: set[str]) -> None:
        self.after_s = after_s
        self.failing = failing
        self.sockets: dict[str, FakeSocket] = {}
        self.begun: dict[str, float] = {}
        self.is_deaf_to_cancel = False

    async def connect(self, address: tuple[Any, str]) -> FakeSocket:
        name = address[1]
        loop = asyncio.get_running_loop()
        self.begun[name] = loop.time()
        try:
            await asyncio.sleep(self.after_s[name])
        except asyncio.CancelledError:
            if not self.is_deaf_to_cancel:
                raise
        if name in self.failing:
            raise ConnectionRefusedError(name)
        self.sockets[name] = FakeSocket()
        return self.sockets[name]

    async def race(self, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, float]:
        monkeypatch.setattr(dial, "_connect_to", self.connect)
        start = asyncio.get_running_loop().time()
        addresses: list[Any] = [(socket.AF_INET, name) for name in self.after_s]
        try:
            return await dial._connect(addresses), asyncio.get_running_loop().time() - start
        finally:
            await asyncio.sleep(0.001)


def test_address_that_hangs_delays_the_next_one_by_a_moment_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        net = Net({"hole": 1000, "good": 0.1, "spare": 0}, set())
        won, took_s = await net.race(monkeypatch)
        assert won is net.sockets["good"]
        assert took_s == pytest.approx(0.35, abs=0.01)
        assert "spare" not in net.begun
        assert not won.is_closed

    run(main())


def test_address_that_refuses_makes_way_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        net = Net({"bad": 0, "worse": 0.1, "good": 0}, {"bad", "worse"})
        won, took_s = await net.race(monkeypatch)
        assert won is net.sockets["good"]
        assert took_s == pytest.approx(0.1, abs=0.01)

    run(main())


def test_loser_that_got_through_all_the_same_is_closed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        net = Net({"late": 0.5, "good": 0.1}, set())
        net.is_deaf_to_cancel = True
        won, _ = await net.race(monkeypatch)
        assert won is net.sockets["good"]
        assert net.sockets["late"].is_closed
        twins = Net({"one": 0.25, "two": 0.0}, set())
        won, _ = await twins.race(monkeypatch)
        assert [sock.is_closed for sock in twins.sockets.values() if sock is not won] == [True] * (
            len(twins.sockets) - 1
        )

    run(main())


def test_last_failure_is_told_when_no_address_answers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with pytest.raises(ConnectionRefusedError, match="two"):
            await Net({"one": 0, "two": 0.3}, {"one", "two"}).race(monkeypatch)
        with pytest.raises(OSError, match="no address"):
            await Net({}, set()).race(monkeypatch)

    run(main())


def test_families_take_turns_in_the_resolvers_order(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        six, four = socket.AF_INET6, socket.AF_INET

        async def lookup(host: str, port: int) -> list[Any]:
            assert (host, port) == ("push.example.org", 443)
            return [(family, 1, 6, "", name) for family, name in ((six, "a"), (six, "b"), (six, "c"), (four, "d"))]

        monkeypatch.setattr(dial, "_lookup", lookup)
        assert [name for _, name in await dial._resolve("push.example.org", 443)] == ["a", "d", "b", "c"]

    run(main())
