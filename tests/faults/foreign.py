"""nginx in Apple's place: takes every notification, and its access log is the list of those that it has answered."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from pushgate.emulator import Landscape
from pushgate.stage import Stage
from tests.faults.watching import Watch

STARTS_WITHIN_S = 10.0
RATE_PER_S = 100
"""What it takes. The rest waits and is in flight."""

_CONFIGURATION = """
{user} daemon off; pid {folder}/pid; error_log {folder}/error.log warn; worker_processes 1;
events {{ worker_connections 512; }}
http {{
  log_format taken escape=json '{{"path":"$uri","status":$status,"body":"$request_body"}}';
  access_log off; client_max_body_size 1m; client_body_buffer_size 256k;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  limit_req_zone $server_name zone=slow:1m rate={rate}r/s;
  server {{
    listen 127.0.0.1:{port} ssl http2; ssl_certificate {certificate}; ssl_certificate_key {key};
    location / {{ access_log {folder}/taken.log taken; proxy_pass http://unix:{folder}/inner; }}
  }}
  server {{
    listen unix:{folder}/inner;
    location / {{ limit_req zone=slow burst=10000; try_files /none @yes; }}
    location @yes {{ return 200; }}
  }}
}}
"""
"""`return` alone would come before `limit_req` in nginx's phases. What waits there is in flight and not taken."""


class _Taken(Struct):
    path: str
    status: int
    body: str


class Nginx:
    """nginx on one port, started again and again."""

    def __init__(self, folder: Path, landscape: Landscape, *, port: int) -> None:
        self.port = port
        self._folder = folder
        self._process: Process | None = None
        user = "user root root;" if os.geteuid() == 0 else ""
        text = _CONFIGURATION.format(
            user=user,
            folder=folder,
            port=self.port,
            rate=RATE_PER_S,
            certificate=landscape.server_cert_file,
            key=landscape.server_key_file,
        )
        (folder / "nginx.conf").write_text(text)

    async def start(self) -> None:
        """Start it and wait until it accepts."""
        binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if binary is None:
            assert not os.environ.get("CI"), "nginx must be installed where CI is set"
            pytest.skip("nginx is not installed")
        (self._folder / "inner").unlink(missing_ok=True)
        options = ("-p", self._folder, "-c", self._folder / "nginx.conf", "-e", self._folder / "early.log")
        self._process = await asyncio.create_subprocess_exec(
            binary, *options, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
        )
        async with asyncio.timeout(STARTS_WITHIN_S):
            while True:
                with suppress(ConnectionRefusedError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                assert self._process.returncode is None, (self._folder / "early.log").read_text()
                await asyncio.sleep(0.02)

    async def end(self, number: signal.Signals) -> None:
        """SIGTERM: break off, now. SIGQUIT: GOAWAY, and answer what is in flight."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and its worker, and to nobody else."""
        if self._process is not None and self._process.returncode is None:
            os.killpg(self._process.pid, number)

    async def tell(self, watch: Watch) -> None:
        """Tell the watch of every notification that is answered with 200, for ever."""
        log = self._folder / "taken.log"
        read, rest = 0, b""
        while True:
            if log.exists():
                with log.open("rb") as file:
                    file.seek(read)
                    data = file.read()
                read += len(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    taken = msgspec.json.decode(line, type=_Taken)
                    if taken.status == 200:
                        fields = msgspec.json.decode(taken.body, type=dict[str, object])
                        watch.arrived(taken.path.removeprefix("/3/device/"), fields)
            await asyncio.sleep(0.05)


@asynccontextmanager
async def nginx(folder: Path, stage: Stage, watch: Watch, *, port: int) -> AsyncIterator[Nginx]:
    """nginx, started and watched, until the block ends."""
    own = folder / "nginx"
    own.mkdir()
    server = Nginx(own, stage.landscape, port=port)
    telling = asyncio.create_task(server.tell(watch))
    try:
        await server.start()
        yield server
    finally:
        server.signal(signal.SIGCONT)
        await server.end(signal.SIGTERM)
        telling.cancel()
