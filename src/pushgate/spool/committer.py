"""The writing thread: what arrives while a commit runs goes into the next one.

The thread takes everything that has arrived, runs it in one transaction, and wakes the event loop once. Where a
transaction fails, each job is run again in one of its own, so that only those fail that cannot be done.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Any, Generic, TypeVar

import structlog

from pushgate.errors import SpoolError, SpoolUnavailable
from pushgate.spool.database import unavailable
from pushgate.spool.store import Store

log = structlog.get_logger(__name__)

T = TypeVar("T")
GROUP_BYTES = 8 << 20
"""A transaction takes no more jobs from here on: it bounds what a commit writes and how long others wait for it."""
GATHER_S = 0.004
"""Under load a commit begins so long after the one before it at the earliest: fewer commits of more rows each,"""
GATHER_FOR_EACH_S = 0.0005
"""and so long for each job of the ones before: who comes alone, or one after the other, waits for nobody."""
LULL_S = 0.0007
"""Where none has come for so long, none is waited for."""
GATHER_BEHIND_S = 0.016
"""Where plenty is accepted and not sent, nobody gains by an early commit: it begins so long after the one before,"""
LULL_BEHIND_S = 0.002
"""and is not hurried by a short pause."""


class Job(Generic[T]):
    """What to do in the thread, and what to do with the result on the event loop before anybody else runs.

    What `work` raises undoes the transaction, for the others too. A `SpoolError` that it returns is the end of this
    job alone, which has done nothing then.
    """

    __slots__ = ("done", "failed", "future", "size", "work")

    def __init__(
        self,
        work: Callable[[Store], T | SpoolError],
        *,
        size: int = 0,
        done: Callable[[T], object] | None = None,
        failed: Callable[[Exception], object] | None = None,
        future: asyncio.Future[T] | None = None,
    ) -> None:
        self.work = work
        self.size = size
        self.done = done
        self.failed = failed
        self.future = future

    def succeed(self, result: T) -> None:
        """It is durable."""
        try:
            if self.done is not None:
                self.done(result)
        finally:
            if self.future is not None and not self.future.done():
                self.future.set_result(result)

    def fail(self, fault: Exception) -> None:
        """Nothing of it was done."""
        try:
            if self.failed is not None:
                self.failed(fault)
        finally:
            if self.future is not None and not self.future.done():
                self.future.set_exception(fault)


Outcomes = list[tuple[Job[Any], Any]]
"""Each job with its result, or with the exception that it ended with."""


class Committer:
    """Owns the thread that owns the store."""

    def __init__(
        self,
        store: Store,
        *,
        idle_s: float,
        tidy_every_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        is_behind: Callable[[], bool] = lambda: False,
        on_commit: Callable[[float, int], None] | None = None,
    ) -> None:
        """`is_behind` says, in the thread, whether plenty is accepted and waits to be sent.

        `on_commit` is told, in the thread, how long a group took (seconds) and how large it was (bytes).
        """
        self.commits = 0
        """How many transactions there were."""
        self._is_behind = is_behind
        self._on_commit = on_commit
        self._store = store
        self._idle_s = idle_s
        self._tidy_every_s = tidy_every_s
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._closing = False
        self._closed = self._loop.create_future()
        self._tidy_at: float | None = None
        self._monotonic = monotonic
        self._tidied_at = monotonic()
        self._began = self._gather_until = 0.0
        self._crowd = 0.0
        """How many jobs come together lately."""
        self._lost: SpoolUnavailable | None = None
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def submit(self, job: Job[Any]) -> None:
        """Have it done. Raises `SpoolUnavailable` when closed."""
        if self._closing:
            raise SpoolUnavailable("the spool is closed")
        self._inbox.put(job)

    def perform(
        self,
        work: Callable[[Store], T | SpoolError],
        *,
        size: int = 0,
        done: Callable[[T], object] | None = None,
        failed: Callable[[Exception], object] | None = None,
    ) -> asyncio.Future[T]:
        """Have it done; the result is to be awaited. `done` or `failed` is called even if the waiting is cancelled."""
        future: asyncio.Future[T] = self._loop.create_future()
        self.submit(Job(work, size=size, done=done, failed=failed, future=future))
        return future

    async def close(self) -> None:
        """Finish what was submitted and let go of the file."""
        if not self._closing:
            self._closing = True
            self._inbox.put(None)
        await asyncio.shield(self._closed)

    # --- in the thread

    def _run(self) -> None:
        open_for_more = True
        while open_for_more:
            jobs, open_for_more = self._next_group()
            if jobs:
                began = self._began = self._monotonic()
                self._crowd = max(len(jobs), self._crowd * 0.8)
                self._gather_until = began + min(self._crowd * GATHER_FOR_EACH_S, GATHER_S)
                self._tell(self._deliver, self._commit(jobs))
                now = self._monotonic()
                if self._on_commit is not None:
                    self._on_commit(now - began, sum([job.size for job in jobs]))
                self._tidy_at = min(now + self._idle_s, self._tidied_at + self._tidy_every_s)
                if now >= self._tidied_at + self._tidy_every_s:
                    self._tidy()
        with suppress(sqlite3.Error):
            self._store.tidy()
        with suppress(sqlite3.Error):
            self._store.database.close()
        self._tell(self._closed.set_result, None)

    def _next_group(self) -> tuple[list[Job[Any]], bool]:
        """Wait for a job and take all that are there with it. Tidies up when none comes. False: it was the last."""
        jobs: list[Job[Any]] = []
        size = 0
        try:
            pause_s = None if self._tidy_at is None else max(self._tidy_at - self._monotonic(), 0.001)
            job = self._inbox.get(timeout=pause_s)
            if job is not None:
                self._gather()
            while job is not None:
                jobs.append(job)
                size += job.size
                if size >= GROUP_BYTES:
                    return jobs, True
                job = self._inbox.get_nowait()
        except queue.Empty:
            if not jobs:
                self._tidy()
            return jobs, True
        return jobs, False

    def _gather(self) -> None:
        """Let more jobs come, while they do, until as many are there as come together lately."""
        most, until, lull_s = self._crowd, self._gather_until, LULL_S
        if self._is_behind():
            most, until, lull_s = inf, self._began + GATHER_BEHIND_S, LULL_BEHIND_S
        before, now = -1, self._inbox.qsize()
        while before != now < most and (left_s := until - self._monotonic()) > 0:
            time.sleep(min(left_s, lull_s))
            before, now = now, self._inbox.qsize()

    def _commit(self, jobs: Sequence[Job[Any]]) -> Outcomes:
        """Each job in one transaction with the others or, where that fails, in one of its own."""
        if self._lost is None:
            try:
                return self._transact(jobs)
            except SpoolUnavailable as lost:
                self._lost = lost
            except Exception:  # noqa: BLE001 - each job meets its own fault again
                with suppress(sqlite3.Error):
                    self._store.checkpoint()  # may make room
                return [self._alone(job) for job in jobs]
        return [(job, self._lost) for job in jobs]

    def _alone(self, job: Job[Any]) -> tuple[Job[Any], Any]:
        try:
            return self._transact((job,))[0]
        except sqlite3.Error as fault:
            return job, unavailable(self._store.database.path, fault)
        except Exception as fault:  # noqa: BLE001 - it reaches whoever waits for the job
            return job, fault

    def _transact(self, jobs: Sequence[Job[Any]]) -> Outcomes:
        """All or none. Raises `SpoolUnavailable` where the file they were written to is not in its place any more."""
        store = self._store
        try:
            store.begin()
            outcomes = [(job, job.work(store)) for job in jobs]
            store.commit()
        except BaseException:
            with suppress(sqlite3.Error):
                store.rollback()
            raise
        self.commits += 1
        store.database.check_files()
        return outcomes

    def _tidy(self) -> None:
        now = self._tidied_at = self._monotonic()
        self._tidy_at = None
        try:
            if self._store.tidy():
                self._tidy_at = now + self._idle_s
                self._tidied_at = self._tidy_at - self._tidy_every_s  # under load too
        except sqlite3.Error as error:
            log.error("spool cannot be tidied", fault=str(unavailable(self._store.database.path, error)))
            self._tidy_at = now + self._tidy_every_s

    def _tell(self, what: Callable[[Any], object], value: object) -> None:
        with suppress(RuntimeError):  # the event loop was closed before the spool: nobody is left to be told
            self._loop.call_soon_threadsafe(what, value)

    # --- on the event loop

    def _deliver(self, outcomes: Outcomes) -> None:
        for job, result in outcomes:
            try:
                if isinstance(result, Exception):
                    job.fail(result)
                else:
                    job.succeed(result)
            except Exception as bug:  # noqa: BLE001 - it must not keep the others of the group from being told
                log.error("spool lost count", fault=type(bug).__name__)
