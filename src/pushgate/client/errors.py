"""What can go wrong in a backend that seals and sends.

    PushgateError
    └── ClientError
        ├── ClientConfigError         address, certificates or client are not usable: nothing can be sent
        ├── RequestUnusable           nothing of this call was sent: its items are not what the API takes
        ├── GatewayError              holds the results that earlier requests of the same call had brought
        │   ├── GatewayRefused        a 3xx or 4xx: sending the same again brings the same
        │   ├── GatewayUntrusted      TLS failed for good: a certificate of one side is not accepted by the other
        │   ├── GatewayUnavailable    no connection, no answer, 429 or 5xx, and the retries are used up
        │   └── AnswerUnusable        a 2xx whose body is not what the API promises: it proves nothing
        └── SealingError
            ├── SecretError           a secret or key that is not 32 bytes
            ├── MonthError            not YYYY-MM, or a step that a key chain does not take
            ├── MessageError          a message that cannot be sealed: too long, or not text
            ├── StateError            stored key material that cannot be read back
            ├── UnknownKeyError       no key with this identifier and month
            ├── CiphertextError       not of the right form, or not sealed with this key
            └── PaddingError          sealed with this key, but the padding inside is wrong

No message holds a pushkey, content, a ciphertext or a key. What a gateway said in words of its own stands in the
fields `error` and `details`: whoever logs those decides to trust that gateway.
"""

from __future__ import annotations

from collections.abc import Mapping
from http.client import responses
from typing import Any

from pushgate.client.results import ItemResult
from pushgate.errors import PushgateError

KNOWN_ERRORS = frozenset(
    {
        "Invalid data format",
        "Batch size exceeds maximum limit",
        "Duplicate notification IDs in batch",
        "Individual notification too large",
        "Notification object is too large.",
        "Batch request payload is too large.",
        "Missing or invalid mutual TLS (mTLS) certificate.",
        "Unexpected failure during processing.",
        "Unexpected failure during batch processing.",
        "Push Gateway under maintenance or overloaded.",
    }
)
"""The texts of Push Gateway API 1.0.0. Only these are repeated in a message: any other could echo what was sent."""


class ClientError(PushgateError):
    """The root of everything that the client raises."""


class ClientConfigError(ClientError):
    """The client cannot be used as it is: its address or certificates are wrong, or it is closed."""


class RequestUnusable(ClientError):  # noqa: N818 - what happened to the request
    """Nothing of this call was sent: at least one item is not what the API takes."""


class GatewayError(ClientError):
    """The gateway did not do what was asked, or nobody knows whether it did."""

    def __init__(self, message: str, *, request_id: str = "") -> None:
        super().__init__(message)
        self.request_id = request_id
        """The X-Request-Id of the answer; empty where there was none."""
        self.results: tuple[ItemResult, ...] = ()
        """What earlier requests of the same call had brought, in the order submitted. Those items are done."""


class GatewayRefused(GatewayError):  # noqa: N818 - what the gateway did
    """The gateway answered 3xx or 4xx. The same request would be answered the same."""

    def __init__(self, status: int, error: str, details: Mapping[str, Any], *, request_id: str = "") -> None:
        super().__init__(f"the gateway answered {said(status, error)}", request_id=request_id)
        self.status = status
        self.error = error
        """The gateway's own words; empty where it had none."""
        self.details = details
        """What the gateway said about it, e.g. `path` and `reason`, or `max_batch_size`."""


class GatewayUntrusted(GatewayError):  # noqa: N818 - a state, not a mistake
    """TLS failed for good: the gateway's certificate is not trusted here, or ours is not trusted there."""


class GatewayUnavailable(GatewayError):  # noqa: N818 - a state, not a mistake
    """The gateway could not be reached or was overloaded, and the retries are used up."""

    def __init__(
        self, reason: str, *, attempts: int, status: int | None, retry_after_s: float | None, request_id: str = ""
    ) -> None:
        super().__init__(f"the gateway is unavailable after {attempts} attempts: {reason}", request_id=request_id)
        self.attempts = attempts
        self.status = status
        """Of the last answer; None when there was none."""
        self.retry_after_s = retry_after_s
        """How long the gateway asked to wait, where it did."""


class AnswerUnusable(GatewayError):  # noqa: N818 - a state, not a mistake
    """A 2xx that is not an answer of a Push Gateway. Whether the notifications were taken is not known."""


class SealingError(ClientError):
    """A message could not be sealed or opened."""


class SecretError(SealingError):
    """A secret or key that is not 32 bytes."""


class MonthError(SealingError):
    """Not a month written YYYY-MM, or a step that a key chain does not take."""


class MessageError(SealingError):
    """A message that cannot be sealed: too long, or not text."""


class StateError(SealingError):
    """Stored key material that cannot be read back."""


class UnknownKeyError(SealingError):
    """No key with this identifier and month: never known, forgotten, or not yet derived."""


class CiphertextError(SealingError):
    """Not of the form that sealing makes, or not sealed with this key, or changed since."""


class PaddingError(SealingError):
    """Sealed with the right key, but the padding inside is not PNM1: the sender made a mistake."""


def said(status: int, error: str) -> str:
    """A status with its phrase, and the error text where it is one of the API's own."""
    return f"{status} {responses.get(status, '')}".rstrip() + (f": {error}" if error in KNOWN_ERRORS else "")
