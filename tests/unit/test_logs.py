"""logs: one line for each event, and never a value of an exception."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
import uvloop

from pushgate import logs
from pushgate.request_id import CURRENT, Entry

SECRET = "pushkey-of-alice"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Logging belongs to the process: leave it as it was."""
    root = logging.getLogger()
    handlers, level, hooks = root.handlers[:], root.level, (sys.excepthook, threading.excepthook, sys.unraisablehook)
    yield
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


class Clock:
    """That stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def written(clock: Clock) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level="info", form="json", stream=stream, monotonic=clock)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_time_and_level(written: io.StringIO) -> None:
    structlog.get_logger("x").info("lane pauses", lane="a\nb")
    (event,) = lines(written)
    assert (event["event"], event["level"], event["lane"]) == ("lane pauses", "info", "a\nb")
    assert str(event["timestamp"]).endswith("Z")


def test_the_lines_of_a_request_name_it_its_caller_and_its_trace(written: io.StringIO) -> None:
    structlog.get_logger("x").info("before")
    token = CURRENT.set(Entry(b"asked", "erp", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
    structlog.get_logger("x").info("during")
    structlog.get_logger("x").info("of another one", caller="chat")
    CURRENT.reset(token)
    before, during, other = lines(written)
    assert "request" not in before
    assert (during["request"], during["caller"]) == ("asked", "erp")
    assert during["trace"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert (other["request"], other["caller"]) == ("asked", "chat")


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


def test_a_text_that_was_put_together_at_run_time_stays_out(written: io.StringIO) -> None:
    logger = logging.getLogger("library")
    logger.warning(f"cannot send to {SECRET}")
    logger.warning("cannot send to " + SECRET)
    logger.error("cannot send to %s" % SECRET)  # noqa: UP031 - as some do
    message = "a text in two pieces\nand two lines"
    logger.error(message)
    logger.handle(logging.LogRecord("library", logging.ERROR, "nowhere.py", 1, SECRET, None, None))
    with warnings.catch_warnings(action="always"):
        warnings.warn(SECRET, stacklevel=1)
    *told, one = [event["event"] for event in lines(written)]
    assert told == [logs.WITHHELD] * 3 + ["a text in two pieces"] + [logs.WITHHELD]
    assert one == logs.WITHHELD
    assert str(lines(written)[0]["by"]).startswith("test_logs.py:")
    assert SECRET not in written.getvalue()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_an_event_loop_tells_of_a_callback_or_a_task_has_no_values(
    written: io.StringIO, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    def broken(secret: str) -> None:
        raise ValueError(secret)

    async def lost(secret: str) -> None:
        broken(secret)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(broken, SECRET)
        loop.call_soon(functools.partial(broken, SECRET))
        loop.call_later(0, broken, SECRET)
        task = loop.create_task(lost(SECRET), name=SECRET)
        await asyncio.wait([task])
        del task
        gc.collect()
        loop.call_exception_handler({"message": f"something else about {SECRET}", "future": SECRET})

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    told = {str(event["event"]): event.get("fault") for event in lines(written)}
    assert told == {
        "Exception in callback": "ValueError",
        "Task exception was never retrieved": "ValueError",
        logs.WITHHELD: None,
    }
    assert SECRET not in written.getvalue()


def test_a_library_repeats_itself_now_and_then_only(written: io.StringIO, clock: Clock) -> None:
    def tell(level: int = logging.WARNING, fault: bool = False) -> None:
        logging.getLogger("library").log(level, "once more", exc_info=ValueError() if fault else None)

    for _ in range(100):
        tell()
    tell(logging.ERROR)
    tell(fault=True)
    clock.now += logs.TELL_EVERY_S
    tell()
    tell()
    assert [(event["level"], event.get("fault"), event.get("count")) for event in lines(written)] == [
        ("warning", None, None),
        ("error", None, None),
        ("warning", "ValueError", None),
        ("warning", None, 100),
    ]


def test_what_a_destructor_raises_is_named_without_its_text(written: io.StringIO) -> None:
    class Broken:
        def __del__(self) -> None:
            raise KeyError(SECRET)

        def __repr__(self) -> str:
            return SECRET

    Broken()
    gc.collect()
    (event,) = lines(written)
    assert (event["event"], event["level"], event["fault"]) == ("exception ignored", "warning", "KeyError")
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
