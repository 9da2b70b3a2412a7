"""What the listener refuses although its parser would take it, and what it does not answer twice."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from pushgate import listener
from tests.conformance.hardening import (
    BODY,
    STOWAWAY,
    Case,
    Way,
    answers,
    converse,
    faults,
    head,
    length,
    watched,
)
from tests.conformance.hardening_framing import HIDDEN, closed, refused, taken

HOSTS = (
    None,
    b"Host: x\r\nHost: y",
    b"Host: x\r\nHost: x",
    b"Host: a b",
    b"Host: a/b",
    b"Host: a@b",
    b'Host: a, "b"',
    b"Host: ../../x",
    b"Host: \xff",
    b"Host: a?b",
    b"Host: <x>",
)
GOOD_HOSTS = (b"Host:", b"Host: ", b"Host: [::1]:80", b"Host: gateway.example.org:443", b"host: x", b"HOST: 192.0.2.1")
START_LINES = (
    b"GET /push/v1/docs",
    b"GET /push/v1/docs HTTP/0.9",
    b"POST /push/v1/notify HTTP/2.0",
    b"POST /push/v1/notify HTTP/0.9",
    b"PRI /push/v1/notify HTTP/2.0",
)
ENCODED = (
    "/%70ush/v1/notify",
    "/push/v1/%6eotify",
    "/push%2fv1/notify",
    "/push%2Fv1%2Fnotify",
    "/push/v1/notify%2fbatch",
)


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushgate.server.LINGER_S", 0.3)


def cases() -> Iterator[Case]:
    for host in HOSTS:
        yield closed(f"host {host!r}", head(length(), host=host) + BODY + STOWAWAY)
    for host in GOOD_HOSTS:
        yield taken(f"host {host!r}", head(length(), host=host) + BODY)
    for start in START_LINES:
        yield closed(f"start line {start!r}", head(length(), start=start) + BODY + STOWAWAY)
    for path in ENCODED:
        start = f"POST {path} HTTP/1.1".encode()
        yield taken(f"path {path}", head(b"Content-Length: 0", start=start), 404)
        yield refused(f"path {path} with a body", head(length(HIDDEN), start=start) + HIDDEN, 404)


@pytest.mark.parametrize("way", Way)
async def test_what_is_no_request_of_http_1_is_refused_whatever_the_parser_says(
    way: Way, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await faults(cases(), way) == {}
    with capsys.disabled():
        print(f"\nmessages beside those of test_hardening_http.py, {way}: {len(list(cases()))}")


@pytest.mark.parametrize(
    ("begin", "status"),
    [
        (head(b"Transfer-Encoding: chunked", start=b"POST /nowhere HTTP/1.1"), 404),
        (head(b"Transfer-Encoding: chunked", b"Content-Encoding: gzip"), 415),
        (head(b"Transfer-Encoding: chunked") + b"200000\r\n" + b" " * 1_048_577, 413),
    ],
)
async def test_a_refused_request_whose_body_breaks_afterwards_has_one_answer(begin: bytes, status: int) -> None:
    async with watched() as (api, watch):
        heard = await converse(api.port, begin, b"zz\r\n" + STOWAWAY, pause_s=0.15)
        assert heard.is_closed
        assert [each.status for each in answers(heard.stream)] == [status]
        assert len(watch.seen[heard.port]) == 1


async def test_http_1_0_is_never_told_to_continue() -> None:
    async with watched() as (api, _):
        begin = head(b"Expect: 100-continue", length(), start=b"POST /push/v1/notify HTTP/1.0")
        heard = await converse(api.port, begin, BODY, pause_s=0.1)
        assert b" 100 " not in heard.stream
        assert [each.status for each in answers(heard.stream)] == [200]


async def test_who_does_not_read_its_answers_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "SENT_WITHIN_S", 0.3)
    async with watched() as (api, _):
        loop, ask = asyncio.get_running_loop(), head(start=b"GET /push/v1/openapi.json HTTP/1.1")
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            await loop.sock_connect(deaf, ("127.0.0.1", api.port))
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(10):
                    while True:
                        await loop.sock_sendall(deaf, ask)
                        await asyncio.sleep(0.01)
        assert (await api.http.get("/push/v1/docs")).status_code == 200
