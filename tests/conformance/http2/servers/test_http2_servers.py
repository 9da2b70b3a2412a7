"""The connection and the pool against servers written by others: nghttpd, nginx, h2o, Node's http2."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from pushgate.http2 import Connection, Pool, Response
from pushgate.http2.limits import Limits

Run = Callable[[Coroutine[Any, Any, Any]], Any]
BODIES = [b"", b"p", os.urandom(1900), os.urandom(100_000)]


def check_length(body: bytes, answer: bytes) -> None:
    assert answer == str(len(body)).encode() or (not body and answer in {b"", b"0"})


def check_digest(body: bytes, answer: bytes) -> None:
    assert answer.decode() == hashlib.sha256(body).hexdigest()


def check_echo(body: bytes, answer: bytes) -> None:
    assert answer == body


class Bench:
    """A server of another make, and how it shows that it has understood."""

    def __init__(self, server: Any, check: Callable[[bytes, bytes], None], path: str = "/") -> None:
        self.server = server
        self.check = check
        self.path = path

    async def ask(self, way: Connection | Pool, body: bytes, path: str | None = None) -> Response:
        response = await way.request(self.server.head(path or self.path), body, timeout_s=15)
        self.check(body, response.body)
        return response


MAKES = ["nghttpd", "nghttpd-odd", "nginx", "h2o", "node"]


@pytest.fixture(scope="module")
def benches() -> Iterator[dict[str, Bench]]:
    yield {}


@pytest.fixture(params=MAKES)
def bench(request: pytest.FixtureRequest, benches: dict[str, Bench]) -> Bench:
    """Every server once for all the tests here that leave it as it is."""
    make = request.param
    if make not in benches:
        server = request.getfixturevalue(make.removesuffix("-odd"))
        if make == "nghttpd":
            benches[make] = Bench(server("--echo-upload", "-m", "50"), check_echo)
        elif make == "nghttpd-odd":
            odd = ["--padding=200", "--trailer", "grpc-status: 0", "-w", "12", "-W", "14", "-m", "7", "-c", "0"]
            benches[make] = Bench(server("--echo-upload", *odd), check_echo)
        else:
            benches[make] = Bench(server(), check_digest if make == "node" else check_length)
    return benches[make]


LARGE = Limits(answer_bytes=256 * 1024, linger_s=0.1)


def test_many_requests_at_a_time_share_one_connection(run: Run, bench: Bench) -> None:
    async def main() -> None:
        pool = Pool(bench.server.target, max_connections=1, limits=LARGE)
        for body in BODIES:
            response = await bench.ask(pool, body)
            assert response.status == 200
            assert ":status" not in response.headers
        bodies = (BODIES * 40)[:150]
        responses = await asyncio.gather(*(bench.ask(pool, body) for body in bodies))
        assert {response.status for response in responses} == {200}
        assert (pool.connections_opened, pool.repeats, pool.in_flight, pool.waiting) == (1, 0, 0, 0)
        await pool.close(1)

    run(main())


def test_more_requests_than_streams_spread_over_connections(run: Run, bench: Bench) -> None:
    async def main() -> None:
        pool = Pool(bench.server.target, max_connections=3, limits=LARGE)
        await bench.ask(pool, b"first")
        responses = await asyncio.gather(*(bench.ask(pool, BODIES[2]) for _ in range(1000)))
        assert {response.status for response in responses} == {200}
        assert 1 <= pool.connections_opened <= 3
        assert pool.repeats == 0
        await pool.close(1)

    run(main())


def test_requests_cut_short_leave_the_connection_usable(run: Run, bench: Bench) -> None:
    async def main() -> None:
        connection = await Connection.open(bench.server.target, limits=LARGE)
        for _ in range(3):
            requests = [asyncio.create_task(bench.ask(connection, BODIES[3])) for _ in range(5)]
            await asyncio.sleep(0)
            for request in requests[:3]:
                request.cancel()
            ends = await asyncio.gather(*requests, return_exceptions=True)
            assert [isinstance(end, Response) for end in ends] == [False] * 3 + [True] * 2
        assert connection.is_usable
        assert connection.in_flight == 0
        await connection.close(1)
        assert connection.is_closed

    run(main())


def test_status_and_headers_of_an_error_are_read(run: Run, node: Callable[..., Any]) -> None:
    async def main() -> None:
        bench = Bench(node(), check_digest)
        connection = await Connection.open(bench.server.target)
        response = await bench.ask(connection, b"x", "/410")
        assert response.status == 410
        assert response.headers["apns-id"] == "x"
        await connection.close(1)

    run(main())


def test_goaway_after_every_so_many_requests_loses_none(run: Run, nginx: Callable[..., Any]) -> None:
    async def main() -> None:
        bench = Bench(nginx(requests=20), check_length)
        pool = Pool(bench.server.target, max_connections=2, limits=LARGE)
        answered = 0

        async def work() -> None:
            nonlocal answered
            for _ in range(20):
                assert (await bench.ask(pool, BODIES[2])).status == 200
                answered += 1

        await asyncio.gather(*(work() for _ in range(20)))
        assert answered == 400
        assert pool.connections_opened >= 20
        assert pool.goaways >= 18
        await pool.close(1)

    run(main())


async def keep_asking(bench: Bench, pool: Pool, path: str, during: Callable[[], None]) -> int:
    """Eight askers without pause; something happens to the server in the middle. How many were answered."""
    stop = False
    answered = 0

    async def work() -> None:
        nonlocal answered
        while not stop:
            assert (await bench.ask(pool, BODIES[2], path)).status == 200
            answered += 1

    async def direct() -> None:
        nonlocal stop
        await asyncio.sleep(0.3)
        during()
        before = answered
        for _ in range(300):
            await asyncio.sleep(0.02)
            if pool.connections_opened > 1 and answered > before + 50:
                break
        stop = True

    await asyncio.gather(direct(), *(work() for _ in range(8)))
    return answered


def test_reload_of_nginx_under_load_loses_none(run: Run, nginx: Callable[..., Any]) -> None:
    async def main() -> None:
        bench = Bench(nginx(), check_length)
        pool = Pool(bench.server.target, max_connections=1, limits=LARGE)
        assert await keep_asking(bench, pool, "/", lambda: bench.server.signal(signal.SIGHUP)) > 50
        assert pool.connections_opened > 1
        await pool.close(1)

    run(main())


def test_graceful_close_of_nodes_sessions_under_load_loses_none(run: Run, node: Callable[..., Any]) -> None:
    async def main() -> None:
        bench = Bench(node(), check_digest)
        pool = Pool(bench.server.target, max_connections=1, limits=LARGE)
        assert await keep_asking(bench, pool, "/", lambda: bench.server.signal(signal.SIGUSR2)) > 50
        assert pool.connections_opened > 1
        assert pool.goaways >= 1
        slow = asyncio.create_task(bench.ask(pool, b"x", "/slow"))
        await asyncio.sleep(0.1)
        bench.server.signal(signal.SIGUSR2)
        assert (await slow).status == 200
        await pool.close(1)

    run(main())


def test_shutdown_of_h2o_answers_what_it_took(run: Run, h2o: Callable[..., Any]) -> None:
    async def main() -> None:
        bench = Bench(h2o(), check_length)
        pool = Pool(bench.server.target, limits=LARGE)
        await bench.ask(pool, b"first")
        requests = [asyncio.create_task(bench.ask(pool, BODIES[3])) for _ in range(20)]
        await asyncio.sleep(0.005)
        bench.server.signal(signal.SIGTERM)
        assert {response.status for response in await asyncio.gather(*requests)} == {200}
        await pool.close(1)

    run(main())
