"""The benchmark itself: its load is what it says, its doubts are told, its tables and curves show what was measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from bench import plot, report, rows
from bench.latency import Latency
from bench.load import Kind, Requests, Wish
from bench.machine import CoreTime, Machine
from bench.report import Report
from bench.rows import Measured, Plan, Row, row_of
from bench.waiting import Beside, Held
from pushgate import wire
from pushgate.model import EncryptedNotification

PAGE = (Path(__file__).parents[2] / "docs" / "explanation" / "performance.md").read_text()
PLAN = Plan("batch100", "sealed", 1000, 8, Wish(["a"], 100), 7)
MACHINE = Machine(cpu="CPU <1>", cores=2, memory_gb=8, kernel="Linux 6", disk="ext4", versions="Python 3.11, x 1")


def bodies(requests: Iterator[bytes]) -> list[bytes]:
    """What is in them, each as long as its head says."""
    found = []
    for request in requests:
        head, _, body = request.partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}" in head.decode().lower()
        found.append(body)
    return found


@pytest.mark.parametrize(("apps", "batch"), [(1, 100), (1, 1), (3, 1), (100, 100), (250, 100), (7, 10)])
def test_no_two_notifications_are_the_same_and_every_lane_gets_its_share(apps: int, batch: int) -> None:
    wish = Wish([f"app{number}" for number in range(apps)], batch)
    seen: list[EncryptedNotification] = []
    for body in bodies(Requests(wish).take(1500, until=math.inf)):
        seen += (item.notification for item in wire.decode_encrypted_batch(body, wire.Limits()))
    assert len(seen) == 1500
    assert len({each.ciphertext for each in seen}) == len({each.device.pushkey for each in seen}) == len(seen)
    counts = [sum(each.device.app_id == app for each in seen) for app in wish.apps]
    assert max(counts) - min(counts) <= 1500 // apps


def test_plain_ones_differ_and_two_sources_have_nothing_in_common() -> None:
    seen = []
    for _ in range(2):
        for body in bodies(Requests(Wish(["app"], 1, Kind.PLAIN)).take(50, until=math.inf)):
            notification = wire.decode_notify(body, wire.Limits())
            seen.append((notification.event_id, notification.devices[0].pushkey))
    assert len({event for event, _ in seen}) == len({pushkey for _, pushkey in seen}) == 100


def test_when_time_is_up_no_more_is_sent() -> None:
    assert list(Requests(Wish(["app"], 10)).take(1000, until=0.0)) == []


def measured(
    *, busy: float = 1.0, gateway: float = 0.97, load: float = 0.1, load_core: float = 0.2, stolen: float = 0.0
) -> Measured:
    """Of ten seconds."""
    return Measured(
        notifications=50_000,
        seconds=10.0,
        core=CoreTime(10 * busy, 0.2, 10 * stolen),
        gateway_s=10 * gateway,
        sink_s=5 * load,
        load_s=5 * load,
        load_core=CoreTime(10 * load_core, 0, 0),
        cpu_s=10.0,
        rss_max_mb=100.0,
    )


@pytest.mark.parametrize(
    ("found", "after_us", "said"),
    [
        (measured(), 5.0, []),
        (measured(busy=0.6, gateway=0.58), 5.0, ["the core was not full (60%): the gateway waited"]),
        (
            measured(busy=0.6, gateway=0.58, load=0.9, load_core=1.0),
            5.0,
            ["the core was not full (60%): the load's core was the limit", "full (100%), of sink and load generator"],
        ),
        (measured(load_core=1.0), 5.0, ["full (100%), of others"]),
        (measured(gateway=0.5), 5.0, ["others took 48% of the gateway's core"]),
        (measured(stolen=0.2), 5.0, ["the host took 20% of the gateway's core"]),
        (measured(), 6.0, ["h was 5.0 µs before and 6.0 µs after"]),
    ],
)
def test_what_makes_a_row_doubtful_is_told(found: Measured, after_us: float, said: Sequence[str]) -> None:
    row = row_of(PLAN, found, h_before_s=5e-6, h_after_s=after_us / 1e6)
    assert len(row.notes) == len(said)
    assert all(words in note for words, note in zip(said, row.notes, strict=True))


def test_a_row_is_in_units_of_h() -> None:
    row = row_of(PLAN, measured(), h_before_s=9e-6, h_after_s=11e-6)
    assert (round(row.cpu_us), round(row.cost_h), round(row.per_s)) == (200, 20, 5000)


def test_of_several_trials_the_middle_one_counts() -> None:
    trials = [row_of(PLAN, measured(), h_before_s=h, h_after_s=h) for h in (8e-6, 10e-6, 9e-6, 20e-6, 7e-6)]
    middle = rows.middle_of(trials)
    assert [round(cost_h) for cost_h in middle.trials_h] == [10, 20, 22, 25, 29]
    assert (round(middle.cost_h), round(middle.h_us)) == (22, 9)
    assert "| 200.0 µs | 22.2 h (10.0 to 28.6) | 7 h |" in report.as_markdown(
        msgspec.structs.replace(full(), rows=[middle])
    )


def row(name: str, per_s: float, notes: Sequence[str] = ()) -> Row:
    found = row_of(PLAN, measured(), h_before_s=1e-5, h_after_s=1e-5)
    return msgspec.structs.replace(found, name=name, title=f"title of {name}", per_s=per_s, notes=[*notes])


def full() -> Report:
    return Report(
        date="2026-01-31 12:00 UTC",
        extent="a full run",
        seconds=300.0,
        machine=MACHINE,
        rows=[
            row("batch100", 9000.0, ["it was night"]),
            row("batch1", 3000.0),
            row("batch10", 6000.0),
            row("lanes100", 5000.0),
        ],
        latencies=[
            Latency(name="a", title="b", asked_per_s=10.0, requests=9, p50_ms=1, p99_ms=2.5, max_ms=3, notes=["late"])
        ],
        starts_s=[0.5, 0.9, 0.7],
        idle_mb=80.0,
        lane_kb=12.34,
        held=Held(1000, 100_000, 150.0),
        beside=[Beside(1_000_000, 1.5, 160.0, row("beside", 8000.0))],
        failed=["lanes: left out"],
    )


def test_the_tables_hold_every_figure_and_every_doubt() -> None:
    text = report.as_markdown(full())
    for words in (
        "| title of batch100 | 200.0 µs | 20.0 h | 7 h | 9,000/s | 100% | 97% | 5% | 5% | 100 MB |",
        "| b | 10/s | 1.0 ms | 2.5 ms | 3.0 ms |",
        "longest 0.90 s; goal 0.7 s) | 0.70 s |",
        "| memory, idle | 80 MB |",
        "| memory of each lane that has nothing to do (goal 20 KB) | 12.3 KB |",
        "| memory, 100,000 accepted and not delivered, 1,000 of them in flight | 150 MB |",
        "| 1,000,000 | 1.50 s | 160 MB | 200.0 µs | 20.0 h | 8,000/s | 100% | 100 MB |",
        "- title of batch100: it was night",
        "- b, answers: late",
        "- lanes: left out",
        "2026-01-31 12:00 UTC, a full run of 5.0 minutes. h was 10.0 µs (10.0 to 10.0). CPU <1>, 2 cores",
    ):
        assert words in text
    for table in re.findall(r"(?:^\|.*\n?)+", text, re.M):
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1


def test_what_was_not_measured_is_left_out() -> None:
    text = report.as_markdown(Report(date="d", extent="a part", seconds=6, machine=MACHINE))
    assert "|" not in text
    assert "goal" not in text


def test_the_page_takes_new_figures_in_place_of_the_old_ones() -> None:
    once = report.put_into(PAGE, full())
    assert once != PAGE
    assert report.put_into(once, full()) == once
    assert once.split(report.BEGIN)[0] == PAGE.split(report.BEGIN)[0]
    assert once.split(report.END)[1] == PAGE.split(report.END)[1]
    with pytest.raises(SystemExit, match="lacks the lines"):
        report.put_into("nothing", full())


def test_a_report_is_read_back_as_it_was_written() -> None:
    assert msgspec.json.decode(msgspec.json.encode(full()), type=Report) == full()


def test_the_curves_are_six_panels_with_named_axes() -> None:
    drawn = ElementTree.fromstring(plot.svg(full()))
    words = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert sum(words.count(label) for label in ("notifications a second", "µs of CPU for each")) == 6
    assert sum(words.count(label) for label in ("notifications that wait for another app", "1,000,000")) == 4
    assert words.count("apps, in batches of 100 (logarithmic)") == 2
    assert {"3,000", "5,000", "6,000", "9,000", "8,000"} <= {*words}
    lines = [element.attrib["points"] for element in drawn.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(points.split()) for points in lines] == [3, 3, 2, 2, 2, 2]
    rising = [float(point.split(",")[1]) for point in lines[0].split()]
    assert rising == sorted(rising, reverse=True)  # SVG counts downwards


def test_nothing_is_drawn_of_single_points() -> None:
    one = msgspec.structs.replace(full(), rows=[row("batch1", 1.0)], beside=[])
    with pytest.raises(SystemExit, match="nothing to plot"):
        plot.svg(one)


@pytest.mark.parametrize(("about", "step"), [(1.0, 1), (1.1, 2), (2.1, 5), (0.3, 0.5), (60_000, 100_000), (5000, 5000)])
def test_steps_of_axes_are_round(about: float, step: float) -> None:
    assert plot.nice_step(about) == pytest.approx(step)


def test_the_rows_are_whole_requests_with_names_of_their_own() -> None:
    for scale in (1.0, 0.12):
        plans = rows.plans(scale)
        assert len({plan.name for plan in plans}) == len(plans)
        for plan in plans:
            assert plan.notifications > 0
            assert plan.notifications % plan.wish.batch == 0
