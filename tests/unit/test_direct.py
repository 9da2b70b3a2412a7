"""The short way through uvicorn: what it answers, and when it leaves a request to the usual way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from pushgate import direct

DATE = [(b"date", b"Mon, 23 Nov 2026 12:00:00 GMT"), (b"x-more", b"1")]
OURS = b"content-type: application/json\r\nx-request-id: a-1\r\n"


class Transport(asyncio.Transport):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.ends = False

    def write(self, data: Any) -> None:
        assert not self.ends, "a loop complains of what is written too late"
        self.written.append(bytes(data))

    def close(self) -> None:
        self.ends = True

    def is_closing(self) -> bool:
        return self.ends

    def resume_reading(self) -> None:
        pass


class Way:
    """A request on its way through uvicorn."""

    def __init__(self, *, body: bytes = b"{}", keep_alive: bool = True) -> None:
        self.scope: dict[str, Any] = {"type": "http", "method": "POST"}
        self.transport = Transport()
        self.flow = FlowControl(self.transport)
        self.completed = 0
        logger = logging.getLogger("tests")
        self.cycle = RequestResponseCycle(
            scope=self.scope,  # type: ignore[arg-type]  # of all its keys one is asked for
            transport=self.transport,
            flow=self.flow,
            logger=logger,
            access_logger=logger,
            access_log=False,
            default_headers=DATE,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=self.complete,
        )
        self.cycle.body += body
        self.cycle.more_body = False

    def complete(self) -> None:
        self.completed += 1

    async def usual(self, body: bytes) -> None:
        """The answer in messages."""
        length = (b"content-length", b"%d" % len(body))
        headers = [(b"content-type", b"application/json"), (b"x-request-id", b"a-1"), length]
        await self.cycle.send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": False})
        await self.cycle.send({"type": "http.response.body", "body": body, "more_body": False})


async def test_the_answer_is_that_of_the_usual_way_in_one_piece() -> None:
    short, usual = Way(), Way()
    assert direct.answer(short.cycle, short.scope, OURS, b'{"rejected":[]}')
    await usual.usual(b'{"rejected":[]}')
    assert len(short.transport.written) == 1
    assert len(usual.transport.written) == 2
    assert short.transport.written[0] == b"".join(usual.transport.written)
    assert (short.completed, short.cycle.response_complete) == (usual.completed, usual.cycle.response_complete)
    assert await short.cycle.receive() == {"type": "http.disconnect"}, "whoever waits is told that it is over"


async def test_the_body_is_there_once() -> None:
    way = Way(body=b'{"notification":')
    assert direct.take_body(way.cycle, way.scope) == b'{"notification":'
    assert not way.cycle.body, "a connection that rests keeps none"


def last_of_many(way: Way) -> None:
    way.cycle.scope = {**way.cycle.scope}  # another request has come behind it


def gone(way: Way) -> None:
    way.cycle.disconnected = True


def paused(way: Way) -> None:
    way.flow.pause_writing()


def last(way: Way) -> None:
    way.cycle.keep_alive = False


def begun(way: Way) -> None:
    way.cycle.response_started = True


@pytest.mark.parametrize("unusual", [last_of_many, gone, paused, last, begun])
async def test_what_is_not_usual_is_left_to_the_usual_way(unusual: Callable[[Way], None]) -> None:
    way = Way()
    unusual(way)
    before = way.cycle.response_started
    assert not direct.answer(way.cycle, way.scope, OURS, b"{}")
    assert (way.transport.written, way.completed) == ([], 0)
    assert (way.cycle.response_started, way.cycle.response_complete) == (before, False)


@pytest.mark.parametrize("unusual", [last_of_many, gone])
async def test_a_body_that_is_not_at_hand_is_received(unusual: Callable[[Way], None]) -> None:
    way = Way(body=b"{}")
    unusual(way)
    assert direct.take_body(way.cycle, way.scope) is None
    assert way.cycle.body == b"{}"


async def test_nothing_is_written_to_a_connection_that_ends() -> None:
    way = Way()
    way.transport.close()
    assert direct.answer(way.cycle, way.scope, OURS, b"{}")
    assert way.transport.written == []
    assert (way.cycle.response_complete, way.completed) == (True, 1), "the usual way would write as well"


async def test_headers_of_all_answers_follow_the_time() -> None:
    dates = []
    for second in range(6):
        way = Way()
        way.cycle.default_headers = [(b"date", time.strftime("%H:%M:%S", time.gmtime(second)).encode())]
        direct.answer(way.cycle, way.scope, OURS, b"{}")
        dates.append(way.transport.written[0].split(b"\r\n")[1])
    assert dates == [b"date: 00:00:%02d" % second for second in range(6)]
