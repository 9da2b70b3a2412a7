"""The emulators on their bad days: half answers, garbage, limits that move, closed doors, wrong certificates."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest
import uvloop
from h2.errors import ErrorCodes
from h2.events import DataReceived, ResponseReceived, StreamEnded

from pushgate.emulator import (
    ApnsEmulator,
    ConnectionRules,
    Door,
    Fault,
    FcmEmulator,
    Flaw,
    Landscape,
    Step,
    Temper,
    listener,
)
from pushgate.emulator.nonsense import NO_FRAMES, NO_HTTP1
from tests.conformance.emulator_peer import BODY, Peer, raw

TOPIC = "com.example.app"
Connect = Callable[[], Coroutine[Any, Any, Peer]]


@pytest.fixture(scope="module")
def landscape(tmp_path_factory: pytest.TempPathFactory) -> Landscape:
    return Landscape(tmp_path_factory.mktemp("landscape"))


@pytest.fixture
async def emulator(landscape: Landscape) -> AsyncIterator[ApnsEmulator]:
    async with running(landscape) as emulator:
        yield emulator


@asynccontextmanager
async def running(landscape: Landscape) -> AsyncIterator[ApnsEmulator]:
    emulator = ApnsEmulator(
        tls=landscape.server_tls(), temper=Temper.ACCEPT_ALL, keys=landscape.apns_keys, topics=[TOPIC]
    )
    await emulator.start()
    try:
        yield emulator
    finally:
        await emulator.close()


@pytest.fixture
async def connect(emulator: ApnsEmulator, landscape: Landscape) -> AsyncIterator[Connect]:
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> Peer:
        peer = await Peer.connect(emulator, landscape)
        writers.append(peer.writer)
        return peer

    yield connect
    for writer in writers:
        writer.transport.abort()


def status_of(peer: Peer, stream: int) -> int:
    found = next(e for e in peer.events if isinstance(e, ResponseReceived) and e.stream_id == stream)
    return int(dict(found.headers)[":status"])  # type: ignore[index] # h2 decodes to str when asked to


# --- answers


@pytest.mark.parametrize("deliver", [True, False])
async def test_an_answer_that_is_reset_midway_has_begun(
    emulator: ApnsEmulator, connect: Connect, deliver: bool
) -> None:
    step = Step(status=503, body="x" * 101, fault=Fault.RESET_MIDWAY, error_code=8, deliver=deliver)
    emulator.script("aa", [step, Step(fault=Fault.RESET_MIDWAY, deliver=deliver)])
    peer = await connect()
    stream = peer.open("/3/device/aa")
    assert await peer.reset(stream) == ErrorCodes.CANCEL
    assert (status_of(peer, stream), len(peer.bodies[stream])) == (503, 50)
    accepted = peer.open("/3/device/aa")
    assert await peer.reset(accepted) == ErrorCodes.INTERNAL_ERROR
    assert status_of(peer, accepted) == 200
    assert not [event for event in peer.events if isinstance(event, StreamEnded)]
    assert len(emulator.devices().get("aa", ())) == (2 if deliver else 0)
    assert await peer.answer(peer.open("/3/device/bb")) == 200, "the connection lives on"
    assert emulator.counts["fault.reset-midway"] == 2


async def test_an_answer_that_breaks_off_midway_takes_the_connection_with_it(
    emulator: ApnsEmulator, connect: Connect
) -> None:
    emulator.script("aa", [Step(status=410, fault=Fault.BREAK_MIDWAY)])
    peer = await connect()
    stream = peer.open("/3/device/aa")
    await peer.until(lambda event: isinstance(event, DataReceived))
    assert status_of(peer, stream) == 410
    assert peer.bodies[stream].startswith(b'{"reason":"Unr')
    await peer.end()
    assert not [event for event in peer.events if isinstance(event, StreamEnded)]


async def test_a_half_answer_to_a_cancelled_request_is_no_error(emulator: ApnsEmulator, connect: Connect) -> None:
    emulator.script("aa", [Step(fault=Fault.RESET_MIDWAY)])
    peer = await connect()
    stream = peer.open("/3/device/aa", flush=False)
    peer.h2.reset_stream(stream, ErrorCodes.CANCEL)
    peer.flush()
    assert await peer.answer(peer.open("/3/device/bb")) == 200


@pytest.mark.parametrize(
    ("step", "nonsense"),
    [
        (Step(fault=Fault.GARBAGE), NO_FRAMES),
        (Step(status=410, fault=Fault.GARBAGE_HEADERS), b"\x08\x03410" + b"\xff" * 6 + b"\x00"),
    ],
)
async def test_garbage_comes_in_place_of_the_answer(
    emulator: ApnsEmulator, connect: Connect, step: Step, nonsense: bytes
) -> None:
    emulator.script("aa", [step])
    peer = await connect()
    assert await peer.limit() == 1000
    peer.open("/3/device/aa")
    async with asyncio.timeout(5):
        data = b""
        while not data.endswith(nonsense):
            data += await peer.reader.read(65_536)
    assert emulator.devices() == {}


@pytest.mark.parametrize(
    ("fault", "start", "complete"),
    [
        (Fault.NONE, b"HTTP/1.1 503", True),
        (Fault.RESET_MIDWAY, b"HTTP/1.1 503", False),
        (Fault.BREAK_MIDWAY, b"HTTP/1.1 503", False),
        (Fault.GARBAGE, NO_HTTP1, False),
        (Fault.GARBAGE_HEADERS, NO_HTTP1, False),
        (Fault.DISCONNECT, b"", False),
    ],
)
async def test_the_token_endpoint_has_the_same_faults_on_http1(
    landscape: Landscape, fault: Fault, start: bytes, complete: bool
) -> None:
    emulator = FcmEmulator(
        tls=landscape.server_tls(),
        project_id="p",
        service_account_email=landscape.service_account_email,
        public_key=landscape.service_account_public_key,
    )
    await emulator.start()
    emulator.script("/token", [Step(status=503, body="x" * 100, fault=fault)])
    context = landscape.client_tls()
    context.set_alpn_protocols(["http/1.1"])
    reader, writer = await asyncio.open_connection("localhost", emulator.port, ssl=context)
    writer.write(b"POST /token HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    try:
        async with asyncio.timeout(5):
            data = await reader.read()
    except ConnectionError:
        data = b""
    assert data.startswith(start)
    assert data.endswith(b"x" * 100) == complete
    assert data.count(b"x" * 50) == (2 if complete else fault.begins)
    writer.close()
    await emulator.close()


async def test_a_scripted_200_that_is_cut_looks_like_fcms_own(landscape: Landscape) -> None:
    emulator = FcmEmulator(
        tls=landscape.server_tls(),
        temper=Temper.ACCEPT_ALL,
        project_id="p",
        service_account_email=landscape.service_account_email,
        public_key=landscape.service_account_public_key,
    )
    await emulator.start()
    emulator.script("t", [Step(fault=Fault.RESET_MIDWAY, deliver=True)])
    peer = Peer(*await raw(emulator, landscape, "h2"))
    peer.h2.initiate_connection()
    stream = peer.open("/v1/projects/p/messages:send", body=b'{"message":{"token":"t","data":{}}}')
    await peer.reset(stream)
    assert peer.bodies[stream].startswith(b'{\n  "name": "projects/p/messages/')
    assert list(emulator.devices()) == ["t"]
    peer.writer.transport.abort()
    await emulator.close()


# --- limits that move


async def test_living_connections_are_told_of_new_limits_at_once(emulator: ApnsEmulator, connect: Connect) -> None:
    peer = await connect()
    assert await peer.limit() == 1000
    for most in (1, 100, 0, 10):
        emulator.rules = ConnectionRules(max_streams=most)
        assert await peer.limit() == most
    emulator.rules = ConnectionRules(max_streams=10, idle_s=60)
    peer.h2.ping(b"........")
    assert await peer.limit() == 10
    assert await peer.answer(peer.open()) == 200


async def test_no_stream_is_allowed_before_a_token_where_none_is_allowed_at_all(
    emulator: ApnsEmulator, connect: Connect
) -> None:
    emulator.temper = Temper.STRICT
    emulator.rules = ConnectionRules(max_streams=0)
    assert await (await connect()).limit() == 0


async def test_a_closed_window_takes_no_body_until_it_opens(emulator: ApnsEmulator, connect: Connect) -> None:
    peer = await connect()
    assert await peer.answer(peer.open()) == 200
    emulator.rules = ConnectionRules(window_open=False)
    await peer.limit()
    stream = peer.open(body=b"", end=False)
    assert peer.h2.local_flow_control_window(stream) == 0
    late = await connect()
    await late.limit()
    other = late.open(body=b"", end=False)
    assert late.h2.local_flow_control_window(other) == 0, "a new connection is told too"
    emulator.rules = ConnectionRules()
    for each, its in ((peer, stream), (late, other)):
        await each.limit()
        assert each.h2.local_flow_control_window(its) > 65_000
        each.h2.send_data(its, BODY, end_stream=True)
        each.flush()
        assert await each.answer(its) == 200
    assert "bytes_over_window" not in emulator.counts


async def test_who_sends_into_a_closed_window_is_found_out(emulator: ApnsEmulator, connect: Connect) -> None:
    peer = await connect()
    emulator.rules = ConnectionRules(window_open=False)
    assert await peer.answer(peer.open()) == 200, "the peer did not know yet"
    await peer.limit()
    peer.h2.remote_settings.initial_window_size = 65_535
    peer.h2.remote_settings.acknowledge()
    stream = peer.open(body=b"", end=False)
    peer.h2.streams[stream].outbound_flow_control_window = 65_535
    peer.h2.send_data(stream, BODY, end_stream=True)
    peer.flush()
    assert await peer.reset(stream) == ErrorCodes.FLOW_CONTROL_ERROR
    assert emulator.counts["bytes_over_window"] == 1


# --- doors


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_every_door_is_what_it_says_and_opens_again(
    landscape: Landscape, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    complaints: list[object] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with running(landscape) as emulator:
            for door, check in DOORS.items():
                living = await Peer.connect(emulator, landscape)
                assert await living.limit() == 1000
                emulator.listener.door = door
                await until_broken(living)
                await check(emulator, landscape)
                emulator.listener.door = Door.OPEN
                peer = await Peer.connect(emulator, landscape)
                for _ in range(20):
                    assert await peer.answer(peer.open()) == 200
                peer.writer.transport.abort()

    run(scenario())
    gc.collect()
    assert complaints == [], "no task died of it"


async def until_broken(peer: Peer) -> None:
    try:
        await peer.end()
    except ConnectionError:
        pass
    finally:
        peer.writer.transport.abort()


async def is_closed(emulator: ApnsEmulator, landscape: Landscape) -> None:
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", emulator.port)


async def is_deaf(emulator: ApnsEmulator, landscape: Landscape) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await raw(emulator, landscape, "h2")


async def is_mute(emulator: ApnsEmulator, landscape: Landscape) -> None:
    reader, writer = await raw(emulator, landscape, "h2")
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read()
    writer.transport.abort()


async def is_garbage(emulator: ApnsEmulator, landscape: Landscape) -> None:
    reader, writer = await raw(emulator, landscape, "h2")
    assert await reader.readexactly(len(NO_FRAMES)) == NO_FRAMES
    writer.transport.abort()


DOORS = {Door.CLOSED: is_closed, Door.DEAF: is_deaf, Door.MUTE: is_mute, Door.GARBAGE: is_garbage}


async def test_a_door_page_answers_first_and_opens_by_itself(emulator: ApnsEmulator, landscape: Landscape) -> None:
    living = await Peer.connect(emulator, landscape)
    url = f"https://localhost:{emulator.port}/door"
    async with httpx.AsyncClient(verify=landscape.client_tls()) as http:
        for wrong in ({}, {"door": "ajar", "for_s": 1}, {"door": "closed", "for_s": 0}, {"door": "closed"}):
            assert (await http.post(url, json=wrong)).status_code == 400
        assert (await http.post(url, json={"door": "mute", "for_s": 60})).status_code == 200
        assert (await http.post(url, json={"door": "closed", "for_s": 0.3})).status_code == 200
    await until_broken(living)
    await is_closed(emulator, landscape)
    async with asyncio.timeout(5):
        while emulator.listener.door is not Door.OPEN:
            await asyncio.sleep(0.02)
    peer = await Peer.connect(emulator, landscape)
    assert await peer.answer(peer.open()) == 200
    peer.writer.transport.abort()


async def test_a_closed_emulator_starts_again_on_its_port(emulator: ApnsEmulator, landscape: Landscape) -> None:
    emulator.listener.shut_for(Door.CLOSED, 60)
    port = emulator.port
    await emulator.close()
    with pytest.raises(RuntimeError):
        assert emulator.port
    await emulator.start(port=port)
    await asyncio.sleep(0.15)
    peer = await Peer.connect(emulator, landscape)
    assert await peer.answer(peer.open()) == 200, "what was due before the close is forgotten"
    peer.writer.transport.abort()


async def test_a_door_may_be_closed_before_the_start_and_a_taken_port_is_said(landscape: Landscape) -> None:
    emulator = ApnsEmulator(tls=landscape.server_tls(), keys=landscape.apns_keys, topics=[TOPIC])
    emulator.listener.door = Door.CLOSED
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        await emulator.start(port=other.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            emulator.listener.door = Door.OPEN
    emulator.listener.door = Door.OPEN
    peer = await Peer.connect(emulator, landscape)
    assert await peer.limit() == 1
    peer.writer.transport.abort()
    await emulator.close()


async def test_breaking_off_ends_connections_but_not_the_service(emulator: ApnsEmulator, connect: Connect) -> None:
    emulator.script("aa", [Step(fault=Fault.HANG)])
    peers = [await connect() for _ in range(3)]
    for peer in peers:
        peer.open("/3/device/aa")
        await peer.limit()
    emulator.listener.break_off()
    for peer in peers:
        await until_broken(peer)
    fresh = await connect()
    assert await fresh.answer(fresh.open()) == 200


class NoSocketsLeft:
    """A listening socket in a process that has used all its descriptors up, for a while."""

    def __init__(self, real: socket.socket, errors: list[OSError]) -> None:
        self._real = real
        self._errors = errors

    def accept(self) -> object:
        if self._errors:
            raise self._errors.pop()
        return self._real.accept()

    def fileno(self) -> int:
        return self._real.fileno()

    def close(self) -> None:
        self._real.close()


async def test_without_sockets_it_waits_and_goes_on(
    emulator: ApnsEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "ACCEPT_PAUSE_S", 0.01)
    errors = [OSError(errno.EMFILE, "too many"), BlockingIOError(), OSError(errno.EMFILE, "too many")]
    real = emulator.listener._socket
    assert real is not None
    short = cast(socket.socket, NoSocketsLeft(real, errors))
    emulator.listener._socket = short
    peer = await connect()
    assert await peer.answer(peer.open()) == 200
    assert (errors, emulator.counts["accepts_failed"]) == ([], 2)
    emulator.listener._pause_accepting(short)
    await emulator.close()
    await asyncio.sleep(0.03)  # nothing is resumed after the end


# --- certificates


@pytest.mark.parametrize(
    ("flaw", "complaint"),
    [
        (Flaw.WRONG_NAME, "Hostname mismatch"),
        (Flaw.UNKNOWN_AUTHORITY, "unable to get local issuer|certificate signature failure|self.signed"),
        (Flaw.EXPIRED, "certificate has expired"),
    ],
)
async def test_a_certificate_is_exchanged_for_new_connections_and_mended(
    emulator: ApnsEmulator, landscape: Landscape, connect: Connect, flaw: Flaw, complaint: str
) -> None:
    living = await connect()
    emulator.listener.tls = landscape.server_tls(flaw=flaw)
    with pytest.raises(ssl.SSLCertVerificationError, match=complaint):
        await connect()
    assert await living.answer(living.open()) == 200, "who is connected stays connected"
    emulator.listener.tls = landscape.server_tls()
    peer = await connect()
    assert await peer.answer(peer.open()) == 200
