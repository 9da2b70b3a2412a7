"""One HTTP/2 connection without its socket: what arrives becomes answers, requests become frames (RFC 9113)."""

from __future__ import annotations

from collections.abc import Callable

from pushgate.errors import NotSent, Unanswered
from pushgate.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    FrameReader,
    GoAway,
    PeerFault,
    Setting,
    code_name,
    frame,
    goaway,
    parse_goaway,
    parse_settings,
    parse_u32,
    settings,
    unpad,
    window_update,
)
from pushgate.http2.headers import Malformed, Undecodable, decode_headers, read_status
from pushgate.http2.limits import Limits
from pushgate.http2.outgoing import FIRST_WINDOW, Outgoing
from pushgate.http2.patience import Patience
from pushgate.http2.stream import Answer, Stream, Streams


class Session:
    """The state of one connection as a client. Bytes in by `receive`, bytes out in `out.chunks`, no clock of its own.

    Nothing that a peer sends raises: what breaks the protocol ends the session (`is_over`) with GOAWAY in the output,
    and every open request as Unanswered.
    """

    def __init__(self, limits: Limits, *, clock: Callable[[], float], first_stream_id: int = 1) -> None:
        self.out = Outgoing()
        self.streams = Streams(self.out, first_id=first_stream_id)
        self.is_ready = False
        """Whether the peer's SETTINGS came: before them nobody knows how many requests it allows."""
        self.is_retired = False
        """No new requests; those in flight go on."""
        self.is_over = False
        self.was_closed = False
        """It is over because we wanted it, and the peer was told."""
        self.end = ""
        """Why it is over, in words without content."""
        self.goaway: GoAway | None = None
        self.awaited_ping: bytes | None = None
        self.written_up_to = 0
        """The last stream of which anything may have left; kept by the owner of the transport."""
        self._limits = limits
        self._reader = FrameReader()
        self._open = self.streams.open
        self._patience = Patience(limits, clock, progress=first_stream_id)
        self._due: int | None = SETTINGS
        self._gathering: tuple[int, int, list[bytes]] = (0, 0, [])
        self._gathered_bytes = 0
        self._received_bytes = 0
        self._pings = 0
        self.out.chunks += _greeting(limits)

    # Requests

    def start(self, head: bytes, body: bytes, *, answer: Answer, deadline: float) -> Stream:
        """Open a stream for a request. Raises NotSent when the connection takes none (now or any more)."""
        if self.is_retired or not self.is_ready:
            raise NotSent("connection takes no requests")
        stream = self.streams.start(head, body, answer=answer, deadline=deadline)
        if self.streams.are_exhausted:
            self.is_retired = True
        return stream

    def abandon(self, stream: Stream, why: str) -> None:
        """Stop waiting for an answer and tell the peer. No effect on a stream that has ended."""
        if stream.id in self._open:
            self.streams.reset(stream, ErrorCode.CANCEL, Unanswered(why))

    def ping(self) -> None:
        """Ask the peer for a sign of life; `awaited_ping` is None again when it has acknowledged."""
        self._pings += 1
        self.awaited_ping = self._pings.to_bytes(8, "big")
        self.out.chunks.append(frame(PING, 0, 0, self.awaited_ping))

    def finish(self, code: ErrorCode, why: str) -> None:
        """Say goodbye and end: requests that left are Unanswered, those that never left are NotSent."""
        if not self.is_over:
            self.was_closed = code == ErrorCode.NO_ERROR
            self.lose(why)
            self.out.chunks.append(goaway(code))

    def lose(self, why: str) -> None:
        """The transport is gone, or useless."""
        if self.is_over:
            return
        self.is_over = self.is_retired = True
        self.end = why
        self.out.chunks.clear()
        # What did not leave by now never will: that is what makes it NotSent.
        self.streams.fail_above(self.written_up_to, f"{why}, before the request left")
        for stream in list(self._open.values()):
            self.streams.fail(stream, Unanswered(why))

    # Frames

    def receive(self, data: bytes) -> None:
        """Take what arrived, in pieces of any size."""
        if self.is_over:
            return
        try:
            for kind, flags, stream_id, payload in self._reader.feed(data):
                if self._due is not None and kind != self._due:
                    raise PeerFault(ErrorCode.PROTOCOL_ERROR, "another frame was due")
                if kind == HEADERS:
                    self._on_headers(flags, stream_id, payload)
                elif kind == DATA:
                    self._on_data(flags, stream_id, payload)
                elif (handler := _HANDLERS.get(kind)) is not None:
                    handler(self, flags, stream_id, payload)
                else:
                    self._waste()
            if self._reader.is_oversized:
                raise PeerFault(ErrorCode.FRAME_SIZE_ERROR, "frame larger than we allow")
        except PeerFault as fault:
            self.finish(fault.code, f"the peer broke the protocol, {fault}")

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & (PADDED | PRIORITIZED):
            payload = unpad(flags, payload)
        if flags & END_HEADERS:
            self._on_block(flags, stream_id, payload)
            return
        self._due = CONTINUATION
        self._gathering = (stream_id, flags, [payload])
        self._gathered_bytes = len(payload)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        expected, first_flags, parts = self._gathering
        if self._due is None or stream_id != expected:
            raise PeerFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._waste()
        parts.append(payload)
        self._gathered_bytes += len(payload)
        if self._gathered_bytes > self._limits.header_block_bytes:
            raise PeerFault(ErrorCode.ENHANCE_YOUR_CALM, "header block larger than we allow")
        if flags & END_HEADERS:
            self._due = None
            self._gathering = (0, 0, [])
            self._on_block(first_flags, stream_id, b"".join(parts))

    def _on_block(self, flags: int, stream_id: int, block: bytes) -> None:
        stream = self._open.get(stream_id)
        if stream is None:
            self.streams.require_reset(stream_id)
            self._waste()
            return
        ends = flags & END_STREAM
        try:
            if stream.status == 0:
                status = read_status(block)
                if status < 200:
                    if ends or status == 101:
                        raise Malformed("interim answer as the last one")
                    for _ in range(1 + len(block) // 1024):
                        self._waste()  # it costs what it costs to decode
                    return
                stream.status, stream.block = status, block
                if status >= 300:
                    stream.headers = decode_headers(block)
            elif not ends:
                raise Malformed("two answers")
        except Malformed as fault:
            self._refuse(stream, f"malformed answer, {fault}")
            return
        except Undecodable as fault:
            raise PeerFault(ErrorCode.COMPRESSION_ERROR, str(fault)) from fault
        if ends:
            self.streams.finish(stream)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._received_bytes += size
        if self._received_bytes > self._limits.receive_window_bytes // 2:
            self.out.chunks.append(window_update(0, self._received_bytes))
            self._received_bytes = 0
        stream = self._open.get(stream_id)
        if stream is None:
            self.streams.require_reset(stream_id)
            self._waste()
            return
        if flags & PADDED:
            payload = unpad(PADDED, payload)
        if stream.status == 0:
            self._refuse(stream, "malformed answer, body before headers")
            return
        stream.received += size
        if payload:
            stream.add(payload)
        elif not flags & END_STREAM:
            self._waste()
        if stream.received > self._limits.answer_bytes:
            # The status counts; what we have not read of the body is not wanted any more.
            stream.body = stream.body[: self._limits.answer_bytes]
            self.streams.finish(stream, is_cut=not flags & END_STREAM)
        elif flags & END_STREAM:
            self.streams.finish(stream)

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        code = parse_u32(payload, "RST_STREAM")
        stream = self._open.get(stream_id)
        if stream is None:
            self.streams.require_opened(stream_id)
            self._waste()
        elif code == ErrorCode.REFUSED_STREAM:
            self.streams.fail(stream, NotSent("stream refused"))
        else:
            self.streams.fail(stream, Unanswered(f"stream reset by the peer, {code_name(code)}"))

    def _on_priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id == 0 or len(payload) != 5:
            raise PeerFault(ErrorCode.PROTOCOL_ERROR, "broken PRIORITY")
        self._waste()

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise PeerFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE although pushes are off")

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        increment = parse_u32(payload, "WINDOW_UPDATE") & 0x7FFFFFFF
        self._waste()
        stream = self._open.get(stream_id)
        if stream_id == 0:
            if increment == 0:
                raise PeerFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            self.out.widen(increment)
        elif stream is None:
            self.streams.require_opened(stream_id)
        elif increment == 0:
            self._refuse(stream, "WINDOW_UPDATE of nothing")
        elif not self.out.widen_stream(stream, increment):
            self._refuse(stream, "window too large", ErrorCode.FLOW_CONTROL_ERROR)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise PeerFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        self._waste()
        if flags & ACK:
            if payload:
                raise PeerFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
            if not self.is_ready:
                raise PeerFault(ErrorCode.PROTOCOL_ERROR, "acknowledgement before SETTINGS")
            return
        if not self.is_ready:
            self.is_ready = True
            self._due = None
            self.streams.max_streams = self._limits.max_streams
        for key, value in parse_settings(payload):
            if key == Setting.MAX_CONCURRENT_STREAMS:
                self.streams.max_streams = min(value, self._limits.max_streams)
            elif key == Setting.INITIAL_WINDOW_SIZE:
                self.out.change_initial_window(value, self._open.values())
            elif key == Setting.MAX_FRAME_SIZE:
                self.out.frame_bytes = value
        self.out.chunks.append(frame(SETTINGS, ACK, 0))

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise PeerFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise PeerFault(ErrorCode.FRAME_SIZE_ERROR, "PING of wrong length")
        self._waste()
        if not flags & ACK:
            self.out.chunks.append(frame(PING, ACK, 0, payload))
        elif payload == self.awaited_ping:
            self.awaited_ping = None

    def _on_goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise PeerFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        self._waste()
        self.goaway = parse_goaway(payload)
        self.is_retired = True
        self.streams.fail_above(self.goaway.last_stream_id, "the peer is going away")

    def _refuse(self, stream: Stream, what: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
        self.streams.reset(stream, code, Unanswered(what))

    def _waste(self) -> None:
        streams = self.streams
        self._patience.spend(streams.next_id + streams.answered + self.out.body_bytes // 1024)


def _greeting(limits: Limits) -> tuple[bytes, bytes, bytes]:
    """The connection preface (§3.4): our SETTINGS, and a connection window as wide as many answers need."""
    ours = settings(
        {
            Setting.HEADER_TABLE_SIZE: 0,
            Setting.ENABLE_PUSH: 0,
            Setting.INITIAL_WINDOW_SIZE: 2 * limits.answer_bytes,
            Setting.MAX_HEADER_LIST_SIZE: limits.header_block_bytes,
        }
    )
    return PREFACE, ours, window_update(0, limits.receive_window_bytes - FIRST_WINDOW)


_HANDLERS: dict[int, Callable[[Session, int, int, bytes], None]] = {
    RST_STREAM: Session._on_rst_stream,
    SETTINGS: Session._on_settings,
    PING: Session._on_ping,
    GOAWAY: Session._on_goaway,
    WINDOW_UPDATE: Session._on_window_update,
    CONTINUATION: Session._on_continuation,
    PRIORITY: Session._on_priority,
    PUSH_PROMISE: Session._on_push_promise,
}
