"""What a caller may cost: bounded time, bounded memory, one answer each, in order, and nothing of itself read back."""

from __future__ import annotations

import asyncio
import json
import resource
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from pushgate import server
from pushgate.callers import by_certificate
from pushgate.model import Delivery
from tests.api import Api, serving
from tests.conformance.hardening import AFTER, BODY, STOWAWAY, VALID, answers, converse, head, length, watched
from tests.samples import batch, body, device, encrypted, plain

MB = 1024 * 1024
CHUNKED = b"Transfer-Encoding: chunked"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving(request_timeout_s=2) as running:
        yield running


# --- time


@pytest.mark.parametrize(
    ("begin", "piece"),
    [(head(b"Content-Length: 100000"), b" "), (head(CHUNKED), b"1\r\n \r\n"), (head(CHUNKED) + b"5000\r\n", b" ")],
    ids=["length", "chunks", "one chunk"],
)
async def test_a_body_that_drips_has_no_more_time_than_any_other(begin: bytes, piece: bytes) -> None:
    async with serving(request_timeout_s=0.5) as api:
        started = time.monotonic()
        heard = await converse(api.port, begin, *[piece] * 300, pause_s=0.03)
    assert heard.is_closed
    assert time.monotonic() - started < 8, "the drip would have gone on for 9 s"
    (answer,) = answers(heard.stream)
    assert (answer.status, json.loads(answer.body)["details"]["reason"]) == (400, "the body did not arrive in time")


async def test_thousands_of_headers_and_chunks_take_no_time(api: Api) -> None:
    started = time.monotonic()
    many = head(*[b"a:"] * 7000, length()) + BODY
    heard = await converse(api.port, many + AFTER)
    assert [answer.status for answer in answers(heard.stream)] == [200, 404]
    tiny = head(CHUNKED) + b"1\r\n \r\n" * 20_000 + b"0\r\n\r\n"
    heard = await converse(api.port, tiny + AFTER)
    assert [answer.status for answer in answers(heard.stream)] == [400, 404]
    assert time.monotonic() - started < 5


# --- memory

FLOOD_BYTES = 6 * MB
FLOODS = {
    "announced, far too long": head(b"Content-Length: %d" % FLOOD_BYTES),
    "chunks, far too long": head(CHUNKED) + b"%x\r\n" % FLOOD_BYTES,
    "for nobody": head(b"Content-Length: %d" % FLOOD_BYTES, start=b"POST /nowhere HTTP/1.1"),
    "by a wrong method": head(CHUNKED, start=b"PUT /push/v1/notify HTTP/1.1") + b"%x\r\n" % FLOOD_BYTES,
    "of a wrong type": head(b"Content-Type: text/plain", b"Content-Length: %d" % FLOOD_BYTES),
    "packed": head(b"Content-Encoding: gzip", b"Content-Length: %d" % FLOOD_BYTES),
    "to a page": head(b"Content-Length: %d" % FLOOD_BYTES, start=b"GET /push/v1/docs HTTP/1.1"),
    "a chunk size that never ends": head(CHUNKED) + b"0" * 1000,
    "a chunk extension that never ends": head(CHUNKED) + b"1;",
    "a trailer that never ends": head(CHUNKED) + b"1\r\n \r\n0\r\nX: ",
    "a header that never ends": head()[:-2] + b"X: ",
    "a target that never ends": b"GET /",
    "behind a valid request": VALID + head()[:-2] + b"X: ",
}


