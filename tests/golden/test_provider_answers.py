"""Every answer of a provider has a file: status, headers and body as they come, and the outcome they must have.

The tables are those of Apple ("Handling notification responses from APNs") and of FCM ("ErrorCode").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected, Undeliverable
from pushgate.provider import apns, apns_answer, fcm, fcm_answer
from pushgate.provider.answer import STATUS_REASONS

FOLDER = Path(__file__).parent / "provider_answers"
FILES = sorted(FOLDER.glob("*/*.json"))
NOW = 1_750_000_000.0

APNS_TABLE = {
    400: "BadDeviceToken DeviceTokenNotForTopic BadTopic MissingTopic TopicDisallowed BadCollapseId BadExpirationDate "
    "BadMessageId BadPriority DuplicateHeaders InvalidPushType PayloadEmpty MissingDeviceToken IdleTimeout",
    403: "ExpiredProviderToken InvalidProviderToken MissingProviderToken BadEnvironmentKeyIdInToken BadCertificate "
    "BadCertificateEnvironment Forbidden UnrelatedKeyIdInToken",
    404: "BadPath",
    405: "MethodNotAllowed",
    410: "Unregistered ExpiredToken",
    413: "PayloadTooLarge",
    429: "TooManyProviderTokenUpdates TooManyRequests",
    500: "InternalServerError",
    503: "ServiceUnavailable Shutdown",
}
FCM_TABLE = {
    400: "INVALID_ARGUMENT UNSPECIFIED_ERROR",
    401: "THIRD_PARTY_AUTH_ERROR",
    403: "SENDER_ID_MISMATCH",
    404: "UNREGISTERED",
    429: "QUOTA_EXCEEDED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
REJECTING = {
    "apns": {"BadDeviceToken", "DeviceTokenNotForTopic", "Unregistered", "ExpiredToken"},
    "fcm": {"UNREGISTERED", "SENDER_ID_MISMATCH", "INVALID_ARGUMENT"},
}

Case = Mapping[str, Any]


def read(path: Path) -> Case:
    case: Case = json.loads(path.read_text())
    return case


def outcome(said: Mapping[str, Any]) -> Outcome:
    match said["kind"]:
        case "accepted":
            return Accepted()
        case "rejected":
            return Rejected(said["reason"], said["since_ms"])
        case "deferred":
            return Deferred(Cause(said["cause"]), said["reason"], said["retry_after_s"])
        case _:
            return Undeliverable(said["reason"])


def classify(provider: str, case: Case) -> Outcome:
    body = case["body"].encode()
    if provider == "apns":
        ts = case.get("pushkey_ts")
        return apns.classify(case["status"], case["headers"], body, now=NOW, pushkey_ts=ts)
    return fcm.classify(case["status"], case["headers"], body, now=NOW)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_answer_means_what_its_file_says(path: Path) -> None:
    case = read(path)
    assert classify(path.parent.name, case) == outcome(case["outcome"])


@pytest.mark.parametrize(("provider", "table"), [("apns", APNS_TABLE), ("fcm", FCM_TABLE)])
def test_every_word_of_the_providers_table_has_a_file(provider: str, table: Mapping[int, str]) -> None:
    cases = [read(path) for path in FILES if path.parent.name == provider]
    missing = [
        (status, word)
        for status, row in table.items()
        for word in row.split()
        if not any(case["status"] == status and f'"{word}"' in case["body"] for case in cases)
    ]
    assert missing == []


@pytest.mark.parametrize(("provider", "reasons"), [("apns", apns_answer.REASONS), ("fcm", fcm_answer.REASONS)])
def test_every_reason_that_classify_knows_has_a_file_and_no_other_is_given(
    provider: str, reasons: frozenset[str]
) -> None:
    given = {read(path)["outcome"].get("reason") for path in FILES if path.parent.name == provider} - {None}
    assert reasons - STATUS_REASONS <= given <= reasons


@pytest.mark.parametrize("provider", ["apns", "fcm"])
def test_only_the_providers_own_word_rejects(provider: str) -> None:
    rejecting = {
        read(path)["outcome"]["reason"]
        for path in FILES
        if path.parent.name == provider and read(path)["outcome"]["kind"] == "rejected"
    }
    assert rejecting == REJECTING[provider]
