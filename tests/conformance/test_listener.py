"""listener: the socket that callers connect to."""

from __future__ import annotations

import asyncio
import socket

import pytest

from pushgate.listener import bind


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
async def test_answers_are_sent_without_waiting_for_more(address: str) -> None:
    accepted: asyncio.Queue[int] = asyncio.Queue()

    def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.put_nowait(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listening = bind(address)
    host, port = listening.getsockname()[:2]
    async with await asyncio.start_server(on_connection, sock=listening):
        _, writer = await asyncio.open_connection(host, port)
        assert await accepted.get() == 1
        writer.close()


def test_an_address_that_is_taken_is_an_os_error() -> None:
    taken = bind("127.0.0.1:0")
    with taken, pytest.raises(OSError, match="in use"):
        bind(f"127.0.0.1:{taken.getsockname()[1]}")
