"""APNs' answers: classification of anything at all. What each known answer means is in the golden files."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pushgate.outcome import Accepted, Deferred, Rejected, Undeliverable
from pushgate.provider.answer import MAX_ANSWER_BYTES, STATUS_REASONS, json_object
from pushgate.provider.apns_answer import REASONS, classify

NOW = 1_750_000_000.0

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
bodies = st.binary(max_size=200) | st.builds(
    lambda reason, timestamp: json.dumps({"reason": reason, "timestamp": timestamp}).encode(),
    st.sampled_from(sorted(REASONS)) | json_values,
    json_values,
)
headers = st.dictionaries(st.sampled_from(["retry-after", "server"]), st.text(max_size=40), max_size=2)


@given(
    status=st.integers(0, 999),
    headers=headers,
    body=bodies,
    pushkey_ts=st.none() | st.integers(),
)
@example(status=410, headers={}, body=b"[" * 40_000, pushkey_ts=None)
@example(status=410, headers={}, body=b'{"reason":"Unregistered","timestamp":1e400}', pushkey_ts=5)
@example(status=410, headers={}, body=b'{"reason":"Unregistered","timestamp":' + b"9" * 5000 + b"}", pushkey_ts=5)
def test_any_answer_has_an_outcome_with_a_known_reason(
    status: int, headers: dict[str, str], body: bytes, pushkey_ts: int | None
) -> None:
    outcome = classify(status, headers, body, now=NOW, pushkey_ts=pushkey_ts)
    assert isinstance(outcome, Accepted) == (status == 200)
    if not isinstance(outcome, Accepted):
        assert outcome.reason in REASONS
    if isinstance(outcome, Rejected):
        assert status in (400, 410)
        assert outcome.reason not in STATUS_REASONS
        assert outcome.since_ms is None or 0 < outcome.since_ms < 2**53


def test_no_status_alone_rejects_and_only_413_drops() -> None:
    outcomes = {status: classify(status, {}, b"", now=NOW) for status in range(201, 600)}
    assert isinstance(outcomes.pop(413), Undeliverable)
    assert {type(outcome) for outcome in outcomes.values()} == {Deferred}


@pytest.mark.parametrize("timestamp", [0, -1, True, 2**53, 1.5, "1749000000123", None, [1]])
def test_timestamp_that_is_none_does_not_count(timestamp: object) -> None:
    body = json.dumps({"reason": "Unregistered", "timestamp": timestamp}).encode()
    assert classify(410, {}, body, now=NOW, pushkey_ts=1) == Rejected("Unregistered", None)


def test_an_endless_body_is_not_read() -> None:
    body = b'{"reason":"Unregistered","x":"' + b"x" * MAX_ANSWER_BYTES + b'"}'
    assert json_object(body) == {}
    assert isinstance(classify(410, {}, body, now=NOW), Deferred)
