"""Statements of many rows: each lets go of the interpreter once, and a busy event loop may keep it for milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from sqlite3 import Cursor
from typing import TypeVar

STATEMENT_ROWS = 128
"""Rows of one statement at most; a power of two, and so are all smaller ones, so that few statements are prepared."""

T = TypeVar("T")


def portions(rows: Sequence[T]) -> Iterable[Sequence[T]]:
    """The rows in pieces whose sizes are powers of two, the largest first."""
    start = 0
    while left := len(rows) - start:
        count = min(1 << (left.bit_length() - 1), STATEMENT_ROWS)
        yield rows[start : start + count]
        start += count


def run(execute: Callable[..., Cursor], statement: Callable[[int], str], rows: Sequence[Sequence[object]]) -> None:
    """Run the statement, which depends on how many rows it is for, until all rows had their turn."""
    for some in portions(rows):
        execute(statement(len(some)), tuple(chain.from_iterable(some)))


def marks(count: int) -> str:
    """So many question marks."""
    return ",".join("?" * count)
