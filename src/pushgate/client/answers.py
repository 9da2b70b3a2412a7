"""bytes -> results: read what a gateway answered, tolerant in form, strict in what it means.

Optional fields may be absent or null, and unknown fields are passed over. But what cannot be read as an answer for
exactly the items that were sent is an AnswerUnusable, never a success.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from pushgate.client.errors import AnswerUnusable
from pushgate.client.results import ItemResult, ItemStatus, NotifyResult

_T = TypeVar("_T")
_SECONDS = re.compile(r"[0-9]{1,9}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Fault(Struct, frozen=True):
    """The body of an answer that is not a 2xx, as far as it can be read."""

    error: str = ""
    details: dict[str, Any] = {}


def read_notify(body: bytes, pushkeys: Collection[str]) -> NotifyResult:
    """The answer to `/notify`. Raises AnswerUnusable.

    `rejected` must be there: it alone tells that a Push Gateway has answered, and not something on the way to it.
    """
    answer = _decode(body, _NotifyAnswer)
    return NotifyResult(_own(answer.rejected, pushkeys))


def read_batch(body: bytes, sent: Mapping[str, Collection[str]]) -> list[ItemResult]:
    """The answer to a batch, in the order of `sent`: the pushkeys of each item by its id. Raises AnswerUnusable.

    Results are matched by id, for some gateways answer in another order.
    """
    answered = _decode(body, _BatchAnswer).results
    by_id = {item.id: item for item in answered}
    if len(answered) != len(by_id) or by_id.keys() != sent.keys():
        raise AnswerUnusable("the gateway's results are not those of the items that were sent")
    return [
        ItemResult(
            id=id_,
            status=by_id[id_].status,
            rejected=_own(by_id[id_].rejected, pushkeys),
            error=by_id[id_].error or "",
        )
        for id_, pushkeys in sent.items()
    ]


def read_fault(body: bytes) -> Fault:
    """What the gateway says went wrong. Empty where it does not say it as the API does."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Fault()
    error, details = fields.get("error"), fields.get("details")
    return Fault(error=error if isinstance(error, str) else "", details=details if isinstance(details, dict) else {})


def read_request_id(value: str | None) -> str:
    """An X-Request-Id that can be shown and asked for; empty where there is none."""
    return value if value and _REQUEST_ID.fullmatch(value) else ""


def read_retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110 §10.2.3), from either form; None where it says nothing.

    `now` is in unix seconds. A date that has passed means: at once.
    """
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    # An HTTP date is in GMT; "-0000" gives a datetime without a zone.
    return max(0.0, until.replace(tzinfo=until.tzinfo or UTC).timestamp() - now)


class _NotifyAnswer(Struct, frozen=True):
    rejected: tuple[str, ...] | None


class _ItemAnswer(Struct, frozen=True):
    id: str
    status: ItemStatus
    rejected: tuple[str, ...] | None = None
    error: str | None = None


class _BatchAnswer(Struct, frozen=True):
    results: tuple[_ItemAnswer, ...]


def _decode(body: bytes, type_: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AnswerUnusable("the gateway's answer cannot be read as the API's") from error


def _own(rejected: Collection[str] | None, pushkeys: Collection[str]) -> tuple[str, ...]:
    """Only what was asked about: a gateway's slip must not delete the registration of somebody else."""
    return tuple(pushkey for pushkey in rejected or () if pushkey in pushkeys)
