"""The JSON Schema of the configuration: it is up to date, takes what `load` takes, and refuses what a schema can."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from pushgate import cli
from pushgate.config import schema
from pushgate.config.keys import ANY_ITEM, ANY_NAME, Key, keys_of
from pushgate.config.settings import Settings

ROOT = Path(__file__).parents[2]
DEFAULTS = (ROOT / "config.default.toml").read_text()
CONFIGS = ROOT / "tests" / "golden" / "configs"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
APP = {"apns": {"provider": "apns", "bundle_id": "a.b"}, "fcm": {"provider": "fcm", "project_id": "my-project"}}
HOLDERS: dict[tuple[str, ...], dict[str, Any]] = {
    ("api", "tls"): {"cert_file": "c", "key_file": "k"},
    ("clients", ANY_ITEM): {"name": "erp"},
}
"""What a table needs besides."""


@pytest.fixture(scope="module")
def validator() -> jsonschema_rs.Draft7Validator:
    return jsonschema_rs.Draft7Validator(json.loads(schema.shipped()))


def with_key(key: Key, value: object) -> dict[str, Any]:
    """A configuration in which this key has this value, and all that must stand beside it."""
    inner: Any = {**HOLDERS.get(key.path[:-1], {}), key.path[-1]: value}
    way = list(key.path[:-1])
    while way:
        match way.pop():
            case str(name) if name == ANY_ITEM:
                inner = [inner]
            case str(name) if name == ANY_NAME:
                inner = {"app": {**APP[key.provider], **inner}}
            case name:
                inner = {name: inner}
    return dict(inner)


def blocks() -> Iterator[Any]:
    """The blocks of TOML in the pages."""
    for page in PAGES:
        for number, block in enumerate(re.findall(r"^ *```toml\n(.*?)^ *```$", page.read_text(), re.M | re.S), 1):
            yield pytest.param(block, id=f"{page.stem}-{number}")


def test_it_is_what_the_models_and_the_comments_make_of_it() -> None:
    made = schema.text(schema.document(DEFAULTS))
    assert schema.shipped() == made, f"write it anew: {schema.__doc__}"
    assert (ROOT / "config.schema.json").read_text() == made


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "config.schema.json").read_text()


def test_it_is_a_schema_of_its_dialect_without_references() -> None:
    document = json.loads(schema.shipped())
    jsonschema_rs.meta.validate(document)
    assert document["$schema"] == schema.DIALECT
    assert "$ref" not in schema.shipped()
    assert '"null"' not in schema.shipped()


def test_every_key_and_table_has_a_description() -> None:
    def lacking(node: dict[str, Any], at: str) -> Iterator[str]:
        for name, each in node.get("properties", {}).items():
            for found in each.get("oneOf", [each]):
                if "description" not in found and name not in ("apps", "clients", "provider"):
                    yield f"{at}.{name}"
                yield from lacking(found, f"{at}.{name}")
        for inner in (node.get("items"), node.get("additionalProperties")):
            for found in inner.get("oneOf", [inner]) if isinstance(inner, dict) else ():
                yield from lacking(found, at)

    assert [*lacking(json.loads(schema.shipped()), "")] == []


SWITCHED_ON = re.sub(r"^#(?! |$)", "", DEFAULTS, flags=re.M)


@pytest.mark.parametrize("toml", [DEFAULTS, SWITCHED_ON], ids=["as it is", "every line switched on"])
def test_it_takes_the_default_file(validator: jsonschema_rs.Draft7Validator, toml: str) -> None:
    tables = tomllib.loads(toml)
    assert ("apps" in tables) == (toml is SWITCHED_ON)
    validator.validate(tables)


@pytest.mark.parametrize("path", sorted((CONFIGS / "good").glob("*.toml")), ids=lambda path: path.stem)
def test_it_takes_what_load_takes(validator: jsonschema_rs.Draft7Validator, path: Path) -> None:
    validator.validate(tomllib.loads(path.read_text()))


@pytest.mark.parametrize("block", [*blocks()])
def test_it_takes_what_the_pages_show(validator: jsonschema_rs.Draft7Validator, block: str) -> None:
    validator.validate(tomllib.loads(block))


@pytest.mark.parametrize("key", [*keys_of(Settings)], ids=lambda key: f"{key.provider}:{'.'.join(key.path)}")
def test_each_key_is_known_and_what_is_of_the_wrong_type_is_refused(
    validator: jsonschema_rs.Draft7Validator, key: Key
) -> None:
    if key.default is not None:
        validator.validate(with_key(key, list(key.default) if isinstance(key.default, tuple) else key.default))
    wrongs: Sequence[object] = ({"x": 1}, [[]])
    for wrong in wrongs:
        assert not validator.is_valid(with_key(key, wrong))
    misspelt = Key((*key.path[:-1], key.path[-1] + "s"), key.kind, False, None, key.provider)
    assert not validator.is_valid(with_key(misspelt, key.default))


def test_each_range_is_that_of_the_code(validator: jsonschema_rs.Draft7Validator) -> None:
    ranged = [(key, re.search(r" to ([0-9.]+)$", key.kind)) for key in keys_of(Settings)]
    over: Sequence[tuple[Key, float]] = [(key, float(found[1]) + 1) for key, found in ranged if found]
    assert len(over) > 10
    for key, value in over:
        assert not validator.is_valid(with_key(key, int(value)))
        assert validator.is_valid(with_key(key, int(value) - 1))


@pytest.mark.parametrize(
    ("toml", "place"),
    [
        ('apps."a.b" = { bundle_id = "a.b" }', "a.b"),
        ('apps."a.b" = { provider = "apns" }', "a.b"),
        ('apps."a.b" = { provider = "pigeon" }', "a.b"),
        (f'apps."{"a" * 65}" = {{ provider = "fcm", project_id = "my-project" }}', "apps"),
        ("[[clients]]\nplain = false", "clients"),
        ('[api.tls]\ncert_file = "server.pem"', "tls"),
        ('[log]\nlevel = "loud"', "level"),
    ],
)
def test_it_says_where_a_fault_is(validator: jsonschema_rs.Draft7Validator, toml: str, place: str) -> None:
    faults = [*validator.iter_errors(tomllib.loads(toml))]
    assert place in [step for fault in faults for step in fault.instance_path]
