"""journal: what became of the last deliveries, by their ids, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import msgspec
import pytest

from pushgate import journal, rings
from pushgate.intake import new_ids
from pushgate.journal import Event, Explained, Journal, merged
from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected, Undeliverable
from pushgate.request_id import Entry

LANES = ("org.example.a", "org.example.b")


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        self.now += 0.25
        return self.now


def entry(name: str, ids: Sequence[str], *, repeats: int = 0) -> Entry:
    lanes = [LANES[n % 2] for n in range(len(ids))]
    return Entry(name.encode(), "erp", ids=ids, lanes=lanes, repeats=repeats)


def events(told: Explained) -> list[list[tuple[str, str]]]:
    deliveries = [each for request in told.requests for each in request.deliveries] + list(told.deliveries)
    return [[(attempt.event.value, attempt.reason) for attempt in each.attempts] for each in deliveries]


def test_a_request_leads_to_its_deliveries_and_each_of_them_back() -> None:
    kept = Journal(100, clock=Clock())
    ids = new_ids(3)
    kept.answered(entry("other", new_ids(1)), 200)
    kept.answered(entry("asked", ids, repeats=1), 200)
    kept.tried(ids[0], Deferred(Cause.PROVIDER, "ServiceUnavailable"))
    kept.accepted([ids[0]])
    kept.tried(ids[1], Rejected("Unregistered"))
    (request,) = kept.explain("asked").requests
    assert (request.request_id, request.caller, request.status, request.repeats) == ("asked", "erp", 200, 1)
    assert [(each.id, each.lane) for each in request.deliveries] == list(zip(ids, (*LANES, LANES[0]), strict=True))
    assert events(kept.explain("asked")) == [
        [("deferred", "ServiceUnavailable"), ("accepted", "")],
        [("rejected", "Unregistered")],
        [],
    ]
    first, second = request.deliveries[0].attempts
    assert request.at < first.at < second.at
    for each in ids:
        assert kept.explain(each.upper()).requests == [request]


def test_every_outcome_is_told_with_its_reason_and_the_end_of_its_time() -> None:
    kept = Journal(100, clock=Clock())
    (name,) = new_ids(1)
    outcomes: list[Outcome] = [Deferred(Cause.QUOTA, "QUOTA_EXCEEDED"), Undeliverable("PayloadTooLarge")]
    for outcome in (*outcomes, Rejected("x"), Accepted()):
        kept.tried(name, outcome)
    kept.expired(name, "timeout")
    kept.accepted(new_ids(2))
    told = kept.explain(name)
    (delivery,) = told.deliveries
    assert (told.requests, delivery.lane) == ([], "")
    assert events(told) == [
        [
            ("deferred", "QUOTA_EXCEEDED"),
            ("undeliverable", "PayloadTooLarge"),
            ("rejected", "x"),
            ("accepted", ""),
            ("expired", "timeout"),
        ]
    ]


@pytest.mark.parametrize("most", [1, 2, 7, 300, 1000])
@pytest.mark.parametrize("batch", [1, 3, 0])
def test_what_is_older_than_the_rings_is_forgotten_and_the_rest_is_whole(most: int, batch: int) -> None:
    kept = Journal(most, clock=Clock())
    sent = {f"r{n}": new_ids(batch if batch else n % 4) for n in range(700)}
    for name, ids in sent.items():
        kept.answered(entry(name, ids), 200)
        kept.accepted(ids)
    told = {name: kept.explain(name).requests for name in sent}
    known = [name for name, requests in told.items() if requests]
    assert known == list(sent)[-most:]
    held = [each for ids in sent.values() for each in ids][-most:]
    for name in known:
        (request,) = told[name]
        assert [each.id for each in request.deliveries] == [each for each in sent[name] if each in held]
        assert len(request.deliveries) + request.more == len(sent[name])
        assert all(each.attempts for each in request.deliveries)
    first_ids = next(ids for ids in sent.values() if ids)
    if most < 300:
        nothing = kept.explain(first_ids[0])
        assert (nothing.requests, nothing.deliveries) == ([], [])


def test_a_delivery_outlives_its_request_where_requests_are_many() -> None:
    kept = Journal(4, clock=Clock())
    (name,) = new_ids(1)
    kept.answered(entry("first", [name]), 200)
    for n in range(4):
        kept.answered(entry(f"empty-{n}", []), 400)
    told = kept.explain(name)
    assert (told.requests, [each.lane for each in told.deliveries]) == ([], [LANES[0]])
    assert [each.status for each in kept.explain("empty-3").requests] == [400]


def test_an_id_that_a_caller_uses_again_leads_to_each_of_its_requests() -> None:
    kept = Journal(100, clock=Clock())
    for _ in range(journal.MOST_REQUESTS + 5):
        kept.answered(entry("again", new_ids(1)), 200)
    told = kept.explain("again").requests
    assert len(told) == journal.MOST_REQUESTS
    assert [each.at for each in told] == sorted(each.at for each in told)


def test_nothing_is_known_of_what_never_was() -> None:
    kept = Journal(10, clock=Clock())
    for asked in ("x", "", new_ids(1)[0], "00000000-0000-0000-0000-000000000000", "é"):
        told = kept.explain(asked)
        assert (told.requests, told.deliveries, told.most) == ([], [], 10)


def test_a_journal_that_is_off_keeps_nothing() -> None:
    (name,) = new_ids(1)
    journal.OFF.answered(entry("asked", [name]), 200)
    journal.OFF.tried(name, Accepted())
    journal.OFF.accepted([name])
    journal.OFF.expired(name, "timeout")
    told = journal.OFF.explain(name)
    assert (told.requests, told.deliveries, told.most) == ([], [], 0)


def test_words_without_end_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rings, "MOST_WORDS", 5)
    kept = Journal(100, clock=Clock())
    names = new_ids(20)
    for n, name in enumerate(names):
        kept.tried(name, Rejected(f"reason-{n}"))
    assert [events(kept.explain(name))[0][0][1] for name in (names[0], names[19])] == ["reason-0", "reason-3"]


def test_a_delivery_takes_no_more_than_150_bytes() -> None:
    most = 5000
    requests = [(f"0123456789ab-{n:x}", new_ids(1)) for n in range(most)]
    tracemalloc.start()
    try:
        kept = Journal(most, clock=Clock())
        for name, ids in requests:
            kept.answered(Entry(name.encode(), "erp", ids=tuple(ids), lanes=(LANES[0],)), 200)
            kept.accepted(ids)
        kept.explain("x")
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / most <= 150, "each with a request of its own, and one attempt"


def test_what_several_processes_know_is_told_as_one_and_travels() -> None:
    kept = [Journal(10, clock=Clock()) for _ in range(3)]
    ids = new_ids(2)
    kept[0].answered(entry("asked", ids[:1]), 200)
    kept[1].answered(entry("asked", ids[1:]), 200)
    told = merged([each.explain("asked") for each in kept])
    assert [each.deliveries[0].id for each in told.requests] == ids
    assert told.most == 30
    assert msgspec.json.decode(msgspec.json.encode(told), type=Explained) == told
    assert {each.value for each in Event} >= {"accepted", "expired"}
