"""A real nginx for tests: one worker in the foreground, everything of it in a folder of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
START_WITHIN_S = 10.0

_MAIN = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
{http}
}}
"""


@asynccontextmanager
async def nginx(folder: Path, http: str, *, port: int) -> AsyncIterator[Process]:
    """nginx with this in its `http` block, from when it listens on the port until it has ended."""
    folder.mkdir(exist_ok=True)
    config = folder / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""  # the folder is ours alone
    config.write_text(user + _MAIN.format(folder=folder, http=http))
    process = await asyncio.create_subprocess_exec(
        NGINX, "-e", "stderr", "-p", str(folder), "-c", str(config), stdin=DEVNULL, stdout=DEVNULL
    )
    try:
        async with asyncio.timeout(START_WITHIN_S):
            while not await _listens(port):
                assert process.returncode is None, (folder / "error.log").read_text()
                await asyncio.sleep(0.02)
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGQUIT)
            try:
                async with asyncio.timeout(5):
                    await process.wait()
            except TimeoutError:
                process.terminate()
                await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
