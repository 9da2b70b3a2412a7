"""Shortens what is too large for a provider, in a fixed order and in linear time: content, then names.

What is cut ends with an ellipsis and is never cut inside a character. `cost` is what a value takes of the provider's
limit, in bytes; every character costs at least one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

ELLIPSIS = "…"

NAMES = ("room_alias", "room_name", "sender_display_name", "sender", "type")
"""The fields of a plain notification that are shortened after its content, in this order."""

Cost = Callable[[str], int]


def json_cost(text: str) -> int:
    """Bytes of a text inside JSON, without its quotes."""
    return len(msgspec.json.encode(text)) - 2


def json_entry_cost(name: str, value: Any) -> int:
    """Bytes of an entry of a JSON object, with its colon and a comma."""
    return len(msgspec.json.encode(name)) + len(msgspec.json.encode(value)) + 2


def utf8_cost(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def cut_text(text: str, room: int, *, cost: Cost) -> str:
    """The text if it costs at most `room`, else as much of its beginning as fits with an ellipsis, else nothing."""
    head = text[: max(room, 0) + 1]
    if len(head) == len(text) and cost(text) <= room:
        return text
    low, high = 0, len(head)
    while low < high:
        middle = (low + high + 1) // 2
        if cost(head[:middle] + ELLIPSIS) <= room:
            low = middle
        else:
            high = middle - 1
    return head[:low] + ELLIPSIS if low else ""


def cut_entries(entries: Mapping[str, Any], room: int, *, cost: Callable[[str, Any], int]) -> dict[str, Any]:
    """As many entries as fit: the small ones whole, the smallest text that does not fit cut, the rest left out.

    `cost` is that of a name with its value. The order of the entries stays.
    """
    costs = {name: cost(name, value) for name, value in entries.items()}
    kept: dict[str, Any] = {}
    for name in sorted(costs, key=costs.__getitem__):
        value = entries[name]
        if costs[name] <= room:
            kept[name] = value
            room -= costs[name]
        elif isinstance(value, str):
            if beginning := cut_text(value, room, cost=partial(cost, name)):
                kept[name] = beginning
            break
    return {name: kept[name] for name in entries if name in kept}
