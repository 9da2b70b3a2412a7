"""Which keys a configuration can have: walks the settings' models. Knows their shape, not their meaning."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from msgspec import Struct
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

ANY_NAME = "<name>"
"""Stands in a path for a name that the configuration chooses (an app's)."""
ANY_ITEM = "[]"
"""Stands in a path for a position in a list of tables."""
TAG = "provider"
"""The key that tells the tables of a union apart: always to be written."""

_BARE = re.compile(r"[A-Za-z0-9_-]{1,64}|\[\]|<name>")


class Key(Struct, frozen=True):
    """One key that a configuration can have."""

    path: tuple[str, ...]
    kind: str
    """What is written there, in words: `text`, `whole number, at least 1`, `"hex" or "base64"` …"""
    required: bool
    default: object
    """None where there is none: TOML has no null, so such a key is left out."""
    provider: str = ""
    """Which kind of app has it; empty where all do, and outside of apps."""


def keys_of(
    model: type[BaseModel], at: tuple[str, ...] = (), *, provider: str = "", defaults: object = None
) -> Iterator[Key]:
    """Every key below a model that holds a value, tables walked through, in the order of the models.

    `defaults` is the table that is used where none is written; without it the fields' own defaults count.
    """
    for name, field in model.model_fields.items():
        path = (*at, name)
        default = getattr(defaults, name) if defaults is not None else field.get_default()
        required = field.is_required() or name == TAG
        default = None if required else default
        item = item_of(field.annotation)
        if held := list(models_in(item)):
            path = (*path, ANY_NAME if is_mapping(field.annotation) else ANY_ITEM)
            for each in held:
                yield from keys_of(each, path, provider=_tag_of(each))
        elif tables := list(models_in(field.annotation)):
            for each in tables:
                yield from keys_of(each, path, provider=provider, defaults=default)
        else:
            yield Key(path, kind_of(field.annotation, field.metadata), required, default, provider)


def _tag_of(model: type[BaseModel]) -> str:
    """The word that tells a member of a union of tables from its siblings, or nothing."""
    field = model.model_fields.get(TAG)
    return str(get_args(field.annotation)[0]) if field else ""


def tags_of(annotation: object) -> Mapping[str, type[BaseModel]]:
    """The words that tell the members of a union of tables apart, each with its model."""
    return {tag: model for model in models_in(annotation) if (tag := _tag_of(model))}


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The tables that an annotation allows, through Annotated, Optional and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in _alternatives(annotation):
        yield from models_in(each)


def fields_in(annotation: object) -> dict[str, FieldInfo]:
    """The keys of the tables that an annotation allows."""
    return {name: field for model in models_in(annotation) for name, field in model.model_fields.items()}


def item_of(annotation: object) -> object:
    """What a mapping or a list holds, or None where it is neither."""
    if is_mapping(annotation):
        return get_args(annotation)[1]
    if get_origin(annotation) in (tuple, list, Sequence):
        return get_args(annotation)[0]
    return None


def is_mapping(annotation: object) -> bool:
    """Whether it is a table whose names the configuration chooses."""
    return get_origin(annotation) in (dict, Mapping)


def is_text(annotation: object) -> bool:
    """Whether its values are written as text: strings, words of a fixed set, paths."""
    if get_origin(annotation) is Literal:
        return all(isinstance(word, str) for word in get_args(annotation))
    alternatives = [each for each in _alternatives(annotation) if each is not type(None)]
    if alternatives:
        return all(map(is_text, alternatives))
    return isinstance(annotation, type) and issubclass(annotation, (str, PurePath, SecretStr, Enum))


def _alternatives(annotation: object) -> Sequence[object]:
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[:1]
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return ()


def kind_of(annotation: Any, metadata: Sequence[object] = ()) -> str:
    """What is written at a key, in words that can follow "write"."""
    if get_origin(annotation) is Literal:
        return " or ".join(f'"{word}"' for word in get_args(annotation))
    if annotation is bool:
        return "true or false"
    if annotation in (int, float):
        return ("a whole number" if annotation is int else "a number") + _range(metadata)
    if (item := item_of(annotation)) is not None:
        tables = any(models_in(item))
        return f"{'a table' if is_mapping(annotation) else 'a list'} of {'tables' if tables else 'texts'}"
    if any(models_in(annotation)):
        return "a table"
    if get_origin(annotation) is Annotated and (inner := get_args(annotation))[0] in (int, float):
        return kind_of(inner[0], [bound for each in inner[1:] for bound in getattr(each, "metadata", (each,))])
    words = [each for each in _alternatives(annotation) if get_origin(each) is Literal]
    if words and get_origin(annotation) is not Annotated:
        return " or ".join(kind_of(each) for each in _alternatives(annotation))
    kinds = [each for each in (annotation, *_alternatives(annotation)) if isinstance(each, type)]
    return "the path of a file" if any(issubclass(each, PurePath) for each in kinds) else "a text"


def _range(metadata: Sequence[object]) -> str:
    """The bounds of a number (annotated_types: Ge, Gt, Le)."""
    bounds = {
        name: bound
        for each in metadata
        for name in ("ge", "gt", "le")
        if (bound := getattr(each, name, None)) is not None
    }
    low = f"from {bounds['ge']}" if "ge" in bounds else f"over {bounds['gt']}" if "gt" in bounds else ""
    high = f"{'to' if 'ge' in bounds else 'up to'} {bounds['le']}" if "le" in bounds else ""
    if low and not high and "ge" in bounds:
        low = f"of {bounds['ge']} or more"
    return "".join(f" {words}" for words in (low, high) if words)


def written(path: Sequence[str | int]) -> str:
    """A path as people read it: `apps.'de.example.app'.key_file`, `clients[0].san`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _BARE.fullmatch(part):
            text += part if part == ANY_ITEM else f".{part}"
        else:
            text += f".'{_printable(part)}'"
    return text.removeprefix(".")


def _printable(name: str) -> str:
    short = name if len(name) <= 64 else name[:64] + "…"
    return "".join(char if char.isprintable() else "?" for char in short)


def variable(path: Sequence[str | int]) -> str:
    """The environment variable that sets the key at this path."""
    return "PUSHGATE_" + "__".join(plain_name(str(part)).upper() for part in path)


def plain_name(name: str) -> str:
    """A name as an environment variable can spell it: lower case, anything but letters and digits is one `_`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
