"""The part of the settings that one cell gets: its file, and its share of what is limited as a whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from glob import escape
from pathlib import Path

from pushgate.config import Api, Settings
from pushgate.spool.shared_key import is_of_siblings


def cells_of(api: Api) -> int:
    """How many processes there are to be."""
    return len(os.sched_getaffinity(0)) if api.processes == "auto" else api.processes


def file_of(path: Path, cell: int) -> Path:
    """The spool of a cell: that of the settings for cell 0, `spool.1.db` beside it for cell 1, and so on."""
    return path.with_name(f"{path.stem}.{cell}{path.suffix}") if cell else path


def left_over(path: Path | None, cells: int) -> Sequence[int]:
    """The cells of before that are none now, and whose files are still there: something may wait in them."""
    if path is None:
        return ()
    found = []
    for each in path.parent.glob(f"{escape(path.stem)}.*{escape(path.suffix)}"):
        number = each.name.removeprefix(f"{path.stem}.").removesuffix(path.suffix)
        if number.isdecimal() and number.isascii() and int(number) >= cells and each == file_of(path, int(number)):
            found.append(int(number))
    return [cell for cell in sorted(found) if is_of_siblings(file_of(path, cell))]


def share_of(settings: Settings, *, cell: int, cells: int) -> Settings:
    """What runs in one cell of so many. The management port is the supervisor's."""
    spool, path = settings.spool, settings.spool.sqlite_path
    change: dict[str, object] = {
        "max_waiting": _part(spool.max_waiting, cells),
        "max_mb": _part(spool.max_mb, cells),
    }
    if path is not None:
        change["url"] = f"sqlite:{file_of(path, cell)}"
    apps = {
        app_id: app.model_copy(update={"max_in_flight": _part(app.max_in_flight, cells)})
        for app_id, app in settings.apps.items()
    }
    return settings.model_copy(
        update={
            "management": settings.management.model_copy(
                update={"listen": "", "journal": _part(settings.management.journal, cells)}
            ),
            "spool": spool.model_copy(update=change),
            "apps": apps,
        }
    )


def _part(limit: int, cells: int) -> int:
    """The share of a limit, rounded up; 0 is none."""
    return -(-limit // cells)
