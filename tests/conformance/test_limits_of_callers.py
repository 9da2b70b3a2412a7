"""429: who sends more than it may is told so, alone, before its body counts, and is counted by its name."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from pushgate.allowance import Allowances, Limit
from pushgate.errors import RequestError
from pushgate.model import Caller
from pushgate.server import TOO_OFTEN, UNAUTHENTICATED, Scope
from tests.api import BATCH, NOTIFY, SEALED, serving
from tests.samples import APNS_APP, batch, body, device, encrypted, plain


def by_header(scope: Scope) -> Caller:
    """Who they are stands in a header; sealed ones only may `sealed` send, to one app `narrow`."""
    name = dict(scope["headers"]).get(b"x-caller", b"").decode()
    if not name:
        raise RequestError(401, UNAUTHENTICATED, ends_connection=True)
    return Caller(name, ("org.*",) if name == "narrow" else ("*",), plain=name != "sealed")


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def request(caller: str, *headers: str, path: str = NOTIFY, content: bytes = b"") -> bytes:
    content = content or body({"notification": plain(event_id=f"${id(object())}")})
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"X-Caller: {caller}", *headers, f"Content-Length: {len(content)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


async def test_who_is_over_its_limit_gets_429_and_nobody_else_does() -> None:
    time = Time()
    allowances = Allowances({"busy": Limit(0.4, 2), "other": Limit(0.4, 2)})
    async with serving(identify=by_header, allowances=allowances, monotonic=time) as api:
        statuses = []
        for number in range(4):
            answer = await api.http.post(
                NOTIFY, json={"notification": plain(event_id=f"${number}")}, headers={"X-Caller": "busy"}
            )
            statuses.append(answer.status_code)
        assert statuses == [200, 200, 429, 429]
        assert answer.headers["retry-after"] == "3"  # 2.5 s, in whole seconds
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {"error": TOO_OFTEN}
        assert await api.waiting() == 2
        for caller in ("other", "free", "free", "free"):
            answer = await api.http.post(SEALED, json=batch(encrypted()), headers={"X-Caller": caller})
            assert answer.status_code == 200
        time.now += 2.5
        answer = await api.http.post(NOTIFY, json={"notification": plain()}, headers={"X-Caller": "busy"})
        assert answer.status_code == 200
        told = api.metrics.requests
        assert [told[("busy", status)].value for status in (200, 429)] == [3, 2]
        assert [told[("other", status)].value for status in (200, 429)] == [1, 0]


async def test_a_request_counts_whatever_is_in_it_and_one_that_goes_astray_does_not() -> None:
    allowances = Allowances({"busy": Limit(0.001, 1), "sealed": Limit(0.001, 1)})
    async with serving(identify=by_header, allowances=allowances, monotonic=Time()) as api:
        headers = {"X-Caller": "busy"}
        assert (await api.http.post("/push/v1/nowhere", headers=headers)).status_code == 404
        assert (await api.http.put(NOTIFY, headers=headers)).status_code == 405
        assert (await api.http.get("/push/v1/openapi.json", headers=headers)).status_code == 200
        items = batch(*[encrypted(device=device(pushkey=f"{n:064x}")) for n in range(100)])
        assert (await api.http.post(SEALED, json=items, headers=headers)).status_code == 200
        assert (await api.http.post(SEALED, json=items, headers=headers)).status_code == 429
        assert (await api.http.post(NOTIFY, json={}, headers={"X-Caller": "sealed"})).status_code == 401
        answer = await api.http.post(SEALED, json=batch(encrypted()), headers={"X-Caller": "sealed"})
        assert answer.status_code == 200  # the 401 had cost nothing


async def test_an_app_that_is_not_allowed_is_an_item_that_failed() -> None:
    async with serving(identify=by_header) as api:
        items = batch(encrypted(), encrypted(device=device("org.example.other")))
        answer = await api.http.post(SEALED, json=items, headers={"X-Caller": "narrow"})
        assert answer.status_code == 200
        first, second = answer.json()["results"]
        assert (first["status"], second["status"]) == ("failed", "success")
        assert first["error"] == f"app_id '{APNS_APP}' is not allowed for this caller"
        assert first["rejected"] == []


@pytest.mark.parametrize(
    ("headers", "content", "kept"),
    [
        ((), b"", True),
        ((), b"{}" * 100_000, True),
        (("Expect: 100-continue",), b"", False),
        ((), b"{}" * 1_000_000, False),
    ],
    ids=["small", "larger", "not sent yet", "too large"],
)
async def test_the_connection_goes_on_after_a_429_where_its_body_is_not_too_large(
    headers: tuple[str, ...], content: bytes, kept: bool
) -> None:
    """A new connection would cost more than the request that was refused."""
    async with serving(identify=by_header, allowances=Allowances({"busy": Limit(0.001, 1)})) as api:
        first = request("busy") + request("busy", *headers, content=content)
        answer = await api.raw(first, then=request("free"), pause_s=0.3)
        assert answer.count(b"HTTP/1.1 429 ") == 1
        assert (answer.count(b"HTTP/1.1 200 ") == 2) is kept
        assert (b"connection: close" in answer) is not kept


async def test_a_refused_body_that_does_not_come_is_not_waited_for_long() -> None:
    allowances = Allowances({"busy": Limit(0.001, 1)})
    async with serving(identify=by_header, allowances=allowances, request_timeout_s=0.2) as api:
        begun = request("busy")
        answer = await api.raw(request("busy") + begun[: begun.index(b"\r\n\r\n") + 10])
        assert answer.count(b"HTTP/1.1 429 ") == 1
        assert b"connection: close" in answer
        chunked = request("busy", "Transfer-Encoding: chunked").replace(b"Content-Length", b"X-Length")
        assert b"connection: close" in await api.raw(chunked[: chunked.index(b"\r\n\r\n") + 4])


async def test_a_caller_that_hangs_up_in_a_refused_body_does_no_harm() -> None:
    async with serving(identify=by_header, allowances=Allowances({"busy": Limit(0.001, 1)})) as api:
        assert (await api.raw(request("busy"))).startswith(b"HTTP/1.1 200 ")
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(request("busy")[:-3])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await api.raw(request("free"))).startswith(b"HTTP/1.1 200 ")


async def test_refusals_are_logged_with_the_name_and_nothing_of_the_request() -> None:
    with capture_logs() as logs:
        async with serving(identify=by_header, allowances=Allowances({"busy": Limit(0.001, 1)})) as api:
            for caller in ("busy", "busy", "busy", ""):
                await api.http.post(NOTIFY, json={"notification": plain()}, headers={"X-Caller": caller})
            await api.http.post(BATCH, content=b"SECRET", headers={"X-Caller": "free"})
    told = [line for line in logs if line["event"] == "requests refused"]
    assert [(line["caller"], line["status"], line["count"]) for line in told] == [
        ("busy", 429, 1),
        ("(nobody)", 401, 1),
        ("free", 400, 1),
    ]
    assert "SECRET" not in str(logs)
