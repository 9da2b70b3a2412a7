"""What the page about security names is there: modules, tests, settings, and each requirement once."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "security.md").read_text()
POLICY = (ROOT / "SECURITY.md").read_text()
KINDS = ("unit", "conformance", "golden", "system", "faults")
REQUIREMENTS = ("A_27164", "A_27165-01", "A_27167", "A_27435", "A_27512", "A_27539", "A_27611", "A_27757")

NAMED = sorted(set(re.findall(r"`([a-z0-9_/]+\.py)(?:::(\w+))?`", PAGE)))
TESTS = [(path, name) for path, name in NAMED if path.startswith(KINDS)]
MODULES = [path for path, _ in NAMED if not path.startswith(KINDS)]


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("path", "name"), TESTS)
def test_every_test_that_is_named_is_there(path: str, name: str) -> None:
    assert path.rpartition("/")[2].startswith("test_")
    assert not name or name in functions(ROOT / "tests" / path), name
    assert (ROOT / "tests" / path).is_file()


@pytest.mark.parametrize("path", MODULES)
def test_every_module_that_is_named_is_there(path: str) -> None:
    assert (ROOT / "src" / "pushgate" / path).is_file()


def test_each_requirement_has_one_row_with_code_and_a_test() -> None:
    rows = re.findall(r"^\| (A_[0-9-]+) \| (.+) \| (.+) \| (.+) \|$", PAGE, re.M)
    assert [row[0] for row in rows] == sorted(REQUIREMENTS)
    for _, meaning, code, shown in rows:
        assert len(meaning) > 20
        assert re.search(r"`[a-z0-9_/]+\.py`", code)
        assert re.search(rf"`({'|'.join(KINDS)})/\w+\.py::\w+`", shown)


def test_every_threat_has_what_stops_it_and_a_test() -> None:
    begin, end = PAGE.index("## Who could want what"), PAGE.index("## The environment")
    rows = [line for line in PAGE[begin:end].splitlines() if line.startswith("| ") and "shown by" not in line]
    assert len(rows) > 20
    for row in rows:
        _, tried, stopped, shown, _ = row.split("|")
        assert tried.strip()
        assert stopped.strip()
        assert re.search(rf"`({'|'.join(KINDS)})/\w+\.py", shown), row


def test_every_path_in_a_test_is_named_by_the_page_where_it_is_about_leaks_or_hardening() -> None:
    written = {path.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_hardening_*.py")}
    assert written | {"system/test_leaks.py"} <= {path for path, _ in TESTS}


def test_whoever_reports_has_an_address_that_is_said_to_be_a_placeholder() -> None:
    assert "security@example.org" in POLICY
    assert "placeholder" in POLICY
