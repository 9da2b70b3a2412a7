"""Which key of hashes all cells use: one under which something is remembered already, that of the first cell else."""

from __future__ import annotations

from collections.abc import Sequence

from pushgate.cells.messages import Agreed, Found


class Agreement:
    """Is made once all cells of the start have said what they found, and holds from then on."""

    def __init__(self) -> None:
        self._expected: set[int] = set()
        self._found: dict[int, Found] = {}
        self._answer: Agreed | None = None

    @property
    def answer(self) -> Agreed:
        """What was agreed upon."""
        assert self._answer is not None
        return self._answer

    def expect(self, cell: int) -> None:
        """This cell was started."""
        self._expected.add(cell)

    def found(self, cell: int, found: Found) -> Sequence[int]:
        """What a cell found in its file. Returns the cells that are to be told what was agreed upon."""
        if self._answer is not None:
            return (cell,)
        self._found[cell] = found
        return self._settle()

    def gone(self, cell: int) -> Sequence[int]:
        """This cell has ended. Returns the cells that are to be told what was agreed upon."""
        self._expected.discard(cell)
        self._found.pop(cell, None)
        return () if self._answer is not None else self._settle()

    def _settle(self) -> Sequence[int]:
        if not self._found or self._expected - self._found.keys():
            return ()
        cells = sorted(self._found)
        first = next((cell for cell in cells if self._found[cell].is_binding), cells[0])
        self._answer = Agreed(self._found[first].secret)
        return cells
