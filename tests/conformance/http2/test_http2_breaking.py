"""Peers that break the protocol over real TLS: each costs one connection, and the next request goes on."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pushgate.errors import Unanswered
from pushgate.http2 import Connection, Pool, Response
from pushgate.http2.limits import Limits

Run = Callable[[Coroutine[Any, Any, Any]], Any]
QUICK = Limits(quiet_s=0.15, ack_s=0.15, linger_s=0.1)
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"


def raw(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


async def ask(way: Connection | Pool, scene: Any, body: bytes = b"body", timeout_s: float = 5.0) -> Response:
    return await way.request(scene.head(), body, timeout_s=timeout_s)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


BREAKS = {
    "garbage": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "push": raw(5, 4, 1, b"\0\0\0\x02\x82"),
    "even stream": raw(1, 5, 2, b"\x88"),
    "settings of odd length": raw(4, 0, 0, b"12345"),
    "window overflow": raw(8, 0, 0, b"\x7f\xff\xff\xff"),
    "header block without end": raw(1, 0, 1, b"\x88") + raw(6, 0, 0, bytes(8)),
    "frame too large": raw(0, 0, 1, bytes(20_000)),
    "undecodable": raw(1, 5, 1, b"\xbe"),
    "flood of settings": SETTINGS * 5000,
    "flood of pings": raw(6, 0, 0, bytes(8)) * 5000,
    "flood of continuations": raw(1, 0, 1, b"") + raw(9, 0, 1, b"") * 5000,
    "flood of empty data": raw(1, 4, 1, b"\x88") + raw(0, 0, 1, b"") * 5000,
    "flood of resets": raw(3, 0, 1, bytes(4)) * 5000,
}


@pytest.mark.parametrize("name", BREAKS)
def test_peer_that_breaks_the_protocol_costs_one_connection_and_no_more(
    run: Run, scene: Any, server_tls: ssl.SSLContext, name: str
) -> None:
    async def main() -> None:
        scene.on_request = lambda peer, stream_id, body: peer.raw(BREAKS[name])
        async with scene.listen(server_tls):
            pool = Pool(scene.target, limits=QUICK)
            with pytest.raises(Unanswered):
                await ask(pool, scene)
            await until(lambda: bool(scene.peers[0].is_lost))
            scene.on_request = lambda peer, stream_id, body: peer.answer(stream_id)
            assert (await ask(pool, scene)).status == 200
            assert len(scene.peers) == 2
            await pool.close(1)
        scene.faults.clear()

    run(main())
