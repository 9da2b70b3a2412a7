"""What pydantic found, as faults that people can act on: place, fault, mend, and no value that may be a secret."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any

from msgspec import Struct
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pushgate.config.keys import ANY_ITEM, Key, fields_in, is_mapping, item_of, keys_of, kind_of, tags_of, written
from pushgate.errors import ConfigFault

HIDDEN = "(not shown)"
SECRET_FILES = ("password_file", "proxy_login_file", "token_file")
"""Where people write the secret itself instead of the name of a file."""
LONGEST_FILE_NAME = 100
"""Whatever is longer between two slashes is taken for what should be in the file: a key."""
LONGEST_PATH = 100
"""Whatever is longer, leads nowhere, and does not end like the name of a file is taken for a key too."""
FILE_ENDINGS = frozenset({".p8", ".p12", ".pfx", ".pem", ".key", ".crt", ".cer", ".cert", ".json", ".txt"})
"""Base64 has no dots: what ends so is the name of a file."""
LONGEST_CHOICE = 3
"""More places than these are no help to somebody who looks for the right one."""

_BASE64_RUN = re.compile(r"[A-Za-z0-9+/=_-]{40,}")


class _Place(Struct, frozen=True):
    """Where in the settings pydantic found something."""

    path: tuple[str | int, ...]
    holder: object
    """The annotation of the innermost table or value on the way."""
    field: FieldInfo | None
    rest: tuple[str | int, ...]
    """What pydantic names beyond: an unknown key, or which alternative of a type it tried."""


def faults_in(
    error: ValidationError,
    *,
    settings: type[BaseModel],
    tables: Mapping[str, Any],
    origins: Mapping[tuple[str | int, ...], str],
) -> Iterator[ConfigFault]:
    """Every fault once for each place, with the environment variable that set the value where one did."""
    seen = set()
    for details in error.errors(include_url=False, include_input=False):
        place = _place(details["loc"], settings)
        path = (*place.path, place.rest[0]) if details["type"] == "extra_forbidden" else place.path
        if path not in seen:
            seen.add(path)
            fault, mend = _sentences(details, place, settings=settings, tables=tables)
            setter = next((origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origins), None)
            yield ConfigFault(written(path), f"{fault} (set by {setter})" if setter else fault, mend)


def _place(loc: Sequence[str | int], settings: type[BaseModel]) -> _Place:
    path: tuple[str | int, ...] = ()
    holder: object = settings
    field = None
    for position, part in enumerate(loc):
        fields = fields_in(holder)
        if is_mapping(holder) or (isinstance(part, int) and item_of(holder) is not None):
            holder = item_of(holder)
            path = (*path, part)
        elif str(part) in (tags := tags_of(holder)) and len(tags) > 1:
            holder = tags[str(part)]
        elif str(part) in fields:
            field = fields[str(part)]
            holder = field.annotation
            path = (*path, part)
        else:
            return _Place(path, holder, field, tuple(loc[position:]))
    return _Place(path, holder, field, ())


def _sentences(
    details: ErrorDetails, place: _Place, *, settings: type[BaseModel], tables: Mapping[str, Any]
) -> tuple[str, str]:
    """Fault and mend of one finding."""
    match details["type"]:
        case "extra_forbidden":
            return "unknown key", _instead(str(place.rest[0]), place.holder, settings)
        case "value_error":
            fault, _, mend = str(details["ctx"]["error"]).partition(" -> ")
            return fault, mend or "see config.default.toml"
        case "union_tag_not_found":
            return "no provider is set", _provider_of(place, tables)
        case "union_tag_invalid":
            return "unknown provider", _provider_of(place, tables)
        case "string_too_short" | "string_too_long":
            return "not an app_id", "write 1 to 64 characters (A_27168)"
        case "missing":
            return "missing", f"add it: {_wanted_at(place)}"
        case "literal_error":
            fault = "none of the words that it can be"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" | "finite_number":
            fault = "out of range"
        case _:
            fault = "of the wrong type"
    return fault, f"write {_wanted_at(place)}"


def _wanted_at(place: _Place) -> str:
    is_field = place.field is not None and place.holder is place.field.annotation
    return kind_of(place.holder, place.field.metadata if is_field and place.field else ())


def _instead(name: str, holder: object, settings: type[BaseModel]) -> str:
    """What to write instead of an unknown key: the same one elsewhere, one that looks like it, or what there is."""
    fields = fields_in(holder)
    homes = {_home(key): None for key in keys_of(settings) if key.path[-1] == name}
    if 0 < len(homes) <= LONGEST_CHOICE:
        return f"move it to {' or '.join(homes)}"
    if close := get_close_matches(name.lower().replace("-", "_"), fields, n=1):
        return f"did you mean {close[0]}?"
    return f"known here: {', '.join(sorted(fields))}"


def _home(key: Key) -> str:
    holder = written(key.path[:-1])
    table = f"[[{holder.removesuffix(ANY_ITEM)}]]" if holder.endswith(ANY_ITEM) else f"[{holder}]"
    return f'{table} with provider = "{key.provider}"' if key.provider else table


def _provider_of(place: _Place, tables: Mapping[str, Any]) -> str:
    """How to say which provider an app has. A name with dots that lacks its quotes is a chain of tables."""
    node: Any = tables
    for part in place.path:
        node = node[part]
    names = [str(place.path[-1])]
    while isinstance(node, dict) and "provider" not in node:
        inner = next(((name, each) for name, each in node.items() if isinstance(each, dict)), None)
        if inner is None:
            break
        names.append(inner[0])
        node = inner[1]
    if len(names) > 1 and isinstance(node, dict) and "provider" in node:
        return f'put the name in quotes: [apps."{".".join(names)}"]'
    choices = " or ".join(f'"{tag}"' for tag in tags_of(place.holder))
    return f"set provider = {choices}"


def mask(faults: Sequence[ConfigFault], tables: Mapping[str, Any]) -> list[ConfigFault]:
    """The same faults without paths that may be secrets themselves, written where the name of a file belongs."""
    masked = []
    secrets = {str(PurePath(value)) for value in _not_to_be_shown(tables)}
    for fault in faults:
        text, mend = fault.fault, fault.mend
        for secret in secrets:
            if secret in text or secret in mend:
                text = text.replace(secret, HIDDEN)
                mend = "name a file that can be read; what stands there may be a secret itself, so it is not shown"
        masked.append(ConfigFault(fault.path, text, mend))
    return masked


def _not_to_be_shown(tables: object) -> Iterator[str]:
    """Paths of passwords, and paths that look like the content of a file."""
    if isinstance(tables, list):
        for each in tables:
            yield from _not_to_be_shown(each)
    if isinstance(tables, dict):
        for name, value in tables.items():
            if not isinstance(value, str):
                yield from _not_to_be_shown(value)
            elif name.endswith("_file") and (name in SECRET_FILES or _looks_like_content(value)):
                yield value


def _looks_like_content(path: str) -> bool:
    if not path.isprintable() or any(
        len(part) > LONGEST_FILE_NAME or part.startswith(("{", "-----")) for part in PurePath(path).parts
    ):
        return True
    if PurePath(path).suffix.lower() in FILE_ENDINGS:
        return False
    rest = _what_is_not_there(path)
    return len(rest) > LONGEST_PATH or _BASE64_RUN.search(rest) is not None


def _what_is_not_there(path: str) -> str:
    """The path from where it leads nowhere: base64 has slashes too, and no folder is called so."""
    whole = PurePath(path)
    there = next((folder for folder in (whole, *whole.parents) if os.access(folder, os.F_OK)), PurePath())
    return str(whole.relative_to(there)) if whole != there else ""
