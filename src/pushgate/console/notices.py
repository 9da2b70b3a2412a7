"""What somebody should know or do: alarms that stand and those that are over, what is about to end, what was lost."""

from __future__ import annotations

from pushgate.console import advice
from pushgate.console.advice import Advice
from pushgate.console.history import Alarm, History, said
from pushgate.console.reading import Reading
from pushgate.console.shapes import MOST_REASONS, Credential, Notice, Totals, shown

SOON_S = 14 * 86400
"""What ends so soon is worth a word."""
OLD_S = 3600
"""What waits so long, too."""

_CREDENTIALS = {"certificate": "APNs certificate", "token": "FCM access token"}
_RENEWED = frozenset({"FCM access token"})
"""These are renewed by themselves."""
_ENDS = {
    "pushgate_server_certificate_end_timestamp_seconds": "API certificate",
    "pushgate_client_crl_end_timestamp_seconds": "revocation list of callers",
}


def notices(now: Reading, totals: Totals, history: History, *, unready: str) -> list[Notice]:
    """What lasts and is urgent first, then what lasts, then what is over."""
    found = [*_about_all(now, totals, unready), *_about_lanes(now), *_about_ends(now)]
    found += [_of_alarm(alarm) for alarm in history.alarms()]
    return sorted(found, key=lambda each: (each.until > 0, not each.urgent, -(each.until or each.since)))


def _notice(what: str, told: Advice, *, lane: str = "", since: float = 0.0, more: str = "") -> Notice:
    meaning = f"{told.meaning} {more}".strip()
    return Notice(f"{what} {shown(lane)}", what, shown(lane), told.urgent, since, 0.0, meaning, told.mend)


def _about_all(now: Reading, totals: Totals, unready: str) -> list[Notice]:
    found = []
    if unready == "draining":
        found.append(_notice("draining", advice.DRAINING))
    elif unready and unready != "starting":
        found.append(_notice("not ready", advice.UNREADY, more=shown(unready)))
    if now.numbers.get("pushgate_configuration_refused"):
        found.append(_notice("configuration refused", advice.REFUSED))
    if totals.hour_expired:
        found.append(_notice("out of time", advice.EXPIRED, more=f"{totals.hour_expired} of them."))
    if totals.hour_broken:
        found.append(_notice("requests failed", advice.BROKEN, more=f"{totals.hour_broken} of them."))
    return found


def _about_lanes(now: Reading) -> list[Notice]:
    found = []
    for name, lane in now.lanes.items():
        if lane.waiting and not lane.provider:
            found.append(_notice("no app", advice.ORPHANED, lane=name))
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


def _of_alarm(alarm: Alarm) -> Notice:
    told = advice.ALARMS.get(alarm.kind, advice.OLD)
    return Notice(
        key=f"{alarm.kind} {shown(alarm.lane)} {alarm.since}",
        what=alarm.kind.replace("_", " "),
        lane=shown(alarm.lane),
        urgent=told.urgent and not alarm.until,
        since=round(alarm.since, 1),
        until=round(alarm.until, 1),
        meaning=told.meaning,
        mend=told.mend,
        reasons=[(shown(reason), count) for reason, count in said(alarm)[:MOST_REASONS]],
    )


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
