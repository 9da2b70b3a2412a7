"""Requests in flight: one stream each, from its opening to the one end that its caller is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pushgate.errors import Http2Error, NotSent
from pushgate.http2.frames import MAX_STREAM_ID, ErrorCode, PeerFault, rst_stream
from pushgate.http2.headers import Response
from pushgate.http2.outgoing import Outgoing, Upload

RESETS_REMEMBERED = 1024
"""How many streams that we gave up ourselves are known by id: what still arrives on them is no fault (§5.1)."""


class Answer(Protocol):
    """Where the end of a request is told, exactly once. An `asyncio.Future[Response]` is one."""

    def done(self) -> bool:
        """Whether nobody waits any more."""
        ...

    def set_result(self, result: Response, /) -> None:
        """The peer answered."""
        ...

    def set_exception(self, exception: Http2Error, /) -> None:
        """NotSent or Unanswered."""
        ...


class Stream(Upload, eq=False, gc=False, kw_only=True):
    """What is known of a request that is neither answered nor given up."""

    answer: Answer
    deadline: float
    timeout_s: float = 0.0
    """How long its caller gave it in all, before it was opened too; kept by the owner of the deadlines."""
    status: int = 0
    block: bytes = b""
    headers: Mapping[str, str] | None = None
    body: bytes | bytearray = b""
    received: int = 0
    """Bytes of DATA so far, padding included."""

    def __repr__(self) -> str:
        return f"Stream({self.id})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("id", self.id)]

    def add(self, payload: bytes) -> None:
        """Put a piece of the answer's body to the others."""
        if not self.body:
            self.body = payload
        else:
            if isinstance(self.body, bytes):
                self.body = bytearray(self.body)
            self.body += payload


class Streams:
    """The open streams of one connection. Every one that is opened ends exactly once."""

    __slots__ = ("_first_id", "_forgotten", "_out", "_reset", "answered", "max_streams", "next_id", "open")

    def __init__(self, out: Outgoing, *, first_id: int) -> None:
        self._out = out
        self.open: dict[int, Stream] = {}
        self.next_id = self._first_id = first_id
        self.max_streams = 0
        """As announced by the peer, at most our own limit. 0 before its SETTINGS came."""
        self.answered = 0
        self._reset: dict[int, None] = {}
        self._forgotten = 0

    def start(self, head: bytes, body: bytes, *, answer: Answer, deadline: float) -> Stream:
        """Send a request on a new stream. Raises NotSent where the peer allows no more of them."""
        if len(self.open) >= self.max_streams:
            raise NotSent("no free stream")
        stream_id = self.next_id
        self.next_id = stream_id + 2
        stream = self.open[stream_id] = Stream(stream_id, answer=answer, deadline=deadline)
        self._out.request(stream, head, body)
        return stream

    @property
    def started(self) -> int:
        """How many streams were opened."""
        return (self.next_id - self._first_id) // 2

    @property
    def are_exhausted(self) -> bool:
        """Whether every stream id was used (§5.1.1)."""
        return self.next_id > MAX_STREAM_ID

    def finish(self, stream: Stream, *, is_cut: bool = False) -> None:
        """The peer's answer is complete, or `is_cut`: enough of it came.

        The peer is told when it need not send the rest, or will not get the rest of the request (§8.1).
        """
        del self.open[stream.id]
        self.answered += 1
        if is_cut or stream.unsent is not None:
            self._cut(stream, ErrorCode.CANCEL)
        answer = stream.answer
        if not answer.done():
            answer.set_result(Response(stream.status, bytes(stream.body), stream.block, stream.headers))

    def fail(self, stream: Stream, error: Http2Error) -> None:
        """The stream has ended, on the peer's side too, without an answer."""
        del self.open[stream.id]
        self._out.drop(stream)
        if not stream.answer.done():
            stream.answer.set_exception(error)

    def reset(self, stream: Stream, code: ErrorCode, error: Http2Error) -> None:
        """Give a stream up and tell the peer so."""
        self.fail(stream, error)
        self._cut(stream, code)

    def fail_above(self, stream_id: int, why: str) -> None:
        """Nobody will ever act on streams above this one (§6.8)."""
        for stream in [stream for stream in self.open.values() if stream.id > stream_id]:
            self._remember(stream)
            self.fail(stream, NotSent(why))

    def require_opened(self, stream_id: int) -> None:
        """Raises PeerFault for a frame on a stream that was never opened (§5.1: idle), ours or the peer's."""
        if stream_id % 2 == 0 or stream_id >= self.next_id:
            raise PeerFault(ErrorCode.PROTOCOL_ERROR, "frame on an idle stream")

    def require_reset(self, stream_id: int) -> None:
        """Raises PeerFault for an answer on a stream that the peer itself has ended (§5.1: closed)."""
        self.require_opened(stream_id)
        if stream_id not in self._reset and stream_id > self._forgotten:
            raise PeerFault(ErrorCode.STREAM_CLOSED, "frame on a closed stream")

    def _cut(self, stream: Stream, code: ErrorCode) -> None:
        self._out.drop(stream)
        self._out.chunks.append(rst_stream(stream.id, code))
        self._remember(stream)

    def _remember(self, stream: Stream) -> None:
        self._reset[stream.id] = None
        if len(self._reset) > RESETS_REMEMBERED:
            oldest = next(iter(self._reset))
            del self._reset[oldest]
            self._forgotten = max(self._forgotten, oldest)
