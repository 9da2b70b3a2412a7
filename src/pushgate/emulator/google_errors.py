"""Google's error bodies (google.rpc.Status as JSON), as FCM sends them.

https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode and observed answers of the service.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from pushgate.emulator.exchange import Answer

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
QUOTA_FAILURE = "type.googleapis.com/google.rpc.QuotaFailure"
_CREDENTIAL_HELP = (
    "Expected OAuth 2 access token, login cookie or other valid authentication credential. "
    "See https://developers.google.com/identity/sign-in/web/devconsole-project."
)
_CANONICAL: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
_ERROR_CODES: Mapping[str, str] = {
    "INVALID_ARGUMENT": "Request contains an invalid argument.",
    "UNREGISTERED": "Requested entity was not found.",
    "SENDER_ID_MISMATCH": "SenderId mismatch",
    "THIRD_PARTY_AUTH_ERROR": "Auth error from APNS or Web Push Service",
    "QUOTA_EXCEEDED": "Quota exceeded.",
    "INTERNAL": "Internal error encountered.",
    "UNAVAILABLE": "The service is currently unavailable.",
}
"""FCM's errorCode -> the message that comes with it."""
USUAL_REASONS: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "SENDER_ID_MISMATCH",
    404: "UNREGISTERED",
    429: "QUOTA_EXCEEDED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
"""The reason of a scripted status that names none."""


class Violation(Struct, frozen=True, omit_defaults=True):
    """One entry of google.rpc.BadRequest."""

    description: str
    field: str = ""


class Refusal(Struct, frozen=True):
    """An error of Google: HTTP status, message and details."""

    status: int
    message: str
    details: tuple[Mapping[str, object], ...] = ()
    reason: str = ""
    """What it is counted as: FCM's errorCode, else the canonical status."""

    def answer(self) -> Answer:
        """The error as it goes out, indented as Google indents."""
        status = _CANONICAL.get(self.status, "UNKNOWN")
        error: dict[str, object] = {"code": self.status, "message": self.message, "status": status}
        if self.details:
            error["details"] = self.details
        body = msgspec.json.format(msgspec.json.encode({"error": error}), indent=2)
        headers = (("content-type", "application/json; charset=UTF-8"), ("vary", "Origin"))
        return Answer(status=self.status, headers=headers, body=body + b"\n")


def fcm_error(code: str) -> Mapping[str, object]:
    """The detail that carries FCM's errorCode."""
    return {"@type": FCM_ERROR, "errorCode": code}


def bad_request(violations: Sequence[Violation]) -> Mapping[str, object]:
    """The detail that names the fields at fault."""
    return {"@type": BAD_REQUEST, "fieldViolations": violations} if violations else {"@type": BAD_REQUEST}


def error_info(reason: str, metadata: Mapping[str, str]) -> Mapping[str, object]:
    """The detail of Google's front end, where FCM itself never saw the request."""
    return {"@type": ERROR_INFO, "reason": reason, "domain": "googleapis.com", "metadata": metadata}


def malformed(violations: Sequence[Violation]) -> Refusal:
    """The JSON is not of the message's type: answered before FCM, thus without FcmError."""
    message = "\n".join(violation.description for violation in violations)
    return Refusal(400, message, (bad_request(violations),), "INVALID_ARGUMENT")


def invalid(message: str, *violations: Violation) -> Refusal:
    """FCM itself refuses a value."""
    details = (fcm_error("INVALID_ARGUMENT"), bad_request(violations))
    return Refusal(400, message, details, "INVALID_ARGUMENT")


def unauthenticated(reason: str) -> Refusal:
    """No access token, or none that is good: CREDENTIALS_MISSING, ACCESS_TOKEN_EXPIRED, …"""
    missing = reason == "CREDENTIALS_MISSING"
    start = "Request is missing required" if missing else "Request had invalid"
    message = f"{start} authentication credential{'' if missing else 's'}. {_CREDENTIAL_HELP}"
    metadata = {"method": "google.firebase.fcm.v1.FcmService.SendMessage", "service": "fcm.googleapis.com"}
    return Refusal(401, message, (error_info(reason, metadata),), "UNAUTHENTICATED")


def insufficient_scope() -> Refusal:
    """The access token is for something else."""
    metadata = {"method": "google.firebase.fcm.v1.FcmService.SendMessage", "service": "fcm.googleapis.com"}
    detail = error_info("ACCESS_TOKEN_SCOPE_INSUFFICIENT", metadata)
    return Refusal(403, "Request had insufficient authentication scopes.", (detail,), "PERMISSION_DENIED")


def permission_denied(project_id: str) -> Refusal:
    """The service account may not send for this project, or there is none of this name."""
    permission = "cloudmessaging.messages.create"
    resource = f"//cloudresourcemanager.googleapis.com/projects/{project_id}"
    message = f"Permission '{permission}' denied on resource '{resource}' (or it may not exist)."
    detail = error_info("IAM_PERMISSION_DENIED", {"permission": permission, "resource": f"projects/{project_id}"})
    return Refusal(403, message, (detail,), "PERMISSION_DENIED")


def scripted(status: int, reason: str, *, project_id: str) -> Refusal:
    """The error that belongs to a status and a reason.

    A reason of FCM's ErrorCode page comes as FcmError. RATE_LIMIT_EXCEEDED is the project's quota as Google's front end
    refuses it. PERMISSION_DENIED and UNAUTHENTICATED come without FcmError, as any other word does.
    """
    reason = reason or USUAL_REASONS.get(status, "")
    if reason == "RATE_LIMIT_EXCEEDED":
        return _rate_limited(status, project_id)
    if reason == "UNAUTHENTICATED":
        return unauthenticated("ACCESS_TOKEN_EXPIRED")
    if reason == "PERMISSION_DENIED":
        return permission_denied(project_id)
    message = _ERROR_CODES.get(reason)
    if message is None:
        return Refusal(status, reason, (), reason)
    details: tuple[Mapping[str, object], ...] = (fcm_error(reason),)
    if reason == "QUOTA_EXCEEDED":
        violation = {"subject": f"project:{project_id}", "description": message}
        details = (*details, {"@type": QUOTA_FAILURE, "violations": [violation]})
    return Refusal(status, message, details, reason)


def _rate_limited(status: int, project_id: str) -> Refusal:
    message = (
        "Quota exceeded for quota metric 'Send requests' and limit 'Send requests per minute' "
        f"of service 'fcm.googleapis.com' for consumer 'projects/{project_id}'."
    )
    metadata = {
        "service": "fcm.googleapis.com",
        "consumer": f"projects/{project_id}",
        "quota_metric": "fcm.googleapis.com/send_requests",
        "quota_limit": "SendsPerMinutePerProject",
        "quota_limit_value": "600000",
        "quota_unit": "1/min/{project}",
        "quota_location": "global",
    }
    return Refusal(status, message, (error_info("RATE_LIMIT_EXCEEDED", metadata),), "RATE_LIMIT_EXCEEDED")
