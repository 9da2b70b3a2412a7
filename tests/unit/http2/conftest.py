"""A loop whose time jumps, a transport that only remembers, and a peer made of frames by another library."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar, cast

import pytest
from hyperframe.frame import DataFrame, Frame, HeadersFrame, SettingsFrame

from pushgate.errors import Http2Error
from pushgate.http2.connection import Connection, Listener, State
from pushgate.http2.frames import PREFACE
from pushgate.http2.headers import Response
from pushgate.http2.limits import Limits
from pushgate.http2.pool import Pool
from pushgate.http2.session import Session
from pushgate.http2.target import Target

T = TypeVar("T")
START = 1000.0


class JumpingSelector(selectors.SelectSelector):
    """Never sleeps: time moves by what the loop would have waited. A loop with nothing to wait for has hung."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("hung: nothing can happen any more")
        self.now += timeout
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumping = JumpingSelector()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now


@pytest.fixture(scope="session")
def run() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Runs a coroutine on a loop whose time jumps."""

    def go(coroutine: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            return runner.run(coroutine)

    return go


def parse(data: bytes) -> list[Frame]:
    """What hyperframe makes of bytes that a client sent."""
    data = data.removeprefix(PREFACE)
    frames = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        frames.append(frame)
        data = data[9 + length :]
    return frames


class Outcome:
    """An answer that remembers; told twice it fails."""

    def __init__(self) -> None:
        self.response: Response | None = None
        self.error: Http2Error | None = None

    def done(self) -> bool:
        return self.response is not None or self.error is not None

    def set_result(self, result: Response, /) -> None:
        assert not self.done()
        self.response = result

    def set_exception(self, exception: Http2Error, /) -> None:
        assert not self.done()
        self.error = exception

    @property
    def kind(self) -> str:
        if self.response is not None:
            return f"{self.response.status}"
        return "open" if self.error is None else type(self.error).__name__


class Desk:
    """A session, and a peer that is a list of frames."""

    def __init__(self, limits: Limits | None = None, first_stream_id: int = 1) -> None:
        self.now = START
        self.session = Session(limits or Limits(), clock=lambda: self.now, first_stream_id=first_stream_id)
        self.greeting = self.sent()

    def sent(self) -> list[Frame]:
        """What the session sent since the last look; the transport has written it."""
        data = b"".join(self.session.out.chunks)
        self.session.out.chunks.clear()
        self.session.written_up_to = self.session.streams.next_id - 2
        return parse(data)

    def receive(self, *frames: Frame | bytes) -> list[Frame]:
        """Let frames arrive; what the session sends thereupon."""
        self.session.receive(b"".join(frame if isinstance(frame, bytes) else frame.serialize() for frame in frames))
        return self.sent()

    def settle(self, **settings: int) -> None:
        """Let the peer's first SETTINGS arrive."""
        numbers = {getattr(SettingsFrame, name.upper()): value for name, value in settings.items()}
        answer = self.receive(SettingsFrame(settings=numbers))
        assert [type(frame) for frame in answer] == [SettingsFrame]
        assert "ACK" in answer[0].flags

    def start(self, body: bytes = b"body", head: bytes = b"\x83") -> tuple[int, Outcome]:
        outcome = Outcome()
        stream = self.session.start(head, body, answer=outcome, deadline=START + 10)
        return stream.id, outcome


@pytest.fixture(scope="session")
def desk() -> Callable[..., Desk]:
    """Makes desks; see `Desk`."""
    return Desk


class Tls:
    def __init__(self, alpn: str | None) -> None:
        self.alpn = alpn

    def selected_alpn_protocol(self) -> str | None:
        return self.alpn


