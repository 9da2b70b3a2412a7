"""Scripts, inboxes, counts and the HTTP/2 server of the emulators, without any socket: bounds and broken input."""

from __future__ import annotations

import ast
import asyncio
import logging
from pathlib import Path
from typing import cast

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hypothesis import given, settings
from hypothesis import strategies as st

import pushgate.emulator
from pushgate.emulator import ConnectionRules, Door, Fault, Received, Step, Temper, backstage, devices, script
from pushgate.emulator.backstage import Backstage
from pushgate.emulator.devices import Devices
from pushgate.emulator.exchange import Answer, Request, Session, decide
from pushgate.emulator.http2_server import Http2Connection
from pushgate.emulator.script import Scripts


def received(number: int) -> Received:
    return Received(received_at=float(number), headers={}, payload=number)


class Entrance:
    """What the pages do to a Listener."""

    def __init__(self) -> None:
        self.told = 0
        self.shut: list[tuple[Door, float]] = []

    def tell_rules(self) -> None:
        self.told += 1

    def shut_for(self, door: Door, seconds: float) -> None:
        self.shut.append((door, seconds))


def make_stage() -> Backstage:
    return Backstage(
        temper=Temper.STRICT, dead_prefix="dead", rules=ConnectionRules(), entrance=Entrance(), clock=lambda: 17.0
    )


def test_an_inbox_keeps_the_last_of_each_device_and_of_all() -> None:
    phones = Devices(dead_prefix="dead", per_device=3, total=5)
    for number in range(5):
        phones.put("a", received(number))
    assert [message.payload for message in phones.inbox("a")] == [2, 3, 4]
    for number in range(3):
        phones.put(f"b{number}", received(number))
    assert [message.payload for message in phones.inbox("a")] == [3, 4]
    for number in range(2):
        phones.put("c", received(number))
    assert set(phones.inboxes()) == {"b0", "b1", "b2", "c"}
    assert phones.inbox("a") == ()
    assert len(phones._order) == 5
    phones.forget()
    assert phones.inboxes() == {}


@given(st.lists(st.sampled_from("abcdef"), max_size=60))
def test_inboxes_and_their_order_always_agree(tokens: list[str]) -> None:
    phones = Devices(dead_prefix="", per_device=4, total=9)
    for number, token in enumerate(tokens):
        phones.put(token, received(number))
    kept = [message.payload for inbox in phones.inboxes().values() for message in inbox]
    assert len(kept) == len(phones._order) <= 9
    assert all(0 < len(inbox) <= 4 for inbox in phones.inboxes().values())
    assert not tokens or len(tokens) - 1 in kept


def test_the_dead_are_bounded_and_can_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "MAX_DEAD", 2)
    phones = Devices(dead_prefix="")
    phones.kill(["a", "b", "c"], at=5.0)
    assert [phones.died_at(token, now=9.0) for token in ("a", "b", "c")] == [None, 5.0, 5.0]
    phones.revive(["c", "unknown"])
    assert phones.died_at("c", now=9.0) is None
    assert phones.died_at("deadbeef", now=9.0) is None, "no prefix, no dead by prefix"


def test_scripted_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "MAX_SCRIPTED_TOKENS", 1)
    scripts = Scripts()
    scripts.put("a", [Step()])
    scripts.put("a", [Step(status=500)])
    with pytest.raises(ValueError, match="scripted tokens"):
        scripts.put("b", [Step()])
    assert scripts.take("a") == Step(status=500)
    assert scripts.take("a") is None


def test_invented_reasons_do_not_grow_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backstage, "MAX_COUNT_NAMES", 2)
    stage = make_stage()
    for name in ("a", "b", "c", "d", "a"):
        stage.count(name)
    assert stage.counts == {"a": 2, "b": 1, "other": 2}


