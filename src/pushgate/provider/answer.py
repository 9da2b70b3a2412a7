"""Reads what every provider's answer has in common: a JSON object, Retry-After, and a status that nobody explains.

Total: whatever the bytes are, these functions answer and never raise. Nothing of an answer's text is passed on, for
it may repeat what we sent: reasons come from fixed lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pushgate.outcome import Cause, Deferred, Outcome, Undeliverable
from pushgate.retry import retry_after_s

MAX_ANSWER_BYTES = 65_536
"""An error of a provider has some hundred bytes. What is longer is not one."""

_WORTH_A_NAME = (301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 407, 408, 410, 413, 421, 429)
_STATUS = {status: f"status {status}" for status in (*_WORTH_A_NAME, 500, 501, 502, 503, 504)}
_OTHER_STATUS = "status other"

STATUS_REASONS = frozenset(_STATUS.values()) | {_OTHER_STATUS}

CONNECT, RESET, TIMEOUT = "connect", "reset", "timeout"
"""No answer: not sent at all, the connection broke after it was sent, none within the deadline."""
CONNECTION_REASONS = frozenset({CONNECT, RESET, TIMEOUT})

NEW_CONNECTION_REASONS = frozenset({_STATUS[421]})
"""After these the connection is of no more use (RFC 9110 §15.5.20)."""

_CAUSES = {
    401: Cause.CREDENTIALS,
    403: Cause.CREDENTIALS,
    404: Cause.CREDENTIALS,
    405: Cause.CREDENTIALS,
    407: Cause.CREDENTIALS,
    408: Cause.CONNECTION,
    421: Cause.CONNECTION,
    429: Cause.QUOTA,
}
"""A wrong address, project or proxy answers 401 to 407 without a provider's word: somebody must mend it."""


def json_object(body: bytes) -> Mapping[str, Any]:
    """The JSON object that the body is, or an empty one (HTML, nothing, nonsense)."""
    if len(body) > MAX_ANSWER_BYTES:
        return {}
    try:
        decoded = msgspec.json.decode(body)
    except (ValueError, RecursionError):  # msgspec.DecodeError is a ValueError
        return {}
    return decoded if isinstance(decoded, dict) else {}


def retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """How long the answer asks to wait, in seconds, or None. Names in `headers` are lower-case."""
    value = headers.get("retry-after")
    return None if value is None else retry_after_s(value, now=now)


def unexplained(status: int, *, retry_after_s: float | None) -> Outcome:
    """What to do about a status without a word of the provider's own: keep the delivery (413 apart)."""
    reason = _STATUS.get(status, _OTHER_STATUS)
    if status == 413:
        return Undeliverable(reason)
    cause = Cause.CREDENTIALS if 300 <= status < 400 else _CAUSES.get(status, Cause.PROVIDER)
    return Deferred(cause, reason, retry_after_s)
