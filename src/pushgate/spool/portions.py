"""Statements of many rows: each lets go of the interpreter once, and a busy event loop may keep it for milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from sqlite3 import Cursor
from typing import TypeVar

STATEMENT_ROWS = 128
"""Rows of one statement at most."""
PREPARED = 6 * STATEMENT_ROWS
"""Statements that are kept: one of each kind for each number of rows. Prepared, each takes some 20 KB."""

T = TypeVar("T")


def portions(rows: Sequence[T]) -> Iterable[Sequence[T]]:
    """The rows in as few pieces as statements are needed."""
    for start in range(0, len(rows), STATEMENT_ROWS):
        yield rows[start : start + STATEMENT_ROWS]


def run(execute: Callable[..., Cursor], statement: Callable[[int], str], rows: Sequence[Sequence[object]]) -> None:
    """Run the statement, which depends on how many rows it is for, until all rows had their turn."""
    for some in portions(rows):
        execute(statement(len(some)), tuple(chain.from_iterable(some)))


def marks(count: int) -> str:
    """So many question marks."""
    return ",".join("?" * count)
