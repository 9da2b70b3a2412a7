"""The table of the faults: one row for each test with `@pytest.mark.fault(name, how=…)`, gathered from all workers.

A pytest plugin. Rows travel in the reports of the tests. They are printed at the end; with `--faults-table FILE` they
are written into that page, between its two markers. There, rows of faults that did not run stay as they are, and those
of faults whose test failed go.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from tests.faults.ledger import Verdict

SUITE = Path(__file__).parent
PAGE = SUITE.parents[1] / "docs" / "explanation" / "delivery-guarantees.md"
BEGIN = "<!-- begin: written by `make faults` -->"
END = "<!-- end -->"
HEADINGS = ("fault", "how it is made", "taken", "lost", "sent twice", "longest pause", "remark")
NAME, ROW = "name of the fault", "row of the fault"
"""What the report of a test carries."""


class Row(Struct, frozen=True):
    """What one fault did."""

    fault: str
    how: str
    taken: str
    lost: str
    twice: str
    longest_pause: str
    remark: str

    def cells(self) -> tuple[str, ...]:
        return msgspec.structs.astuple(self)


Report = Callable[..., None]


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Iterator[Report]:
    """Report the row of this test: `table(verdict, twice_at_most=…, because=…, remark=…)`.

    Fails the test where something that was taken is lost, where more was sent twice than was in flight, where a fault
    does not explain it, and where a pushkey was told as dead that no provider had called so. A test that reports no
    row fails too.
    """
    marker = request.node.get_closest_marker("fault")
    assert marker is not None, "a test of the fault suite has a mark: @pytest.mark.fault(name, how=…)"
    request.node.user_properties.append((NAME, marker.args[0]))
    reported: list[Row] = []

    def report(verdict: Verdict, *, twice_at_most: int, because: str, remark: str = "") -> None:
        row = Row(
            fault=marker.args[0],
            how=marker.kwargs["how"],
            taken=str(verdict.taken),
            lost=str(verdict.lost),
            twice=f"{verdict.twice} of at most {twice_at_most}" if twice_at_most else str(verdict.twice),
            longest_pause="–" if verdict.longest_pause_s is None else f"{verdict.longest_pause_s:.1f} s",
            remark=remark,
        )
        reported.append(row)
        request.node.user_properties.append((ROW, msgspec.to_builtins(row)))
        print(verdict)
        check(verdict, twice_at_most=twice_at_most, because=because)

    yield report
    if request.node.stash.get(CALL_PASSED, False):
        assert reported, "the test reported no row"


def check(verdict: Verdict, *, twice_at_most: int, because: str) -> None:
    """Raises `AssertionError` where the promise is broken. `because` is why so many may come twice."""
    assert verdict.taken > 0, "nothing was taken: this proves nothing"
    assert verdict.lost == 0, verdict
    assert verdict.refused_arrived == 0, verdict
    assert verdict.wrongly_told == 0, verdict
    assert verdict.twice_unexplained == 0, verdict
    assert verdict.twice <= twice_at_most, f"{because}: {verdict}"


CALL_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call":
        item.stash[CALL_PASSED] = report.passed
    return report


# --- where all reports come together: not in a worker


class Gathering:
    """The rows of a run."""

    def __init__(self, page: Path | None) -> None:
        self._page = page
        self._rows: dict[str, Row] = {}
        self._failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == ROW:
                row = msgspec.convert(value, Row)
                self._rows[row.fault] = row
            elif report.failed:
                self._failed.add(str(value))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._rows:
            return
        terminalreporter.section("faults")
        for line in written(self._rows.values()):
            terminalreporter.write_line(line)
        if self._page is not None:
            order = [name for name in faults_of_the_suite() if name not in self._failed]
            rewrite(self._page, self._rows, order)
            terminalreporter.write_line(f"written to {self._page}" + (", but for what failed" if self._failed else ""))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-table", type=Path, metavar="FILE", help="write the table of the faults into this page")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Gathering(config.getoption("--faults-table")), "gathering of faults")


# --- the table on the page


def written(rows: Iterable[Row]) -> list[str]:
    """The lines of the table."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(row.cells() for row in rows)]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def read(page: str) -> dict[str, Row]:
    """The rows between the markers of a page."""
    _, _, rest = page.partition(BEGIN)
    inner, end, _ = rest.partition(END)
    assert end, "the page lacks the markers of the table"
    lines = [line for line in inner.splitlines() if line.startswith("| ")][2:]
    rows = [Row(*(cell.strip() for cell in line.strip("|").split(" | "))) for line in lines]
    return {row.fault: row for row in rows}


def rewrite(page: Path, rows: Mapping[str, Row], order: Sequence[str]) -> None:
    """Put these rows into the page, in this order. Rows of faults that are not in the order go."""
    text = page.read_text()
    known = {**read(text), **rows}
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    lines = written(known[name] for name in order if name in known)
    page.write_text("\n".join([head + BEGIN, "", *lines, "", END + tail]))


def faults_of_the_suite() -> list[str]:
    """The names of all faults, as they stand in the files of the suite: in the order of files and lines."""
    found = []
    for path in sorted(SUITE.glob("test_*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        found += [_name_in(call) for call in sorted(calls, key=lambda each: each.lineno) if _is_mark(call.func)]
    return found


def _is_mark(function: ast.expr) -> bool:
    return ast.unparse(function) == "pytest.mark.fault"


def _name_in(call: ast.Call) -> str:
    name: Any = call.args[0]
    assert isinstance(name, ast.Constant), f"line {call.lineno}: the name of a fault is a plain text"
    return str(name.value)
