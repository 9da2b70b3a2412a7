"""What the environment sets, and the reference that tells how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pushgate.config import Settings, load
from pushgate.config.environment import overlay
from pushgate.config.keys import ANY_ITEM, fields_in, keys_of, variable
from pushgate.config.reference import entries
from pushgate.errors import ConfigError, ConfigFault

MARKER = "MARKER-c9f0f895"
KEYS = list(keys_of(Settings))


def faults_in(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[ConfigFault]:
    """The faults of a configuration in this folder."""
    path = folder / "pushgate.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, environ=environ or {})
    return list(caught.value.faults)


def overlaid(tables: dict[str, Any], environ: Mapping[str, str]) -> list[ConfigFault]:
    return list(overlay(tables, environ, Settings).faults)


def test_the_environment_wins_over_the_file_in_upper_and_lower_case() -> None:
    tables: dict[str, Any] = {"api": {"listen": "a:1", "base_path": "/a"}}
    environ = {"PUSHGATE_API__LISTEN": "b:2", "pushgate_api__base_path": "", "Pushgate_Log__Level": "debug"}
    assert overlaid(tables, environ) == []
    assert tables == {"api": {"listen": "b:2", "base_path": ""}, "log": {"level": "debug"}}


def test_texts_are_taken_as_they_are_and_everything_else_is_json() -> None:
    tables: dict[str, Any] = {"apps": {"De.X": {"provider": "apns"}}}
    environ = {
        "PUSHGATE_APPS__DE_X__KEY_ID": "0123456789",
        "PUSHGATE_APPS__DE_X__KEY_FILE": "1",
        "PUSHGATE_APPS__DE_X__ENVIRONMENT": "true",
        "PUSHGATE_APPS__DE_X__MAX_IN_FLIGHT": "5",
        "PUSHGATE_APPS__DE_X__FORWARD_DATA": '["a"]',
        "PUSHGATE_API__ALLOW_UNAUTHENTICATED": "true",
        "PUSHGATE_API__PROCESSES": "auto",
        "PUSHGATE_REJECTIONS__BREAKER_SHARE": "0.5",
    }
    assert overlaid(tables, environ) == []
    assert tables["apps"]["De.X"] == {
        "provider": "apns",
        "key_id": "0123456789",
        "key_file": "1",
        "environment": "true",
        "max_in_flight": 5,
        "forward_data": ["a"],
    }
    assert tables["api"] == {"allow_unauthenticated": True, "processes": "auto"}
    assert tables["rejections"] == {"breaker_share": 0.5}


def test_what_somebody_else_has_set_is_left_alone() -> None:
    tables: dict[str, Any] = {}
    kubernetes = {"PUSHGATE_SERVICE_HOST": "10.0.0.1", "PUSHGATE_PORT": "tcp://10.0.0.1:80", "PUSHGATE_API_PORT": "1"}
    assert overlaid(tables, {**kubernetes, "PUSHGATEWAY__X": "1", "API__LISTEN": "x"}) == []
    assert tables == {}


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("PUSHGATE_API_MAX_REQUEST_KB", "did you mean PUSHGATE_API__MAX_REQUEST_KB?"),
        ("PUSHGATE_REJECTION", "did you mean PUSHGATE_REJECTIONS?"),
        ("PUSHGATE_API__LISTN", "did you mean LISTEN?"),
        ("PUSHGATE_LOG__QQQ", "known here: FORMAT, LEVEL"),
        (
            "PUSHGATE___X",
            "known here: API, APPS, CLIENTS, DEDUP, DELIVERY, LOG, MANAGEMENT, REJECTIONS, SPOOL, TRACING",
        ),
    ],
)
def test_a_misspelt_variable_is_a_fault_that_names_the_right_one(name: str, mend: str) -> None:
    (found,) = overlaid({}, {name: MARKER})
    assert (found.path, found.mend) == (name, mend)
    assert MARKER not in str(found)


def test_a_variable_that_is_not_utf8_is_a_fault() -> None:
    (found,) = overlaid({}, {"PUSHGATE_API__LISTEN": "\udcff"})
    assert found.fault == "not UTF-8"


def test_a_file_that_has_a_value_where_a_table_belongs_keeps_its_fault(tmp_path: Path) -> None:
    (found,) = faults_in(tmp_path, "api = 1", {"PUSHGATE_API__LISTEN": "127.0.0.1:1"})
    assert (found.path, found.mend) == ("api", "write a table")


@pytest.mark.parametrize("value", ["{", "[" * 5000, "null", "", "text"])
def test_what_is_no_json_is_of_the_wrong_type_and_names_its_variable(tmp_path: Path, value: str) -> None:
    (found,) = faults_in(tmp_path, "", {"PUSHGATE_DEDUP": value})
    assert found == ConfigFault("dedup", "of the wrong type (set by PUSHGATE_DEDUP)", "write a table")


def test_every_key_outside_of_lists_has_a_variable_that_sets_it() -> None:
    for key in KEYS:
        if ANY_ITEM not in key.path:
            tables: dict[str, Any] = {"apps": {"<name>": {"provider": key.provider}}}
            assert overlaid(tables, {variable(key.path): "1"}) == [], key.path
            node: Any = tables
            for part in key.path:
                node = node[part]
            assert str(node) == "1"


def test_the_reference_reads_tables_and_keys_that_are_on_and_off() -> None:
    toml = """# One.
[a]
# Two.
#
# Three.
b = 1
#c = "x"

#[apps."d.e"]
#provider = "fcm"
#[apps."d.e".f]
#g = 2
[[h]]
i = 3
"""
    found = [(".".join(each.path), each.provider, each.comment, each.value, each.is_on) for each in entries(toml)]
    assert found == [
        ("a", "", ("One.",), "", True),
        ("a.b", "", ("Two.", "", "Three."), "1", True),
        ("a.c", "", (), '"x"', False),
        ("apps.<name>", "fcm", (), "", False),
        ("apps.<name>.provider", "fcm", (), '"fcm"', False),
        ("apps.<name>.f", "fcm", (), "", False),
        ("apps.<name>.f.g", "fcm", (), "2", False),
        ("h.[]", "", (), "", True),
        ("h.[].i", "", (), "3", True),
    ]
    assert fields_in(None) == {}
