"""Pages whose shell blocks are run: their blocks, the terminals of a reader, and what these print.

How a block is run stands above it, for readers too:

- ```` ```sh ````: run, in its turn. A block of text behind it is what it prints, "…" standing for anything.
- ```` ```sh title="… goes on until Ctrl-C" ````: a terminal of its own; it runs to the end of the page.
- ```` ```console ````: not run, for it needs what a reader has and a test has not. It is read by `bash -n` alone.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

LOOKS_AGAIN_FOR_S = 15.0
_GOES_ON = "goes on until Ctrl-C"
_MARK = "--- the block has ended:"
_FENCE = re.compile(r'^( *)```(\w*)(?: title="([^"]*)")?\n(.*?)^\1```$', re.M | re.S)


class Block(Struct, frozen=True):
    """A fenced block of a page. `printed` is what a shell block prints; empty where the page does not say it."""

    kind: str
    title: str
    content: str
    printed: str

    @property
    def goes_on(self) -> bool:
        """Whether it has a terminal of its own, until Ctrl-C."""
        return _GOES_ON in self.title

    @property
    def only_looks(self) -> bool:
        """Whether it can be done again and again, until there is something to be seen."""
        return self.content.startswith(("curl ", "pushgate explain ", "pushgate health "))

    def is_fulfilled_by(self, output: str) -> bool:
        """Whether that is what the page says. How many blanks stand in a row is a matter of tables."""
        wanted = ".*".join(map(re.escape, _plain(self.printed).split("…")))
        return re.fullmatch(wanted, _plain(output), re.DOTALL) is not None


def _plain(text: str) -> str:
    return re.sub(r" +", " ", re.sub(r" +$", "", text, flags=re.M)).strip("\n")


def blocks(text: str) -> Sequence[Block]:
    """All fenced blocks of a page in order. Raises `AssertionError` where a fence is none that is known here."""
    found = list(_FENCE.finditer(text))
    assert len(found) * 2 == len(re.findall(r"^ *```", text, re.M)), "a fence that nobody reads"
    following = [each[4] if each[2] == "text" else "" for each in found[1:]] + [""]
    return [
        Block(each[2], each[3] or "", re.sub(rf"^{each[1]}", "", each[4], flags=re.M), printed)
        for each, printed in zip(found, following, strict=True)
    ]


def commands(block: Block) -> str:
    """What is typed in a `console` block: the lines with a `$`, and those that go on from them."""
    typed: list[str] = []
    goes_on = False
    for line in block.content.splitlines():
        if line.startswith("$ ") or goes_on:
            typed.append(line.removeprefix("$ "))
            goes_on = line.endswith("\\")
    return "\n".join(typed)


class Reader:
    """Somebody who follows a page in order: in one terminal, and in others for what goes on."""

    def __init__(self, folder: Path, environ: Mapping[str, str], stack: ExitStack) -> None:
        self._folder = folder
        self._environ = dict(environ)
        self._stack = stack
        self._shell = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        stack.callback(self._shell.communicate)

    def do(self, block: Block) -> None:
        """What the page says, until it prints what the page says."""
        if block.goes_on:
            self._stack.enter_context(_beside(block, self._where(), self._environ))
            return
        if not block.printed:
            self._type(block.content)
            return
        _until_it_fits(block, lambda: self._type(block.content, looks=block.only_looks), again=block.only_looks)

    def _where(self) -> Path:
        return Path(self._type("pwd").strip())

    def _type(self, command: str, *, looks: bool = False) -> str:
        """What it prints. Raises `AssertionError` where it failed, but for who only looks: there may be nothing yet."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{command}\nstatus=$?; echo; echo '{_MARK}' $status\n")
        self._shell.stdin.flush()
        lines: list[str] = []
        while not (line := self._shell.stdout.readline()).startswith(_MARK):
            assert line, f"the shell has ended in {command}"
            lines.append(line)
        printed = "".join(lines).removesuffix("\n")
        assert looks or line.split()[-1] == "0", f"{command}printed\n{printed}"
        return printed


def _until_it_fits(block: Block, output: Callable[[], str], *, again: bool) -> None:
    """A person who looks and sees nothing yet looks again in a moment, but does not send again."""
    deadline = time.monotonic() + LOOKS_AGAIN_FOR_S
    while not block.is_fulfilled_by(printed := output()):
        in_time = again and time.monotonic() < deadline
        assert in_time, f"{block.content}printed\n{printed}\nand not\n{block.printed}"
        time.sleep(0.2)


@contextmanager
def _beside(block: Block, folder: Path, environ: Mapping[str, str]) -> Iterator[None]:
    """A terminal in which a command runs until Ctrl-C, and ends well then."""
    log = folder / f"{'-'.join(block.content.split()[:2])}.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            ["bash", "-c", f"exec {block.content}"], cwd=folder, env=environ, stdout=out, stderr=subprocess.STDOUT
        ) as running,
    ):
        try:
            _until_it_fits(block, log.read_text, again=True)
            yield
        finally:
            running.send_signal(signal.SIGINT)
            try:
                assert running.wait(timeout=20) == 0, log.read_text()
            finally:
                running.kill()
