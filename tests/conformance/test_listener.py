"""listener: the socket that callers connect to."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import socket
import time
import weakref
from typing import Any

import pytest

from pushgate import direct, listener
from pushgate.listener import MAX_HEAD_BYTES, MAX_SENT_AHEAD, bind
from tests.api import NOTIFY, Api, serving
from tests.samples import body, plain


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
async def test_answers_are_sent_without_waiting_for_more(address: str) -> None:
    accepted: asyncio.Queue[int] = asyncio.Queue()

    def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.put_nowait(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listening = bind(address)
    host, port = listening.getsockname()[:2]
    async with await asyncio.start_server(on_connection, sock=listening):
        _, writer = await asyncio.open_connection(host, port)
        assert await accepted.get() == 1
        writer.close()


def test_an_address_that_is_taken_is_an_os_error() -> None:
    taken = bind("127.0.0.1:0")
    with taken, pytest.raises(OSError, match=r"cannot listen on 127.* in use -> stop what listens there"):
        bind(f"127.0.0.1:{taken.getsockname()[1]}")


def post(*headers: bytes, event_id: str = "$1") -> bytes:
    sent = body({"notification": plain(event_id=event_id)})
    lines = [b"POST %b HTTP/1.1" % NOTIFY.encode(), b"Host: x", *headers, b"Content-Length: %d" % len(sent)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + sent


async def is_closed_within(api: Api, seconds: float, *pieces: bytes) -> bool:
    """Whether a connection that sends these pieces, one every 50 ms, is closed from the other side."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    started = time.monotonic()
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.05)
        async with asyncio.timeout(max(seconds - (time.monotonic() - started), 0.01)):
            while await reader.read(65536):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    finally:
        writer.close()
    return True


@pytest.mark.parametrize("pause_at", [10, 40, 100])
async def test_a_head_may_come_in_pieces(pause_at: int) -> None:
    async with serving() as api:
        request = post(b"X-Request-Id: 7")
        assert (await api.raw(request[:pause_at], then=request[pause_at:], pause_s=0.1)).startswith(b"HTTP/1.1 200 ")


async def test_usual_requests_go_the_short_way_and_the_others_get_the_same_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short: list[bool] = []

    def answer(*what: Any) -> bool:
        short.append(usual(*what))
        return short[-1]

    usual = direct.answer
    monkeypatch.setattr(direct, "answer", answer)
    request = post(b"X-Request-Id: 7")
    async with serving() as api:
        alone = await api.raw(request)
        late_body = await api.raw(request[:-5], then=request[-5:], pause_s=0.1)
        assert short == [True, True]
        sent_ahead = await api.raw(request * 2)
        assert short == [True, True, False, True]
        closing = await api.raw(post(b"X-Request-Id: 7", b"Connection: close"))
        assert short == [True, True, False, True, False]
    first, second = sent_ahead[: len(alone)], sent_ahead[len(alone) :]
    without_date = {re.sub(rb"date: [^\r]+", b"", each) for each in (alone, late_body, first, second)}
    assert len(without_date) == 1
    assert b"x-request-id: 7\r\n" in alone
    assert closing.replace(b"connection: close\r\n", b"").partition(b"\r\n\r\n")[2] == alone.partition(b"\r\n\r\n")[2]


