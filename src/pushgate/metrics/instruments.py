"""What is counted with: plain numbers in memory, each a series or a few. They cost some 50 ns where they are used.

One thread writes an instrument; any may read it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate, repeat
from typing import Generic, TypeVar

from pushgate.metrics.exposition import number
from pushgate.metrics.families import Family, Kind, Labels, Merge, Sample


class Count:
    """A number that rises."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, by: float = 1) -> None:
        """So much more."""
        self.value += by

    def tell(self, name: str, labels: Labels, into: list[Sample]) -> None:
        """Add its series."""
        into.append((name, labels, float(self.value)))


class Level:
    """A number that rises and falls."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        """It is this from now on."""
        self.value = value

    def tell(self, name: str, labels: Labels, into: list[Sample]) -> None:
        """Add its series."""
        into.append((name, labels, float(self.value)))


class Spread:
    """A histogram: how many observations there were up to each of the bounds, and their sum."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0.0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """One more."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def tell(self, name: str, labels: Labels, into: list[Sample]) -> None:
        """Add its series: counts up to each bound, their number, their sum."""
        series = [(*labels, bound) for bound in _bounds_as_labels(self._bounds)]
        into += zip(repeat(f"{name}_bucket"), series, accumulate(self._counts))
        into += (f"{name}_count", labels, into[-1][2]), (f"{name}_sum", labels, self.total)


@cache
def _bounds_as_labels(bounds: tuple[float, ...]) -> list[tuple[str, str]]:
    return [("le", number(bound)) for bound in (*bounds, float("inf"))]


M = TypeVar("M", Count, Level, Spread)
_KINDS = {Count: Kind.COUNTER, Level: Kind.GAUGE, Spread: Kind.HISTOGRAM}


class Metric(Generic[M]):
    """One metric: its instruments by the values of their labels."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], *, make: Callable[[], M], merge: Merge = Merge.SUM
    ) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._make: Callable[[], M] = make
        self._merge = merge
        self._kind = _KINDS[type(make())]
        self._children: dict[tuple[str, ...], M] = {}

    def child(self, *values: str) -> M:
        """The instrument of these values of its labels, made where it is new."""
        known = self._children.get(values)
        if known is None:
            known = self._children[values] = self._make()
        return known

    def family(self) -> Family:
        """As plain data, as it is now."""
        name = self._name
        samples: list[Sample] = []
        for values, child in self._children.items():
            child.tell(name, tuple(sorted(zip(self._labels, values, strict=True))), samples)
        return Family(name, self._kind, self._text, samples, self._merge)
