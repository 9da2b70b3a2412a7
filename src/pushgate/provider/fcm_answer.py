"""What an answer of FCM means (FCM: ErrorCode; google.rpc.Status).

Only FCM's own word rejects a pushkey: a 404 alone may be a wrong project or a proxy. What is our fault to mend keeps
the delivery; what can never be taken as it is, is let go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected, Undeliverable
from pushgate.provider.answer import STATUS_REASONS, json_object, retry_after, unexplained

ACCEPTED = Accepted()

TOKEN_REASONS = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "status 401", "status 403"})
"""After these a new access token is worth a try."""
NO_NAME = "200 without a message name"
THIRD_PARTY = "THIRD_PARTY_AUTH_ERROR"
"""The project lacks what FCM needs to reach this one token of iOS or the web: the tokens of Android are not held up."""

_FCM_ERROR = "google.firebase.fcm.v1.FcmError"
_BAD_REQUEST = "google.rpc.BadRequest"
_QUOTA_FAILURE = "google.rpc.QuotaFailure"
_BAD_TOKEN = "The registration token is not a valid FCM registration token"  # noqa: S105 - FCM's words

_REJECTED = {(404, "UNREGISTERED"), (403, "SENDER_ID_MISMATCH")}
_CAUSES = {
    (401, THIRD_PARTY): Cause.DEVICE,
    (401, "UNAUTHENTICATED"): Cause.CREDENTIALS,
    (403, "PERMISSION_DENIED"): Cause.CREDENTIALS,
    (404, "NOT_FOUND"): Cause.CREDENTIALS,
    (429, "QUOTA_EXCEEDED"): Cause.QUOTA,
    (429, "RESOURCE_EXHAUSTED"): Cause.QUOTA,
    (500, "INTERNAL"): Cause.PROVIDER,
    (503, "UNAVAILABLE"): Cause.PROVIDER,
}

REASONS = (
    frozenset(reason for _, reason in (_REJECTED | _CAUSES.keys())) | {"INVALID_ARGUMENT", NO_NAME} | STATUS_REASONS
)
"""Every reason that `classify` gives."""


def classify(status: int, headers: Mapping[str, str], body: bytes, *, now: float) -> Outcome:
    """FCM's answer as an outcome. Never raises. `now` in unix seconds."""
    if status == 200:
        # whoever answers without naming the message is not FCM: something on the way to it, as a proxy
        return ACCEPTED if b'"name"' in body else Deferred(Cause.PROVIDER, NO_NAME)
    error = json_object(body).get("error")
    error = error if isinstance(error, dict) else {}
    own_code = _error_code(error)
    code = own_code or error.get("status")
    if not isinstance(code, str):
        return unexplained(status, retry_after_s=retry_after(headers, now=now))
    key = (status, code)
    if own_code and key in _REJECTED:
        return Rejected(code)
    if key == (400, "INVALID_ARGUMENT"):
        return Rejected(code) if _names_the_token(error) else Undeliverable(code)
    asked_s = retry_after(headers, now=now)
    if key not in _CAUSES:
        return unexplained(status, retry_after_s=asked_s)
    cause = _CAUSES[key]
    if cause is Cause.QUOTA and _is_device_quota(error):
        cause = Cause.DEVICE
    return Deferred(cause, code, asked_s)


def _details(error: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and str(detail.get("@type")).endswith(kind):
            yield detail


def _error_code(error: Mapping[str, Any]) -> str | None:
    """FCM's own code: it says more than the status of google.rpc."""
    for detail in _details(error, _FCM_ERROR):
        code = detail.get("errorCode")
        if isinstance(code, str):
            return code
    return None


def _violations(error: Mapping[str, Any], kind: str, of: str) -> Iterator[Mapping[str, Any]]:
    for detail in _details(error, kind):
        found = detail.get(of)
        yield from (each for each in (found if isinstance(found, list) else ()) if isinstance(each, dict))


def _names_the_token(error: Mapping[str, Any]) -> bool:
    """Whether what is invalid is the pushkey and not what we wrote around it."""
    if any(each.get("field") == "message.token" for each in _violations(error, _BAD_REQUEST, "fieldViolations")):
        return True
    message = error.get("message")
    return isinstance(message, str) and message.startswith(_BAD_TOKEN) and _error_code(error) is not None


def _is_device_quota(error: Mapping[str, Any]) -> bool:
    """Too much for one device and not for the project: the others may go on."""
    violations = _violations(error, _QUOTA_FAILURE, "violations")
    return any("device" in str(each.get("description")).lower() for each in violations)
