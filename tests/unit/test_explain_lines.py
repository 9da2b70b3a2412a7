"""What `pushgate explain` says of what a gateway knows."""

from __future__ import annotations

import pytest

from pushgate.commands import explain
from pushgate.journal import AttemptTold, DeliveryTold, Event, Explained, RequestTold

AT = 1_767_225_600.25
TRIED = DeliveryTold("5a2f0c1e", "org.example.app.apns", [AttemptTold(AT, Event.DEFERRED, "Shutdown")])
UNTRIED = DeliveryTold("6b3f0c1e", "org.example.app.apns", [])


def told(*deliveries: DeliveryTold, repeats: int = 0, untried: str = explain._WAITS) -> list[str]:
    request = RequestTold("complaint-7", "erp", AT, 200, repeats, list(deliveries), 0)
    return list(explain._lines(Explained([request], [], AT, 100), untried=untried))


def test_a_request_leads_to_its_deliveries_and_their_attempts() -> None:
    assert told(TRIED, UNTRIED) == [
        "request complaint-7",
        "  2026-01-01T00:00:00.250Z  answered 200 to erp",
        "  delivery 5a2f0c1e  lane org.example.app.apns",
        "    2026-01-01T00:00:00.250Z  deferred, it will be tried again: Shutdown",
        "  delivery 6b3f0c1e  lane org.example.app.apns",
        "    waits: not tried yet",
    ]


@pytest.mark.parametrize(
    ("repeats", "untried", "said"),
    [
        (0, explain._WAITS, "waits: not tried yet"),
        (0, explain._ELSEWHERE, "not tried by this gateway: ask the others about this delivery"),
        (1, explain._WAITS, "waits: not tried yet, or left out as a repeat"),
        (2, explain._ELSEWHERE, "left out as a repeat"),
    ],
)
def test_what_was_not_tried_here_may_wait_or_be_somebody_elses(repeats: int, untried: str, said: str) -> None:
    assert told(UNTRIED, TRIED, repeats=repeats, untried=untried)[4 if repeats else 3] == f"    {said}"
