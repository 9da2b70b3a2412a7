"""How a connection is broken without a word."""

from __future__ import annotations

import asyncio
from contextlib import suppress


def break_off(writer: asyncio.StreamWriter) -> None:
    """Break it, if it is still there."""
    with suppress(AttributeError):  # Python before 3.11.4, where it is gone already
        writer.transport.abort()
