"""The status page's word for a lane whose provider gives no proper answer, before and while it is an outage."""

from __future__ import annotations

import pytest

from pushgate.console.history import History
from pushgate.console.reading import read
from pushgate.console.status import status
from pushgate.metrics import Metrics

LANE = "org.example.a.apns"


def failing(metrics: Metrics, *, failures: int, for_s: float, waiting: int = 1, reason: str = "") -> None:
    metrics.lanes[LANE].failures_in_a_row = failures
    metrics.lanes[LANE].failing_s = for_s
    metrics.backlog({LANE: (waiting, for_s)})
    if reason:
        metrics.count_reason(LANE, "deferred", reason)


@pytest.mark.parametrize(
    ("failures", "for_s", "waiting", "state"),
    [
        (0, 0.0, 5, "ok"),
        (1, 2.0, 1, "ok"),  # a connection that was lost: it is tried again after a second
        (2, 29.0, 1, "ok"),
        (1, 30.0, 1, "no answer"),
        (3, 3.0, 1, "no answer"),
        (3, 3000.0, 0, "ok"),  # nothing waits for the answer
    ],
)
def test_a_lane_without_an_answer_says_so_long_before_it_is_an_outage(
    failures: int, for_s: float, waiting: int, state: str
) -> None:
    metrics, history = Metrics([LANE], provider_of=lambda lane: "apns"), History()
    failing(metrics, failures=failures, for_s=for_s, waiting=waiting)
    history.add(now := read(metrics.families(), at=5000.0))
    told = status(now, history, unready="")
    (lane,) = told.lanes
    assert (lane.state, lane.severity, lane.failures, lane.failing_s) == (
        state,
        0 if state == "ok" else 2,
        failures,
        for_s,
    )
    assert [each.what for each in told.notices] == ([] if state == "ok" else [state])


def test_it_is_told_since_when_and_with_what_was_said_until_an_alarm_says_it() -> None:
    metrics = Metrics([LANE], provider_of=lambda lane: "apns", reasons={"apns": ["connect", "timeout"]})
    history = History()
    for _ in range(7):
        metrics.count_reason(LANE, "deferred", "timeout")  # that is long ago
    history.add(read(metrics.families(), at=1000.0))
    for step in range(1, 6):
        failing(metrics, failures=step, for_s=10.0 * step, reason="connect")
        history.add(now := read(metrics.families(), at=1000.0 + 10 * step))
    (notice,) = status(now, history, unready="").notices
    assert (notice.what, notice.lane, notice.since, notice.until, notice.urgent) == ("no answer", LANE, 1000, 0, False)
    assert notice.reasons == [("connect", 5)]
    assert "5 attempts in a row have failed" in notice.meaning
    assert "pushgate doctor" in notice.mend
    metrics.lanes[LANE].alarm("outage", stands=True)
    failing(metrics, failures=6, for_s=60.0, reason="connect")
    history.add(now := read(metrics.families(), at=1060.0))
    told = status(now, history, unready="")
    (notice,) = told.notices
    assert (notice.what, notice.since, notice.reasons) == ("outage", 1000, [("connect", 6)]), "not since the alarm"
    assert told.lanes[0].state == "outage"
    metrics.lanes[LANE].alarm("outage", stands=False)
    failing(metrics, failures=0, for_s=0.0, waiting=0)
    history.add(now := read(metrics.families(), at=1070.0))
    told = status(now, history, unready="")
    assert [(each.what, each.since, each.until) for each in told.notices] == [("outage", 1060, 1070)]
    assert told.lanes[0].state == "ok"
    assert history.said_since_failing(LANE) == []
