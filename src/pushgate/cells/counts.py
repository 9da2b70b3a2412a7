"""What the supervisor counts itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import asdict

from pushgate.cells.restarts import Restarts
from pushgate.metrics.families import Family, Kind, Merge


class States(Struct, frozen=True):
    """How many processes do what."""

    taking: int
    not_taking: int
    """They start, drain, or their spool takes nothing."""
    dead: int
    """They wait to be started again."""
    left_over: int
    """They only send what waits in a file of before."""


def own_families(
    states: States, restarts: Mapping[int, Restarts], *, refused: float, is_ready: bool, now: float
) -> Sequence[Family]:
    """As metrics."""
    deaths = [_of_cell("pushgate_cell_deaths_total", cell, each.count) for cell, each in sorted(restarts.items())]
    dying = [
        _of_cell("pushgate_cell_keeps_dying", cell, each.keeps_dying(now)) for cell, each in sorted(restarts.items())
    ]
    counted = [("pushgate_cells", (("state", state),), float(count)) for state, count in asdict(states).items()]
    at_fault = "1 while the configuration on disk has faults and the one before it goes on."
    refusal = [("pushgate_configuration_refused", (), refused)]
    ready = [("pushgate_ready", (), float(is_ready))]
    return [
        Family("pushgate_cells", Kind.GAUGE, "Processes, by what they do.", counted),
        Family("pushgate_cell_deaths_total", Kind.COUNTER, "How often a process has died.", deaths),
        Family("pushgate_cell_keeps_dying", Kind.GAUGE, "1 while a process dies again and again.", dying, Merge.MAX),
        Family("pushgate_configuration_refused", Kind.GAUGE, at_fault, refusal, Merge.MAX),
        Family("pushgate_ready", Kind.GAUGE, "1 while notifications are taken.", ready, Merge.MAX),
    ]


def _of_cell(name: str, cell: int, value: float) -> tuple[str, tuple[tuple[str, str], ...], float]:
    return name, (("cell", str(cell)),), float(value)
