"""What somebody should know or do: alarms that stand and those that are over, what is about to end, what was lost."""

from __future__ import annotations

from collections.abc import Sequence

from pushgate.console import advice
from pushgate.console.advice import Advice
from pushgate.console.history import Alarm, History, said
from pushgate.console.reading import LaneReading, Reading
from pushgate.console.shapes import MOST_REASONS, Credential, Notice, Totals, shown

SOON_S = 14 * 86400
"""What ends so soon is worth a word."""
OLD_S = 3600
"""What waits so long, too."""
SILENT_AFTER_FAILURES = 3
SILENT_S = 30
"""A provider whose last proper answer is so many failures or so long ago gives none. One lost connection is neither: it
is tried again after a second."""

_CREDENTIALS = {"certificate": "APNs certificate", "token": "FCM access token"}
_RENEWED = frozenset({"FCM access token"})
"""These are renewed by themselves."""
_ENDS = {
    "pushgate_server_certificate_end_timestamp_seconds": "API certificate",
    "pushgate_client_crl_end_timestamp_seconds": "revocation list of callers",
}


def notices(now: Reading, totals: Totals, history: History, *, unready: str) -> list[Notice]:
    """What lasts and is urgent first, then what lasts, then what is over."""
    found = [*_about_all(now, totals, unready), *_about_lanes(now, history), *_about_ends(now)]
    found += [_of_alarm(alarm, now, history) for alarm in history.alarms()]
    return sorted(found, key=lambda each: (each.until > 0, not each.urgent, -(each.until or each.since)))


def has_no_answer(lane: LaneReading) -> bool:
    """Whether the provider answers nothing proper to what waits in the lane. No alarm says so yet."""
    is_silent = lane.failures >= SILENT_AFTER_FAILURES or lane.failing_s >= SILENT_S
    return is_silent and lane.waiting > 0 and not lane.alarms


def _notice(
    what: str,
    told: Advice,
    *,
    lane: str = "",
    since: float = 0.0,
    more: str = "",
    reasons: Sequence[tuple[str, int]] = (),
) -> Notice:
    meaning = f"{told.meaning} {more}".strip()
    since = round(since, 1)
    return Notice(f"{what} {shown(lane)}", what, shown(lane), told.urgent, since, 0.0, meaning, told.mend, reasons)


def _about_all(now: Reading, totals: Totals, unready: str) -> list[Notice]:
    found = []
    if unready == "draining":
        found.append(_notice("draining", advice.DRAINING))
    elif unready and unready != "starting":
        found.append(_notice("not ready", advice.UNREADY, more=shown(unready)))
    if not now.lanes:
        found.append(_notice("nothing configured", advice.NO_APPS))
    if now.numbers.get("pushgate_configuration_refused"):
        found.append(_notice("configuration refused", advice.REFUSED))
    if totals.hour_expired:
        found.append(_notice("out of time", advice.EXPIRED, more=f"{totals.hour_expired} of them."))
    if totals.hour_broken:
        found.append(_notice("requests failed", advice.BROKEN, more=f"{totals.hour_broken} of them."))
    return found


def _about_lanes(now: Reading, history: History) -> list[Notice]:
    found = []
    for name, lane in now.lanes.items():
        if lane.waiting and not lane.provider:
            found.append(_notice("no app", advice.ORPHANED, lane=name))
        elif has_no_answer(lane):
            failures = "One attempt has failed."
            if lane.failures > 1:
                failures = f"{int(lane.failures)} attempts in a row have failed."
            reasons, since = _told(history.said_since_failing(name)), now.at - lane.failing_s
            found.append(_notice("no answer", advice.NO_ANSWER, lane=name, since=since, more=failures, reasons=reasons))
        elif lane.oldest_s > OLD_S:
            found.append(_notice("waits long", advice.OLD, lane=name, since=now.at - lane.oldest_s))
    return found


def _about_ends(now: Reading) -> list[Notice]:
    return [
        _notice(each.what, advice.ENDED, lane=each.lane)
        if each.ends_at <= now.at
        else _notice(each.what, advice.ENDS_SOON, lane=each.lane, more=f"{_days(each.ends_at - now.at)} left.")
        for each in credentials(now)
        if each.ends_at - now.at < SOON_S and each.what not in _RENEWED
    ]


def _days(seconds: float) -> str:
    days = int(seconds / 86400)
    return "Less than a day is" if days < 1 else "One day is" if days == 1 else f"{days} days are"


def _of_alarm(alarm: Alarm, now: Reading, history: History) -> Notice:
    told = advice.ALARMS.get(alarm.kind, advice.OLD)
    since, reasons = alarm.since, said(alarm.at_first, alarm.reasons)
    failing_s = now.lanes[alarm.lane].failing_s if alarm.lane in now.lanes else 0.0
    if alarm.kind == "outage" and not alarm.until and now.at - failing_s < since:
        since, reasons = now.at - failing_s, history.said_since_failing(alarm.lane)  # it was none for some minutes
    return Notice(
        key=f"{alarm.kind} {shown(alarm.lane)} {alarm.since}",
        what=alarm.kind.replace("_", " "),
        lane=shown(alarm.lane),
        urgent=told.urgent and not alarm.until,
        since=round(since, 1),
        until=round(alarm.until, 1),
        meaning=told.meaning,
        mend=told.mend,
        reasons=_told(reasons),
    )


def _told(reasons: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    return [(shown(reason), count) for reason, count in reasons[:MOST_REASONS]]


def credentials(now: Reading) -> list[Credential]:
    """What ends, the first first."""
    found = [
        Credential(_CREDENTIALS.get(kind, kind), shown(name), ends_at)
        for name, lane in now.lanes.items()
        for kind, ends_at in lane.ends_at.items()
        if ends_at
    ]
    for metric, what in _ENDS.items():
        if ends_at := now.numbers.get(metric, 0.0):
            found.append(Credential(what, "", ends_at))
    return sorted(found, key=lambda each: (each.ends_at, each.lane))
