"""The machine that is measured on: its cores, what a process has used of them, and h, the unit of cost."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import ssl
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Self

from msgspec import Struct

H_REQUESTS = 200_000
H_BODY_BYTES = 1900
H_WITHIN_S = 60
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_SCHEDULED = 2
"""CPUCLOCK_SCHED: time on a CPU, user and system, of all threads of a process (Linux, posix-timers.h)."""


def cpu_s(pid: int) -> float:
    """CPU seconds that this process has used so far, to the nanosecond: clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | _SCHEDULED)


def memory_mb(pid: int, name: str) -> float:
    """`VmRSS`, what is resident, or `VmHWM`, the most that ever was, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024 / 1e6


class Cores(Struct, frozen=True):
    """Which core is whose. On a machine with two, sink and load share the second."""

    gateway: int
    sink: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Self:
        """Those that this process may use. Raises `SystemExit` where there is one only."""
        mine = sorted(os.sched_getaffinity(0))
        if len(mine) < 2:
            raise SystemExit("this needs two cores: one for the gateway alone")
        return cls(mine[0], mine[1], mine[min(2, len(mine) - 1)])


class CoreTime(Struct, frozen=True):
    """What a core has done so far, in seconds (/proc/stat)."""

    busy_s: float
    interrupts_s: float
    stolen_s: float
    """The host gave it to others."""

    @classmethod
    def of(cls, core: int) -> Self:
        """Up to now."""
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name == f"cpu{core}":
                user, nice, system, _, _, irq, softirq, steal = (int(field) * TICK_S for field in fields[:8])
                return cls(user + nice + system + irq + softirq, irq + softirq, steal)
        raise SystemExit(f"/proc/stat has no core {core}")

    def since(self, before: Self) -> CoreTime:
        """What it has done between the two."""
        return CoreTime(
            self.busy_s - before.busy_s, self.interrupts_s - before.interrupts_s, self.stolen_s - before.stolen_s
        )


def pinned(core: int, *command: str) -> list[str]:
    """The command, on that core alone."""
    return [tool("taskset"), "-c", str(core), *command]


def tool(name: str) -> str:
    """Where a program is. Raises `SystemExit` where it is not."""
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is not installed: apt-get install nghttp2-client util-linux gcc")
    return found


class Yardstick:
    """Measures h: what h2load, nghttp2's own client in C, spends on one request to the sink, in seconds of CPU."""

    def __init__(self, port: int, *, core: int, folder: Path) -> None:
        body = folder / "h2load.body"
        body.write_bytes(b"b" * H_BODY_BYTES)
        what = ("-n", str(H_REQUESTS), "-c", "1", "-m", "500", "-d", str(body))
        self._command = pinned(core, tool("h2load"), *what, f"https://localhost:{port}/3/device/ab")

    def measure(self) -> float:
        """CPU seconds for one request, user and system. Raises `SystemExit` where not all were answered 2xx."""
        before = getrusage(RUSAGE_CHILDREN)
        done = subprocess.run(self._command, capture_output=True, text=True, check=False, timeout=H_WITHIN_S)
        after = getrusage(RUSAGE_CHILDREN)
        if done.returncode or f" {H_REQUESTS} 2xx" not in done.stdout:
            raise SystemExit(f"h2load failed: {done.stdout}{done.stderr}")
        return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / H_REQUESTS


class Machine(Struct, frozen=True):
    """What figures depend on."""

    cpu: str
    cores: int
    memory_gb: float
    kernel: str
    disk: str
    """File system and device of the spool."""
    versions: str

    @classmethod
    def this(cls, folder: Path) -> Self:
        """This one, with the spool in this folder."""
        return cls(
            cpu=_cpu(),
            cores=os.cpu_count() or 1,
            memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            kernel=f"{platform.system()} {platform.release().partition('-')[0]}",
            disk=_disk(folder),
            versions=_versions(),
        )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _disk(folder: Path) -> str:
    """Of the longest mount point that holds it."""
    best = ("", "unknown")
    whole = f"{folder.resolve()}/"
    for line in Path("/proc/mounts").read_text().splitlines():
        device, place, kind, *_ = line.split()
        if whole.startswith(place.rstrip("/") + "/") and len(place) >= len(best[0]):
            best = (place, f"{kind} on {device.removeprefix('/dev/')}")
    return best[1]


def _versions() -> str:
    h2load = subprocess.run([tool("h2load"), "--version"], capture_output=True, text=True, check=True).stdout
    return ", ".join(
        [
            f"Python {sys.version.partition(' ')[0]}",
            *(f"{name} {version(name)}" for name in ("pushgate", "uvloop", "httptools", "uvicorn", "msgspec")),
            f"SQLite {sqlite3.sqlite_version}",
            " ".join(ssl.OPENSSL_VERSION.split()[:2]),
            h2load.strip(),
        ]
    )
