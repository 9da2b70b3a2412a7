"""Floods: a burst over many connections, and a body without an end behind an answer."""

from __future__ import annotations

import asyncio
import functools
import resource
import socket
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from pushgate.allowance import Allowances, Limit
from pushgate.callers import by_certificate
from pushgate.listener import Listener
from pushgate.model import Caller
from pushgate.server import Scope
from pushgate.tls import Files, server_tls
from tests.api import SEALED, serving
from tests.conformance.odd_callers import AUTHORITY, ENTRY, ERP
from tests.samples import batch, device, encrypted
from tests.tls_server import client_tls, run_on


def by_header(scope: Scope) -> Caller:
    return Caller(dict(scope["headers"]).get(b"x-caller", b"anyone").decode())


@pytest.mark.parametrize("connections", [1, 40])
async def test_a_burst_is_as_large_over_many_connections_as_over_one(connections: int) -> None:
    allowances = Allowances({"busy": Limit(0.001, 7)})
    async with serving(identify=by_header, allowances=allowances, monotonic=lambda: 5.0) as api:
        limits = httpx.Limits(max_connections=connections)
        url = f"http://127.0.0.1:{api.port}"
        async with httpx.AsyncClient(base_url=url, limits=limits, headers={"X-Caller": "busy"}) as http:
            sent = [http.post(SEALED, json=batch(encrypted(device=device(pushkey=f"{n:064x}")))) for n in range(60)]
            statuses = [answer.status_code for answer in await asyncio.gather(*sent)]
        assert (statuses.count(200), statuses.count(429)) == (7, 53)
        assert await api.waiting() == 7
        assert (await api.http.post(SEALED, json=batch(encrypted()))).status_code == 200


FLOOD_BYTES, PIECE = 150_000_000, b"x" * 1_000_000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.timeout(40)
@pytest.mark.parametrize("way", ["uvloop", "pyopenssl"])
@pytest.mark.parametrize("who", ["a stranger", "a caller"])
def test_what_somebody_sends_behind_its_answer_is_held_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, who: str
) -> None:
    """A body without an end, inside TLS: refused, and read until the connection is closed."""
    AUTHORITY.issue("localhost").write(tmp_path, "server")
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    files = Files([(tmp_path / "server.pem", tmp_path / "server.key")], tmp_path / "ca.pem")
    tls = server_tls(files, any_purpose=way == "pyopenssl")
    monkeypatch.setattr("tests.api.Listener", functools.partial(Listener, tls=tls))
    caller = client_tls(AUTHORITY, None if who == "a stranger" else ERP, tmp_path)

    def flood(port: int) -> bytes:
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        with caller.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(b"POST /push/v1/notify HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
            answer = connection.recv(4096)
            with suppress(OSError):
                for _ in range(FLOOD_BYTES // len(PIECE)):
                    connection.sendall(PIECE)
            return answer

    async def test() -> None:
        most = before = resident_bytes()
        async with serving(identify=by_certificate([ENTRY])) as api:
            flooding = asyncio.create_task(asyncio.to_thread(flood, api.port))
            while not flooding.done():
                await asyncio.sleep(0.02)
                most = max(most, resident_bytes())
            assert (await flooding).startswith(b"HTTP/1.1 401 " if who == "a stranger" else b"HTTP/1.1 413 ")
        assert most - before < 50_000_000

    run_on(way, test())
