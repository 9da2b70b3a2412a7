"""The provider sink: a provider in C that takes everything, compiled, started, and asked what it got.

Its source is `provider_sink/sink.c`; it needs gcc, libnghttp2-dev, libevent-dev and libssl-dev.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench import machine
from pushgate.emulator import Landscape

SOURCE = Path(__file__).parent / "provider_sink" / "sink.c"
LIBRARIES = ("-levent", "-levent_openssl", "-lssl", "-lcrypto", "-lnghttp2")
MAX_STREAMS = 1000
LOOK_EVERY_S = 0.01


def compiled(folder: Path) -> Path:
    """The program, made in this folder. Raises `SystemExit` with what the compiler said."""
    program = folder / "sink"
    done = subprocess.run(
        [machine.tool("gcc"), "-O2", "-o", str(program), str(SOURCE), *LIBRARIES],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{done.stderr}\ncannot compile: apt-get install libnghttp2-dev libevent-dev libssl-dev")
    return program


class Sink:
    """One that runs."""

    def __init__(self, process: Process, port: int) -> None:
        self._process = process
        self.port = port
        self.pid = process.pid

    async def taken(self) -> int:
        """How many notifications it has taken so far."""
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGUSR1)
        async with asyncio.timeout(10):
            words = (await self._process.stdout.readline()).split()
        return int(words[1])

    async def until(self, count: int, *, within_s: float) -> bool:
        """Wait until it has taken so many in all. Whether it has in time."""
        try:
            async with asyncio.timeout(within_s):
                while await self.taken() < count:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(LOOK_EVERY_S)
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def running(program: Path, land: Landscape, *, core: int, delay_s: float = 0.0) -> AsyncIterator[Sink]:
    """Start one on a core of its own and end it with the context. It answers after `delay_s`."""
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        port = int(probing.getsockname()[1])
    files = (str(land.server_key_file), str(land.server_cert_file))
    command = machine.pinned(core, str(program), str(port), *files, str(MAX_STREAMS), str(int(delay_s * 1000)))
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    try:
        async with asyncio.timeout(10):
            while not await _listens(port):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
        yield Sink(process, port)
    finally:
        process.kill()
        await process.communicate()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
