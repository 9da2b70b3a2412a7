"""Where seeds stand in a file: in pages of their own, which are written anew in their place."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushgate.spool.cipher import SEED_BYTES
from pushgate.spool.database import PAGE_BYTES, Database, open_database
from pushgate.spool.seeds import CHUNK_ROWS, Seeds

CHUNKS = 40
FRAME_BYTES = PAGE_BYTES + 24
MARK = b"SEED"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = open_database(path, entropy=lambda: secrets.token_bytes(32))
    yield database
    database.close()


def new(count: int) -> list[bytes]:
    return [MARK + secrets.token_bytes(SEED_BYTES - len(MARK)) for _ in range(count)]


def write(database: Database, seeds: Seeds) -> int:
    """In a transaction. Returns how many pages were written."""
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with database.transaction():
        seeds.write()
    seeds.keep()
    written = database.path.with_name(f"{database.path.name}-wal").stat().st_size // FRAME_BYTES
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return written


def where(path: Path) -> dict[bytes, list[int]]:
    """Each seed, and the offsets at which it stands."""
    raw, at = path.read_bytes(), -1
    found: dict[bytes, list[int]] = {}
    while (at := raw.find(MARK, at + 1)) >= 0:
        found.setdefault(raw[at : at + SEED_BYTES], []).append(at)
    return found


def test_each_seed_stands_once_and_only_in_overflow_pages_of_which_each_is_a_whole_chunk(
    path: Path, database: Database
) -> None:
    seeds, given = Seeds(database.execute), new(CHUNKS * CHUNK_ROWS)
    seeds.put(CHUNK_ROWS, b"".join(given))
    write(database, seeds)
    raw, places = path.read_bytes(), where(path)
    assert set(places) == set(given)
    assert all(len(offsets) == 1 for offsets in places.values())
    pages = {offsets[0] // PAGE_BYTES for offsets in places.values()}
    assert len(pages) == CHUNKS
    assert all(raw[page * PAGE_BYTES :][:4] == bytes(4) for page in pages), "the last overflow page of a record"


def test_a_change_writes_one_page_of_its_chunk_and_leaves_nothing_of_before(path: Path, database: Database) -> None:
    seeds, given = Seeds(database.execute), new(CHUNKS * CHUNK_ROWS)
    seeds.put(CHUNK_ROWS, b"".join(given))
    write(database, seeds)
    before = where(path)
    seeds.erase([CHUNK_ROWS + 3])
    assert write(database, seeds) == 1
    seeds.erase([n * CHUNK_ROWS + 7 for n in range(1, 6)])
    assert write(database, seeds) == 5
    gone = {given[3], *given[7 : 5 * CHUNK_ROWS : CHUNK_ROWS]}
    after = where(path)
    assert set(after) == set(given) - gone
    assert after.items() <= before.items(), "the others were not moved"


def test_nothing_is_left_of_a_chunk_that_goes(path: Path, database: Database) -> None:
    seeds, given = Seeds(database.execute), new(CHUNKS * CHUNK_ROWS)
    seeds.put(CHUNK_ROWS, b"".join(given))
    write(database, seeds)
    kept = {n * CHUNK_ROWS for n in range(1, CHUNKS + 1, 9)}
    seeds.erase([number for number in range(CHUNK_ROWS, (CHUNKS + 1) * CHUNK_ROWS) if number not in kept])
    write(database, seeds)
    seeds.put((CHUNKS + 1) * CHUNK_ROWS, b"".join(new(2)))
    write(database, seeds)
    assert set(where(path)) >= {given[number - CHUNK_ROWS] for number in kept}
    assert len(where(path)) == len(kept) + 2
    database.connection.executescript("PRAGMA incremental_vacuum(1000)")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert len(where(path)) == len(kept) + 2
    assert all(len(offsets) == 1 for offsets in where(path).values()), "pages that moved left no copy"
    assert path.stat().st_size < (len(kept) + 30) * PAGE_BYTES
