"""How the file of the SQLite spool is opened: checked, its keys settled, what it holds read. In a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from pushgate.spool.bundles import unpack
from pushgate.spool.cipher import Cipher
from pushgate.spool.contents import Contents
from pushgate.spool.database import explained, open_database
from pushgate.spool.keyed import KEY_BYTES
from pushgate.spool.keys_in_use import settle_keys
from pushgate.spool.limits import Limits
from pushgate.spool.room import Room
from pushgate.spool.shared_key import known_ms, settle_hash_key
from pushgate.spool.sharing import Changes, Sharing
from pushgate.spool.store import Store


def load(
    path: Path,
    *,
    cipher: Cipher,
    entropy: Callable[[int], bytes],
    limits: Limits,
    clock: Callable[[], float],
    due_clock: Callable[[], float],
    dedup_window_s: float,
    remember_s: float,
    sharing: Sharing | None,
    tell: Callable[[Changes], None] | None,
    lock_wait_s: float,
) -> tuple[Store, Contents, int]:
    """In a thread: the file checked and opened, what it holds, and until when it knew what siblings told."""
    database = open_database(path, entropy=partial(entropy, KEY_BYTES), lock_wait_s=lock_wait_s)
    try:
        with explained(path):
            settle_keys(database, cipher)
            if sharing is not None:
                settle_hash_key(database, sharing)
            unpack(database, cipher, now_ms=int(clock() * 1000), due_ms=int(due_clock() * 1000), entropy=entropy)
            contents = Contents(database)
            store = Store(
                database,
                clock=clock,
                due_clock=due_clock,
                dedup_window_s=dedup_window_s,
                remember_s=remember_s,
                cipher=cipher,
                entropy=entropy,
                room=Room(limits, waiting=contents.census.total, used_bytes=database.used_bytes),
                tell=tell,
            )
            for lane in contents.census.backlog():
                store.bring_forward(lane)
            return store, contents, known_ms(database)
    except BaseException:
        database.close()
        raise


def on_loop(loop: asyncio.AbstractEventLoop, tell: Callable[[Changes], None], changes: Changes) -> None:
    """Tell on the event loop, before it is told there that the commit is through."""
    with suppress(RuntimeError):  # it is closed: nobody is left to be told
        loop.call_soon_threadsafe(tell, changes)
