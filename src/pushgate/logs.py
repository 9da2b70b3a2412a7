"""Logs on stderr: one line for each event, JSON for machines or coloured for people, and never a value of an exception.

A foreign library's record keeps its logger, its level and its message template; the arguments and the texts of
exceptions stay out, because nobody vouches that no pushkey, content or credential is in them. A line that cannot be
written (a full disk, a reader that is gone) is dropped: no delivery may depend on a log.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog

Event = MutableMapping[str, Any]


def configure(*, level: str, form: Literal["json", "console"], stream: TextIO | None = None) -> None:
    """Set up the logs of this process: ours, those of libraries, warnings, and what would be a traceback."""
    target = sys.stderr if stream is None else stream
    out = _Out(target)
    render: Any = structlog.processors.JSONRenderer()
    if form == "console":
        render = structlog.dev.ConsoleRenderer(colors=target.isatty())
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_values,
    ]
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(out),  # type: ignore[arg-type]  # it needs write and flush only
        cache_logger_on_first_use=False,
    )
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    root.handlers[:] = [_Foreign(out, [*shared, render])]
    root.setLevel(max(threshold, logging.WARNING))
    sys.excepthook = _crashed
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

    def __init__(self, out: _Out, processors: list[Any]) -> None:
        super().__init__()
        self._out = out
        self._processors = processors

    def emit(self, record: logging.LogRecord) -> None:
        event: Any = {"event": _first_line(record.msg), "logger": record.name}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        for process in self._processors:
            event = process(None, record.levelname.lower(), event)
        self._out.write(f"{event}\n")
        self._out.flush()


def _crashed(kind: type[BaseException], fault: BaseException | None, trace: TracebackType | None) -> None:
    """What nobody caught, without the values that a traceback would print."""
    structlog.get_logger(__name__).error("crashed", exc_info=(kind, fault, trace))


def _first_line(template: object) -> str:
    """The template of a message. What is no constant text (an exception, an object) is named by its type only."""
    if not isinstance(template, str):
        return type(template).__name__
    return template.partition("\n")[0][:200]


def _without_values(logger: object, method: str, event: Event) -> Event:
    """Replace an exception by its type and the places it passed: no message, no source line, no local value."""
    info = event.pop("exc_info", None)
    fault = info[1] if isinstance(info, tuple) else sys.exception() if info is True else info
    if isinstance(fault, BaseException):
        event["fault"], event["at"] = _places(fault)
    return event


def _places(fault: BaseException) -> tuple[str, list[str]]:
    """The type of an exception and the places that it passed; of a group, those of its first member."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    frames = traceback.extract_tb(fault.__traceback__)
    return type(fault).__name__, [
        f"{each.filename.rpartition('/')[2]}:{each.lineno} {each.name}" for each in frames[-8:]
    ]
