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
NOBODY = 65534
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


def asked_of_pushgate() -> Iterator[list[str]]:
    """The arguments of every `pushgate` on the pages, however it is reached."""
    for each in commands():
        match each:
            case ["docker", "compose", *words] if "run" in words:
                yield words[words.index("gateway") + 1 :]
            case ["docker", "compose", *words] if "exec" in words:
                yield words[words.index("exec") + 3 :]
            case ["docker", "exec", _, "pushgate", *words]:
                yield words
            case ["kubectl", *words] if "exec" in words:
                yield words[words.index("pushgate", words.index("--")) + 1 :]
            case ["runuser", *words]:
                yield words[words.index("/opt/pushgate/bin/pushgate") + 1 :]


def test_every_command_of_pushgate_is_one() -> None:
    asked = [*asked_of_pushgate()]
    assert {each[0] for each in asked} >= {"send", "check-config", "health", "doctor", "explain", "rejections"}
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
def test_the_secrets_are_laid_out_as_compose_wants_them_by_somebody_who_is_not_root(tmp_path: Path) -> None:
    """Docker's part, as root, is done by hand where the page has it; nothing else of the page is root's."""
    tmp_path.chmod(0o755)  # for who is nobody
    (checkout := tmp_path / "checkout").mkdir()
    (checkout / "deploy").mkdir()
    for name in COMPOSE["secrets"]:
        (checkout / name).write_text(name)
    for each in (checkout, *checkout.rglob("*")):
        os.chown(each, NOBODY, NOBODY)
    page = blocks(PAGES["run-in-a-container"], "sh")
    for line in "".join(each for each in page if "deploy/secrets" in each).replace("\\\n", " ").splitlines():
        if line.startswith("docker run"):
            _in_a_container_of_root(line, checkout)
        elif not line.startswith("docker "):
            as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "bash", "-euc", line]
            subprocess.run(as_nobody, cwd=checkout, check=True, timeout=10)
    secrets = checkout / "deploy" / "secrets"
    assert {each.name for each in secrets.iterdir()} == {*COMPOSE["secrets"], "management.token"}
    for found in (each.stat() for each in secrets.iterdir()):
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (10001, 10001, 0o400)
    assert (secrets.stat().st_uid, secrets.stat().st_mode & 0o777) == (NOBODY, 0o700)
    assert (secrets / "AuthKey.p8").read_text() == "AuthKey.p8"


def _in_a_container_of_root(line: str, checkout: Path) -> None:
    words = shlex.split(line.partition(" < ")[0])
    assert words[words.index("--user") + 1] == "0"
    source, _, target = words[words.index("--volume") + 1].partition(":")
    assert (source, target) == ("$PWD/deploy/secrets", "/secrets")
    assert words[words.index("--entrypoint") + 1 :][:3] == ["sh", "pushgate", "-c"]
    script = words[-1].replace("/secrets", f"{checkout}/deploy/secrets")
    given = checkout / line.partition(" < ")[2] if " < " in line else Path(os.devnull)
    with given.open("rb") as content:
        subprocess.run(["sh", "-euc", script], stdin=content, check=True, timeout=10)


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
    wanted = {each["name"] for kind in ("secrets", "providerSecrets") for each in values()[0][kind]}
    wanted.add(defaults["management"]["tokenSecret"]["name"])
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
