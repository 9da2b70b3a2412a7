"""The numbers that nobody counts: set when somebody looks. Lanes, lines to providers, credentials, files, the process.

What cannot be read (no /proc on this system, a file that is just gone) is left as it was.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary

from cryptography import x509

from pushgate.apps import Apps
from pushgate.http2 import Pool
from pushgate.lane import Lane
from pushgate.metrics import LINES, Metrics

_WAL = ("", "-wal", "-shm")
"""What SQLite adds to the name of a database for the files beside it."""


def certificate_ends_at(path: Path | None) -> float:
    """When the first certificate of a PEM file ends, in unix seconds; 0 where there is none to read."""
    with suppress(OSError, ValueError):
        if path is not None:
            return x509.load_pem_x509_certificates(path.read_bytes())[0].not_valid_after_utc.timestamp()
    return 0.0


class Gauges:
    """Sets them all at each `look`."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        lanes: Mapping[str, Lane],
        apps: Apps,
        spool_file: Path | None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._lanes = lanes
        self._apps = apps
        self._spool_files = [] if spool_file is None else [f"{spool_file}{more}" for more in _WAL]
        self._peers: set[str] = set()
        """All that there ever were: those that are gone have no connections."""
        self._told: WeakKeyDictionary[Pool, tuple[int, ...]] = WeakKeyDictionary()
        """What each line had counted when somebody looked last."""
        metrics.started_at.set(clock() - (monotonic() - _started_at(monotonic)))

    def look(self) -> None:
        """As it is now."""
        for lane in self._lanes.values():
            self._of(lane)
        for (app_id, kind), ends_at in self._apps.credentials_end_at().items():
            self._metrics.lanes[app_id].credential_ends(kind, ends_at)
        self._of_lines(self._apps.lines())
        self._of_files()
        self._of_process()

    def _of(self, lane: Lane) -> None:
        standing, counts = lane.standing(), self._metrics.lanes[lane.name]
        counts.in_flight = standing.in_flight
        counts.most_in_flight = standing.dares
        counts.pause_s = standing.pause_s
        counts.breaker_is_open = standing.breaker_is_open
        counts.failures_in_a_row = standing.failures_in_a_row
        counts.failing_s = standing.failing_s

    def _of_lines(self, lines: Mapping[str, Sequence[Pool]]) -> None:
        metrics = self._metrics
        metrics.add_peers(lines)
        self._peers |= lines.keys()
        for peer in self._peers:
            pools = lines.get(peer, ())
            metrics.lines.child(peer).set(sum(pool.connections for pool in pools))
            metrics.streams.child(peer).set(sum(pool.in_flight for pool in pools))
            metrics.queued.child(peer).set(sum(pool.waiting for pool in pools))
            for pool in pools:
                counts = _counts_of(pool)
                before = self._told.get(pool, (0,) * len(LINES))
                for event, now, then in zip(LINES, counts, before, strict=True):
                    metrics.line_events.child(peer, event).inc(now - then)
                self._told[pool] = counts

    def _of_files(self) -> None:
        size = 0
        for path in self._spool_files:
            with suppress(OSError):
                size += os.stat(path).st_size  # noqa: PTH116 - at every look: no Path is made for it
        self._metrics.spool_bytes.set(size)

    def _of_process(self) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        self._metrics.cpu_seconds.value = used.ru_utime + used.ru_stime
        with suppress(OSError, ValueError, IndexError):
            pages = Path("/proc/self/statm").read_text("ascii").split()[1]
            self._metrics.memory_bytes.set(int(pages) * resource.getpagesize())
            self._metrics.open_files.set(len(os.listdir("/proc/self/fd")))  # noqa: PTH208 - names are enough


def _counts_of(pool: Pool) -> tuple[int, ...]:
    """In the order of `LINES`."""
    return (
        pool.connections_opened,
        pool.connections_failed,
        pool.connections_lost,
        pool.connections_mute,
        pool.goaways,
    )


def _started_at(monotonic: Callable[[], float]) -> float:
    """When this process started, by that clock, as far as the system tells; else now (proc(5): field 22 of stat)."""
    with suppress(OSError, ValueError, IndexError):
        ticks = int(Path("/proc/self/stat").read_text("ascii", "replace").rpartition(")")[2].split()[19])
        return ticks / os.sysconf("SC_CLK_TCK")
    return monotonic()
