"""A network of its own for one NATS server, with two cables: one to clients, one to the other servers. Either is cut.

What is cut says nothing: no reset, no refusal. Network namespaces of the kernel, so for root only.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum

import pytest

from tests.nats_cluster import Place


class Cable(StrEnum):
    """What it leads to."""

    CLIENTS = "c"
    SERVERS = "s"


class Island:
    """Made by `island`."""

    def __init__(self, stack: ExitStack) -> None:
        self._name = f"pgt{os.getpid()}{secrets.token_hex(2)}"
        self._net = f"198.18.{secrets.randbelow(250)}"
        """Of the block for measurements (RFC 2544)."""
        self._stack = stack

    def make(self) -> None:
        _ip("netns", "add", self._name)
        self._stack.callback(_ip, "netns", "delete", self._name)
        self._inside("ip", "link", "set", "lo", "up")
        for number, cable in enumerate(Cable):
            here, there = self._ends(cable)
            _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", self._name)
            self._stack.callback(subprocess.run, ["ip", "link", "delete", here], capture_output=True, check=False)
            _ip("address", "add", f"{self._net}.{4 * number + 1}/30", "dev", here)
            _ip("link", "set", here, "up")
            self._inside("ip", "address", "add", f"{self._net}.{4 * number + 2}/30", "dev", there)
            self._inside("ip", "link", "set", there, "up")

    @property
    def place(self) -> Place:
        """Of the server on the island."""
        return Place(f"{self._net}.2", f"{self._net}.6", ("ip", "netns", "exec", self._name))

    @property
    def shore(self) -> Place:
        """Of servers here that the one on the island can reach."""
        return Place("127.0.0.1", f"{self._net}.5")

    def cut(self, *cables: Cable) -> None:
        for cable in cables:
            self._inside("ip", "link", "set", self._ends(cable)[1], "down")

    def heal(self) -> None:
        for cable in Cable:
            self._inside("ip", "link", "set", self._ends(cable)[1], "up")

    def _ends(self, cable: Cable) -> tuple[str, str]:
        return f"{self._name}{cable}", f"in{cable}"

    def _inside(self, *command: str) -> None:
        _ip("netns", "exec", self._name, *command)


@contextmanager
def island() -> Iterator[Island]:
    """Skips where no network can be made."""
    with ExitStack() as stack:
        made = Island(stack)
        try:
            made.make()
        except OSError as fault:
            pytest.skip(f"no network of its own can be made here: {type(fault).__name__}")
        except subprocess.CalledProcessError:
            pytest.skip("the kernel does not permit a network of its own")
        yield made


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
