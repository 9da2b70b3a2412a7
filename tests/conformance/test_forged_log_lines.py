"""Nothing that a caller writes makes a line of the log."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Literal

import pytest
import structlog

from pushgate import logs
from tests.api import BATCH, NOTIFY, serving
from tests.samples import device, plain

BREAKING = '"}\n{"event": "forged", "level": "error"}\r\n\x1b[2J\u202e\u2028'


@pytest.fixture
def logged() -> Iterator[Callable[[Literal["json", "console"]], io.StringIO]]:
    """Logs of this process, as a gateway writes them. Afterwards they are as before."""
    root = logging.getLogger()
    before, level, hooks = root.handlers[:], root.level, (sys.excepthook, threading.excepthook, sys.unraisablehook)

    def begin(form: Literal["json", "console"]) -> io.StringIO:
        written = io.StringIO()
        logs.configure(level="debug", form=form, stream=written)
        return written

    yield begin
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    structlog.reset_defaults()
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.mark.parametrize("form", ["json", "console"])
async def test_nothing_that_a_caller_writes_makes_a_line_of_the_log(
    form: Literal["json", "console"], logged: Callable[[Literal["json", "console"]], io.StringIO]
) -> None:
    written = logged(form)
    async with serving() as api:
        item = plain(device(app_id=f"a{BREAKING}"[:64], pushkey=BREAKING))
        assert (await api.post(NOTIFY, {"notification": item}))[0] == 400
        assert (await api.post(BATCH, {"notifications": [{"id": BREAKING[:64], "notification": item}] * 2}))[0] == 400
        assert (await api.post(BATCH, {BREAKING: BREAKING}))[0] == 400
        for begin in (
            b"POST /push/v1/notify/forged?\x1b[2J HTTP/1.1\r\nHost: forged\r\nX-Request-Id: forged\r\nforged",
            b"GET /forged HTTP/1.1\r\nHost: x\r\nX-Request-Id: " + b"forged" * 3000,
            b"GET /forged HTTP/1.1\r\nHost: x\r\nContent-Length: forged",
            b"FORGED /forged HTTP/1.1\r\nHost: forged",
        ):
            assert (await api.raw(begin + b"\r\n\r\n")).startswith(b"HTTP/1.1 4")
    told = written.getvalue()
    assert told
    assert "forged" not in told.lower()
    assert told.isascii()
    assert "\x1b" not in told
    if form == "json":
        assert {json.loads(line)["event"] for line in told.splitlines()} <= {"requests refused", INVALID}
        assert {json.loads(line)["level"] for line in told.splitlines()} == {"warning"}


INVALID = "Invalid HTTP request received."
"""What the server's library says."""
