"""What the pages say in figures is what the code does."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from pushgate import pace, retry
from pushgate.config import Settings
from pushgate.outcome import Cause

ROOT = Path(__file__).parents[2]
PATH_PAGE = (ROOT / "docs" / "explanation" / "path-of-a-notification.md").read_text()
SYSTEMD_PAGE = (ROOT / "docs" / "how-to" / "run-with-systemd.md").read_text()
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_the_table_of_retries_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) s \| (\d+) s \| (\d+) s \| (.+) \|$", PATH_PAGE, re.M)
    said = {name: tuple(map(int, waits)) for name, *waits, _ in rows}
    assert said == {
        cause.value: (retry.APNS[cause].first_s, retry.FCM[cause].first_s, retry.APNS[cause].longest_s)
        for cause in Cause
    }
    assert {cause: retry.APNS[cause].longest_s for cause in Cause} == {
        cause: retry.FCM[cause].longest_s for cause in Cause
    }
    assert f"up to {retry.JITTER:.0%}".replace("%", " %") in PATH_PAGE
    assert (retry.LAST_CHANCE_S, "a minute before its end" in PATH_PAGE) == (60, True)
    assert f"({pace.OUTAGE_AFTER_FAILURES} failures in a row" in PATH_PAGE
    assert f"or {pace.SILENCE_AFTER_FAILURES} where the first was {pace.SILENCE_S / 60:.0f} minutes ago" in PATH_PAGE


def test_the_unit_gives_a_stop_more_time_than_the_gateway_takes() -> None:
    found = re.search(r"^```ini\n(.*?)^```$", SYSTEMD_PAGE, re.M | re.S)
    assert found is not None
    unit = configparser.RawConfigParser(strict=False, delimiters=("=",))
    unit.read_string(found[1])
    service = unit["Service"]
    assert float(service["TimeoutStopSec"]) > Settings().delivery.drain_s
    assert service["LimitCORE"] == "0"
    assert service["ExecStart"].startswith("/opt/pushgate/bin/pushgate serve --config ")


def test_every_link_between_pages_leads_to_a_file() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"
