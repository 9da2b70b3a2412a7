"""Reload: a changed configuration goes into the running gateway, whole or not at all, and nobody has to restart it.

Begins when somebody asks (SIGHUP) or when the configuration or a file that it names has changed. What has faults is
refused, every fault is logged, and what ran before goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Protocol

import structlog

from pushgate.config import Settings
from pushgate.config.files import Mark, marks
from pushgate.errors import ConfigError, ConfigFault, CredentialError

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 2.0
"""How often the files are looked at. A change counts when a second look finds the same: writers are given time."""
AGAIN_S = 10.0
"""A configuration that was refused is tried again so often: what it lacks may lie in a file that nobody watches."""


class Flag(Protocol):
    """The metric that says whether the configuration on disk was refused."""

    def set(self, value: float) -> None:
        """1: it was."""
        ...


class Reload:
    """Watches, loads, applies."""

    def __init__(
        self,
        *,
        load: Callable[[], Settings],
        apply: Callable[[Settings], Awaitable[None]],
        files: Callable[[], Collection[Path]],
        refused: Flag,
        look_every_s: float = LOOK_EVERY_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`load` raises `ConfigError`. When `apply` raises `CredentialError` or `OSError`, nothing was changed."""
        self._load = load
        self._apply = apply
        self._files = files
        self._refused = refused
        self._look_every_s = look_every_s
        self._monotonic = monotonic
        self._asked = asyncio.Event()
        self._faults: tuple[ConfigFault, ...] = ()
        """Why the configuration on disk was refused; empty when it runs."""
        self._tried_at = 0.0
        self._seen = marks(files())

    def ask(self) -> None:
        """Reload as soon as possible."""
        self._asked.set()

    async def run(self) -> None:
        """Reload whenever there is a reason to, for ever."""
        while True:
            await self._until_there_is_a_reason()
            await self._reload()

    async def _until_there_is_a_reason(self) -> None:
        last = self._seen
        while True:
            try:
                async with asyncio.timeout(self._look_every_s):
                    await self._asked.wait()
            except TimeoutError:
                found = await self._look()
                if (found != self._seen and found == last) or self._is_to_be_tried_again():
                    self._seen = found
                    return
                last = found
            else:
                self._asked.clear()
                self._faults = ()  # who asks is told again
                self._seen = await self._look()
                return

    async def _look(self) -> dict[Path, Mark]:
        return await asyncio.to_thread(marks, self._files())

    def _is_to_be_tried_again(self) -> bool:
        return bool(self._faults) and self._monotonic() >= self._tried_at + AGAIN_S

    async def _reload(self) -> None:
        self._tried_at = self._monotonic()
        try:
            await self._apply(await asyncio.to_thread(self._load))
        except ConfigError as error:
            self._refuse(error.faults)
        except (CredentialError, OSError) as error:
            fault, _, mend = str(error).partition(" -> ")
            self._refuse((ConfigFault("files", fault, mend or "see that they belong together and can be read"),))
        except Exception as error:  # noqa: BLE001 - a bug must not end the watching
            log.error("reload failed unexpectedly", fault=type(error).__name__)
        else:
            self._faults = ()
            self._refused.set(0)
            self._seen = {path: self._seen.get(path, mark) for path, mark in marks(self._files()).items()}

    def _refuse(self, faults: tuple[ConfigFault, ...]) -> None:
        """Tell every fault, unless they are those of the last time."""
        if faults != self._faults:
            for fault in faults:
                log.error("configuration refused", at=fault.path, fault=fault.fault, mend=fault.mend)
        self._faults = faults
        self._refused.set(1)
