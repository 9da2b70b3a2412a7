"""The page "Try it with emulators": every shell block, in its three terminals, prints what the page says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from msgspec import Struct

from tests.ports import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "try-it-with-emulators.md"
PORTS = ("2197", "2198", "8443", "8081")
"""Of the page. Here they are others, for these may be taken."""
LOOKS_AGAIN_FOR_S = 15.0
MARK = "--- the block has ended ---"


class Block(Struct, frozen=True):
    """A shell block, and what the page says that it prints; empty where it says nothing."""

    command: str
    printed: str

    def is_fulfilled_by(self, output: str) -> bool:
        """Whether that is what the page says. "…" stands for anything; who ends without a line break is forgiven."""
        wanted = ".*".join(map(re.escape, self.printed.rstrip("\n").split("…")))
        return re.fullmatch(wanted, output.rstrip("\n"), re.DOTALL) is not None


def blocks(text: str) -> Sequence[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    assert {kind for kind, _ in found} == {"sh", "text"}
    return [
        Block(content, following[1] if following[0] == "text" else "")
        for (kind, content), following in zip(found, [*found[1:], ("", "")], strict=True)
        if kind == "sh"
    ]


def run_until_it_fits(block: Block, output: Callable[[], str]) -> None:
    """A person who sees something else looks, or sends, again in a moment."""
    deadline = time.monotonic() + LOOKS_AGAIN_FOR_S
    while not block.is_fulfilled_by(printed := output()):
        assert time.monotonic() < deadline, f"{block.command}printed\n{printed}and not\n{block.printed}"
        time.sleep(0.2)


@contextmanager
def runs_on(block: Block, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """A terminal in which a command runs until Ctrl-C, and ends well then."""
    log = folder / f"{block.command.split()[1]}.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            ["bash", "-c", f"exec {block.command}"], cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT
        ) as running,
    ):
        try:
            run_until_it_fits(block, log.read_text)
            yield
        finally:
            running.send_signal(signal.SIGINT)
            try:
                assert running.wait(timeout=20) == 0, log.read_text()
            finally:
                running.kill()


class Terminal:
    """A shell in which one block is run after the other."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> str:
        """What the block prints."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{command}\necho; echo '{MARK}'\n")
        self._shell.stdin.flush()
        lines: list[str] = []
        while (line := self._shell.stdout.readline()) != f"{MARK}\n":
            assert line, "the shell has ended"
            lines.append(line)
        return "".join(lines).removesuffix("\n")

    def close(self) -> None:
        self._shell.communicate()


def test_every_block_of_the_page_does_what_the_page_says(tmp_path: Path) -> None:
    text = PAGE.read_text()
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    providers, gateway, *others = blocks(re.sub("|".join(PORTS), lambda found: ports[found[0]], text))
    assert (providers.command.split()[1], gateway.command.split()[1]) == ("emulate", "serve")
    assert [each for each in others if not each.printed] == others[:1], "only the first one prints nothing"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PUSHGATE_API__LISTEN": f"127.0.0.1:{ports['8443']}",
        "PUSHGATE_MANAGEMENT__LISTEN": f"127.0.0.1:{ports['8081']}",
    }
    with ExitStack() as stack:
        stack.enter_context(runs_on(providers, tmp_path, environment))
        stack.enter_context(runs_on(gateway, tmp_path, environment))
        terminal = Terminal(tmp_path, environment)
        stack.callback(terminal.close)
        for block in others:
            run_until_it_fits(block, partial(terminal.run, block.command))
