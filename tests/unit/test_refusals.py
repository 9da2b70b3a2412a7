"""refusals: the first at once, those that follow in numbers, each caller and status for itself."""

from __future__ import annotations

from structlog.testing import capture_logs

from pushgate.refusals import TELL_EVERY_S, Refusals


def test_the_first_is_told_at_once_and_the_rest_in_numbers() -> None:
    refusals = Refusals()
    with capture_logs() as logs:
        for n in range(1000):
            refusals.tell("erp", 429, "too often", 100 + n * TELL_EVERY_S / 500)
        refusals.tell("erp", 401, "no", 100)
        refusals.tell("chat", 429, "too often", 100)
    assert logs[0] == {
        "event": "requests refused",
        "log_level": "warning",
        "caller": "erp",
        "status": 429,
        "error": "too often",
        "count": 1,
    }
    assert [(line["caller"], line["status"], line["count"]) for line in logs[1:]] == [
        ("erp", 429, 500),
        ("erp", 401, 1),
        ("chat", 429, 1),
    ]
