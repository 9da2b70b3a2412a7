"""The pages for operators: their blocks are valid, and every file, command, service and name in them is there."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from pushgate import cli
from pushgate.config import schema

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGES = {
    name: (ROOT / "docs" / "how-to" / f"{name}.md").read_text()
    for name in ("run-in-a-container", "run-on-kubernetes", "run-with-systemd")
}
CHART = ROOT / "deploy" / "helm" / "pushgate"
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
KUBERNETES = PAGES["run-on-kubernetes"]


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, re.M | re.S)


def commands() -> Iterator[list[str]]:
    """Every command of the shell blocks, as words."""
    for page in PAGES.values():
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                yield shlex.split(line)


def those_of(*program: str) -> list[list[str]]:
    found = [each[len(program) :] for each in commands() if each[: len(program)] == [*program]]
    assert found
    return found


@pytest.mark.parametrize("name", PAGES)
def test_every_shell_block_is_one(name: str) -> None:
    for block in blocks(PAGES[name], "sh"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True, timeout=10)


def test_every_file_of_the_checkout_is_there() -> None:
    named = {word for each in commands() for word in each if word.startswith("deploy/") and "secrets" not in word}
    assert len(named) >= 4
    assert {each for each in named if not (ROOT / each).exists()} == set()


def test_every_command_of_pushgate_is_one() -> None:
    asked = [each[each.index("pushgate") + 1 :] for each in those_of("docker", "compose") if "pushgate" in each]
    asked += [each[each.index("gateway") + 1 :] for each in those_of("docker", "compose") if "run" in each]
    asked += [each[each.index("/opt/pushgate/bin/pushgate") + 1 :] for each in those_of("runuser")]
    assert len(asked) == 3
    for arguments in asked:
        cli.app.parse_args(arguments, exit_on_error=False, print_error=False)


def test_every_service_of_compose_is_one() -> None:
    verbs = {"up", "exec", "run", "logs", "kill", "ps", "down"}
    for each in those_of("docker", "compose"):
        assert each[:2] == ["--file", "deploy/compose.yaml"]
        (verb,) = verbs & {*each}
        words = each[each.index(verb) + 1 :]
        services = [word for word in words if word in COMPOSE["services"]]
        assert services or verb in ("ps", "down")
        for service in services:
            if verb == "up":
                assert COMPOSE["services"][service].get("profiles", ["trial"]) == ["trial"]
                assert ("--profile" in each) == ("profiles" in COMPOSE["services"][service])


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user: for root alone")
def test_the_secrets_are_laid_out_as_compose_wants_them(tmp_path: Path) -> None:
    (block,) = (each for each in blocks(PAGES["run-in-a-container"], "sh") if "deploy/secrets" in each)
    (tmp_path / "deploy").mkdir()
    for name in COMPOSE["secrets"]:
        (tmp_path / name).write_text(name)
    subprocess.run(["bash", "-euc", block], cwd=tmp_path, check=True, timeout=10)
    for each in COMPOSE["secrets"].values():
        found = (tmp_path / "deploy" / each["file"]).stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (10001, 10001, 0o400)


# --- Kubernetes


def values() -> list[dict[str, Any]]:
    return [yaml.safe_load(block) for block in blocks(KUBERNETES, "yaml")]


def test_the_chart_takes_every_block_of_values() -> None:
    judge = jsonschema_rs.validator_for(json.loads((CHART / "values.schema.json").read_text()))
    assert len(values()) == 3
    for each in values():
        judge.validate(each)


def test_the_configuration_in_the_values_names_what_the_secrets_hold() -> None:
    config = tomllib.loads(values()[0]["config"])
    jsonschema_rs.Draft7Validator(json.loads(schema.shipped())).validate(config)
    tables = [config["api"]["tls"], *config["apps"].values()]
    named = {value for table in tables for key, value in table.items() if key.endswith("_file")}
    created = those_of("kubectl", "--namespace", "push", "create", "secret")
    held = {word for each in created for flag, word in itertools.pairwise(each) if flag == "--from-file"}
    held |= {"tls.crt", "tls.key"} if any(each[0] == "tls" for each in created) else set()
    assert named == held
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    wanted = {each["name"] for each in values()[0]["secrets"]} | {defaults["management"]["tokenSecret"]["name"]}
    assert {each[1] for each in created} == wanted
    key = defaults["management"]["tokenSecret"]["key"]
    assert any(word.startswith(f"{key}=") for each in created for word in each)


def test_the_page_says_what_the_chart_sets() -> None:
    template = (CHART / "templates" / "_helpers.tpl").read_text()
    variables = re.findall(r"name: PUSHGATE_(\w+)__(\w+)$", template, re.M)
    said = re.search(r"The chart itself sets (.*?): by\nenvironment", KUBERNETES, re.S)
    assert said is not None
    assert {*re.findall(r"`([^`]+)`", said[1])} == {f"{table}.{key}".lower() for table, key in variables}
    oldest = re.search(r">=([0-9.]+)\.0-0", (CHART / "Chart.yaml").read_text())
    assert oldest is not None
    assert f"Kubernetes {oldest[1]} or newer" in KUBERNETES
