"""logs: one line for each event, and never a value of an exception."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from pushgate import logs

SECRET = "pushkey-of-alice"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Logging belongs to the process: leave it as it was."""
    root = logging.getLogger()
    handlers, level, hooks = root.handlers[:], root.level, (sys.excepthook, threading.excepthook)
    yield
    sys.excepthook, threading.excepthook = hooks
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.fixture
def written() -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level="info", form="json", stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_time_and_level(written: io.StringIO) -> None:
    structlog.get_logger("x").info("lane pauses", lane="a\nb")
    (event,) = lines(written)
    assert (event["event"], event["level"], event["lane"]) == ("lane pauses", "info", "a\nb")
    assert str(event["timestamp"]).endswith("Z")


def test_below_the_level_nothing_is_written(written: io.StringIO) -> None:
    structlog.get_logger("x").debug("x")
    logging.getLogger("library").info("x")
    assert lines(written) == []


def test_an_exception_is_named_with_its_places_but_not_with_its_text(written: io.StringIO) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        structlog.get_logger("x").exception("failed")
        logging.getLogger("library").exception("it failed: %s", SECRET)
    ours, theirs = lines(written)
    assert (ours["fault"], theirs["fault"]) == ("ValueError", "ValueError")
    assert "test_logs.py" in str(ours["at"])
    assert SECRET not in written.getvalue()


def test_what_a_library_fills_in_stays_out(written: io.StringIO) -> None:
    logging.getLogger("library").warning("cannot send to %s", SECRET)
    logging.getLogger("library").error(ValueError(SECRET))
    first, second = lines(written)
    assert (first["event"], first["logger"]) == ("cannot send to %s", "library")
    assert second["event"] == "ValueError"
    assert SECRET not in written.getvalue()


def test_what_nobody_caught_is_named_without_its_text(written: io.StringIO) -> None:
    def broken() -> None:
        raise ExceptionGroup("tasks", [KeyError(SECRET)])

    thread = threading.Thread(target=broken)
    thread.start()
    thread.join()
    try:
        broken()
    except ExceptionGroup as fault:
        sys.excepthook(type(fault), fault, fault.__traceback__)
    assert [(event["event"], event["fault"]) for event in lines(written)] == [("crashed", "KeyError")] * 2
    assert SECRET not in written.getvalue()


def test_a_line_that_cannot_be_written_is_dropped(tmp_path: Path) -> None:
    stream = (tmp_path / "log").open("w")
    logs.configure(level="info", form="json", stream=stream)
    stream.close()
    structlog.get_logger("x").error("nobody reads this")
    logging.getLogger("library").error("nor this")
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 - closing it is what fails
    logs.configure(level="info", form="json", stream=full)
    structlog.get_logger("x").error("nobody reads this")
    logging.getLogger("library").error("nor this")
    with contextlib.suppress(OSError):
        full.close()


def test_people_get_lines_too() -> None:
    stream = io.StringIO()
    logs.configure(level="info", form="console", stream=stream)
    structlog.get_logger("x").warning("lane pauses", lane="de.example.app")
    assert "lane pauses" in stream.getvalue()
