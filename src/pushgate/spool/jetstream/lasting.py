"""Work that goes on for as long as the spool is open: what nobody has foreseen costs one turn of it, and is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger(__name__)

TROUBLE_S = 1.0


async def for_ever(turn: Callable[[], Awaitable[None]], *, work: str) -> None:
    """Do it again and again, until cancelled."""
    while True:
        try:
            await turn()
        except Exception as fault:  # noqa: BLE001 - everything of the spool rests on it
            log.error("nats upkeep failed unexpectedly", work=work, fault=type(fault).__name__)
            await asyncio.sleep(TROUBLE_S)
