"""The scenes of the status page, of which the picture in the README is made: their figures add up."""

from __future__ import annotations

import time

import pytest

from tests.status_scenes import DELIVERY_BYTES, EMPTY_SPOOL_BYTES, HOUR_S, STEP_S, UP_S, played

NOON = 1_767_268_800.0


@pytest.mark.parametrize("began", [NOON + n * 3571 for n in range(7)])
@pytest.mark.parametrize("name", ["calm", "trouble", "outage", "silent"])
async def test_a_scene_adds_up(name: str, began: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: began)  # what comes in swings with the time of day
    scene = await played(name)
    now = await scene.console._live.status()
    totals, lanes, up_s = now.totals, now.lanes, UP_S + HOUR_S
    for lane in lanes:
        ended = lane.accepted + lane.rejected + lane.undeliverable + lane.expired
        assert scene.metrics.lanes[lane.lane].taken == pytest.approx(ended + lane.waiting, abs=lane.in_flight + 1)
        assert lane.waiting >= lane.in_flight
        assert lane.in_flight <= lane.limit
        assert lane.accepted == pytest.approx(up_s * scene._plays[lane.lane].per_s, rel=0.02)
        assert lane.oldest_s <= HOUR_S
        assert (lane.oldest_s > 60) <= (lane.severity > 1)
        assert lane.deferred == sum(count for outcome, _, count in lane.reasons if outcome == "deferred")
    notified = sum(caller.notifications for caller in now.callers)
    assert notified == sum(counts.taken for counts in scene.metrics.lanes.values())
    assert totals.hour_notifications == pytest.approx(
        totals.hour_accepted + totals.hour_rejected + now.hour.waiting[-1], rel=0.005, abs=1
    )
    assert now.machine.spool_bytes == EMPTY_SPOOL_BYTES + totals.waiting * DELIVERY_BYTES
    assert now.at - now.health.started_at == up_s
    assert sum(peer.streams for peer in now.peers) == totals.in_flight == sum(lane.in_flight for lane in lanes)
    held_up = max((notice.since for notice in now.notices if not notice.until), default=now.at)
    assert totals.oldest_s == pytest.approx(now.at - held_up, abs=STEP_S) or not held_up
    assert [lane.state for lane in lanes if lane.severity > 1] == {
        "calm": [],
        "trouble": ["credentials"],
        "outage": ["outage"],
        "silent": ["no answer"],
    }[name]
