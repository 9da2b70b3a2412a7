"""Blocking work (a resolver, a disk that hangs) in a thread that holds nobody up, not even the end of the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

STEP_S = 10.0
"""How long one step of a check may take."""

T = TypeVar("T")


async def in_thread(work: Callable[[], T], *, within_s: float = STEP_S) -> T:
    """Its result. Raises what it raises, or TimeoutError: then the thread is left to itself."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 # raised where the future is awaited
            future.set_exception(error)

    future.set_running_or_notify_cancel()  # from here on nobody but the thread ends it
    threading.Thread(target=run, name="doctor", daemon=True).start()
    async with asyncio.timeout(within_s):
        return await asyncio.wrap_future(future)
