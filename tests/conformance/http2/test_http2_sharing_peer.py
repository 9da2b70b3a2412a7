"""Owners of one pool before a peer over real TLS that leaves the requests of some unanswered."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import h2.settings
import pytest

from pushgate.http2 import Pool, Response

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Code = h2.settings.SettingCodes
STREAMS = 20


async def ask(pool: Pool, scene: Any, owner: str, timeout_s: float = 10.0) -> Response:
    return await pool.request(scene.head(), owner.encode(), timeout_s=timeout_s, owner=owner)


@pytest.mark.parametrize("connections", [1, 2])
def test_owners_whose_requests_hang_take_the_streams_from_no_other(
    run: Run, scene: Any, server_tls: ssl.SSLContext, connections: int
) -> None:
    async def main() -> None:
        scene.settings[Code.MAX_CONCURRENT_STREAMS] = STREAMS

        def answer(peer: Any, stream_id: int, body: bytes) -> None:
            if body == b"well":
                peer.answer(stream_id)

        scene.on_request = answer
        async with scene.listen(server_tls):
            pool = Pool(scene.target, max_connections=connections)
            assert (await ask(pool, scene, "well")).status == 200
            hanging = [asyncio.create_task(ask(pool, scene, f"sick {number % 3}")) for number in range(150)]
            for _ in range(50):
                assert (await ask(pool, scene, "well")).status == 200
            assert STREAMS * connections * 0.7 < pool.in_flight < STREAMS * connections
            assert pool.waiting == 150 - pool.in_flight
            assert len(scene.peers) == connections
            await pool.close()
            await asyncio.gather(*hanging, return_exceptions=True)

    run(main())


def test_owners_beyond_the_streams_get_one_each_in_turn(run: Run, scene: Any, server_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        scene.settings[Code.MAX_CONCURRENT_STREAMS] = 2
        async with scene.listen(server_tls):
            pool = Pool(scene.target, max_connections=1)
            owners = [f"owner {number}" for number in range(50)]
            requests = [ask(pool, scene, owner) for owner in owners for _ in range(4)]
            assert {response.status for response in await asyncio.gather(*requests)} == {200}
            assert scene.peers[0].most_open == 2
            rounds = [scene.received[begin : begin + 50] for begin in range(0, 200, 50)]
            assert [len(set(each)) >= 48 for each in rounds] == [True] * 4
            await pool.close(1)

    run(main())
