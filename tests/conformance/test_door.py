"""The door: connections are counted from the first packet on, and whoever only holds a place keeps nobody out."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from pushgate import door
from pushgate import tls as pushgate_tls
from pushgate.callers import Entry
from pushgate.connections import Connections
from pushgate.door import Door
from pushgate.listener import Listener, _Protocol, bind
from pushgate.model import Caller
from pushgate.tls import Files, Tls, server_tls
from tests.api import NOTIFY, serving
from tests.certificates import Authority, Leaf
from tests.samples import body, plain
from tests.tls_server import WAYS, Served, asking, client_tls, run_on, served

ERP = Entry(Caller("erp"), san="erp.example.org")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def erp(authority: Authority) -> Leaf:
    return authority.issue("erp.example.org")


async def silent(port: int, *, sends: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that begins nothing, or says this much and no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sends)
    await writer.drain()
    return reader, writer


async def is_closed(reader: asyncio.StreamReader, *, within_s: float = 3.0) -> bool:
    try:
        async with asyncio.timeout(within_s):
            while await reader.read(65536):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not done():
            await asyncio.sleep(0.01)


def client_hello(tls: ssl.SSLContext) -> bytes:
    """What a caller says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    shaking = tls.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        shaking.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("said", ["nothing", "half a hello", "a hello", "no TLS"])
def test_half_open_handshakes_keep_nobody_out(
    authority: Authority, erp: Leaf, tmp_path: Path, way: str, said: str
) -> None:
    """Sixty that never go on, where there is room for ten of them: callers are served as if they were not there."""

    async def test() -> None:
        tls = client_tls(authority, erp, tmp_path)
        hello = client_hello(tls)
        sends = {"nothing": b"", "half a hello": hello[:99], "a hello": hello, "no TLS": b"GET / HTTP/1.1\r\n"}[said]
        async with served(tmp_path, authority, clients=[ERP], most=40, way=way) as made:
            idle = [await silent(made.port, sends=sends) for _ in range(30)]
            assert (await asking(made.port, tls))[:2] == (200, "erp")
            idle += [await silent(made.port, sends=sends) for _ in range(30)]
            assert (await asking(made.port, tls))[:2] == (200, "erp")
            if said != "no TLS":  # these are closed at once, for themselves
                assert made.events.count("too_slow") >= 50
            assert all([await is_closed(reader) for reader, _ in idle[:50]])
            for _, writer in idle:
                writer.close()

    run_on(way, test())


@pytest.mark.parametrize("way", WAYS)
def test_handshakes_count_as_connections_and_end_in_time(
    authority: Authority, erp: Leaf, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushgate_tls, "HANDSHAKE_WITHIN_S", 0.3)

    async def test() -> None:
        async with served(tmp_path, authority, clients=[ERP], most=40, way=way) as made:
            started = time.monotonic()
            idle = [await silent(made.port) for _ in range(5)]
            await until(lambda: len(places(made)) == 5)
            assert all([await is_closed(reader) for reader, _ in idle])
            assert time.monotonic() - started >= 0.3
            await until(lambda: len(places(made)) == 0)
            assert made.events == ["accepted"] * 5 + ["handshake_failed"] * 5
            for _, writer in idle:
                writer.close()

    run_on(way, test())


def places(made: Served) -> Any:
    return made.listener._server.places


@pytest.mark.parametrize("way", WAYS)
def test_nobody_is_let_in_where_all_places_are_taken_by_callers(
    authority: Authority, erp: Leaf, tmp_path: Path, way: str
) -> None:
    async def test() -> None:
        tls = client_tls(authority, erp, tmp_path)
        async with served(tmp_path, authority, clients=[ERP], most=3, way=way) as made:
            kept = []
            for _ in range(3):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", made.port, ssl=tls, server_hostname="localhost"
                )
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                kept.append(writer)
            with pytest.raises(OSError):
                await asking(made.port, tls)
            assert made.events[-1] == "too_many"
            kept.pop().close()
            await until(lambda: len(places(made)) == 2)
            assert (await asking(made.port, tls))[0] == 200
            for writer in kept:
                writer.close()

    run_on(way, test())


async def test_it_is_the_same_without_tls() -> None:
    request = body({"notification": plain()})
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (NOTIFY.encode(), len(request))
    async with serving(most=8) as api:
        idle = [await silent(api.port, sends=head[:n]) for n in range(20)]
        assert (await api.raw(head + request)).startswith(b"HTTP/1.1 200 ")
        assert all([await is_closed(reader) for reader, _ in idle[:18]])
        for _, writer in idle:
            writer.close()


async def test_who_is_nobody_keeps_no_place(authority: Authority, tmp_path: Path) -> None:
    """A stranger who has been told so is closed: else strangers could take all places by asking now and then."""
    async with served(tmp_path, authority, clients=[ERP]) as made:
        tls = client_tls(authority, None, tmp_path)
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port, ssl=tls, server_hostname="localhost")
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")
        writer.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("secure", [True, False])