class Wire(asyncio.Transport):
    """A transport that keeps what is written, in the pieces in which it was."""

    def __init__(self, connection: Connection, alpn: str | None = "h2") -> None:
        super().__init__({"ssl_object": Tls(alpn)})
        self.connection = connection
        self.pieces: list[bytes] = []
        self.is_closed = False
        self.was_aborted = False
        connection.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self.is_closed, "written after the end"
        self.pieces.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def abort(self) -> None:
        self.was_aborted = True
        self.close()

    def lose(self, error: Exception | None = None) -> None:
        """The network goes."""
        self.is_closed = True
        self.connection.connection_lost(error)

    def sent(self) -> list[Frame]:
        """What was written since the last look."""
        data = b"".join(self.pieces)
        self.pieces.clear()
        return parse(data)

    def bodies(self) -> dict[int, bytes]:
        """The bodies, in one frame each, of the requests written since the last look, by stream id."""
        return {frame.stream_id: frame.data for frame in self.sent() if isinstance(frame, DataFrame)}

    def requests(self) -> list[int]:
        """The stream ids of the requests written since the last look."""
        return [frame.stream_id for frame in self.sent() if isinstance(frame, HeadersFrame)]

    def receive(self, *frames: Frame | bytes) -> None:
        """Let frames arrive."""
        self.connection.data_received(
            b"".join(frame if isinstance(frame, bytes) else frame.serialize() for frame in frames)
        )

    def answer(self, *stream_ids: int) -> None:
        """Answer requests with 200."""
        self.receive(*(HeadersFrame(id_, b"\x88", flags=["END_STREAM", "END_HEADERS"]) for id_ in stream_ids))


class Network:
    """Where a pool's connections go: makes wires, or refuses as scripted."""

    def __init__(self, settings: dict[int, int] | None = None) -> None:
        self.settings = settings or {}
        self.wires: list[Wire] = []
        self.times: list[float] = []
        self.refusals: list[Exception] = []
        self.delay_s = 0.0

    async def open(
        self, target: Target, *, connect_timeout_s: float, limits: Limits, on_state: Listener, turn: int
    ) -> Connection:
        self.times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.delay_s)
        if self.refusals:
            raise self.refusals.pop(0)
        connection = Connection(limits, on_state)
        wire = Wire(connection)
        self.wires.append(wire)
        wire.receive(SettingsFrame(settings=self.settings))
        return connection


@pytest.fixture(scope="session")
def network() -> Callable[..., Network]:
    """Makes networks; see `Network`."""
    return Network


@pytest.fixture(scope="session")
def target() -> Target:
    """A target that nobody connects to."""
    return Target("push.example.org", 443, cast(Any, None))


class Line:
    """One connection on a wire, with what it told its owner."""

    def __init__(self, limits: Limits | None = None, alpn: str | None = "h2", **settings: int) -> None:
        self.states: list[State] = []
        self.connection = Connection(limits or Limits(), lambda _, state: self.states.append(state))
        self.wire = Wire(self.connection, alpn)
        self.wire.sent()
        if alpn == "h2":
            numbers = {getattr(SettingsFrame, name.upper()): value for name, value in settings.items()}
            self.wire.receive(SettingsFrame(settings=numbers))

    def request(self, body: bytes = b"body", timeout_s: float = 10.0) -> asyncio.Task[Response]:
        """Start a request."""
        request = self.connection.request(b"\x83", body, timeout_s=timeout_s)
        return asyncio.get_running_loop().create_task(request)


@pytest.fixture(scope="session")
def line() -> Callable[..., Line]:
    """Makes lines; see `Line`."""
    return Line


class Shop:
    """A pool on a scripted network."""

    def __init__(self, network: Network, target: Target, **options: Any) -> None:
        self.network = network
        self.pool = Pool(target, opener=network.open, rng=lambda: 1.0, **options)

    def ask(
        self, count: int = 1, timeout_s: float = 10.0, owner: Hashable = None, body: bytes = b"body"
    ) -> list[asyncio.Task[Response]]:
        loop = asyncio.get_running_loop()
        requests = (self.pool.request(b"\x83", body, timeout_s=timeout_s, owner=owner) for _ in range(count))
        return [loop.create_task(request) for request in requests]

    async def warm(self) -> None:
        """One answered request: the first connection has proved itself."""
        (request,) = self.ask()
        await turn_over()
        self.network.wires[0].answer(1)
        await request
        self.network.wires[0].sent()


@pytest.fixture(scope="session")
def make(target: Target) -> Callable[..., Shop]:
    """Makes pools; see `Shop`. First what the peer announces, then options of the pool."""

    def made(settings: dict[int, int] | None = None, **options: Any) -> Shop:
        return Shop(Network(settings), target, **options)

    return made


async def turn_over() -> None:
    """Let the loop turn a few times without time passing."""
    for _ in range(10):
        await asyncio.sleep(0)
