"""Logs on stderr: one line for each event, JSON for machines or coloured for people, and never a value of an exception.

A foreign library's record keeps its logger, its level and its message where that stands in its code word for word; the
arguments, texts put together at run time and the texts of exceptions stay out, because nobody vouches that no pushkey,
content or credential is in them. The same line comes at most every few seconds: strangers cause some of them. A line
that cannot be written (a full disk, a reader that is gone) is dropped: no delivery may depend on a log.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable, MutableMapping
from types import FrameType, TracebackType
from typing import Any, Literal, TextIO

import structlog

from pushgate.request_id import CURRENT

Event = MutableMapping[str, Any]

TELL_EVERY_S = 5.0
"""How often a library's line may come."""
WITHHELD = "(a text with values)"
OF_EVENT_LOOPS = (
    "Exception in callback",
    "Task exception was never retrieved",
    "Future exception was never retrieved",
    "Task was destroyed but it is pending!",
    "Unhandled exception in event loop",
    "Fatal error",
    "SSL error",
    "Executing",
)
"""How texts begin that asyncio and uvloop put together. Values follow."""


def configure(
    *,
    level: str,
    form: Literal["json", "console"],
    cell: int | None = None,
    stream: TextIO | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Set up the logs of this process: ours, those of libraries, warnings, and what would be a traceback.

    `cell` stands in every line where there are several processes.
    """
    target = sys.stderr if stream is None else stream
    out = _Out(target)
    render: Any = structlog.processors.JSONRenderer()
    if form == "console":
        render = structlog.dev.ConsoleRenderer(colors=target.isatty())
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_values,
        _with_request,
    ]
    if cell is not None:
        shared.append(lambda logger, method, event: {**event, "cell": cell})
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(out),  # type: ignore[arg-type]  # it needs write and flush only
        cache_logger_on_first_use=False,
    )
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    root.handlers[:] = [_Foreign(out, [*shared, render], monotonic)]
    root.setLevel(max(threshold, logging.WARNING))
    sys.excepthook = _crashed
    sys.unraisablehook = lambda ignored: _ignored(ignored.exc_type, ignored.exc_value, ignored.exc_traceback)
    threading.excepthook = lambda crash: _crashed(crash.exc_type, crash.exc_value, crash.exc_traceback)


class _Out:
    """A stream that takes every line and drops what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class _Foreign(logging.Handler):
    """What libraries log, in our form."""

    def __init__(self, out: _Out, processors: list[Any], monotonic: Callable[[], float]) -> None:
        super().__init__()
        self._out = out
        self._processors = processors
        self._repeats = _Repeats(monotonic)

    def emit(self, record: logging.LogRecord) -> None:
        event: Any = {"event": _text_of(record, sys._getframe()), "logger": record.name}
        if event["event"] == WITHHELD:
            event["by"] = f"{record.filename}:{record.lineno} {record.funcName}"
        kind = record.exc_info[0] if record.exc_info else None
        count = self._repeats.count((record.name, record.levelno, kind, *event.values()))
        if count == 0:
            return
        if count > 1:
            event["count"] = count
        if record.exc_info:
            event["exc_info"] = record.exc_info
        for process in self._processors:
            event = process(None, record.levelname.lower(), event)
        self._out.write(f"{event}\n")
        self._out.flush()


class _Repeats:
    """Lines by what they say: how many of a kind there were, and when it was told last."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._kinds: dict[Hashable, tuple[int, float]] = {}

    def count(self, kind: Hashable) -> int:
        """How many of this kind there were since it was told last, with this one; 0 where it is too soon to tell."""
        now = self._monotonic()
        untold, again_at = self._kinds.get(kind, (0, now))
        is_due = now >= again_at
        self._kinds[kind] = (0, now + TELL_EVERY_S) if is_due else (untold + 1, again_at)
        return untold + 1 if is_due else 0


def _text_of(record: logging.LogRecord, frame: FrameType | None) -> str:
    """The message as it stands in the code that logs it, which is one of the callers of `frame`."""
    text = record.msg
    if not isinstance(text, str):
        return type(text).__name__
    while frame is not None:
        code = frame.f_code
        if (code.co_filename, code.co_name, frame.f_lineno) == (record.pathname, record.funcName, record.lineno):
            if text in code.co_consts:
                return text.partition("\n")[0][:200]
            break
        frame = frame.f_back
    if record.name == "asyncio":
        return next((known for known in OF_EVENT_LOOPS if text.startswith(known)), WITHHELD)
    return WITHHELD


def _crashed(kind: type[BaseException], fault: BaseException | None, trace: TracebackType | None) -> None:
    """What nobody caught, without the values that a traceback would print."""
    structlog.get_logger(__name__).error("crashed", exc_info=(kind, fault, trace))


def _ignored(kind: type[BaseException], fault: BaseException | None, trace: TracebackType | None) -> None:
    """What could not be raised where it happened: in a destructor, or in a callback of the interpreter."""
    structlog.get_logger(__name__).warning("exception ignored", exc_info=(kind, fault, trace))


def _without_values(logger: object, method: str, event: Event) -> Event:
    """Replace an exception by its type and the places it passed: no message, no source line, no local value."""
    info = event.pop("exc_info", None)
    fault = info[1] if isinstance(info, tuple) else sys.exception() if info is True else info
    if isinstance(fault, BaseException):
        event["fault"], event["at"] = _places(fault)
    return event


def _with_request(logger: object, method: str, event: Event) -> Event:
    """Add which request is being answered, where one is: its id, who sent it, the trace that it is part of."""
    if (entry := CURRENT.get()) is not None:
        event.setdefault("request", entry.request_id.decode("ascii", "replace"))
        if entry.caller:
            event.setdefault("caller", entry.caller)
        if trace_id := entry.trace_id:
            event.setdefault("trace", trace_id)
    return event


def _places(fault: BaseException) -> tuple[str, list[str]]:
    """The type of an exception and the places that it passed; of a group, those of its first member."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    frames = traceback.extract_tb(fault.__traceback__)
    return type(fault).__name__, [
        f"{each.filename.rpartition('/')[2]}:{each.lineno} {each.name}" for each in frames[-8:]
    ]
