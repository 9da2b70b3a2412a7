"""One HTTP/2 connection of an emulator (RFC 9113), on the h2 library: requests in, answers and faults out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import assert_never

import msgspec
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from pushgate.emulator.breaking import break_off
from pushgate.emulator.exchange import MAX_BODY_BYTES, Answer, Fault, Session, decide
from pushgate.emulator.http2_promises import Promise, Promises
from pushgate.emulator.http2_stream import Stream
from pushgate.emulator.nonsense import NO_FRAMES, broken_headers

READ_BYTES = 65_536
MAX_HEADER_LIST_BYTES = 16_384
MAX_BUFFERED_BYTES = 8 * 1024 * 1024
"""Unfinished request bodies of one connection; streams above it are reset."""
MAX_UNSENT_BYTES = 128 * 1024 * 1024
"""Answers of one connection that its peer does not read; streams above it are reset."""
LINGER_S = 1.0
"""After GOAWAY and the last answer the peer has so long to read before the connection closes."""
LAST_WORDS_S = 0.01
"""What was written has so long to leave before the connection breaks."""


class Http2Connection:
    """Serves one connection until either side ends it. Malformed input costs this connection only."""

    def __init__(self, writer: asyncio.StreamWriter, *, session: Session, count: Callable[[str], None]) -> None:
        self._writer = writer
        self._session = session
        self._count = count
        self._streams: dict[int, Stream] = {}
        self._buffered = 0
        self._requests = 0
        self._promises = Promises()
        self._last_stream: int | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        # Without MAX_CONCURRENT_STREAMS: h2 would end the connection where RFC 9113 §5.1.2 asks for a stream error.
        self._h2.local_settings = Settings(
            client=False, initial_values={SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_BYTES}
        )
        self._h2.decoder.max_header_list_size = MAX_HEADER_LIST_BYTES

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Return when the connection is over. Raises OSError when it breaks."""
        self._h2.initiate_connection()
        self._h2.clear_outbound_data_buffer()
        self._announce({SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_BYTES})
        try:
            while data := await self._read(reader):
                if not self._receive(data):
                    break
                await self._writer.drain()
        finally:
            for stream_id in list(self._streams):
                self._drop(stream_id)
            if self._ending is not None:
                self._ending.cancel()

    def tell_rules(self) -> None:
        """Tell the peer what it may do now, if that has changed."""
        if self._promises.last is not None and self._promises.last != self._promise():
            self._announce({})

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(self._session.rules.idle_s):
                return await reader.read(READ_BYTES)
        except TimeoutError:
            self._go_away(last_stream=self._h2.highest_inbound_stream_id, reason="IdleTimeout")
            return b""

    def _receive(self, data: bytes) -> bool:
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self._count("protocol_errors")
            self._flush()
            return False
        self._forgive_goaway(events)
        for event in events:
            self._on(event)
        self._flush()
        return not self._writer.is_closing()

    def _forgive_goaway(self, events: Iterable[Event]) -> None:
        """A client's GOAWAY ends only pushes; what it has asked is still answered (RFC 9113 §6.8). h2 stops sending."""
        if any(isinstance(event, ConnectionTerminated) for event in events):
            self._h2.state_machine.state = ConnectionState.SERVER_OPEN

    def _on(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._open(event.stream_id, event.headers)
            case DataReceived():
                self._take_body(event)
            case StreamEnded():
                self._ask(event.stream_id)
            case StreamReset():
                self._drop(event.stream_id)
            case WindowUpdated() | RemoteSettingsChanged():
                for stream_id in list(self._streams):
                    self._pump(stream_id)
            case SettingsAcknowledged():
                self._promises.acknowledged()
            case _:
                pass

    def _open(self, stream_id: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if self._last_stream is not None and stream_id > self._last_stream:
            self._count("streams_after_goaway")
        elif self._promises.allows_stream(len(self._streams)):
            self._streams[stream_id] = Stream(headers)
        else:
            self._count("streams_refused")
            if self._promises.is_overstepped(len(self._streams)):
                self._count("streams_over_limit")
            self._reset(stream_id, ErrorCodes.REFUSED_STREAM)

    def _take_body(self, event: DataReceived) -> None:
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        if event.flow_controlled_length and self._promises.forbid_bodies:
            self._count("bytes_over_window")
            self._reset(event.stream_id, ErrorCodes.FLOW_CONTROL_ERROR)
            return
        stream.body_bytes += len(event.data)
        kept = event.data[: MAX_BODY_BYTES - len(stream.body)]
        stream.body += kept
        self._buffered += len(kept)
        if self._buffered > MAX_BUFFERED_BYTES:
            self._reset(event.stream_id, ErrorCodes.ENHANCE_YOUR_CALM)

    def _ask(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        request = stream.request()
        self._buffered -= len(stream.body)
        stream.body = bytearray()
        answer = decide(self._session, request, count=self._count)
        if answer.delay_s > 0:
            loop = asyncio.get_running_loop()
            stream.timer = loop.call_later(answer.delay_s, self._reply_late, stream_id, answer)
        else:
            self._reply(stream_id, answer)
        self._after_request(stream_id)

    def _after_request(self, stream_id: int) -> None:
        self.tell_rules()
        self._requests += 1
        rules = self._session.rules
        if rules.goaway_after and self._requests >= rules.goaway_after and self._last_stream is None:
            self._go_away(last_stream=stream_id, reason=rules.goaway_reason)

    def _reply_late(self, stream_id: int, answer: Answer) -> None:
        self._reply(stream_id, answer)
        self._flush()

    def _reply(self, stream_id: int, answer: Answer) -> None:
        match answer.fault:
            case Fault.NONE:
                self._send(stream_id, answer)
            case Fault.HANG:
                pass
            case Fault.RESET:
                self._reset(stream_id, answer.error_code)
            case Fault.REFUSE:
                self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
            case Fault.GOAWAY:
                self._go_away(last_stream=max(0, stream_id - 2), reason=self._session.rules.goaway_reason)
            case Fault.DISCONNECT:
                break_off(self._writer)
            case Fault.RESET_MIDWAY | Fault.BREAK_MIDWAY:
                self._send_half(stream_id, answer)
            case Fault.GARBAGE:
                self._say_nonsense(stream_id, NO_FRAMES)
            case Fault.GARBAGE_HEADERS:
                self._say_nonsense(stream_id, broken_headers(stream_id, answer.status))
            case _:
                assert_never(answer.fault)

    def _send(self, stream_id: int, answer: Answer) -> None:
        stream = self._streams[stream_id]
        waiting = sum(len(other.unsent) for other in self._streams.values())
        if waiting + len(answer.body) > MAX_UNSENT_BYTES:
            self._reset(stream_id, ErrorCodes.ENHANCE_YOUR_CALM)
            return
        headers = [(":status", str(answer.status)), *answer.headers]
        try:
            self._h2.send_headers(stream_id, headers, end_stream=not answer.body)
        except ProtocolError:
            self._drop(stream_id)  # reset by the peer in this very batch of frames
            return
        stream.unsent = memoryview(answer.body)
        if answer.body:
            self._pump(stream_id)
        else:
            self._drop(stream_id)

    def _send_half(self, stream_id: int, answer: Answer) -> None:
        half = answer.body[: len(answer.body) // 2]
        try:
            self._h2.send_headers(stream_id, [(":status", str(answer.status)), *answer.headers])
            room = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
            if half[:room]:
                self._h2.send_data(stream_id, half[:room])
        except ProtocolError:
            pass  # reset by the peer in this very batch of frames
        self._flush()
        if answer.fault is Fault.RESET_MIDWAY:
            self._reset(stream_id, answer.error_code)
        else:
            asyncio.get_running_loop().call_later(LAST_WORDS_S, self._writer.transport.abort)

    def _say_nonsense(self, stream_id: int, nonsense: bytes) -> None:
        """Written past h2, which would not say it. The stream is over for us, whatever the peer makes of it."""
        self._flush(nonsense)
        self._drop(stream_id)

    def _pump(self, stream_id: int) -> None:
        """Send as much of a body as the peer's windows allow."""
        stream = self._streams.get(stream_id)
        try:
            while stream is not None and stream.unsent:
                room = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
                if room <= 0:
                    return
                chunk, stream.unsent = stream.unsent[:room], stream.unsent[room:]
                self._h2.send_data(stream_id, bytes(chunk), end_stream=not stream.unsent)
                if not stream.unsent:
                    self._drop(stream_id)
        except ProtocolError:
            self._drop(stream_id)

    def _reset(self, stream_id: int, error_code: int) -> None:
        self._drop(stream_id)
        try:
            self._h2.reset_stream(stream_id, error_code)
        except ProtocolError:
            return  # already closed

    def _drop(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        self._buffered -= len(stream.body)
        if stream.timer is not None:
            stream.timer.cancel()
        self._end_when_answered()

    def _promise(self) -> Promise:
        return Promise(max_streams=self._session.max_streams, window_open=self._session.rules.window_open)

    def _announce(self, settings: dict[int, int]) -> None:
        self._flush(self._promises.frame(self._promise(), settings))

    def _go_away(self, *, last_stream: int, reason: str) -> None:
        """Say that no stream above `last_stream` was or will be processed; those below still get their answers.

        Written past h2, which sends nothing more once it has said GOAWAY itself.
        """
        if self._last_stream is not None:
            last_stream = min(last_stream, self._last_stream)
        self._last_stream = last_stream
        self._count("goaways")
        debug = msgspec.json.encode({"reason": reason})
        self._flush(GoAwayFrame(0, last_stream_id=last_stream, additional_data=debug).serialize())
        for stream_id in [known for known in self._streams if known > last_stream]:
            self._drop(stream_id)
        self._end_when_answered()

    def _end_when_answered(self) -> None:
        if self._last_stream is not None and not self._streams and self._ending is None:
            self._ending = asyncio.get_running_loop().call_later(LINGER_S, self._writer.close)

    def _flush(self, extra: bytes = b"") -> None:
        data = self._h2.data_to_send() + extra
        if data and not self._writer.is_closing():
            self._writer.write(data)
