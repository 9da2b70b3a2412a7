"""The same bytes through nginx: what it takes for one request is one request here, and never more."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from asyncio.subprocess import DEVNULL
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pushgate.model import Caller
from tests.api import serving
from tests.conformance.hardening import AFTER, converse
from tests.conformance.hardening_framing import broken_lines, doubtful_chunks, doubtful_lengths, sound
from tests.conformance.hardening_requests import compressed, methods, targets

STARTS_WITHIN_S = 10.0
TABLES = (doubtful_lengths, doubtful_chunks, broken_lines, sound, methods, targets, compressed)

CONFIGURATION = """
{user} daemon off; pid {folder}/pid; error_log {folder}/error.log crit; worker_processes 1;
events {{ worker_connections 512; }}
http {{
  log_format told '$remote_port $request_method $status $upstream_status';
  access_log {folder}/told.log told;
  client_max_body_size 1m; client_body_timeout 1s; client_header_timeout 2s; lingering_close off;
  large_client_header_buffers 4 64k; ignore_invalid_headers off;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  upstream gateway {{ server 127.0.0.1:{behind}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://gateway; proxy_http_version 1.1; proxy_request_buffering {buffering};
      proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header X-Case $remote_port;
    }}
  }}
}}
"""


@asynccontextmanager
async def nginx(folder: Path, *, behind: int, buffering: str) -> AsyncIterator[int]:
    """nginx in front of a port, with its few connections to it shared by all who call. Its log is whole at the end."""
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if binary is None:
        assert not os.environ.get("CI"), "nginx must be installed where CI is set"
        pytest.skip("nginx is not installed")
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        port = int(probing.getsockname()[1])
    user = "user root root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        CONFIGURATION.format(folder=folder, port=port, behind=behind, user=user, buffering=buffering)
    )
    process = await asyncio.create_subprocess_exec(
        *(binary, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "early.log"), stdout=DEVNULL, stderr=DEVNULL
    )
    try:
        async with asyncio.timeout(STARTS_WITHIN_S):
            while True:
                with suppress(ConnectionRefusedError):
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    break
                assert process.returncode is None, (folder / "early.log").read_text()
                await asyncio.sleep(0.02)
        yield port
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGQUIT)
            await process.wait()


class Behind:
    """What the gateway sees of each case, told apart by a header that nginx sets."""

    def __init__(self) -> None:
        self.methods: dict[str, list[str]] = defaultdict(list)

    def identify(self, scope: Any) -> Caller:
        values = [value for name, value in scope["headers"] if name == b"x-case"]
        self.methods[b",".join(values).decode()].append(scope["method"])
        return Caller("anyone")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("buffering", ["on", "off"])
async def test_nginx_and_the_gateway_see_the_same_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], buffering: str
) -> None:
    monkeypatch.setattr("pushgate.server.LINGER_S", 0.1)
    cases = [case for table in TABLES for case in table()]
    behind, names = Behind(), dict[str, str]()
    async with serving(identify=behind.identify, request_timeout_s=2) as api:
        document = (await api.http.get("/push/v1/openapi.json")).content
        async with nginx(tmp_path, behind=api.port, buffering=buffering) as port:
            gate = asyncio.Semaphore(8)

            async def one(name: str, sent: bytes) -> None:
                async with gate:
                    heard = await converse(port, sent + AFTER)
                    names[str(heard.port)] = name
                    ask = b"GET /push/v1/openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                    answer = (await converse(port, ask)).stream
                    assert answer.endswith(document), f"{name}: another's answer: {answer[:200]!r}"

            async with asyncio.TaskGroup() as tasks:
                for case in cases:
                    tasks.create_task(one(case.name, case.sent))
    told: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for line in (tmp_path / "told.log").read_text().splitlines():
        client, method, _, upstream = line.split(" ", 3)
        if upstream != "-":
            told[client].append((method, upstream))
    assert len(names) > len(cases) / 2  # a port may come again: its cases are judged together
    forwarded = 0
    for client, name in names.items():
        sent, seen = told[client], behind.methods[client]
        forwarded += len(sent)
        # What the parser refuses is seen by nobody; all else is seen as often as it was sent, in that order.
        assert len(seen) <= len(sent), (name, sent, seen)
        refused = len(sent) - len(seen)
        assert [status for _, status in sent].count("400") >= refused, (name, sent, seen)
        if not refused:
            assert [method for method, _ in sent] == seen, (name, sent, seen)
        assert not any(status.startswith("5") for _, status in sent), (name, sent)
    with capsys.disabled():
        print(f"\nthrough nginx, buffering {buffering}: {len(cases)} cases, {forwarded} requests forwarded and seen")
