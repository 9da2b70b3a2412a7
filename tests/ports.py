"""Ports for servers that a test starts a moment later."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Sequence
from itertools import cycle, islice

FIRST = 12_000
OF_A_WORKER = 1_000
WORKERS = 20
"""12,000 to 31,999: below those from which Linux takes the near ends of connections (32,768 to 60,999). A port of those
may be free when it is looked for, and the near end of somebody's connection when the server comes."""


def _in_turn() -> Sequence[int]:
    """All ports of this worker of the tests, from anywhere on: another run of the tests begins elsewhere."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    first = FIRST + worker * OF_A_WORKER
    begin = random.randrange(OF_A_WORKER)
    return [first + (begin + number) % OF_A_WORKER for number in range(OF_A_WORKER)]


_candidates = cycle(_in_turn())


def free_port() -> int:
    """A port of loopback that nobody has, that nobody is given meanwhile, and that no test was told of lately."""
    for port in islice(_candidates, OF_A_WORKER):
        with socket.socket() as probing:
            try:
                probing.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"none of {OF_A_WORKER} ports is free")


def free_ports(count: int) -> Sequence[str]:
    """So many of them, as they are written in a page."""
    return [str(free_port()) for _ in range(count)]
