"""metrics as plain data: on the wire between processes, added up, and as text that Prometheus' own parsers read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from pushgate.metrics import OTHER, Metrics
from pushgate.metrics.exposition import MANY, accepts_openmetrics, number, pages, text
from pushgate.metrics.families import Family, Kind, Merge, Sample, decode, encode, summed
from pushgate.metrics.instruments import Spread

PARSERS: dict[bool, Callable[[str], Iterable[Any]]] = {False: prometheus, True: open_metrics}
"""By whether it is OpenMetrics."""
HOSTILE = 'a"b\\c\nd{}=,#\u2028é'
LANES = ("org.example.a", HOSTILE)


def lived() -> Metrics:
    made = Metrics(LANES, provider_of=lambda lane: "apns", reasons={"apns": ["Unregistered"]})
    made.add_callers([HOSTILE])
    made.count_notifications("notify", HOSTILE, ["success", "failed", "success"])
    made.count_request(HOSTILE, 200)
    made.count_taken([HOSTILE, HOSTILE])
    made.count_taken(["org.example.a", HOSTILE])
    made.count_reason(HOSTILE, "rejected", "Unregistered")
    made.count_reason(HOSTILE, "deferred", "a text with a pushkey in it")
    made.count_commit(0.003, 2048)
    for seconds in (0.001, 0.0011, 29.9, 31):
        made.lanes[HOSTILE].seconds.observe(seconds)
    made.backlog({HOSTILE: (3, 17.5)})
    return made


@pytest.mark.parametrize("is_open", [False, True])
def test_the_parsers_of_prometheus_read_every_series_as_it_is(is_open: bool) -> None:
    families = lived().families()
    written = text(families, openmetrics=is_open).decode()
    parsed = list(PARSERS[is_open](written))
    assert [each.name for each in parsed] == [each.name.removesuffix("_total") for each in families]
    assert [each.type for each in parsed] == [each.kind.value for each in families]
    told = {(s.name, frozenset(s.labels.items())): s.value for each in parsed for s in each.samples}
    assert told == {(name, frozenset(labels)): value for each in families for name, labels, value in each.samples}
    assert written.endswith("# EOF\n") is is_open


def test_a_page_of_many_lanes_comes_in_parts_that_are_small_each() -> None:
    families = Metrics([f"org.example.{number}" for number in range(700)]).families()
    parts = [part.decode() for part in pages(families, openmetrics=True)]
    assert "".join(parts) == text(families, openmetrics=True).decode()
    assert len(parts) > 5
    assert max(part.count("\n") for part in parts) < 2.5 * MANY
    assert all(part.endswith("\n") for part in parts)


def test_an_empty_metric_is_no_fault_for_either_parser() -> None:
    empty = [
        Family("a_total", Kind.COUNTER, 'with "quotes"\nand \\', []),
        Family("b", Kind.GAUGE, "", [("b", (), 1e300)]),
    ]
    for is_open, parse in PARSERS.items():
        first, *_ = parse(text(empty, openmetrics=is_open).decode())
        assert first.documentation == 'with "quotes"\nand \\'


def test_words_that_utf_8_cannot_hold_are_no_fault() -> None:
    lone = [Family("a", Kind.GAUGE, "x", [("a", (("b", "\udcff"),), 1.0)])]
    assert b'a{b="?"} 1.0' in text(lone)


def test_families_travel_as_they_are() -> None:
    families = lived().families()
    assert decode(encode(families)) == families


def test_several_processes_are_added_up_each_metric_its_own_way() -> None:
    one, two = lived(), lived()
    two.lanes[HOSTILE].alarm("outage", stands=True)
    two.backlog({HOSTILE: (4, 3.0), "orphan": (1, 9.0)})
    one.lists_end_at.set(500)
    one.certificate_ends_at.set(900)
    two.certificate_ends_at.set(800)
    one.started_at.set(10)
    two.started_at.set(20)
    one.memory_bytes.set(1)
    two.memory_bytes.set(2)
    added = {
        (name, labels): value
        for each in summed([one.families(), two.families()])
        for name, labels, value in each.samples
    }
    lane = (("lane", HOSTILE),)
    assert added["pushgate_taken_total", lane] == 6
    assert added["pushgate_waiting", lane] == 7
    assert added["pushgate_oldest_waiting_seconds", lane] == 17.5
    assert added["pushgate_waiting", (("lane", "orphan"),)] == 1
    assert added["pushgate_lane_alarm", (("alarm", "outage"), *lane)] == 1
    assert added["pushgate_lane_info", (*lane, ("provider", "apns"))] == 1
    assert added["pushgate_attempt_seconds_bucket", (*lane, ("le", "+Inf"))] == 8
    assert added["pushgate_attempt_seconds_sum", lane] == pytest.approx(121.8042)
    assert added["pushgate_client_crl_end_timestamp_seconds", ()] == 500
    assert added["pushgate_server_certificate_end_timestamp_seconds", ()] == 800
    assert added["process_start_time_seconds", ()] == 10
    assert added["process_resident_memory_bytes", ()] == 3
    assert [value for (name, _), value in added.items() if name == "pushgate_build_info"] == [1]
    assert summed([one.families()]) == one.families()
    assert summed([]) == []


LARGEST = ("oldest_waiting_seconds", "lane_pause_seconds", "lane_failures_in_a_row", "lane_failing_seconds")


def test_whatever_is_zero_or_one_and_whatever_ends_is_not_summed() -> None:
    families = lived().families()
    flags = {each.name for each in families if "1 while" in each.help or each.help == "Always 1."}
    assert flags
    for each in families:
        if each.name in flags or each.name.endswith(LARGEST):
            assert each.merge is Merge.MAX, each.name
        elif each.name.endswith(("_timestamp_seconds", "_start_time_seconds")):
            assert each.merge is Merge.EARLIEST, each.name
        else:
            assert each.merge is Merge.SUM, each.name


def test_reasons_are_those_of_the_provider_and_every_other_one_is_other() -> None:
    written = text(lived().families()).decode()
    assert 'pushgate_reasons_total{provider="apns",reason="Unregistered"} 1.0' in written
    assert f'pushgate_reasons_total{{provider="apns",reason="{OTHER}"}} 1.0' in written
    assert "pushkey in it" not in written
    at_zero = Metrics(LANES, provider_of=lambda lane: "apns", reasons={"apns": ["Unregistered"]})
    assert 'pushgate_reasons_total{provider="apns",reason="Unregistered"} 0.0' in at_zero.text().decode()


def test_a_lane_that_goes_to_another_provider_is_told_once() -> None:
    providers = {"a": "apns"}
    made = Metrics(["a"], provider_of=providers.__getitem__)
    providers["a"] = "fcm"
    made.add(["a"])
    infos = [line for line in made.text().decode().splitlines() if line.startswith("pushgate_lane_info{")]
    assert infos == ['pushgate_lane_info{lane="a",provider="fcm"} 1.0']


def test_a_look_is_asked_before_each_collection() -> None:
    made = Metrics(["a"])
    made.looks.append(lambda: made.count_taken(["a"]))
    made.families()
    assert 'pushgate_taken_total{lane="a"} 2.0' in made.text().decode()


def test_a_histogram_counts_each_bound_with_itself() -> None:
    spread = Spread((1.0, 2.0))
    for value in (0, 1, 1.5, 2, 99):
        spread.observe(value)
    told: list[Sample] = []
    spread.tell("x", (), told)
    series = {(name, labels): value for name, labels, value in told}
    assert series == {
        ("x_bucket", (("le", "1.0"),)): 2,
        ("x_bucket", (("le", "2.0"),)): 4,
        ("x_bucket", (("le", "+Inf"),)): 5,
        ("x_count", ()): 5,
        ("x_sum", ()): 103.5,
    }


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8;q=0.5,text/plain;version=0.0.4;q=0.2", True),
        ("application/openmetrics-text;version=1.0.0;q=0.2,text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=nonsense", False),
        ("application/openmetrics-text;version=2.0.0", False),
        ("APPLICATION/OpenMetrics-Text", True),
        (";;,,=", False),
    ],
)
def test_openmetrics_is_for_whoever_asks_for_it(accept: str, expected: bool) -> None:
    assert accepts_openmetrics(accept) is expected


@pytest.mark.parametrize(
    ("value", "expected"), [(math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"), (3, "3.0")]
)
def test_numbers_are_written_as_both_formats_want_them(value: float, expected: str) -> None:
    assert number(value) == expected
