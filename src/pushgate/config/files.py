"""The files that settings name, and how to tell that one of them is not what it was."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel

Mark = tuple[int, int, int, int] | None
"""What the system says of a file: it differs when the file was written or replaced. None: there is no such file."""


def files_of(table: BaseModel) -> Iterator[Path]:
    """Every file that a table and the tables in it name (the keys that end in `_file`)."""
    for name in type(table).model_fields:
        value = getattr(table, name)
        if isinstance(value, Path) and name.endswith("_file"):
            yield value
        elif isinstance(value, BaseModel):
            yield from files_of(value)


def digest(table: BaseModel) -> bytes:
    """A hash of what the table's files hold: equal as long as they do. A file that cannot be read counts as empty."""
    told = sha256()
    for path in files_of(table):
        try:
            told.update(sha256(path.read_bytes()).digest())
        except OSError:
            told.update(b"-")
    return told.digest()


def marks(paths: Iterable[Path]) -> dict[Path, Mark]:
    """The mark of each file, through links."""
    return {path: _mark(path) for path in paths}


def _mark(path: Path) -> Mark:
    try:
        found = os.stat(path)  # noqa: PTH116 - through links, and without a second object for each
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
