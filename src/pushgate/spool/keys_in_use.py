"""Which keys the rows of a file may be sealed with: written down in the file, so that none of them is given up unseen.

Only the ids of keys are kept, in the table of secrets. A key that seals no more is kept there with the last row that it
may have sealed, until no such row waits.
"""

from __future__ import annotations

from collections.abc import Mapping

from pushgate.errors import SpoolUnusable
from pushgate.spool.cipher import ID_BYTES, Cipher
from pushgate.spool.database import Database

STILL_SEALING = b""
"""Stands instead of a last row."""
_NAME = "key "


def settle_keys(database: Database, cipher: Cipher) -> None:
    """Write down which key will seal. Raises `SpoolUnusable` where rows wait that no key of the cipher opens."""
    execute = database.execute
    first = execute("SELECT ifnull(min(id), 1) FROM deliveries").fetchone()[0]  # one at a time: both would read all
    last = execute("SELECT ifnull(max(id), 0) FROM deliveries").fetchone()[0]
    recorded = {
        bytes.fromhex(name.removeprefix(_NAME)): value
        for name, value in execute("SELECT name, value FROM secrets WHERE name GLOB ?", (f"{_NAME}*",))
    }
    in_bundles = {header for (header,) in execute("SELECT substr(payload, 1, ?) FROM bundles", (ID_BYTES,))}
    needed: dict[bytes, bytes] = {}
    for key, value in recorded.items():
        last_sealed = last if value == STILL_SEALING else int(value)
        if key in in_bundles or (first <= last_sealed and (key in cipher.ids or _waits(database, key, last_sealed))):
            needed[key] = str(last_sealed).encode()
    if missing := sorted(key.hex() for key in needed if key not in cipher.ids):
        raise SpoolUnusable(
            f"{database.path}: deliveries wait that were sealed with a key that is not given (its id: {missing[0]}) -> "
            "give it too, as a further line of spool.encryption_key_file, until they are sent, 24 hours at most; where "
            "it is lost, start with another file"
        )
    if cipher.sealing_id:
        needed[cipher.sealing_id] = STILL_SEALING
    if needed != recorded:
        _record(database, needed)


def _waits(database: Database, key: bytes, last_sealed: int) -> bool:
    """Whether a row waits that was sealed with the key. Looks at rows: done only for a key that is not given."""
    found = database.execute(
        "SELECT 1 FROM deliveries WHERE id <= ? AND substr(payload, 1, ?) = ? LIMIT 1", (last_sealed, len(key), key)
    )
    return found.fetchone() is not None


def _record(database: Database, needed: Mapping[bytes, bytes]) -> None:
    with database.transaction():
        database.execute("DELETE FROM secrets WHERE name GLOB ?", (f"{_NAME}*",))
        for key, value in needed.items():
            database.execute("INSERT INTO secrets VALUES (?, ?)", (_NAME + key.hex(), value))
