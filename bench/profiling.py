"""A flame graph of a gateway under load, drawn by py-spy (https://github.com/benfred/py-spy), which is not in the lock.

python -m venv /tmp/py-spy && /tmp/py-spy/bin/pip install py-spy
PATH=$PATH:/tmp/py-spy/bin python -m bench.speed --only batch100 --flame flame.svg
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from bench import machine

SAMPLES_PER_S = 250
ENDS_WITHIN_S = 30


class Profiler(Struct, frozen=True):
    """What draws, where to, and on whose core it works."""

    program: str
    out: Path
    core: int

    @classmethod
    def found(cls, out: Path, *, core: int) -> Profiler:
        """Raises `SystemExit` where py-spy is not on the PATH."""
        program = shutil.which("py-spy")
        if program is None:
            raise SystemExit("py-spy is not on the PATH: python -m venv DIR && DIR/bin/pip install py-spy")
        return cls(program, out, core)

    @asynccontextmanager
    async def looking_at(self, pid: int) -> AsyncIterator[None]:
        """Sample the process as long as the context lasts, then draw. Raises `SystemExit` where that fails."""
        what = ("record", "--pid", str(pid), "--output", str(self.out), "--rate", str(SAMPLES_PER_S), "--threads")
        command = machine.pinned(self.core, self.program, *what)
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
        try:
            yield
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(ENDS_WITHIN_S):
                _, said = await process.communicate()
            if process.returncode or not self.out.exists():
                raise SystemExit(f"py-spy failed: {said.decode()[-1000:]}")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
