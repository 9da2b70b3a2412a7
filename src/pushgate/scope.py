"""What the listener tells the application beside ASGI: a key of a request's scope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

DIRECT = "pushgate.direct"
"""There, with a `Direct`, where all of the body is here."""


class Direct(Protocol):
    """A whole request is read, and answered with 200, by one call each in place of messages that are awaited.

    Where it cannot, it does nothing, and the messages of ASGI are the way.
    """

    def take_body(self, scope: Mapping[str, Any]) -> bytes | None:
        """The body, once. None: receive it."""
        ...

    def answer(self, scope: Mapping[str, Any], headers: bytes, body: bytes) -> bool:
        """Whether the answer is on its way; if not, send it. `headers` are whole lines, without that of the length."""
        ...