async def flood(port: int, begin: bytes) -> bytes:
    """Send a beginning and then as much as is taken, and more than anybody may hold. Returns what was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard = asyncio.create_task(reader.read(65_536))
    try:
        writer.write(begin)
        for _ in range(FLOOD_BYTES // 65_536 + 8):
            writer.write(b"0" * 65_536)
            async with asyncio.timeout(15):
                await writer.drain()
        async with asyncio.timeout(15):
            return await heard
    except ConnectionError:
        return b""
    finally:
        heard.cancel()
        writer.transport.abort()


@pytest.mark.timeout(60)
async def test_floods_of_every_kind_are_held_by_nobody(api: Api) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, begin in FLOODS.items():
        told = await asyncio.gather(*(flood(api.port, begin) for _ in range(6)))
        assert not any(b"HTTP/1.1 5" in answer for answer in told), name
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert grown_kb < 40_000, f"{len(FLOODS) * 6 * FLOOD_BYTES // MB} MB were sent"
    assert (await api.raw(VALID)).startswith(b"HTTP/1.1 200 ")


async def test_a_bomb_is_never_unpacked(api: Api) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(MB)) for _ in range(500)) + packer.flush()
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for lines, status in (([b"Content-Encoding: gzip"], 415), ([b"Content-Type: application/json"], 400), ([], 400)):
        heard = await converse(api.port, head(*lines, length(bomb)) + bomb + AFTER)
        assert answers(heard.stream)[0].status == status
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 20_000


# --- order


async def test_answers_to_requests_sent_ahead_come_in_order_each_to_its_own(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, pauses = api.spool.put, iter([0.3, 0.0, 0.1])

    async def slowly(deliveries: list[Delivery]) -> int:
        await asyncio.sleep(next(pauses, 0.0))
        return await put(deliveries)

    monkeypatch.setattr(api.spool, "put", slowly)
    sent = b""
    for number in range(12):
        item = {"id": f"n-{number}", "notification": plain(device(pushkey=f"{number:02x}" * 32), event_id=f"${number}")}
        one = body({"notifications": [item]})
        start = b"POST /push/v1/notify/batch HTTP/1.1"
        chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(one), one)
        sent += head(CHUNKED, start=start) + chunk if number % 2 else head(length(one), start=start) + one
    heard = await converse(api.port, sent + AFTER)
    *told, last = answers(heard.stream)
    assert [json.loads(each.body)["results"][0]["id"] for each in told] == [f"n-{number}" for number in range(12)]
    assert (last.status, await api.waiting()) == (404, 12)


async def test_head_is_answered_without_a_body_and_the_next_answer_stands_where_it_should(api: Api) -> None:
    for path, status in ((b"/push/v1/docs", 200), (b"/push/v1/notify", 405), (b"/nowhere", 404)):
        heard = await converse(api.port, head(start=b"HEAD %b HTTP/1.1" % path) + AFTER.replace(b"GET", b"HEAD"))
        told = answers(heard.stream, to_head=True)
        assert [each.status for each in told] == [status, 404]
        assert all(int(each.headers["content-length"]) > 0 for each in told)


# --- Expect: 100-continue

EXPECT = b"Expect: 100-continue"
REFUSED: Sequence[tuple[str, bytes, int]] = [
    ("nowhere", head(EXPECT, length(), start=b"POST /nowhere HTTP/1.1"), 404),
    ("wrong method", head(EXPECT, length(), start=b"PUT /push/v1/notify HTTP/1.1"), 405),
    ("wrong type", head(EXPECT, b"Content-Type: text/plain", length()), 415),
    ("packed", head(EXPECT, b"Content-Encoding: br", length()), 415),
    ("too large", head(EXPECT, b"Content-Length: 9999999"), 413),
    ("a page", head(EXPECT, length(), start=b"GET /push/v1/docs HTTP/1.1"), 200),
    ("without a body", head(EXPECT, start=b"POST /nowhere HTTP/1.1"), 404),
]


@pytest.mark.parametrize(("begin", "status"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
async def test_who_asks_before_sending_and_is_refused_is_closed_whatever_it_sends_then(
    begin: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LINGER_S", 0.3)
    async with watched() as (api, watch):
        heard = await converse(api.port, begin, STOWAWAY, pause_s=0.1)
        assert heard.is_closed
        assert b"100 Continue" not in heard.stream
        assert [each.status for each in answers(heard.stream)] == [status]
        assert len(watch.seen[heard.port]) == 1


@pytest.mark.parametrize("line", [EXPECT, b"expect: 100-Continue", b"Expect: 200-ok", b"Expect:"])
async def test_who_asks_before_sending_a_good_one_is_answered_once(api: Api, line: bytes) -> None:
    heard = await converse(api.port, head(line, length()), BODY, AFTER, pause_s=0.1)
    told = [each.status for each in answers(heard.stream)]
    assert told in ([200, 404], [200])
    assert heard.stream.count(b"HTTP/1.1 100 ") == (b"100" in line)
    assert await api.waiting() == 1


async def test_who_is_nobody_is_not_told_to_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LINGER_S", 0.1)
    async with serving(identify=by_certificate(())) as api:
        heard = await converse(api.port, head(EXPECT, length()), BODY, pause_s=0.1)
    assert [each.status for each in answers(heard.stream)] == [401]
    assert b"100 Continue" not in heard.stream


# --- what an answer tells

MARK = b"s3cret-mark"


@pytest.mark.parametrize(
    "sent",
    [
        head(b"X: " + MARK, start=b"TRACE /push/v1/notify HTTP/1.1"),
        head(b"X: " + MARK, start=b"OPTIONS * HTTP/1.1"),
        head(start=b"GET /" + MARK + b"?" + MARK + b" HTTP/1.1"),
        head(start=b"GET /%0d%0aX-" + MARK + b":y HTTP/1.1"),
        head(start=b"GET /<script>" + MARK + b" HTTP/1.1", host=b"Host: " + MARK),
        head(start=b"GET http://" + MARK + b"/ HTTP/1.1"),
        head(b"Content-Type: text/" + MARK, length()) + BODY,
        head(b"Content-Encoding: " + MARK, length()) + BODY,
        head(b"Authorization: Bearer " + MARK, b"Cookie: " + MARK, b"Content-Length: 2") + b"{}",
        head(length(b'"' + MARK)) + b'"' + MARK,
        head(length(MARK)) + MARK,
        MARK + b" / HTTP/1.1\r\n\r\n",
        b"GET / " + MARK + b"\r\n\r\n",
        head(MARK),
    ],
)
async def test_a_refusal_repeats_nothing_of_the_request(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sent: bytes
) -> None:
    monkeypatch.setattr(server, "LINGER_S", 0.1)
    heard = await converse(api.port, sent + AFTER)
    (first, *_) = answers(heard.stream)
    assert 400 <= first.status < 500
    assert "error" in json.loads(first.body)
    assert {"server", "x-powered-by", "set-cookie"}.isdisjoint(first.headers)
    assert MARK not in heard.stream
    assert MARK.decode() not in "".join(capsys.readouterr())


async def test_an_answer_is_packed_for_nobody(api: Api) -> None:
    """Secrets beside text that a stranger chooses, packed together, could be guessed by their length."""
    offers: list[Any] = [("accept-encoding", "gzip, br, zstd, deflate"), ("te", "gzip")]
    for answer in (
        await api.http.post("/push/v1/notifyEncrypted/batch", json=batch(encrypted()), headers=offers),
        await api.http.get("/push/v1/openapi.json", headers=offers),
    ):
        assert "content-encoding" not in answer.headers
