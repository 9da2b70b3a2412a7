"""The dashboard and the rules ask for metrics, labels and values that there are, and the runbook has every alert.

Whether an expression is PromQL at all is promtool's to say: see tests/system/test_alerts.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import Struct

from pushgate.cells.restarts import Restarts
from pushgate.cells.supervisor import Supervisor
from pushgate.config import Settings
from pushgate.metrics import OTHER, Metrics
from pushgate.metrics.families import Family, Kind

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "pushgate.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
RUNBOOK = (ROOT / "docs" / "how-to" / "answer-alerts.md").read_text()
LANE, PEER = "org.example.health.apns", "api.push.example.org:443"

TARGET = frozenset({"job", "instance", "namespace"})
"""Labels that Prometheus gives to every series of a target; `namespace` only in Kubernetes."""
PROMETHEUS_OWN = {"up"}
OPEN = frozenset({"lane", "peer", "caller", "version", "cell", "reason", "provider", "le"})
"""Labels whose values nobody knows beforehand."""
LISTS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
WORDS = LISTS | {"and", "or", "unless", "bool", "offset"}

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\d[\w.]*|[A-Za-z_:][\w:]*|=~|!~|!=|[<>=]=?|\S')


class Asked(Struct, frozen=True):
    """One selector of an expression: the metric, what its labels must be, and the function around it."""

    metric: str
    matchers: Sequence[tuple[str, str, str]]
    function: str


class Query(Struct, frozen=True):
    """What an expression asks for."""

    selectors: Sequence[Asked]
    grouped_by: frozenset[str]


def read(expression: str) -> Query:
    """Every selector and every label to group or match by. Names that are followed by `(` are functions."""
    tokens = _TOKEN.findall(re.sub(r"\[[^\]]*\]|@ end\(\)", "", expression))
    selectors: list[Asked] = []
    labels: set[str] = set()
    at = 0
    while at < len(tokens):
        token, after = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ""
        at += 1
        if token in LISTS and after == "(":
            end = tokens.index(")", at)
            labels |= {*tokens[at + 1 : end]} - {","}
            at = end + 1
        elif re.match(r"[A-Za-z_:]", token) and token not in WORDS and after != "(" and after not in LISTS:
            end = tokens.index("}", at) + 1 if after == "{" else at
            inner = [each for each in tokens[at + 1 : max(end - 1, at)] if each != ","]
            matchers = [(inner[i], inner[i + 1], inner[i + 2].strip('"')) for i in range(0, len(inner), 3)]
            before = tokens[at - 3 : at - 1] if at > 2 else []
            selectors.append(Asked(token, matchers, before[0] if before and before[1] == "(" else ""))
            at = end
    return Query(selectors, frozenset(labels))


def test_the_reader_finds_all_that_is_asked_for() -> None:
    read_it = read('sum by (a, b) (rate(x_total{c="d,e", f=~"g|h"}[5m])) * on (i) group_left (j) y > 2 unless z{} == 1')
    assert read_it.grouped_by == {"a", "b", "i", "j"}
    assert read_it.selectors == [
        Asked("x_total", [("c", "=", "d,e"), ("f", "=~", "g|h")], "rate"),
        Asked("y", [], ""),
        Asked("z", [], ""),
    ]


# --- what there is


class There(Struct, frozen=True):
    """One series name: its kind, and its labels with the values that they have."""

    kind: Kind
    labels: dict[str, set[str]]


async def families() -> list[Family]:
    """Those of a gateway, and those that a supervisor of several adds."""
    metrics = Metrics([LANE], provider_of=lambda lane: "apns", reasons={"apns": ["Unregistered"]})
    metrics.add_peers([PEER])
    metrics.count_reason(LANE, "deferred", OTHER)
    supervisor = Supervisor(
        Settings(), config_file=Path("pushgate.toml"), content=b"", cells=2, left_over=(), role="all"
    )
    supervisor._restarts[0] = Restarts()
    return [*metrics.families(), *supervisor._own_families()]


async def series() -> dict[str, There]:
    found: dict[str, There] = {}
    for family in await families():
        for name, labels, _ in family.samples:
            there = found.setdefault(name, There(family.kind, {}))
            for label, value in labels:
                there.labels.setdefault(label, set()).add(value)
    return found


def panels() -> list[dict[str, Any]]:
    return [each for each in DASHBOARD["panels"] if each["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Where it stands, and the expression."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]
    for rule in RULES:
        yield rule["alert"], rule["expr"]


EVERY = [pytest.param(expression, id=at) for at, expression in expressions()]


# --- queries


@pytest.mark.parametrize("expression", EVERY)
async def test_every_metric_and_label_and_value_that_is_asked_for_is_there(expression: str) -> None:
    there, query = await series(), read(expression)
    assert query.selectors
    groupable = set(TARGET)
    for asked in query.selectors:
        assert asked.metric in there or asked.metric in PROMETHEUS_OWN, asked.metric
        labels = there[asked.metric].labels if asked.metric in there else {}
        groupable |= {*labels}
        for label, how, value in asked.matchers:
            assert label in labels or label in TARGET, f"{asked.metric} has no label {label}"
            if label not in OPEN | TARGET:
                wanted = {*value.split("|")} if "~" in how else {value}
                assert wanted <= labels[label], f"{asked.metric}: {label} is never {wanted - labels[label]}"
    assert query.grouped_by <= groupable, query.grouped_by - groupable


@pytest.mark.parametrize("expression", EVERY)
async def test_what_counts_is_asked_for_its_rate_and_what_is_a_level_is_not(expression: str) -> None:
    there = await series()
    for asked in read(expression).selectors:
        rises = asked.metric in there and there[asked.metric].kind is not Kind.GAUGE
        assert (asked.function in ("rate", "increase")) == rises, asked.metric


async def test_every_metric_is_on_the_dashboard() -> None:
    shown = {
        asked.metric for panel in panels() for target in panel["targets"] for asked in read(target["expr"]).selectors
    }
    shown |= {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert {family.name for family in await families()} - shown == set()


def test_every_legend_names_labels_that_its_query_keeps() -> None:
    for panel in panels():
        for target in panel["targets"]:
            named = {*re.findall(r"{{(\w+)}}", target["legendFormat"])}
            assert named <= read(target["expr"]).grouped_by, f"{panel['title']}: {named}"


# --- the dashboard


def test_panels_have_ids_of_their_own_and_places_of_their_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len({*ids}) == len(ids)
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]
    titles = [panel["title"] for panel in panels()]
    assert len({*titles}) == len(titles)


def test_it_has_a_row_for_each_part() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Now", "Traffic", "Lanes", "Providers", "Spool", "Process"]
    assert DASHBOARD["schemaVersion"] >= 39


def test_every_panel_says_what_it_shows_and_in_what_unit() -> None:
    alerts = {rule["alert"] for rule in RULES}
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert {*re.findall(r"Pushgate\w+", panel["description"])} <= alerts
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_nothing_is_bound_to_one_data_source_and_every_variable_is_defined() -> None:
    names = [each["name"] for each in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "job", "instance", "lane"]
    text = json.dumps(DASHBOARD)
    assert {*re.findall(r"\$\{?([a-z]\w*)", text)} == {*names}
    assert {*re.findall(r'"type": "prometheus", "uid": "([^"]*)"', text)} == {"${datasource}"}
    for panel in panels():
        for each in (panel, *panel["targets"]):
            assert each["datasource"]["uid"] == "${datasource}"


async def test_the_variables_ask_for_labels_that_there_are() -> None:
    there = await series()
    for each in DASHBOARD["templating"]["list"][1:]:
        found = re.fullmatch(r"label_values\((\w+)(?:{[^}]*})?, (\w+)\)", each["definition"])
        assert found is not None
        assert each["query"]["query"] == each["definition"]
        assert found[2] in TARGET | {*there[found[1]].labels}


def test_every_query_heeds_the_variables() -> None:
    for panel in panels():
        for target in panel["targets"]:
            for asked in read(target["expr"]).selectors:
                matched = {(label, value) for label, _, value in asked.matchers}
                assert {("job", "$job"), ("instance", "$instance")} <= matched, panel["title"]


# --- alerts and their pages


def test_every_alert_says_what_where_and_what_next_and_leads_to_its_section() -> None:
    for rule in RULES:
        told = rule["annotations"]
        assert rule["labels"] == {"severity": rule["labels"]["severity"]}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert {*told} == {"summary", "description", "runbook_url"}
        assert "Next: " in told["description"]
        if rule["alert"] != "PushgateAbsent":  # then there is nothing that it could be
            assert "$labels.instance" in told["description"] or "$labels.instance" in told["summary"]
        way, _, anchor = told["runbook_url"].partition("#")
        place = way.removeprefix("https://example.org/pushgate/")
        assert (ROOT / place).read_text() == RUNBOOK
        assert anchor == rule["alert"].lower()


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    sections = re.findall(r"^## (Pushgate\w+)$", RUNBOOK, re.M)
    assert sections == [rule["alert"] for rule in RULES]
    for text in re.split(r"^## .*$", RUNBOOK, flags=re.M)[3:]:
        assert len(text.split()) > 20


def test_the_table_of_alerts_is_that_of_the_rules() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \| (\w+) \| ([\w ]+) \| .+ \|$", RUNBOOK, re.M)
    assert rows == [
        (rule["alert"], rule["alert"].lower(), rule["labels"]["severity"], rule.get("for", "at once")) for rule in RULES
    ]


def test_no_rule_repeats_a_limit_that_the_gateway_tells() -> None:
    (rule,) = (each for each in RULES if each["alert"] == "PushgateSpoolFills")
    told = {"pushgate_spool_limit_waiting_per_app", "pushgate_spool_limit_waiting", "pushgate_spool_limit_bytes"}
    assert told <= {asked.metric for asked in read(rule["expr"]).selectors}
    assert {*re.findall(r"(?<![\w.])[\d.]+", rule["expr"])} == {"0", "0.6"}
