"""Logs on stderr: one line for each event, JSON for machines or coloured for people, and never a value of an exception.

A foreign library's record keeps its logger, its level and its message template; the arguments and the texts of
exceptions stay out, because nobody vouches that no pushkey, content or credential is in them.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

import structlog

Event = MutableMapping[str, Any]


def configure(*, level: str, form: Literal["json", "console"], stream: TextIO | None = None) -> None:
    """Set up the logs of this process, those of libraries included."""
    out = sys.stderr if stream is None else stream
    render: Any = structlog.processors.JSONRenderer()
    if form == "console":
        render = structlog.dev.ConsoleRenderer(colors=out.isatty())
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_values,
    ]
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    root.handlers[:] = [_Foreign(out, [*shared, render])]
    root.setLevel(max(threshold, logging.WARNING))


class _Foreign(logging.Handler):
    """What libraries log, in our form."""

    def __init__(self, out: TextIO, processors: list[Any]) -> None:
        super().__init__()
        self._out = out
        self._processors = processors

    def emit(self, record: logging.LogRecord) -> None:
        event: Any = {"event": _first_line(record.msg), "logger": record.name}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        for process in self._processors:
            event = process(None, record.levelname.lower(), event)
        print(event, file=self._out, flush=True)


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
        frames = traceback.extract_tb(fault.__traceback__)
        event["fault"] = type(fault).__name__
        event["at"] = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-8:]]
    return event
