"""client.answers, client.results: tolerant in form, strict in meaning, and no pushkey in print."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushgate.client.answers import Fault, read_batch, read_fault, read_notify, read_retry_after
from pushgate.client.errors import AnswerUnusable
from pushgate.client.results import BatchResult, ItemResult, ItemStatus, NotifyResult, Summary

SENT = {"one": {"key-1"}, "two": {"key-2", "key-3"}}
NOW = 1_784_000_000.0


def batch(*results: object, **more: object) -> bytes:
    return msgspec.json.encode({"results": results, **more})


def item(id_: str, status: str = "success", **more: object) -> dict[str, Any]:
    return {"id": id_, "status": status, **more}


def test_a_full_answer_is_read() -> None:
    body = batch(
        item("one", rejected=[]),
        item("two", "partial", rejected=["key-3"], error="half"),
        summary={"total": 2, "successful": 1, "failed": 0, "partial": 1},
    )
    assert read_batch(body, SENT) == [
        ItemResult(id="one", status=ItemStatus.SUCCESS),
        ItemResult(id="two", status=ItemStatus.PARTIAL, rejected=("key-3",), error="half"),
    ]


@pytest.mark.parametrize("absent", [{}, {"error": None}, {"rejected": None}, {"rejected": [], "later": {"added": 1}}])
def test_null_missing_and_unknown_fields_are_tolerated(absent: dict[str, Any]) -> None:
    read = read_batch(batch(item("one", **absent), item("two", "failed", **absent), more=True), SENT)
    assert [(result.status, result.rejected, result.error) for result in read] == [
        (ItemStatus.SUCCESS, (), ""),
        (ItemStatus.FAILED, (), ""),
    ]


def test_results_in_another_order_are_put_back_into_the_order_submitted() -> None:
    body = batch(item("two", "failed", rejected=["key-2"]), item("one"))
    assert [(result.id, result.rejected) for result in read_batch(body, SENT)] == [("one", ()), ("two", ("key-2",))]


def test_a_pushkey_that_the_item_did_not_name_is_never_reported_dead() -> None:
    body = batch(item("one", rejected=["key-2", "key-9"]), item("two"))
    assert [result.rejected for result in read_batch(body, SENT)] == [(), ()]
    assert read_notify(b'{"rejected":["key-9","key-2"]}', {"key-2"}).rejected == ("key-2",)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"null",
        b"OK",
        b"<html></html>",
        b"\xff\xfe",
        b'{"results":null}',
        b'{"results":[{"id":"one"},{"id":"two","status":"success"}]}',
        b'{"rejected":[]}',
        batch(item("one")),
        batch(item("one"), item("one")),
        batch(item("one"), item("three")),
        batch(item("one"), item("two"), item("three")),
        batch(item("one"), item("two"), item("two", "failed")),
        batch(item("one"), item("two", "queued")),
        batch(item("one"), item("two", rejected="key-2")),
        batch(item("one"), item("two", error=5)),
    ],
)
def test_what_is_not_an_answer_for_these_items_is_no_success(body: bytes) -> None:
    with pytest.raises(AnswerUnusable):
        read_batch(body, SENT)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"OK", b'{"rejected":"key-1"}', b'{"rejected":[1]}', b'{"re'])
def test_what_is_not_an_answer_to_notify_is_no_success(body: bytes) -> None:
    with pytest.raises(AnswerUnusable):
        read_notify(body, {"key-1"})


def test_an_answer_to_notify_is_read() -> None:
    assert read_notify(b'{"rejected":["key-1"]}', {"key-1"}) == NotifyResult(("key-1",))
    assert read_notify(b'{"rejected":null,"more":1}', {"key-1"}) == NotifyResult(())


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (
            b'{"error":"Invalid data format","details":{"path":"$"}}',
            Fault("Invalid data format", {"path": "$"}),
        ),
        (b'{"error":null,"details":null}', Fault()),
        (b'{"error":["x"],"details":"x"}', Fault()),
        (b"[]", Fault()),
        (b"Bad Gateway", Fault()),
        (b"\xff\xfe", Fault()),
        (b"", Fault()),
    ],
)
def test_a_fault_is_read_as_far_as_it_can_be(body: bytes, fault: Fault) -> None:
    assert read_fault(body) == fault


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Tue, 14 Jul 2026 03:33:20 GMT", 0.0),
        ("Tue, 14 Jul 2026 03:34:00 GMT", 40.0),
        ("Tue, 14 Jul 2026 03:34:00 -0000", 40.0),
        ("Tuesday, 14-Jul-26 03:34:00 GMT", 40.0),
        ("Tue, 14 Jul 2026 03:00:00 GMT", 0.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("9" * 5000, None),
        ("Tue, 99 Jul 2026 03:34:00 GMT", None),
        ("Tue, 14 Jul 99999999999999999999 03:34:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms(value: str | None, wait_s: float | None) -> None:
    assert read_retry_after(value, NOW) == wait_s


@given(value=st.text(st.characters(max_codepoint=255), max_size=60))
def test_no_retry_after_breaks_the_client(value: str) -> None:
    wait_s = read_retry_after(value, NOW)
    assert wait_s is None or wait_s >= 0


def test_a_batch_is_summed_up_and_names_each_dead_pushkey_once() -> None:
    result = BatchResult(
        (
            ItemResult(id="1", status=ItemStatus.FAILED, rejected=("b",), error="gone"),
            ItemResult(id="2", status=ItemStatus.PARTIAL, rejected=("a", "b")),
            ItemResult(id="3", status=ItemStatus.SUCCESS),
            ItemResult(id="4", status=ItemStatus.FAILED),
        )
    )
    assert result.summary == Summary(total=4, successful=1, failed=2, partial=1)
    assert result.dead_pushkeys == ("b", "a")
    assert NotifyResult(("b", "a", "b")).dead_pushkeys == ("b", "a")


def test_results_print_no_pushkey_and_no_text_of_the_gateway() -> None:
    one = ItemResult(id="1", status=ItemStatus.FAILED, rejected=("pushkey-1",), error="about pushkey-1")
    assert repr(one) == "ItemResult(id='1', status='failed', rejected=1)"
    assert one.__rich_repr__() == [("id", "1"), ("status", "failed"), ("rejected", 1)]
    every = BatchResult((one,))
    assert repr(every) == "BatchResult(Summary(total=1, successful=0, failed=1, partial=0))"
    assert every.__rich_repr__() == [("summary", every.summary)]
    assert repr(NotifyResult(("pushkey-1",))) == "NotifyResult(rejected=1)"
    assert NotifyResult(("pushkey-1",)).__rich_repr__() == [("rejected", 1)]
