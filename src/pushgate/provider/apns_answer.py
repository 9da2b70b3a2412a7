"""What an answer of APNs means (Apple: "Handling notification responses from APNs").

Only APNs' own word rejects a pushkey, and only with the status it belongs to. What is our fault to mend keeps the
delivery; what can never be taken as it is, is let go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected, Undeliverable
from pushgate.provider import answer
from pushgate.provider.answer import STATUS_REASONS, json_object, retry_after, unexplained

ACCEPTED = Accepted()

MAX_TIME_MS = 2**53
"""Times beyond it are nonsense: no JSON library holds them exactly."""

EXPIRED_TOKEN = "ExpiredProviderToken"  # noqa: S105 - a reason of APNs

_REJECTED = {
    (400, "BadDeviceToken"),  # or a token of the other environment: mass rejection is held back by intake
    (400, "DeviceTokenNotForTopic"),
    (410, "Unregistered"),
    (410, "ExpiredToken"),
}
_CREDENTIALS = {
    (400, "BadTopic"),
    (400, "MissingTopic"),
    (400, "TopicDisallowed"),
    (403, "BadCertificate"),
    (403, "BadCertificateEnvironment"),
    (403, "BadEnvironmentKeyIdInToken"),
    (403, EXPIRED_TOKEN),
    (403, "Forbidden"),
    (403, "InvalidProviderToken"),
    (403, "MissingProviderToken"),
}
_UNDELIVERABLE = {
    (400, "BadCollapseId"),
    (400, "BadExpirationDate"),
    (400, "BadMessageId"),
    (400, "BadPriority"),
    (400, "DuplicateHeaders"),
    (400, "InvalidPushType"),
    (400, "MissingDeviceToken"),
    (400, "PayloadEmpty"),
    (404, "BadPath"),
    (405, "MethodNotAllowed"),
    (413, "PayloadTooLarge"),
}
_CAUSES = {
    (400, "IdleTimeout"): Cause.CONNECTION,
    (403, "UnrelatedKeyIdInToken"): Cause.CONNECTION,
    (429, "TooManyProviderTokenUpdates"): Cause.QUOTA,
    (429, "TooManyRequests"): Cause.DEVICE,
    (500, "InternalServerError"): Cause.PROVIDER,
    (503, "ServiceUnavailable"): Cause.PROVIDER,
    (503, "Shutdown"): Cause.CONNECTION,
    **dict.fromkeys(_CREDENTIALS, Cause.CREDENTIALS),
}
NEW_CONNECTION_REASONS = answer.NEW_CONNECTION_REASONS | {"IdleTimeout", "UnrelatedKeyIdInToken", "Shutdown"}
"""After these the connection is of no more use."""

REASONS = frozenset(reason for _, reason in (_REJECTED | _UNDELIVERABLE | _CAUSES.keys())) | STATUS_REASONS
"""Every reason that `classify` gives."""


def classify(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float,
    pushkey_ts: int | None = None,
) -> Outcome:
    """APNs' answer as an outcome. Never raises. `now` and `pushkey_ts` in unix seconds."""
    if status == 200:
        return ACCEPTED
    said = json_object(body)
    reason = said.get("reason")
    if not isinstance(reason, str):
        return unexplained(status, retry_after_s=retry_after(headers, now=now))
    key = (status, reason)
    if key in _REJECTED:
        return _dead(reason, said.get("timestamp"), pushkey_ts)
    if key in _UNDELIVERABLE:
        return Undeliverable(reason)
    asked_s = retry_after(headers, now=now)
    if key in _CAUSES:
        return Deferred(_CAUSES[key], reason, asked_s)
    return unexplained(status, retry_after_s=asked_s)


def _dead(reason: str, timestamp: Any, pushkey_ts: int | None) -> Outcome:
    """Dead since `timestamp` (ms), unless the app registered the pushkey anew after that: then it is in doubt, kept."""
    told = isinstance(timestamp, int) and not isinstance(timestamp, bool) and 0 < timestamp < MAX_TIME_MS
    since_ms = timestamp if told else None
    if since_ms is not None and pushkey_ts is not None and pushkey_ts * 1000 > since_ms:
        return Deferred(Cause.DEVICE, reason)
    return Rejected(reason, since_ms)
