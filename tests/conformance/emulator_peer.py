"""A raw HTTP/2 client that shows every event of an emulator's connection and lets a test break the rules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)

from pushgate.emulator import ApnsEmulator, FcmEmulator, Landscape

BODY = b'{"aps":{"alert":"x"}}'
NOTHING: Mapping[str, str] = {}


class Peer:
    """A client on h2 that shows every event and lets a test break the rules."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.events: list[Event] = []
        self.bodies: dict[int, bytes] = {}
        self.ended = False

    @classmethod
    async def connect(cls, emulator: ApnsEmulator, landscape: Landscape, *, window: int = 65_535) -> Peer:
        peer = cls(*await raw(emulator, landscape, "h2"))
        peer.h2.local_settings.initial_window_size = window
        peer.h2.local_settings.acknowledge()
        peer.h2.initiate_connection()
        peer.flush()
        return peer

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def open(
        self,
        path: str = "/3/device/ab",
        headers: Mapping[str, str] = NOTHING,
        *,
        body: bytes = BODY,
        end: bool = True,
        flush: bool = True,
    ) -> int:
        stream = self.h2.get_next_available_stream_id()
        method = "POST" if body or not end else "GET"
        pseudo = [(":method", method), (":path", path), (":scheme", "https"), (":authority", "localhost")]
        self.h2.send_headers(stream, [*pseudo, *headers.items()], end_stream=end and not body)
        if body:
            self.h2.send_data(stream, body, end_stream=end)
        if flush:
            self.flush()
        return stream

    async def until(self, wanted: Callable[[Event], bool]) -> Any:
        """The first event that is wanted, of those seen and those to come."""
        async with asyncio.timeout(5):
            while (found := next((event for event in self.events if wanted(event)), None)) is None:
                assert await self.read(), "the connection ended first"
        return found

    async def read(self) -> bool:
        data = await self.reader.read(65_536)
        self.ended = not data
        events = self.h2.receive_data(data)
        for event in events:
            if isinstance(event, ConnectionTerminated):
                self.h2.state_machine.state = ConnectionState.CLIENT_OPEN  # GOAWAY still lets answers come
            if isinstance(event, DataReceived):
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.events += events
        self.flush()
        return bool(data)

    async def answer(self, stream: int) -> int:
        """The status of a stream's answer, when it is complete."""
        await self.until(lambda event: isinstance(event, StreamEnded) and event.stream_id == stream)
        found = next(e for e in self.events if isinstance(e, ResponseReceived) and e.stream_id == stream)
        return int(dict(found.headers)[":status"])  # type: ignore[index] # h2 decodes to str when asked to

    async def reset(self, stream: int) -> int:
        event = await self.until(lambda event: isinstance(event, StreamReset) and event.stream_id == stream)
        return int(event.error_code)

    async def goaway(self) -> tuple[int, str]:
        event = await self.until(lambda event: isinstance(event, ConnectionTerminated))
        return int(event.last_stream_id), json.loads(event.additional_data)["reason"]

    async def limit(self) -> int:
        """The last announced number of concurrent streams, after what is on its way has come."""
        self.h2.ping(b"12345678")
        self.flush()
        await self.until(lambda event: isinstance(event, PingAckReceived))
        self.events = [event for event in self.events if not isinstance(event, PingAckReceived)]
        return self.h2.remote_settings.max_concurrent_streams

    async def end(self) -> None:
        """Return when the server has closed."""
        async with asyncio.timeout(5):
            while not self.ended and await self.read():
                pass


async def raw(
    emulator: ApnsEmulator | FcmEmulator, landscape: Landscape, protocol: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = landscape.client_tls()
    context.set_alpn_protocols([protocol])
    return await asyncio.open_connection("localhost", emulator.port, ssl=context)
