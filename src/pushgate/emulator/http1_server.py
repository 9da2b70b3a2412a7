"""One HTTP/1.1 connection of an emulator, on the h11 library: for curl, and for clients that fetch access tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import h11

from pushgate.emulator.breaking import break_off
from pushgate.emulator.exchange import MAX_BODY_BYTES, Answer, Fault, Request, Session, decide
from pushgate.emulator.nonsense import NO_HTTP1

READ_BYTES = 65_536
MAX_HEAD_BYTES = 16_384


class Http1Connection:
    """Serves one connection, one request after the other. Malformed input costs this connection only."""

    def __init__(self, writer: asyncio.StreamWriter, *, session: Session, count: Callable[[str], None]) -> None:
        self._writer = writer
        self._session = session
        self._count = count
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Return when the connection is over. Raises OSError when it breaks."""
        try:
            while (request := await self._next_request(reader)) is not None:
                answer = decide(self._session, request, count=self._count)
                await asyncio.sleep(answer.delay_s)
                if not await self._reply(reader, answer, head_only=request.method == "HEAD"):
                    return
                self._h11.start_next_cycle()
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint)

    async def _next_request(self, reader: asyncio.StreamReader) -> Request | None:
        head: h11.Request | None = None
        body = bytearray()
        body_bytes = 0
        while True:
            match event := await self._next_event(reader):
                case h11.Request():
                    head = event
                case h11.Data():
                    body_bytes += len(event.data)
                    body += event.data[: MAX_BODY_BYTES - len(body)]
                case h11.EndOfMessage() if head is not None:
                    return _request(head, body=bytes(body), body_bytes=body_bytes)
                case _:
                    return None

    async def _next_event(self, reader: asyncio.StreamReader) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._h11.next_event()
            if not isinstance(event, type) or event is h11.PAUSED:
                return event
            if self._h11.they_are_waiting_for_100_continue:
                await self._write(h11.InformationalResponse(status_code=100, headers=[]))
            try:
                async with asyncio.timeout(self._session.rules.idle_s):
                    data = await reader.read(READ_BYTES)
            except TimeoutError:
                data = b""
            self._h11.receive_data(data)

    async def _reply(self, reader: asyncio.StreamReader, answer: Answer, *, head_only: bool) -> bool:
        """Answer and say whether the connection lives on. No fault leaves it alive."""
        if answer.fault is Fault.HANG:
            while await reader.read(READ_BYTES):
                pass
            return False
        if answer.fault in (Fault.GARBAGE, Fault.GARBAGE_HEADERS):
            self._writer.write(NO_HTTP1)
            return False
        if answer.fault is not Fault.NONE and not answer.fault.begins:
            break_off(self._writer)
            return False
        headers = [*answer.headers, ("content-length", str(len(answer.body)))]
        await self._write(h11.Response(status_code=answer.status, headers=headers))
        if answer.fault.begins:
            await self._write(h11.Data(data=answer.body[: len(answer.body) // 2]))
            return False
        if not head_only:
            await self._write(h11.Data(data=answer.body))
        await self._write(h11.EndOfMessage())
        return self._h11.our_state is not h11.MUST_CLOSE

    async def _refuse(self, status: int) -> None:
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [("content-length", "0"), ("connection", "close")]
            await self._write(h11.Response(status_code=status, headers=headers))

    async def _write(self, event: h11.Event) -> None:
        self._writer.write(self._h11.send(event) or b"")
        await self._writer.drain()


def _request(head: h11.Request, *, body: bytes, body_bytes: int) -> Request:
    return Request(
        method=head.method.decode("latin-1"),
        path=head.target.decode("latin-1"),
        headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers),
        body=body,
        body_bytes=body_bytes,
    )