async def test_a_connection_that_has_ended_is_let_go_of_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not when the collector looks: with it go the last request and its answer."""
    made: list[weakref.ref[listener._Protocol]] = []

    class Known(listener._Protocol):
        def connection_made(self, transport: Any) -> None:
            made.append(weakref.ref(self))
            super().connection_made(transport)

    monkeypatch.setattr(listener, "_Protocol", Known)
    async with serving() as api:
        gc.disable()
        try:
            await api.raw(post())
            async with asyncio.timeout(5):
                while made[0]() is not None:
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()


@pytest.mark.parametrize("cut", [3, 30, 31, 32, 45, 60])
async def test_the_head_of_a_request_sent_ahead_may_come_in_pieces_too(cut: int) -> None:
    async with serving() as api:
        first, second = post(), post(b"X-One: 1", b"X-Two: 2", event_id="$2")
        answer = await api.raw(first + second[:cut], then=second[cut:], pause_s=0.1)
        assert answer.count(b"HTTP/1.1 200 ") == 2
        assert await api.waiting() == 2


async def test_a_head_sent_ahead_has_its_limits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_WITHIN_S", 0.4)
    async with serving() as api:
        flood = b"X: " + b"x" * MAX_HEAD_BYTES
        assert await is_closed_within(api, 0.3, post() + post()[:20], flood, flood, flood)
        assert await is_closed_within(api, 2, post() + post()[:20])


async def test_an_offer_to_upgrade_is_ignored_and_the_body_is_read() -> None:
    """As the HTTP client of Java sends it on plain connections."""
    offer = (
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAA",
    )
    async with serving() as api:
        for attempt, request in enumerate((post(*offer), post(*offer, event_id="$2"))):
            head = request.index(b"\r\n\r\n") + 4
            whole = request if attempt == 0 else request[:head]
            answer = await api.raw(whole, then=b"" if attempt == 0 else request[head:], pause_s=0.1)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.count(b"HTTP/1.1 ") == 1
        assert await api.waiting() == 2


async def test_a_head_without_an_end_is_refused_and_closed() -> None:
    async with serving() as api:
        answer = await api.raw(b"POST / HTTP/1.1\r\nX: " + b"x" * (MAX_HEAD_BYTES + 1))
        assert (
            json.loads(answer.partition(b"\r\n\r\n")[2])["details"]["reason"] == "the head of the request is too large"
        )
        answer = await api.raw(post(b"X: " + b"x" * MAX_HEAD_BYTES))
        assert answer.startswith(b"HTTP/1.1 400 ")


async def test_who_sends_no_head_in_time_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_WITHIN_S", 0.4)
    async with serving() as api:
        assert await is_closed_within(api, 2)
        assert await is_closed_within(api, 2, b"P", b"O", b"S", b"T", b" ", b"/", b" ", b"H", b"T", b"T", b"P")
        assert await is_closed_within(api, 2, post(), b"GET / HT")
        assert not await is_closed_within(api, 0.8, post())


async def test_trailers_are_not_kept() -> None:
    sent = body({"notification": plain()})
    chunked = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nX: y\r\n\r\n"
    async with serving() as api:
        assert (await api.raw(chunked % (NOTIFY.encode(), len(sent), sent))).startswith(b"HTTP/1.1 200 ")


async def test_what_follows_an_answer_to_an_unread_body_is_not_waited_for() -> None:
    """Whoever is refused before the body is read cannot keep the connection by sending a little of it."""
    refused = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    async with serving() as api:
        assert await is_closed_within(api, 3, refused, b"x")
        assert await is_closed_within(
            api, 3, b"GET /push/v1/docs HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", b"x"
        )
        nobody = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
        assert not await is_closed_within(api, 1.5, nobody)


async def test_trailers_without_an_end_close_the_connection() -> None:
    head = b"POST /push/v1/notify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX: "
    async with serving() as api:
        assert await is_closed_within(api, 1, head, *[b"a" * 40_000] * 3)


async def test_an_upgrade_in_capitals_is_ignored_too() -> None:
    async with serving() as api:
        answer = await api.raw(post(b"CONNECTION: UPGRADE", b"UPGRADE: H2C"))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert await api.waiting() == 1


async def test_an_empty_line_between_requests_starts_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_WITHIN_S", 0.2)
    async with serving() as api:
        assert not await is_closed_within(api, 0.8, post(), b"\r\n")


async def test_a_valid_request_is_answered_though_garbage_follows() -> None:
    async with serving() as api:
        answer = await api.raw(post() + b"\x16\x03\x01 garbage\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.count(b"HTTP/1.1 ") == 1


async def test_who_sends_too_many_requests_ahead_is_closed() -> None:
    async with serving() as api:
        requests = b"".join(post(event_id=f"${n}") for n in range(MAX_SENT_AHEAD * 4))
        assert await is_closed_within(api, 3, requests)


@pytest.mark.parametrize("header", [b"Transfer-Encoding: gzip, chunked", b"Content-Encoding: br"])
async def test_what_is_compressed_is_415(header: bytes) -> None:
    async with serving() as api:
        request = b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (NOTIFY.encode(), header)
        assert (await api.raw(request)).startswith(b"HTTP/1.1 415 ")


async def test_a_connection_is_kept_as_long_as_it_is_used_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "KEEP_ALIVE_S", 0.4)
    async with serving() as api:
        pieces = [post(event_id=f"${n}") for n in range(5)]
        used: list[bytes] = []
        for piece in pieces:  # one every 0.2 s
            used += [piece, b"", b"", b""]
        assert not await is_closed_within(api, 1.1, *used)
        assert await api.waiting() == len(pieces)
        started = time.monotonic()
        assert await is_closed_within(api, 2, post(event_id="$last"))
        assert 0.35 < time.monotonic() - started < 1.5
