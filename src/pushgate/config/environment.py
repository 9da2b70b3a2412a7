"""The environment over the file: `PUSHGATE_API__LISTEN` sets `listen` in `[api]`, in upper or lower case.

Text is taken as it is, everything else is JSON. An app is called by its name with every run of characters that are
no letters or digits as one `_`: `PUSHGATE_APPS__DE_EXAMPLE_APP_APNS__KEY_FILE`. A table or list can be set whole:
`PUSHGATE_CLIENTS='[{"name": "erp", …}]'`. A name without `__` that is no table's is somebody else's: Kubernetes sets
`PUSHGATE_SERVICE_HOST` and the like for a service called pushgate.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from msgspec import Struct
from pydantic import BaseModel

from pushgate.config.keys import fields_in, is_mapping, is_text, item_of, plain_name, variable
from pushgate.errors import ConfigFault

PREFIX = "PUSHGATE_"

Path = tuple[str, ...]


class Overlay(Struct, frozen=True):
    """What the environment has set in the tables."""

    origins: Mapping[tuple[str | int, ...], str]
    """The variable that set the key at a path."""
    faults: Sequence[ConfigFault]


class _Unclear(Exception):  # noqa: N818 - a state of a name, and it never leaves this module
    """The variable sets no key."""

    def __init__(self, fault: str, *, mend: str) -> None:
        super().__init__(fault)
        self.mend = mend


def overlay(tables: dict[str, Any], environ: Mapping[str, str], settings: type[BaseModel]) -> Overlay:
    """Put what the environment sets into `tables`, over what stands there; whole tables before their keys."""
    origins: dict[tuple[str | int, ...], str] = {}
    faults = []
    for name, parts in sorted(_ours(environ, settings), key=lambda each: (len(each[1]), each)):
        try:
            path, annotation = _resolve(parts, tables, settings)
            if path in origins:
                raise _Unclear(f"sets the same key as {origins[path]}", mend="unset one of the two")
            _put(tables, path, _decode(environ[name], annotation))
            origins[path] = name
        except _Unclear as unclear:
            faults.append(ConfigFault(name, str(unclear), unclear.mend))
    return Overlay(origins, faults)


def _ours(environ: Mapping[str, str], settings: type[BaseModel]) -> Iterator[tuple[str, list[str]]]:
    """The variables that are meant for us, each with the parts of its name in lower case."""
    for name in environ:
        if name.upper().startswith(PREFIX):
            rest = name[len(PREFIX) :].lower()
            if "__" in rest or rest in settings.model_fields or _meant(rest, settings):
                yield name, rest.split("__")


def _meant(rest: str, settings: type[BaseModel]) -> str | None:
    """What a name without `__` stands for by mistake: a key with a single `_`, or a misspelt table."""
    for table, field in settings.model_fields.items():
        for key in fields_in(field.annotation):
            if rest == f"{table}_{key}":
                return f"{table}__{key}"
    return next(iter(get_close_matches(rest, settings.model_fields, n=1, cutoff=0.8)), None)


def _resolve(parts: list[str], tables: object, settings: type[BaseModel]) -> tuple[Path, object]:
    """The path that the parts of a name stand for, and what may be there."""
    if parts[0] not in settings.model_fields and (meant := _meant("_".join(parts), settings)):
        raise _Unclear("names no table", mend=f"did you mean {PREFIX}{meant.upper()}?")
    annotation: object = settings
    path: Path = ()
    for part in parts:
        if is_mapping(annotation):
            path = (*path, _called(part, tables))
        elif item_of(annotation) is not None:
            raise _Unclear("a list is set as a whole", mend=f"set {variable(path)} to a JSON list")
        elif part in (fields := fields_in(annotation)):
            path = (*path, part)
        else:
            raise _Unclear(f"unknown key {part!a}", mend=_known(part, fields))
        annotation = item_of(annotation) if is_mapping(annotation) else fields[part].annotation
        tables = tables.get(path[-1]) if isinstance(tables, dict) else None
    return path, annotation


def _known(part: str, fields: Mapping[str, object]) -> str:
    if close := get_close_matches(part, fields, n=1):
        return f"did you mean {close[0].upper()}?"
    return f"known here: {', '.join(sorted(fields)).upper()}" if fields else "unset it"


def _called(part: str, apps: object) -> str:
    """The name of the app that the environment calls so."""
    names = [name for name in apps if plain_name(name) == plain_name(part)] if isinstance(apps, dict) else []
    if len(names) == 1:
        return str(names[0])
    if names:
        raise _Unclear("several apps are called so", mend="set them in the file, or all at once in PUSHGATE_APPS")
    raise _Unclear("no app is called so", mend="add its table to the file, or set all apps in PUSHGATE_APPS")


def _decode(text: str, annotation: object) -> object:
    """The value that a variable's text stands for. What cannot be read stays text, for the types to complain of."""
    if not text.isprintable() and any("\ud800" <= char <= "\udfff" for char in text):
        raise _Unclear("not UTF-8", mend="set it to text in UTF-8")
    if is_text(annotation):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _put(tables: dict[str, Any], path: Path, value: object) -> None:
    """Set the value at the path. What the file wrote where a table belongs stays: it is a fault already."""
    *way, last = path
    for part in way:
        inner = tables.setdefault(part, {})
        if not isinstance(inner, dict):
            return
        tables = inner
    tables[last] = value
