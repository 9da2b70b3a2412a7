"""Families as text: Prometheus' format 0.0.4, or OpenMetrics 1.0.0. Pure.

Prometheus: https://prometheus.io/docs/instrumenting/exposition_formats/. OpenMetrics: the specification of that name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from pushgate.metrics.families import Family, Kind

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

MANY = 4000
"""Lines in one part of a page, about: some hundred kilobytes, written in some milliseconds."""
_TOTAL = "_total"


def text(families: Sequence[Family], *, openmetrics: bool = False) -> bytes:
    """All families, in their order."""
    return b"".join(pages(families, openmetrics=openmetrics))


def pages(families: Iterable[Family], *, openmetrics: bool = False) -> Iterator[bytes]:
    """The same in parts of some hundred kilobytes, each made when it is asked for.

    A lone surrogate in a label, which UTF-8 cannot hold, becomes `?`.
    """
    pair = _Pairs().__getitem__
    lines: list[str] = []
    for family in families:
        name = family.name.removesuffix(_TOTAL) if openmetrics and family.kind is Kind.COUNTER else family.name
        told = family.help.replace("\\", "\\\\").replace("\n", "\\n")
        if openmetrics:
            told = told.replace('"', '\\"')
        lines.append(f"# HELP {name} {told}\n# TYPE {name} {family.kind.value}\n")
        for at in range(0, len(family.samples), MANY):
            lines += [
                f"{series}{{{','.join(map(pair, labels))}}} {_written(value)}\n"
                if labels
                else f"{series} {_written(value)}\n"
                for series, labels, value in family.samples[at : at + MANY]
            ]
            if len(lines) >= MANY:
                yield _encoded(lines)
                lines = []
    if openmetrics:
        lines.append("# EOF\n")
    yield _encoded(lines)


def _encoded(lines: Sequence[str]) -> bytes:
    return "".join(lines).encode("utf-8", errors="replace")


def _written(value: float) -> str | float:
    return "0.0" if not value else value if -1e15 < value < 1e15 else number(value)


def number(value: float) -> str:
    """A value, or a bound of a histogram, as both formats write it."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(float(value))


def accepts_openmetrics(accept: str) -> bool:
    """Whether this `Accept` takes OpenMetrics, and would not rather have text/plain (RFC 9110 §12.5.1)."""
    wishes = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.split(","):
        media_type, *parameters = (each.strip().lower() for each in part.split(";"))
        if media_type not in wishes or not _is_ours(media_type, parameters):
            continue
        wishes[media_type] = max(wishes[media_type], _quality(parameters))
    return 0 < wishes["application/openmetrics-text"] >= wishes["text/plain"]


def _is_ours(media_type: str, parameters: Sequence[str]) -> bool:
    version = next((each.removeprefix("version=") for each in parameters if each.startswith("version=")), "")
    return version in (("", "1.0.0", "0.0.1") if media_type == "application/openmetrics-text" else ("", "0.0.4"))


def _quality(parameters: Sequence[str]) -> float:
    told = next((each.removeprefix("q=") for each in parameters if each.startswith("q=")), "1")
    try:
        return min(max(float(told), 0.0), 1.0)
    except ValueError:
        return 0.0


class _Pairs(dict[tuple[str, str], str]):
    """Labels as text, each made once and kept for one page: a lane has some forty series."""

    def __missing__(self, pair: tuple[str, str]) -> str:
        name, value = pair
        value = value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        written = self[pair] = f'{name}="{value}"'
        return written
