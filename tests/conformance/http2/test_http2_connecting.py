"""Ways to a peer over real TLS: refused, hung, cancelled, mistaken, by several addresses, through a proxy."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from pushgate.errors import NotSent
from pushgate.http2 import Connection, Pool, Response, Target
from pushgate.http2.limits import Limits
from pushgate.http2.target import Proxy
from tests.ports import free_port

Run = Callable[[Coroutine[Any, Any, Any]], Any]
QUICK = Limits(quiet_s=0.15, ack_s=0.15, linger_s=0.1)


async def ask(way: Connection | Pool, scene: Any, body: bytes = b"body", timeout_s: float = 5.0) -> Response:
    return await way.request(scene.head(), body, timeout_s=timeout_s)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("alpn", [["http/1.1"], None])
def test_peer_without_http2_is_refused_by_name(
    run: Run, scene: Any, authority: trustme.CA, alpn: list[str] | None
) -> None:
    async def main() -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        if alpn:
            tls.set_alpn_protocols(alpn)
        async with scene.listen(tls):
            with pytest.raises(NotSent, match="does not speak HTTP/2"):
                await Connection.open(scene.target)

    run(main())


def test_certificate_of_another_authority_or_name_is_refused(
    run: Run, scene: Any, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async def main() -> None:
        stranger = ssl.create_default_context()
        trustme.CA().configure_trust(stranger)
        stranger.set_alpn_protocols(["h2"])
        async with scene.listen(server_tls):
            for target in (
                Target("127.0.0.1", scene.port, stranger),
                Target("127.0.0.1", scene.port, client_tls, server_name="push.example.org"),
            ):
                with pytest.raises(NotSent, match="SSLCertVerificationError"):
                    await Connection.open(target)
            named = Target("127.0.0.1", scene.port, client_tls, server_name="localhost")
            await (await Connection.open(named, limits=QUICK)).close()

    run(main())


def test_peer_that_accepts_and_says_nothing_is_not_waited_for_long(run: Run, client_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            target = Target("127.0.0.1", mute.getsockname()[1], client_tls)
            with pytest.raises(NotSent, match="TimeoutError"):
                await Connection.open(target, connect_timeout_s=0.1)

    run(main())


def test_peer_without_settings_is_not_waited_for_long(run: Run, scene: Any, server_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        scene.greeting, scene.is_deaf = b"", True
        async with scene.listen(server_tls):
            with pytest.raises(NotSent, match="TimeoutError"):
                await Connection.open(scene.target, connect_timeout_s=0.3, limits=QUICK)
            await until(lambda: bool(scene.peers[0].is_lost))

    run(main())


def test_connecting_that_is_cancelled_leaves_nothing_open(run: Run, scene: Any, server_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        scene.greeting, scene.is_deaf = b"", True
        async with scene.listen(server_tls):
            opening = asyncio.create_task(Connection.open(scene.target, limits=QUICK))
            await until(lambda: bool(scene.peers))
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            await until(lambda: bool(scene.peers[0].is_lost))

    run(main())


def test_connecting_that_is_cancelled_at_any_moment_leaves_nothing_open(
    run: Run, scene: Any, server_tls: ssl.SSLContext
) -> None:
    async def main() -> None:
        open_files = Path("/proc/self/fd")
        async with scene.listen(server_tls):
            await (await Connection.open(scene.target, limits=QUICK)).close()
            before = len(list(open_files.iterdir()))
            for turns in [*range(40), *range(40)]:
                opening = asyncio.create_task(Connection.open(scene.target, limits=QUICK))
                for _ in range(turns):
                    await asyncio.sleep(0)
                opening.cancel()
                with suppress(asyncio.CancelledError):
                    await (await opening).close()
            await until(lambda: all(peer.is_lost for peer in scene.peers))
            await until(lambda: len(list(open_files.iterdir())) <= before)
            await (await Connection.open(scene.target, limits=QUICK)).close()

    run(main())


def test_peer_that_hangs_up_while_we_connect_is_a_request_not_sent(run: Run, client_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        async def slam(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        server = await asyncio.start_server(slam, "127.0.0.1", 0)
        target = Target("127.0.0.1", server.sockets[0].getsockname()[1], client_tls)
        for _ in range(20):
            with pytest.raises(NotSent, match=r"cannot connect|connection lost"):
                await Connection.open(target)
        server.close()

    run(main())


def test_peer_that_is_down_fails_requests_at_once_and_works_again_when_it_is_up(
    run: Run, scene: Any, server_tls: ssl.SSLContext
) -> None:
    async def main() -> None:
        scene.port = free_port()
        pool = Pool(scene.target, limits=QUICK, backoff_first_s=0.05, backoff_most_s=0.05)
        began = asyncio.get_running_loop().time()
        ends = await asyncio.gather(*(ask(pool, scene) for _ in range(20)), return_exceptions=True)
        assert {type(end) for end in ends} == {NotSent}
        assert asyncio.get_running_loop().time() - began < 1
        async with scene.listen(server_tls):
            for _ in range(100):
                with suppress(NotSent):
                    assert (await ask(pool, scene)).status == 200
                    break
                await asyncio.sleep(0.02)
            assert (pool.connections, pool.connections_failed) == (1, 1)
            await pool.close(1)

    run(main())


def test_every_address_of_a_name_is_tried(
    run: Run, scene: Any, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with scene.listen(server_tls):
            stream = socket.SOCK_STREAM
            found: list[Any] = [
                (socket.AF_INET, stream, 6, "", ("127.0.0.1", 1)),
                (socket.AF_INET, stream, 6, "", ("127.0.0.1", scene.port)),
                (socket.AF_INET6, stream, 6, "", ("::1", 1, 0, 0)),
            ]

            async def resolve(*_: Any, **__: Any) -> list[Any]:
                return found

            monkeypatch.setattr("pushgate.http2.dial._lookup", resolve)
            target = Target("push.example.org", scene.port, scene.target.tls, server_name="localhost")
            await (await Connection.open(target, limits=QUICK)).close()
            found[1:2] = []
            with pytest.raises(NotSent, match=r"push\.example\.org"):
                await Connection.open(target, limits=QUICK)

    run(main())


def test_address_that_accepts_and_leads_to_nothing_makes_way(
    run: Run, scene: Any, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        deaf = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
        stream = socket.SOCK_STREAM
        async with scene.listen(server_tls):
            ports = (deaf.sockets[0].getsockname()[1], scene.port)
            found: list[Any] = [(socket.AF_INET, stream, 6, "", ("127.0.0.1", port)) for port in ports]

            async def resolve(*_: Any, **__: Any) -> list[Any]:
                return found

            monkeypatch.setattr("pushgate.http2.dial._lookup", resolve)
            target = Target("push.example.org", scene.port, scene.target.tls, server_name="localhost")
            pool = Pool(target, connect_timeout_s=0.1, backoff_first_s=0.01, limits=QUICK)
            try:
                with pytest.raises(NotSent, match="TimeoutError"):
                    await ask(pool, scene)
                await asyncio.sleep(0.02)
                assert (await ask(pool, scene)).status == 200
                assert (pool.connections, pool.connections_failed) == (1, 1)
            finally:
                await pool.close(1)
                for writer in held:
                    writer.transport.abort()
                deaf.close()

    held: list[asyncio.StreamWriter] = []
    run(main())


def test_name_that_does_not_resolve_or_is_none_is_not_sent(run: Run, client_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        for name in ("no-such-host.invalid", "a" * 300):
            with pytest.raises(NotSent, match="cannot connect"):
                await Connection.open(Target(name, 443, client_tls))

    run(main())


# Through a proxy


class Tunnel:
    """An HTTP proxy: answers CONNECT as scripted and then passes bytes on."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked = b""
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        if b" 200 " in self.answer:
            host, port = self.asked.split()[1].decode().rsplit(":", 1)
            there, back = await asyncio.open_connection(host, int(port))
            await asyncio.gather(self.pipe(reader, back), self.pipe(there, writer), return_exceptions=True)
        writer.close()

    async def pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            sink.write(data)
        sink.close()