def test_pages_reach_the_entrance() -> None:
    entrance = Entrance()
    stage = Backstage(temper=Temper.STRICT, dead_prefix="", rules=ConnectionRules(), entrance=entrance)

    def post(path: str, body: bytes) -> int:
        request = Request(method="POST", path=path, headers=(), body=body, body_bytes=len(body))
        answer = stage.control(request)
        assert answer is not None
        return answer.status

    assert post("/connection", b'{"max_streams":0,"window_open":false}') == 200
    assert (stage.rules, entrance.told) == (ConnectionRules(max_streams=0, window_open=False), 1)
    assert post("/door", b'{"door":"deaf","for_s":5}') == 200
    assert entrance.shut == [(Door.DEAF, 5)]
    for body in (b'{"door":"deaf"}', b'{"door":"deaf","for_s":0}', b'{"door":"deaf","for_s":1e9}', b"{}"):
        assert post("/door", body) == 400
    assert (len(entrance.shut), entrance.told) == (1, 1)


def test_the_how_to_names_every_bad_day() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "try-it-with-emulators.md").read_text()
    bad_days = {*Fault, *Door} - {Fault.NONE, Door.OPEN}
    assert {each for each in bad_days if f'"{each}"' not in page} == set()
    assert [name for name in ("max_streams", "window_open", "goaway_after") if f'{{"{name}": ' not in page] == []


def test_a_step_with_a_fault_or_a_body_is_no_success() -> None:
    assert Step().succeeds
    assert Step(delay_s=1, retry_after="1").succeeds
    assert not any(step.succeeds for step in (Step(status=500), Step(fault=Fault.HANG), Step(body="x")))


def test_the_emulators_import_nothing_else_of_pushgate() -> None:
    (folder,) = pushgate.emulator.__path__
    imported = {
        name
        for path in Path(folder).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    assert "pushgate.emulator.exchange" in imported
    assert {name for name in imported if name.startswith("pushgate")} == {
        name for name in imported if name.startswith("pushgate.emulator")
    }


class Broken:
    rules = ConnectionRules()
    max_streams = 10

    def answer(self, request: Request) -> Answer:
        raise KeyError(request.path)


def test_a_bug_of_the_emulator_is_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    counted: list[str] = []
    request = Request(method="GET", path="/", headers=(), body=b"", body_bytes=0)
    with caplog.at_level(logging.ERROR):
        assert decide(Broken(), request, count=counted.append).status == 500
    assert counted == ["internal_errors"]
    assert "an emulator failed to answer" in caplog.text


class Echo:
    """A session that answers every request with its own body."""

    rules = ConnectionRules()
    max_streams = 3

    def answer(self, request: Request) -> Answer:
        return Answer(body=request.body)


class Transport:
    def abort(self) -> None:
        """Nothing to break."""


class Writer:
    """What Http2Connection needs of a StreamWriter, into memory."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = False
        self.transport = Transport()

    def write(self, data: bytes) -> None:
        self.written += data

    async def drain(self) -> None:
        """There is always room."""

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def serve(data: bytes, session: Session) -> bytes:
    reader, writer = asyncio.StreamReader(), Writer()
    reader.feed_data(data)
    reader.feed_eof()
    connection = Http2Connection(cast(asyncio.StreamWriter, writer), session=session, count=lambda _: None)
    await connection.serve(reader)
    assert not connection._streams
    assert connection._buffered == 0
    return bytes(writer.written)


def conversation(requests: int) -> bytes:
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    for stream in range(1, 2 * requests, 2):
        head = [(":method", "POST"), (":path", "/3/device/ab"), (":scheme", "https"), (":authority", "x")]
        client.send_headers(stream, head)
        client.send_data(stream, b"x" * 50, end_stream=stream % 4 == 1)
    client.ping(b"12345678")
    return client.data_to_send()


def test_a_conversation_in_one_packet_is_answered() -> None:
    written = asyncio.run(serve(conversation(5), Echo()))
    assert written.count(b"x" * 50) == 3


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(24, 400), st.binary(min_size=1, max_size=4)), max_size=8),
    cut=st.integers(0, 500),
)
def test_broken_frames_never_raise(changes: list[tuple[int, bytes]], cut: int) -> None:
    data = bytearray(conversation(5))
    for position, replacement in changes:
        data[position : position + len(replacement)] = replacement
    asyncio.run(serve(bytes(data[: len(data) - cut % len(data)]), Echo()))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_never_raise(tail: bytes) -> None:
    preface = conversation(0)
    asyncio.run(serve(preface + tail, Echo()))
    asyncio.run(serve(tail, Echo()))
