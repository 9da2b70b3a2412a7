"""Metrics as plain data: what one process counts, sent between processes, added up. No decision reads it.

A family travels as MessagePack (`encode`, `decode`): the process that owns the management port asks every other one
and adds up what they say (`summed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec
from msgspec import Struct

Labels = tuple[tuple[str, str], ...]
"""Names and values, in the order of names."""
Sample = tuple[str, Labels, float]
"""The name of the series (that of the family, with `_total`, `_bucket`, `_count` or `_sum`), its labels, its value."""


class Kind(StrEnum):
    """What OpenMetrics calls the type of a family."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(StrEnum):
    """What becomes of one series that several processes have."""

    SUM = "sum"
    MAX = "max"
    """The largest: an age, a flag, what is the same everywhere."""
    EARLIEST = "earliest"
    """The smallest that is not 0, which means that there is none: a moment at which something ends."""


class Family(Struct, frozen=True):
    """All series of one metric. `name` is that of its page in the documentation, with `_total` where it counts."""

    name: str
    kind: Kind
    help: str
    samples: Sequence[Sample]
    merge: Merge = Merge.SUM


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Family])


def encode(families: Sequence[Family]) -> bytes:
    """As bytes for another process."""
    return _ENCODER.encode(families)


def decode(data: bytes) -> list[Family]:
    """What `encode` made. Raises `msgspec.DecodeError` for anything else."""
    return _DECODER.decode(data)


def summed(processes: Iterable[Sequence[Family]]) -> list[Family]:
    """The families of several processes as those of one: each series by the `merge` of its family.

    In the order in which they are met first. A series that only some have counts as it is.
    """
    heads: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    for families in processes:
        for family in families:
            heads.setdefault(family.name, family)
            _merge(family, values.setdefault(family.name, {}))
    return [
        Family(each.name, each.kind, each.help, [(*key, value) for key, value in values[name].items()], each.merge)
        for name, each in heads.items()
    ]


def _merge(family: Family, into: dict[tuple[str, Labels], float]) -> None:
    how = family.merge
    for name, labels, value in family.samples:
        key = (name, labels)
        before = into.get(key)
        if before is None:
            into[key] = value
        elif how is Merge.SUM:
            into[key] = before + value
        elif how is Merge.MAX:
            into[key] = max(before, value)
        else:
            into[key] = min(before, value) if before and value else before or value
