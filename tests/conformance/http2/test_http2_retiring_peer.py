"""The pool leaves connections that still stand, over real TLS, with a peer built on h2."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import h2.settings

from pushgate.errors import Unanswered
from pushgate.http2 import Pool, Response

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Code = h2.settings.SettingCodes


async def ask(pool: Pool, scene: Any, timeout_s: float = 5.0) -> Response:
    return await pool.request(scene.head(), b"body", timeout_s=timeout_s)


def test_peer_that_answers_once_and_then_acknowledges_only_pings_is_replaced(
    run: Run, scene: Any, server_tls: ssl.SSLContext
) -> None:
    async def main() -> None:
        def answer(peer: Any, stream_id: int, body: bytes) -> None:
            if peer is not scene.peers[0] or stream_id == 1:
                peer.answer(stream_id)

        scene.on_request = answer
        async with scene.listen(server_tls):
            pool = Pool(scene.target)
            assert (await ask(pool, scene)).status == 200
            ends = await asyncio.gather(*(ask(pool, scene, 0.3) for _ in range(3)), return_exceptions=True)
            assert {type(end) for end in ends} == {Unanswered}
            assert [(await ask(pool, scene)).status for _ in range(30)] == [200] * 30
            assert (pool.connections_opened, pool.connections_mute) == (2, 1)
            assert [stream_id for stream_id, _ in scene.peers[0].resets] == [3, 5, 7]
            assert scene.peers[0].goaways == [0]
            await pool.close(1)

    run(main())


def test_renewal_in_the_middle_of_a_rush_loses_nobody(run: Run, scene: Any, server_tls: ssl.SSLContext) -> None:
    async def main() -> None:
        scene.settings[Code.MAX_CONCURRENT_STREAMS] = 5
        scene.on_request = lambda peer, stream_id, body: asyncio.get_running_loop().call_later(
            0.01, peer.answer, stream_id
        )
        async with scene.listen(server_tls):
            pool = Pool(scene.target, max_connections=2)
            requests = [asyncio.create_task(ask(pool, scene)) for _ in range(200)]
            for _ in range(3):
                await asyncio.sleep(0.05)
                pool.renew()
                assert pool.waiting > 0
            assert [response.status for response in await asyncio.gather(*requests)] == [200] * 200
            assert len(scene.received) == 200
            assert (pool.connections_lost, pool.repeats) == (0, 0)
            await pool.close(1)

    run(main())
