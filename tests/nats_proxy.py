"""A way to a NATS server that can be held up: bytes wait in it, in either direction, and nobody is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from pushgate.spool.jetstream.cluster import Server


class _Direction:
    """Bytes one way. What was read goes on although its sender is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self._reader, self._writer = reader, writer
        self._read: asyncio.Queue[bytes] = asyncio.Queue()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take())
            tasks.create_task(self._give())

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _take(self) -> None:
        data = b"-"
        while data:
            try:
                data = await self._reader.read(65536)
            except OSError:
                data = b""
            self._read.put_nowait(data)

    async def _give(self) -> None:
        try:
            while data := await self._read.get():
                await self.open.wait()
                self._writer.write(data)
                await self._writer.drain()
        except OSError:
            pass
        self._writer.close()


class Proxy:
    """Connections to one server."""

    def __init__(self, target: Server) -> None:
        self._target = target
        self._listening: asyncio.Server | None = None
        self._there: list[_Direction] = []
        self._back: list[_Direction] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def server(self) -> Server:
        """Where it listens."""
        assert self._listening is not None
        return Server("127.0.0.1", self._listening.sockets[0].getsockname()[1])

    async def start(self) -> None:
        self._listening = await asyncio.start_server(self._connected, "127.0.0.1", 0)

    async def close(self) -> None:
        assert self._listening is not None
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in (*self._there, *self._back):
            await each.close()

    def hold_what_is_sent(self) -> None:
        """What clients of now send does not reach the server, until `release`."""
        for each in self._there:
            each.open.clear()

    def hold_answers(self) -> None:
        """What the server says to clients of now does not reach them, until `release`."""
        for each in self._back:
            each.open.clear()

    def release(self) -> None:
        """All that was held goes on."""
        for each in (*self._there, *self._back):
            each.open.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._target.host, self._target.port)
        there, back = _Direction(reader, far_writer), _Direction(far_reader, writer)
        self._there.append(there)
        self._back.append(back)
        for each in (there, back):
            task = asyncio.create_task(each.run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


@asynccontextmanager
async def held_up(target: Server) -> AsyncIterator[Proxy]:
    """A way to this server."""
    proxy = Proxy(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
