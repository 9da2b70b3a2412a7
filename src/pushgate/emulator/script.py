"""What is scripted: tempers, steps, and which token plays which step next."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from pushgate.emulator.exchange import Answer, Fault

ANY_TOKEN = "*"  # noqa: S105 - a wildcard, not a secret
MAX_SCRIPTED_TOKENS = 100_000
MAX_STEPS = 10_000

HeaderText = Annotated[str, Meta(pattern="^[!-~]?[ -~]*$")]
"""What may stand in a header."""


class Temper(StrEnum):
    """How an emulator treats requests. Scripts and dead devices count in every temper."""

    STRICT = "strict"
    """Every rule is checked first; a request without fault then plays its script, if it has one."""
    ACCEPT_ALL = "accept-all"
    """Only the shape of path and token is checked: no credentials, no payload rules."""
    SCRIPTED = "scripted"
    """A scripted token plays its step unchecked; every other request is treated strictly."""


class Step(Struct, frozen=True, forbid_unknown_fields=True):
    """One scripted answer. Steps are played in order; after the last one the temper decides again."""

    status: Annotated[int, Meta(ge=200, le=599)] = 200
    """200 without a fault means: treat the request as one without fault."""
    reason: str = ""
    """The APNs reason or FCM errorCode; empty: the one that is usual for the status."""
    delay_s: Annotated[float, Meta(ge=0)] = 0.0
    fault: Fault = Fault.NONE
    error_code: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 2
    """For Fault.RESET (RFC 9113 §7); 2 is INTERNAL_ERROR."""
    retry_after: HeaderText = ""
    """A Retry-After header: seconds or an HTTP date, as it goes out."""
    timestamp_ms: int = 0
    """The `timestamp` of an APNs 410; 0: now."""
    body: str = ""
    """A body in place of the provider's JSON, for example an HTML page."""
    content_type: HeaderText = "text/html; charset=UTF-8"
    """The type of `body`."""
    repeat: bool = False
    """Never used up: every further request plays this step."""
    deliver: bool = False
    """The device gets the notification all the same: the answer is lost, not the request."""

    @property
    def succeeds(self) -> bool:
        """Whether the provider says yes."""
        return self.status == 200 and self.fault is Fault.NONE and not self.body

    def play(self, answer: Answer) -> Answer:
        """The provider's answer with this step's delay, fault, Retry-After and body."""
        headers, body = answer.headers, answer.body
        if self.body:
            headers = (*(h for h in headers if h[0] != "content-type"), ("content-type", self.content_type))
            body = self.body.encode()
        if self.retry_after:
            headers = (*headers, ("retry-after", self.retry_after))
        return Answer(
            status=self.status,
            headers=headers,
            body=body,
            delay_s=self.delay_s,
            fault=self.fault,
            error_code=self.error_code,
        )


class Scripts:
    """Which token plays which step next. The token "*" stands for every token without steps of its own."""

    def __init__(self) -> None:
        self._steps: dict[str, deque[Step]] = {}

    def put(self, token: str, steps: Sequence[Step]) -> None:
        """Replace a token's script; an empty one removes it. Raises ValueError above the bounds."""
        if len(steps) > MAX_STEPS:
            raise ValueError(f"more than {MAX_STEPS} steps for one token")
        self._steps.pop(token, None)
        if steps:
            if len(self._steps) >= MAX_SCRIPTED_TOKENS:
                raise ValueError(f"more than {MAX_SCRIPTED_TOKENS} scripted tokens")
            self._steps[token] = deque(steps)

    def take(self, token: str) -> Step | None:
        """The step that this token plays now, of its own script or of that of every token; None without one."""
        return self.take_own(token if token in self._steps else ANY_TOKEN)

    def take_own(self, key: str) -> Step | None:
        """The step of exactly this script, or None."""
        steps = self._steps.get(key)
        if steps is None:
            return None
        step = steps[0]
        if not step.repeat:
            steps.popleft()
            if not steps:
                del self._steps[key]
        return step

    def clear(self) -> None:
        """Forget every script."""
        self._steps.clear()
