"""The spool that the settings name: the only module that knows all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from socket import gethostname

from pushgate.config import Settings
from pushgate.nats_wanted import nats_cluster
from pushgate.spool import Spool
from pushgate.spool.cipher import Keys
from pushgate.spool.database import LOCK_WAIT_S
from pushgate.spool.limits import MB, Limits
from pushgate.spool.memory import MemorySpool
from pushgate.spool.sharing import Sharing
from pushgate.spool.sibling_book import SiblingBook
from pushgate.spool.sqlite import SqliteSpool


async def open_spool(
    settings: Settings,
    *,
    clock: Callable[[], float] = time.time,
    on_expired: Callable[[str, int], None] | None = None,
    sharing: Sharing | None = None,
    lock_wait_s: float = LOCK_WAIT_S,
    on_commit: Callable[[float, int], None] | None = None,
) -> Spool:
    """The spool that the settings name. Raises `SpoolUnusable`.

    `sharing` and `lock_wait_s` are for one of several processes that have a file each.
    """
    window_s, remember_s = settings.dedup.window_s, settings.rejections.remember_s
    limits = Limits(settings.spool.max_waiting, settings.spool.max_mb * MB, settings.spool.max_share_per_app)
    if settings.spool.is_shared:
        from pushgate.spool.nats import NatsSpool

        return await NatsSpool.open(
            nats_cluster(settings.spool),
            clock=clock,
            max_age_s=settings.spool.max_age_s,
            dedup_window_s=window_s,
            remember_s=remember_s,
            limits=limits,
            keys=Keys(tuple(each.get_secret_value() for each in settings.spool.encryption_keys())),
            client=f"pushgate on {gethostname()}, process {os.getpid()}",
        )
    if (path := settings.spool.sqlite_path) is None:
        return MemorySpool(
            clock=clock,
            due_clock=_steady(clock),
            dedup_window_s=window_s,
            remember_s=remember_s,
            on_expired=on_expired,
            limits=limits,
        )
    return await SqliteSpool.open(
        path,
        clock=clock,
        due_clock=_steady(clock),
        dedup_window_s=window_s,
        remember_s=remember_s,
        on_expired=on_expired,
        limits=limits,
        keys=Keys(tuple(each.get_secret_value() for each in settings.spool.encryption_keys())),
        sharing=sharing,
        lock_wait_s=lock_wait_s,
        on_commit=on_commit,
    )


def siblings_of(spool: Spool) -> SiblingBook | None:
    """What the spool shares with those of other processes, where each has its own."""
    return spool.siblings if isinstance(spool, SqliteSpool) else None


def _steady(clock: Callable[[], float]) -> Callable[[], float]:
    """The time by a clock as it is now, running on whatever becomes of that."""
    ahead_s = clock() - time.monotonic()
    return lambda: ahead_s + time.monotonic()
