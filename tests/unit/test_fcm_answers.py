"""FCM's answers: classification of anything at all. What each known answer means is in the golden files."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from pushgate.outcome import Accepted, Cause, Deferred, Rejected, Undeliverable
from pushgate.provider.answer import STATUS_REASONS
from pushgate.provider.fcm_answer import REASONS, classify

NOW = 1_750_000_000.0
PREFIX = "type.googleapis.com/"

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
codes = st.sampled_from(sorted(REASONS)) | json_values
details = st.fixed_dictionaries(
    {
        "@type": st.sampled_from(
            [
                PREFIX + kind
                for kind in ("google.firebase.fcm.v1.FcmError", "google.rpc.BadRequest", "google.rpc.QuotaFailure")
            ]
        )
        | json_values,
    },
    optional={
        "errorCode": codes,
        "fieldViolations": st.lists(st.fixed_dictionaries({"field": json_values}) | json_values, max_size=2)
        | json_values,
        "violations": st.lists(st.fixed_dictionaries({"description": json_values}) | json_values, max_size=2)
        | json_values,
    },
)
errors = st.fixed_dictionaries(
    {},
    optional={
        "status": codes,
        "message": json_values,
        "details": st.lists(details | json_values, max_size=3) | json_values,
    },
)
bodies = st.binary(max_size=200) | st.builds(lambda error: json.dumps({"error": error}).encode(), errors | json_values)
headers = st.dictionaries(st.sampled_from(["retry-after", "server"]), st.text(max_size=40), max_size=2)


@given(status=st.integers(0, 999) | st.sampled_from([400, 401, 403, 404, 429, 500, 503]), headers=headers, body=bodies)
@example(status=404, headers={}, body=b"{" * 40_000)
def test_any_answer_has_an_outcome_with_a_known_reason(status: int, headers: dict[str, str], body: bytes) -> None:
    outcome = classify(status, headers, body, now=NOW)
    assert isinstance(outcome, Accepted) == (status == 200 and b'"name"' in body)
    if not isinstance(outcome, Accepted):
        assert outcome.reason in REASONS
    if isinstance(outcome, Rejected):
        assert status in (400, 403, 404)
        assert outcome.reason not in STATUS_REASONS


def test_no_status_alone_rejects_and_only_413_drops() -> None:
    outcomes = {status: classify(status, {}, b"", now=NOW) for status in range(201, 600)}
    assert isinstance(outcomes.pop(413), Undeliverable)
    assert {type(outcome) for outcome in outcomes.values()} == {Deferred}


def test_code_that_is_no_word_does_not_count() -> None:
    kind = PREFIX + "google.firebase.fcm.v1.FcmError"
    error = {"status": "NOT_FOUND", "details": [{"@type": kind, "errorCode": 5}]}
    assert classify(404, {}, json.dumps({"error": error}).encode(), now=NOW) == Deferred(Cause.CREDENTIALS, "NOT_FOUND")
