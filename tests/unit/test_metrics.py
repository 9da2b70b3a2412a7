"""metrics: every series from the start, none that nobody asked for, and the page that explains them.

The page is docs/reference/metrics-and-logs.md. What it lists is compared with the code in both directions, so that it
cannot lag behind.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pushgate
from pushgate import metrics
from pushgate.metrics import Metrics

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "metrics-and-logs.md").read_text()
LANES = ("org.example.a", "org.example.b")
LEVELS = {"warning", "error", "critical", "exception"}
SPELLED_OUT = {
    "api": metrics.APIS,
    "status": (*metrics.STATUSES, *map(str, metrics.ANSWERS)),
    "fault": metrics.FAULTS,
    "outcome": metrics.OUTCOMES,
    "ending": metrics.ENDINGS,
    "alarm": metrics.ALARMS,
    "event": (*metrics.CONNECTIONS, *metrics.LINES),
    "kind": metrics.CREDENTIALS,
    "reason": (metrics.OTHER,),
}


def test_connections_and_callers_are_counted_by_words_that_are_there_from_the_start() -> None:
    made = Metrics(LANES)
    made.add_callers(["erp"])
    before = made.text().decode()
    for event in metrics.CONNECTIONS:
        made.count_connection(event)
        assert f'pushgate_connections_total{{event="{event}"}} 0.0' in before
        assert f'pushgate_connections_total{{event="{event}"}} 1.0' in made.text().decode()
    made.count_request("erp", 429)
    made.count_request("later", 200)
    text = made.text().decode()
    assert 'pushgate_caller_requests_total{caller="erp",status="429"} 0.0' in before
    assert 'pushgate_caller_requests_total{caller="erp",status="429"} 1.0' in text
    assert 'pushgate_caller_requests_total{caller="later",status="200"} 1.0' in text
    assert f'pushgate_caller_requests_total{{caller="{metrics.NOBODY}",status="401"}} 0.0' in text
    made.add_callers(["erp"])
    assert made.text().decode() == text


def test_how_a_lane_stands_and_what_the_spool_takes_is_there_at_zero_and_a_retired_lane_is_there_again() -> None:
    made = Metrics(LANES)
    names = ("lane_failures_in_a_row", "lane_failing_seconds", "lane_pause_seconds", "lane_breaker_open")
    nothing = [f'pushgate_{name}{{lane="{LANES[0]}"}} 0.0' for name in names]
    without_labels = ("spool_limit_bytes", "spool_limit_waiting", "spool_limit_waiting_per_app", "ready")
    lines = made.text().decode().splitlines()
    assert {*nothing, *(f"pushgate_{name} 0.0" for name in without_labels)} <= {*lines}
    made.lanes[LANES[0]].failures_in_a_row = 9
    made.lanes[LANES[0]].failing_s = 99
    made.limit_spool(1000, share_of_app=0.25, mb=2)
    text = made.text().decode()
    assert nothing[0] not in text
    for line in ("limit_waiting 1000.0", "limit_waiting_per_app 250.0", "limit_bytes 2097152.0"):
        assert f"\npushgate_spool_{line}\n" in text
    made.lanes[LANES[0]].retire()
    assert {*nothing} <= {*made.text().decode().splitlines()}


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found is not None, title
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The rows of the first table of a section, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def exposed() -> dict[str, set[str]]:
    """Every metric by the name to query (a histogram by its base) with its labels."""
    made = Metrics(LANES)
    made.add_peers(["api.push.example.org:443"])
    made.count_reason(LANES[0], "deferred", "timeout")
    return {
        each.name: {label for _, labels, _ in each.samples for label, _ in labels} - {"le"} for each in made.families()
    }


def test_no_series_tells_when_another_began() -> None:
    assert "_created" not in Metrics(LANES).text().decode()


def test_every_lane_has_its_series_at_zero_from_the_start() -> None:
    text = Metrics(LANES).text().decode()
    for lane in LANES:
        for line in ('attempts_total{lane="%s",outcome="accepted"} 0.0', 'waiting{lane="%s"} 0.0'):
            assert f"pushgate_{line % lane}" in text


def test_the_page_has_every_metric_with_its_labels_and_no_other() -> None:
    assert {quoted(row[0])[0]: set(quoted(row[1])) for row in rows("Metrics")} == exposed()


def test_the_page_has_every_value_of_every_label() -> None:
    said = quoted(section("Values of the labels"))
    for label, values in SPELLED_OUT.items():
        assert {label, *values} <= set(said), f"{label}: {', '.join(values)}"


def test_the_page_has_every_alarm_and_no_other() -> None:
    assert [quoted(row[0])[0] for row in rows("Alarms")] == sorted(metrics.ALARMS)
    assert all(len(row) == 3 and all(row) for row in rows("Alarms"))


def logged() -> Iterator[tuple[str, str]]:
    """Event and level of every line that the gateway can log at warning or above. The emulators are no part of it."""
    for path in Path(pushgate.__file__).parent.rglob("*.py"):
        if "emulator" not in path.parts:
            for function in ast.walk(ast.parse(path.read_text())):
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from logged_by(function)


def logged_by(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    levels_of: dict[str, set[str]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and (found := levels_in(node.value)):
            levels_of[node.targets[0].id] = found  # say = log.error if … else log.warning
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            levels = levels_of.get(name) or (levels_in(node.func) if isinstance(node.func, ast.Attribute) else set())
            for level in levels:
                event = node.args[0]
                assert isinstance(event, ast.Constant), f"an event is a constant text: {ast.unparse(node)}"
                yield str(event.value), "error" if level == "exception" else level


def levels_in(expression: ast.AST) -> set[str]:
    """The levels of the methods of a logger that are named there, not called."""
    called = {id(node.func) for node in ast.walk(expression) if isinstance(node, ast.Call)}
    return {
        node.attr
        for node in ast.walk(expression)
        if isinstance(node, ast.Attribute)
        and node.attr in LEVELS
        and id(node) not in called
        and re.fullmatch(r"_?log|.*get_logger\(.*\)", ast.unparse(node.value))
    }


def test_the_page_has_every_event_at_warning_or_above_with_its_level_and_no_other() -> None:
    written = {(quoted(row[0])[0], level) for row in rows("Events") for level in re.split(r", ", row[1])}
    assert written == set(logged())
    assert all(len(row) == 4 and all(row) for row in rows("Events"))


def test_a_lane_that_comes_later_leaves_the_others_as_they_are() -> None:
    metrics = Metrics(["first"])
    metrics.backlog({"first": (7, 1.5)})
    metrics.lanes["first"].count_ending("expired")
    metrics.add(["first", "second"])
    text = metrics.text().decode()
    for line in (
        'pushgate_waiting{lane="first"} 7.0',
        'pushgate_oldest_waiting_seconds{lane="first"} 1.5',
        'pushgate_deliveries_total{ending="expired",lane="first"} 1.0',
        'pushgate_waiting{lane="second"} 0.0',
        'pushgate_deliveries_total{ending="expired",lane="second"} 0.0',
    ):
        assert line in text


def test_a_lane_that_comes_while_a_page_is_made_is_in_all_families_of_lanes_or_in_none() -> None:
    made = Metrics(LANES)
    families = made.each_family()
    told = [next(each for each in families if each.name == "pushgate_lane_info")]
    made.add(["late"])
    told += families
    assert {each.name for each in told} >= {"pushgate_taken_total", "pushgate_waiting"}
    assert not [each.name for each in told for _, labels, _ in each.samples if ("lane", "late") in labels]


def test_a_lane_that_goes_to_another_provider_has_no_credential_of_the_one_before() -> None:
    made = Metrics(LANES)
    counts = made.lanes[LANES[0]]
    counts.credential_ends("certificate", 1_900_000_000.0)
    assert dict(zip(metrics.CREDENTIALS, counts.credentials_end_at, strict=True))["certificate"] == 1_900_000_000.0
    counts.credential_ends("token", 1_800_000_000.0)
    ends = dict(zip(metrics.CREDENTIALS, counts.credentials_end_at, strict=True))
    assert ends == {"certificate": 0.0, "token": 1_800_000_000.0}