def test_answers_leave_at_once(authority: Authority, tmp_path: Path, way: str, secure: bool) -> None:
    """TCP_NODELAY is set on what the door lets in: an answer would wait 40 ms for an acknowledgement."""
    found = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def test() -> None:
        made = _Protocol.connection_made

        def noting(self: _Protocol, transport: Any) -> None:
            found.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            made(self, transport)

        leaf = authority.issue("localhost")
        tls = server_tls(Files([leaf.write(tmp_path, "server")]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_Protocol, "connection_made", noting)
            listener = Listener(application, address="127.0.0.1:0", tls=tls if secure else None)
            running = asyncio.create_task(listener.serve())
            await asyncio.sleep(0.05)
            trust = client_tls(authority, None, tmp_path) if secure else None
            _, writer = await asyncio.open_connection(
                "127.0.0.1", listener.port, ssl=trust, server_hostname="localhost" if secure else None
            )
            await until(lambda: bool(found))
            writer.close()
            listener.stop()
            await running

    run_on(way, test())
    assert found == [1]


async def test_failed_handshakes_are_told_once_and_then_counted(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "TELL_EVERY_S", 0.3)
    stranger = Authority().issue("erp.example.org")
    with capture_logs() as logs:
        async with served(tmp_path, authority) as made:
            tls = client_tls(authority, stranger, tmp_path)
            for pause_s in (0.0, 0.0, 0.4, 0.0):
                await asyncio.sleep(pause_s)
                with pytest.raises(OSError):
                    await asking(made.port, tls)
            (await silent(made.port))[1].close()  # mere silence is no news
            await until(lambda: made.events[-1] == "handshake_failed")
    told = [line for line in logs if line["event"] == "handshakes failed"]
    assert [(line["reason"], line["count"]) for line in told] == [
        ("unable to get local issuer certificate", 1),
        ("unable to get local issuer certificate", 2),
    ]


async def test_a_stop_ends_handshakes_and_does_not_wait_for_them(authority: Authority, tmp_path: Path) -> None:
    started = time.monotonic()
    async with served(tmp_path, authority) as made:
        reader, writer = await silent(made.port)
        await until(lambda: made.events == ["accepted"])
        started = time.monotonic()
    assert time.monotonic() - started < 3
    assert await is_closed(reader)
    writer.close()


@pytest.mark.parametrize("way", WAYS)
def test_who_closes_at_once_leaves_nothing(authority: Authority, tmp_path: Path, way: str) -> None:
    async def test() -> None:
        async with served(tmp_path, authority, way=way) as made:
            for _ in range(50):
                one = socket.create_connection(("127.0.0.1", made.port))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
                one.close()
                await asyncio.sleep(0)
            await until(lambda: made.events.count("handshake_failed") == made.events.count("accepted") > 0)
            assert len(places(made)) == 0

    run_on(way, test())


@pytest.mark.parametrize("way", WAYS)
def test_out_of_files_it_waits_and_goes_on(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "OUT_OF_FILES_S", 0.1)

    async def test() -> None:
        with bind("127.0.0.1:0") as listening, capture_logs() as logs:
            met: list[asyncio.Protocol] = []

            def meet(tls: Tls | None) -> asyncio.Protocol:
                met.append(asyncio.Protocol())
                return met[-1]

            scarce = cast(socket.socket, Exhausted(listening, times=3))
            made = Door(scarce, tls=None, connections=Connections(9), meet=meet, count=lambda event: None)
            made.open()
            _, writer = await silent(listening.getsockname()[1])
            await until(lambda: bool(met))
            made.close()
            await made.wait_closed()
            writer.close()
        told = [(line["event"], line["fault"]) for line in logs]
        assert told == [("cannot accept connections", "Too many open files")] * 3

    run_on(way, test())


async def test_a_door_that_closes_while_it_waits_stays_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "OUT_OF_FILES_S", 0.05)
    with bind("127.0.0.1:0") as listening:
        scarce = Exhausted(listening, times=1)
        made = Door(
            cast(socket.socket, scarce),
            tls=None,
            connections=Connections(9),
            meet=lambda tls: asyncio.Protocol(),
            count=lambda event: None,
        )
        made.open()
        reader, writer = await silent(listening.getsockname()[1])
        await until(lambda: scarce.times == 0)
        made.close()
        made.close()
        assert not await is_closed(reader, within_s=0.2)
        writer.close()


class Exhausted:
    """A listening socket where the system has no more files, for a while."""

    def __init__(self, listening: socket.socket, *, times: int) -> None:
        self._listening = listening
        self.times = times

    def fileno(self) -> int:
        return self._listening.fileno()

    def accept(self) -> Any:
        if self.times:
            self.times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listening.accept()
