"""The emulators' connections against raw peers: stream limits, GOAWAY, resets, flow control, bounds, garbage."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import re
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import jwt
import pytest
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamReset,
)
from h2.settings import SettingCodes

from pushgate.emulator import ApnsEmulator, ConnectionRules, Fault, Landscape, Step, Temper, http2_server
from tests.conformance.emulator_peer import BODY, Peer, raw

TOPIC = "com.example.app"


Connect = Callable[..., Any]


@pytest.fixture(scope="module")
def landscape(tmp_path_factory: pytest.TempPathFactory) -> Landscape:
    return Landscape(tmp_path_factory.mktemp("landscape"))


@pytest.fixture
async def emulator(landscape: Landscape) -> AsyncIterator[ApnsEmulator]:
    emulator = ApnsEmulator(
        tls=landscape.server_tls(), temper=Temper.ACCEPT_ALL, keys=landscape.apns_keys, topics=[TOPIC]
    )
    await emulator.start()
    yield emulator
    await emulator.close()


@pytest.fixture
async def connect(emulator: ApnsEmulator, landscape: Landscape) -> AsyncIterator[Connect]:
    writers: list[asyncio.StreamWriter] = []

    async def connect(**options: int) -> Peer:
        peer = await Peer.connect(emulator, landscape, **options)
        writers.append(peer.writer)
        return peer

    yield connect
    for writer in writers:
        writer.transport.abort()


def headers(landscape: Landscape) -> dict[str, str]:
    claims = {"iss": landscape.apns_team_id, "iat": int(time.time())}
    token = jwt.encode(
        claims, landscape.apns_key_file.read_bytes(), algorithm="ES256", headers={"kid": landscape.apns_key_id}
    )
    return {"authorization": f"bearer {token}", "apns-topic": TOPIC}


async def test_one_stream_until_the_first_valid_token(
    emulator: ApnsEmulator, landscape: Landscape, connect: Connect
) -> None:
    emulator.temper = Temper.STRICT
    peer = await connect()
    assert await peer.limit() == 1
    assert await peer.answer(peer.open()) == 403
    assert await peer.limit() == 1
    assert await peer.answer(peer.open(headers=headers(landscape))) == 200
    assert await peer.limit() == 1000
    emulator.rules = ConnectionRules(max_streams=3)
    assert await peer.answer(peer.open(headers=headers(landscape))) == 200
    assert await peer.limit() == 3


async def test_a_stream_above_the_limit_is_refused_alone(emulator: ApnsEmulator, connect: Connect) -> None:
    emulator.temper = Temper.STRICT
    peer = await connect()
    first, early = peer.open(end=False), peer.open()
    assert await peer.reset(early) == ErrorCodes.REFUSED_STREAM
    assert "streams_over_limit" not in emulator.counts, "the limit was not known yet"
    assert await peer.limit() == 1
    peer.h2.remote_settings.max_concurrent_streams = 100
    peer.h2.remote_settings.acknowledge()
    late = peer.open()
    assert await peer.reset(late) == ErrorCodes.REFUSED_STREAM
    assert (emulator.counts["streams_refused"], emulator.counts["streams_over_limit"]) == (2, 1)
    peer.h2.end_stream(first)
    peer.flush()
    assert await peer.answer(first) == 403


async def test_two_hundred_streams_at_once_are_all_answered(emulator: ApnsEmulator, connect: Connect) -> None:
    emulator.script("*", [Step(delay_s=0.1, repeat=True)])
    peer = await connect()
    assert await peer.limit() == 1000
    streams = [peer.open(f"/3/device/{number:04x}") for number in range(200)]
    started = asyncio.get_running_loop().time()
    assert {await peer.answer(stream) for stream in streams} == {200}
    assert asyncio.get_running_loop().time() - started < 4
    assert emulator.counts["delivered"] == len(emulator.devices()) == 200


async def test_goaway_spares_the_streams_below(emulator: ApnsEmulator, connect: Connect) -> None:
    emulator.script("aa", [Step(delay_s=0.1)])
    emulator.script("bb", [Step(fault=Fault.GOAWAY)])
    peer = await connect()
    slow, gone = peer.open("/3/device/aa"), peer.open("/3/device/bb")
    assert await peer.goaway() == (slow, "Shutdown")
    late = peer.open("/3/device/cc")
    assert await peer.answer(slow) == 200
    await peer.end()
    assert set(emulator.devices()) == {"aa"}
    answered = {event.stream_id for event in peer.events if isinstance(event, ResponseReceived)}
    assert not answered & {gone, late}
    assert emulator.counts["streams_after_goaway"] == 1


@pytest.mark.parametrize("earlier", [0, 3])
async def test_goaway_after_some_requests_answers_them_first(
    emulator: ApnsEmulator, connect: Connect, earlier: int
) -> None:
    emulator.script("aa", [Step(delay_s=0.1)])
    peer = await connect()
    for _ in range(earlier):
        assert await peer.answer(peer.open("/3/device/cc")) == 200
    emulator.rules = ConnectionRules(goaway_after=earlier + 2, goaway_reason="Rest")
    first, second = peer.open("/3/device/aa"), peer.open("/3/device/bb")
    assert await peer.goaway() == (second, "Rest")
    assert [await peer.answer(first), await peer.answer(second)] == [200, 200]
    await peer.end()
    assert emulator.counts["goaways"] == 1


async def test_a_rule_that_comes_late_counts_at_the_next_request(emulator: ApnsEmulator, connect: Connect) -> None:
    peer = await connect()
    for _ in range(3):
        assert await peer.answer(peer.open()) == 200
    emulator.rules = ConnectionRules(goaway_after=1)
    assert await peer.answer(peer.open()) == 200
    assert await peer.goaway() == (7, "Shutdown")
    await peer.end()


async def test_a_second_goaway_never_raises_the_last_stream(emulator: ApnsEmulator, connect: Connect) -> None:
    emulator.script("aa", [Step(delay_s=0.1, fault=Fault.GOAWAY)])
    emulator.script("bb", [Step(fault=Fault.GOAWAY)])
    peer = await connect()
    peer.open("/3/device/aa")
    peer.open("/3/device/bb")
    await peer.end()
    lasts = [event.last_stream_id for event in peer.events if isinstance(event, ConnectionTerminated)]
    assert lasts == [1, 0]


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (Step(fault=Fault.RESET), ErrorCodes.INTERNAL_ERROR),
        (Step(fault=Fault.RESET, error_code=8, delay_s=0.01), ErrorCodes.CANCEL),
        (Step(fault=Fault.REFUSE), ErrorCodes.REFUSED_STREAM),
    ],
)
async def test_a_reset_costs_one_stream(emulator: ApnsEmulator, connect: Connect, step: Step, code: int) -> None:
    emulator.script("aa", [step])
    peer = await connect()
    assert await peer.reset(peer.open("/3/device/aa")) == code
    assert await peer.answer(peer.open("/3/device/aa")) == 200


async def test_a_hanging_stream_lives_until_the_client_gives_up(emulator: ApnsEmulator, connect: Connect) -> None:
    emulator.rules = ConnectionRules(max_streams=1)
    emulator.script("aa", [Step(fault=Fault.HANG)])
    emulator.script("bb", [Step(delay_s=30)])
    peer = await connect()
    for path in ("/3/device/aa", "/3/device/bb"):
        hanging = peer.open(path)
        assert await peer.limit() == 1
        assert not [event for event in peer.events if isinstance(event, ResponseReceived)]
        peer.h2.reset_stream(hanging, ErrorCodes.CANCEL)
    assert await peer.answer(peer.open("/3/device/cc")) == 200


@pytest.mark.parametrize("fault", [Fault.NONE, Fault.RESET])
async def test_a_request_cancelled_in_the_same_packet_is_answered_to_nobody(
    emulator: ApnsEmulator, connect: Connect, fault: Fault
) -> None:
    emulator.script("aa", [Step(fault=fault, repeat=True)])
    peer = await connect()
    stream = peer.open("/3/device/aa", flush=False)
    peer.h2.reset_stream(stream, ErrorCodes.CANCEL)
    peer.flush()
    assert await peer.answer(peer.open("/3/device/bb")) == 200
    assert not [event for event in peer.events if getattr(event, "stream_id", 0) == stream]


async def test_an_answer_cancelled_while_it_waits_for_the_window_is_dropped(connect: Connect) -> None:
    peer = await connect(window=0)
    stream = peer.open("/devices", body=b"")
    await peer.until(lambda event: isinstance(event, ResponseReceived))
    peer.h2.increment_flow_control_window(100, stream)
    peer.h2.reset_stream(stream, ErrorCodes.CANCEL)
    assert await peer.answer(peer.open("/3/device/bb")) == 200
    assert stream not in peer.bodies


async def test_answers_that_nobody_reads_are_bounded(
    emulator: ApnsEmulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2_server, "MAX_UNSENT_BYTES", 300)
    emulator.script("*", [Step(status=503, body="x" * 200, repeat=True)])
    peer = await connect(window=0)
    first, second = peer.open(), peer.open()
    assert await peer.reset(second) == ErrorCodes.ENHANCE_YOUR_CALM
    peer.h2.reset_stream(first, ErrorCodes.CANCEL)
    third = peer.open()
    await peer.until(lambda event: isinstance(event, ResponseReceived) and event.stream_id == third)


async def test_a_connection_that_breaks_costs_nothing(
    emulator: ApnsEmulator, landscape: Landscape, connect: Connect
) -> None:
    _, writer = await raw(emulator, landscape, "h2")
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
    async with asyncio.timeout(5):
        while not emulator.counts.get("broken_connections"):
            await asyncio.sleep(0.01)
    peer = await connect()
    assert await peer.answer(peer.open()) == 200


async def test_a_clients_goaway_leaves_its_requests_answered(emulator: ApnsEmulator, connect: Connect) -> None:
    emulator.script("aa", [Step(delay_s=0.05)])
    peer = await connect()
    stream = peer.open("/3/device/aa")
    peer.h2.close_connection()
    peer.flush()
    peer.h2.state_machine.state = ConnectionState.CLIENT_OPEN
    assert await peer.answer(stream) == 200


@pytest.mark.parametrize("window", [1000, 1])
async def test_a_large_answer_obeys_the_clients_window(emulator: ApnsEmulator, connect: Connect, window: int) -> None:
    filler = await connect()
    messages = 40 if window > 1 else 1
    for number in range(messages):
        body = json.dumps({"aps": {"alert": "x" * (1000 if window > 1 else 1)}}).encode()
        assert await filler.answer(filler.open(f"/3/device/{number:02x}", body=body)) == 200
    peer = await connect(window=window)
    stream = peer.open("/devices", body=b"")
    assert await peer.answer(stream) == 200
    assert len(json.loads(peer.bodies[stream])) == messages
    largest = max(len(event.data) for event in peer.events if isinstance(event, DataReceived))
    assert largest <= window


async def test_a_window_opened_by_settings_lets_the_answer_go_on(emulator: ApnsEmulator, connect: Connect) -> None:
    peer = await connect(window=0)
    assert await peer.answer(peer.open("/3/device/aa")) == 200
    stream = peer.open("/devices", body=b"")
    await peer.until(lambda event: isinstance(event, ResponseReceived) and event.stream_id == stream)
    assert stream not in peer.bodies
    peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 65_535})
    peer.flush()
    assert await peer.answer(stream) == 200
    assert "aa" in json.loads(peer.bodies[stream])


async def test_a_silent_connection_is_sent_away(emulator: ApnsEmulator, connect: Connect, landscape: Landscape) -> None:
    emulator.rules = ConnectionRules(idle_s=0.05)
    peer = await connect()
    assert await peer.goaway() == (0, "IdleTimeout")
    await peer.end()
    reader, writer = await raw(emulator, landscape, "http/1.1")
    assert await reader.read() == b""
    writer.close()


async def test_too_many_connections_are_closed_at_once(emulator: ApnsEmulator, connect: Connect) -> None:
    emulator.rules = ConnectionRules(max_connections=1)
    first, second = await connect(), await connect()
    await second.end()
    assert await first.answer(first.open()) == 200
    assert emulator.counts["connections_refused"] == 1


async def test_unfinished_bodies_are_bounded(emulator: ApnsEmulator, connect: Connect) -> None:
    peer = await connect()
    assert await peer.limit() == 1000
    chunk = b"x" * 16_384
    resets: list[StreamReset] = []
    async with asyncio.timeout(15):
        while not resets:
            stream = peer.open(body=b"", end=False)
            for _ in range(16):
                while peer.h2.local_flow_control_window(stream) < len(chunk) and not resets:
                    await peer.read()
                    resets = [event for event in peer.events if isinstance(event, StreamReset)]
                if resets:
                    break
                peer.h2.send_data(stream, chunk)
                peer.flush()
    assert resets[0].error_code == ErrorCodes.ENHANCE_YOUR_CALM
    assert 30 <= stream // 2 <= 36, "8 MiB in pieces of 256 KiB"


async def test_headers_are_bounded(emulator: ApnsEmulator, connect: Connect) -> None:
    peer = await connect()
    peer.open(headers={"apns-topic": "x" * 17_000})
    event = await peer.until(lambda event: isinstance(event, ConnectionTerminated))
    assert event.error_code == ErrorCodes.ENHANCE_YOUR_CALM
    assert emulator.counts["protocol_errors"] == 1


async def test_garbage_costs_only_its_own_connection(
    emulator: ApnsEmulator, landscape: Landscape, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    steady = await connect()
    chance = random.Random(7)
    good = H2Connection(H2Configuration(client_side=True))
    good.initiate_connection()
    good.send_headers(1, [(":method", "POST"), (":path", "/3/device/ab"), (":scheme", "https"), (":authority", "x")])
    good.send_data(1, BODY, end_stream=True)
    template = good.data_to_send()
    for _ in range(40):
        reader, writer = await raw(emulator, landscape, chance.choice(["h2", "http/1.1"]))
        data = bytearray(template if chance.random() < 0.7 else chance.randbytes(200))
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(24 if len(data) > 200 else 0, len(data))] = chance.randrange(256)
        writer.write(bytes(data))
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(0.05):
                await reader.read()
        writer.transport.abort()
    assert await steady.answer(steady.open()) == 200
    assert "internal_errors" not in emulator.counts
    gc.collect()
    assert not caplog.records, "no task died of it"


async def test_a_handshake_that_fails_costs_nothing(emulator: ApnsEmulator, connect: Connect) -> None:
    _, writer = await asyncio.open_connection("localhost", emulator.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await writer.drain()
    writer.close()
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection("localhost", emulator.port, ssl=ssl.create_default_context())
    peer = await connect()
    assert await peer.answer(peer.open()) == 200


async def exchange(emulator: ApnsEmulator, landscape: Landscape, *parts: bytes) -> bytes:
    reader, writer = await raw(emulator, landscape, "http/1.1")
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.02)
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_bytes", "start"),
    [
        (b"NONSENSE\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbig: " + b"x" * 20_000, b"HTTP/1.1 431"),
        (b"GET /counts HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"HTTP/1.1 200"),
        (b"GET /counts HTTP/1.0\r\n\r\n", b"HTTP/1.1 200"),
    ],
)
async def test_http1_answers_and_closes(
    emulator: ApnsEmulator, landscape: Landscape, request_bytes: bytes, start: bytes
) -> None:
    assert (await exchange(emulator, landscape, request_bytes)).startswith(start)


async def test_http1_says_continue_and_keeps_the_connection(emulator: ApnsEmulator, landscape: Landscape) -> None:
    head = b"POST /temper HTTP/1.1\r\nhost: x\r\ncontent-length: 19\r\nexpect: 100-continue\r\n\r\n"
    last = b"GET /counts HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answers = await exchange(emulator, landscape, head, b'{"temper":"strict"}' + last)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"100", b"200", b"200"]
    assert emulator.temper is Temper.STRICT


async def test_a_close_in_the_middle_of_an_http1_request_is_harmless(
    emulator: ApnsEmulator, landscape: Landscape, connect: Connect
) -> None:
    reader, writer = await raw(emulator, landscape, "http/1.1")
    writer.write(b"POST /script HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{")
    await asyncio.sleep(0.02)
    writer.close()
    assert await reader.read() in (b"", b"HTTP/1.1 400 \r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    peer = await connect()
    assert await peer.answer(peer.open()) == 200


async def test_close_ends_connections_in_the_middle_of_a_delay(emulator: ApnsEmulator, connect: Connect) -> None:
    emulator.script("*", [Step(delay_s=60, repeat=True)])
    peer = await connect()
    peer.open()
    await peer.limit()
    async with asyncio.timeout(3):
        await emulator.close()
    await peer.end()


async def test_many_connections_work_at_once(emulator: ApnsEmulator, landscape: Landscape) -> None:
    async def one(number: int) -> int:
        async with httpx.AsyncClient(http2=True, verify=landscape.client_tls()) as client:
            url = f"https://localhost:{emulator.port}/3/device/{number:04x}"
            return (await client.post(url, content=BODY)).status_code

    assert set(await asyncio.gather(*(one(number) for number in range(20)))) == {200}
    assert emulator.counts["connections"] == 20
