"""The JSON Schema of the configuration, for editors: made from the models and the comments of `config.default.toml`.

`python -m pushgate.config.schema config.default.toml > src/pushgate/config/config.schema.json` writes it anew.

It knows names, types, ranges and words. What files hold and what goes together only `load` knows, so the schema refuses
nothing that `load` takes, and not all that `load` refuses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from pushgate.config.keys import ANY_ITEM, ANY_NAME, TAG, Key, keys_of
from pushgate.config.reference import entries
from pushgate.config.settings import Settings

DIALECT = "http://json-schema.org/draft-07/schema#"
"""What the editors' TOML extensions understand."""

_NOISE = ("title", "default", "description", "format", "discriminator")
"""What pydantic says of its models and fields, and not of the configuration."""

Place = tuple[tuple[str, ...], str]
"""The path of a table or key, and its kind of app, as in `Key`."""


def shipped() -> str:
    """The schema as it is installed with the package: what `document` made of `config.default.toml`."""
    return files("pushgate").joinpath("config", "config.schema.json").read_text()


def document(toml: str) -> Mapping[str, Any]:
    """The schema, with the text of `config.default.toml` for its descriptions."""
    made = Settings.model_json_schema()
    keys = {(key.path, key.provider): key for key in keys_of(Settings)}
    root = _Making(made["$defs"], keys, dict(_comments(toml))).table(made, (), "")
    return {
        "$schema": DIALECT,
        "title": "pushgate",
        "description": "The configuration of pushgate. `pushgate check-config` finds what no schema can tell.",
        **root,
    }


def text(schema: Mapping[str, Any]) -> str:
    """The schema as it stands in its file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _comments(toml: str) -> Iterator[tuple[Place, str]]:
    """What each table and key is for. Keys that follow each other under one comment share it."""
    comment: tuple[str, ...] = ()
    for entry in entries(toml):
        if entry.comment or not entry.value:
            comment = entry.comment
        yield (entry.path, entry.provider), _prose(comment)


def _prose(comment: tuple[str, ...]) -> str:
    """The lines of a comment as paragraphs and items."""
    prose = ""
    for line in comment:
        is_new = line.startswith("  ") or not line
        prose += f"\n- {line.strip()}" if line.startswith("  ") else "\n\n" if is_new else f" {line}"
    return "\n".join(each.strip() for each in prose.strip().splitlines())


class _Making:
    """Pydantic's schema made into one for TOML: no null, no references, defaults and comments at the keys."""

    def __init__(self, models: Mapping[str, Any], keys: Mapping[Place, Key], comments: Mapping[Place, str]) -> None:
        self._models = models
        self._keys = keys
        self._comments = comments

    def table(self, schema: Mapping[str, Any], path: tuple[str, ...], provider: str) -> dict[str, Any]:
        """A table with all that is in it."""
        provider = schema["properties"].get(TAG, {}).get("const", provider)
        properties = {name: self._at(each, (*path, name), provider) for name, each in schema["properties"].items()}
        required = [name for name in properties if name in schema.get("required", ()) or name == TAG]
        described = self._described(path, provider)
        return {
            **described,
            "type": "object",
            "additionalProperties": False,
            **({"required": required} if required else {}),
            "properties": properties,
        }

    def _at(self, schema: Mapping[str, Any], path: tuple[str, ...], provider: str) -> dict[str, Any]:
        """What may stand at a path."""
        schema = self._resolved(schema)
        if "properties" in schema:
            return self.table(schema, path, provider)
        if "oneOf" in schema:
            return {"oneOf": [self._at(each, path, provider) for each in schema["oneOf"]]}
        inner = {name: each for name, each in schema.items() if name not in _NOISE}
        if isinstance(each := schema.get("additionalProperties"), Mapping):
            inner["additionalProperties"] = self._at(each, (*path, ANY_NAME), provider)
        if "items" in schema and "properties" in self._resolved(schema["items"]):
            inner["items"] = self._at(schema["items"], (*path, ANY_ITEM), provider)
        key = self._keys.get((path, provider))
        default = {} if key is None or key.default is None else {"default": key.default}
        return {**self._described(path, provider), **inner, **default}

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema that a reference stands for, and what is left of one that may be null: TOML has no null."""
        alternatives = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
        if len(alternatives) == 1:
            return self._resolved(alternatives[0])
        if "$ref" in schema:
            return self._resolved(self._models[schema["$ref"].removeprefix("#/$defs/")])
        return schema

    def _described(self, path: tuple[str, ...], provider: str) -> dict[str, str]:
        comment = self._comments.get((path, provider), "")
        return {"description": comment} if comment else {}


if __name__ == "__main__":
    sys.stdout.write(text(document(Path(sys.argv[1]).read_text())))
