"""The reference page of the configuration, made from the models and the comments of `config.default.toml`.

`python -m pushgate.config.reference config.default.toml > docs/reference/configuration.md` writes it anew.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from pushgate.config.environment import PREFIX
from pushgate.config.keys import ANY_ITEM, ANY_NAME, Key, keys_of
from pushgate.config.settings import Settings

MOST_NAMES = 4
"""In one heading."""

_TABLE = re.compile(r"(#?)(\[{1,2})([^\[\]]+)\]{1,2}")
_APP = re.compile(r'apps\."([^"]+)"(?:\.(\w+))?')
_KEY = re.compile(r"(#?)([a-z][a-z0-9_]*) = (.*)")
_INTRO = """# Configuration

Reference, made from `config.default.toml` and the code: one TOML file, and the environment over it.

- Every key can be set by the environment variable that stands beside it, in upper or lower case. It wins over the
  file. Texts are taken as they are; numbers, `true`, `false`, lists and tables are JSON.
- `<APP>` is the app_id with every run of other characters than letters and digits as one `_`: `de.example.app.apns`
  is `DE_EXAMPLE_APP_APNS`. That changes apps which the file names; `PUSHGATE_APPS` sets all of them, as JSON.
- A list of tables is set whole: `PUSHGATE_CLIENTS='[{"name": "erp", "san": "erp.example.de"}]'`.
- Variables that begin with `PUSHGATE_`, have no `__` and name no table are left alone: Kubernetes sets some.
- Relative paths are relative to the file, wherever they were set.
- An unknown key is a fault. All faults are reported at once, before any socket is opened, with exit code 2.
"""


class Entry(Struct, frozen=True):
    """A table or a key as `config.default.toml` has it."""

    path: tuple[str, ...]
    provider: str
    """As in `Key`."""
    title: str
    """The table or key as it is written there."""
    comment: tuple[str, ...]
    """The lines directly above it."""
    value: str
    """As it is written there; empty for a table."""
    is_on: bool


def entries(toml: str) -> Iterator[Entry]:
    """Every table and key of `config.default.toml`, in its order, those that are off too."""
    providers = dict(_providers(toml))
    table: tuple[str, ...] = ()
    provider = ""
    comment: list[str] = []
    for line in toml.splitlines():
        if found := _TABLE.fullmatch(line):
            app = _APP.fullmatch(found[3])
            provider = providers[app[1]] if app else ""
            if app:
                table = ("apps", ANY_NAME, *filter(None, (app[2],)))
            else:
                table = (*found[3].split("."), *([ANY_ITEM] if found[2] == "[[" else []))
            yield Entry(table, provider, line.removeprefix("#"), tuple(comment), "", not found[1])
        elif found := _KEY.fullmatch(line):
            yield Entry((*table, found[2]), provider, found[2], tuple(comment), found[3], not found[1])
        elif line.startswith("#"):
            comment.append(line[2:])
            continue
        comment = []


def _providers(toml: str) -> Iterator[tuple[str, str]]:
    """Each app with its provider: the first key of its table."""
    for found in re.finditer(r'^#?\[apps\."([^"]+)"\]\n#?provider = "(\w+)"', toml, re.MULTILINE):
        yield found[1], found[2]


def page(toml: str) -> str:
    """The whole page, in Markdown."""
    keys = {(key.path, key.provider): key for key in keys_of(Settings)}
    parts = [_INTRO]
    group: list[Entry] = []
    for entry in (*entries(toml), None):
        if group and (entry is None or not entry.value or entry.comment):
            names = ", ".join(f"`{each.title}`" for each in group)
            lines = "".join(_line(keys[each.path, each.provider]) for each in group)
            heading = f"### {names}\n\n" if len(group) <= MOST_NAMES else ""
            parts.append(f"\n{heading}{lines}{_prose(group[0].comment)}")
            group = []
        if entry is not None and entry.value:
            group.append(entry)
        elif entry is not None:
            parts.append(f"\n## `{entry.title}`\n{_prose(entry.comment)}")
    return "".join(parts)


def _prose(comment: tuple[str, ...]) -> str:
    """A comment as Markdown: lines that are set in are items of a list, an empty line parts paragraphs."""
    text = ""
    for line in comment:
        escaped = re.sub(r"([<*\[])", r"\\\1", line)
        is_item = escaped.startswith("  ")
        text += "\n" if is_item and not text.rpartition("\n\n")[2].startswith("- ") else ""
        text += re.sub(r"^  (\S+) +", r"- `\1`: ", escaped) + "\n"
    return f"\n{text}" if text else ""


def _line(key: Key) -> str:
    if key.required:
        default = "**required**"
    elif key.default in (None, ""):
        default = "default: not set"
    else:
        text = f"{key.default:g}" if isinstance(key.default, float) else json.dumps(key.default)
        default = f"default `{text}`"
    return f"- `{key.path[-1]}`: {key.kind}; {default}; `{_variable(key)}`\n"


def _variable(key: Key) -> str:
    """The environment variable that sets it: the whole list where it is part of one."""
    path = key.path[: key.path.index(ANY_ITEM)] if ANY_ITEM in key.path else key.path
    return PREFIX + "__".join("<APP>" if part == ANY_NAME else part.upper() for part in path)


if __name__ == "__main__":
    sys.stdout.write(page(Path(sys.argv[1]).read_text()))