def test_tunnel_of_a_proxy_is_used_and_the_peer_is_still_verified(
    run: Run, scene: Any, server_tls: ssl.SSLContext
) -> None:
    async def main() -> None:
        tunnel = Tunnel(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n")
        server = await asyncio.start_server(tunnel.serve, "127.0.0.1", 0)
        async with scene.listen(server_tls):
            proxy = Proxy("127.0.0.1", server.sockets[0].getsockname()[1], "Basic c2VjcmV0")
            target = Target("127.0.0.1", scene.port, scene.target.tls, proxy=proxy)
            connection = await Connection.open(target, limits=QUICK)
            assert (await ask(connection, scene)).status == 200
            await connection.close(1)
            assert tunnel.asked.startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1" % scene.port)
            assert b"\r\nProxy-Authorization: Basic c2VjcmV0\r\n" in tunnel.asked
            assert "c2VjcmV0" not in repr(target)
        server.close()
        await asyncio.sleep(0.05)

    run(main())


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", b"nonsense\r\n\r\n", b"HTTP/1.1 200", b""]
)
def test_proxy_that_opens_no_tunnel_is_a_request_not_sent(run: Run, client_tls: ssl.SSLContext, answer: bytes) -> None:
    async def main() -> None:
        tunnel = Tunnel(answer.replace(b" 200", b" 299") if answer.endswith(b"200") else answer)
        server = await asyncio.start_server(tunnel.serve, "127.0.0.1", 0)
        proxy = Proxy("127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(NotSent, match="cannot connect"):
            await Connection.open(Target("push.example.org", 443, client_tls, proxy=proxy))
        assert b"Proxy-Authorization" not in tunnel.asked
        server.close()

    run(main())
