"""What happened to the last deliveries, by their ids, in memory: requests, deliveries and attempts in three rings.

For `pushgate explain`: from a caller's `X-Request-Id` to the ids that APNs got, and back. It holds ids, lanes, times,
outcomes and reasons, nothing of a notification and nothing of a pushkey, not even a hash. What is written down costs
some 0.2 µs a delivery where the batch is large; the rings are searched from end to end only when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import accumulate
from math import ceil
from typing import assert_never
from uuid import UUID

from msgspec import Struct

from pushgate.outcome import Accepted, Deferred, Outcome, Rejected, Undeliverable
from pushgate.request_id import Entry
from pushgate.rings import Attempts, Deliveries, Requests, Words

FLUSH_AT = 256
"""So many requests are put into the rings at once: one by one it costs three times as much."""
ATTEMPTS_EACH = 1.5
"""Room for so many attempts for each delivery."""
MOST_TOLD = 1000
"""Deliveries that are told of one request."""
MOST_REQUESTS = 20
"""Requests that are told of one id: callers may use one again."""


class Event(StrEnum):
    """What an attempt came to, or that there will be none."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    DEFERRED = "deferred"
    UNDELIVERABLE = "undeliverable"
    EXPIRED = "expired"


class AttemptTold(Struct, frozen=True):
    """One attempt, or that the time was up. `at` in unix seconds."""

    at: float
    event: Event
    reason: str


class DeliveryTold(Struct, frozen=True):
    """One delivery. `id` goes out as `apns-id`; `lane` is empty where its request is not known any more."""

    id: str
    lane: str
    attempts: Sequence[AttemptTold]


class RequestTold(Struct, frozen=True):
    """One request. `status` is what it was answered, `repeats` how many of its deliveries were left out as repeats."""

    request_id: str
    caller: str
    at: float
    status: int
    repeats: int
    deliveries: Sequence[DeliveryTold]
    more: int = 0
    """Deliveries of it that are not told."""


class Explained(Struct, frozen=True):
    """What is known of an id. `since` is how far back the journal reaches, in unix seconds."""

    requests: Sequence[RequestTold]
    deliveries: Sequence[DeliveryTold]
    """Those whose request is not known any more."""
    since: float
    most: int


def merged(told: Sequence[Explained]) -> Explained:
    """What several processes know of one id, as one. Needs one at least."""
    return Explained(
        [request for each in told for request in each.requests][:MOST_REQUESTS],
        [delivery for each in told for delivery in each.deliveries],
        max(each.since for each in told),
        sum(each.most for each in told),
    )


class Journal:
    """The last `most` deliveries, the last `most` requests, and what was tried. With 0 nothing is kept."""

    def __init__(self, most: int, *, clock: Callable[[], float]) -> None:
        self.most = most
        self._clock = clock
        self._since = clock()
        self._fresh: list[Entry] = []
        self._lanes: Words[str] = Words()
        self._callers: Words[str] = Words()
        self._events = Words([(Event.ACCEPTED, "")])
        self._requests = Requests(most)
        self._deliveries = Deliveries(most)
        self._attempts = Attempts(ceil(most * ATTEMPTS_EACH))

    def answered(self, entry: Entry, status: int) -> None:
        """The request was answered. What it became is in the entry by then."""
        if self.most:
            entry.status = status
            entry.at = self._clock()
            self._fresh.append(entry)
            if len(self._fresh) >= FLUSH_AT:
                self._flush()

    def tried(self, delivery_id: str, outcome: Outcome) -> None:
        """An attempt has an outcome."""
        if self.most:
            event = 0 if type(outcome) is Accepted else self._events.number(_event_of(outcome))
            self._attempts.add(hash(delivery_id), self._clock(), event)

    def accepted(self, delivery_ids: Sequence[str]) -> None:
        """The provider took them."""
        if self.most:
            self._attempts.add_all(list(map(hash, delivery_ids)), self._clock())

    def expired(self, delivery_id: str, reason: str) -> None:
        """Its time was up."""
        if self.most:
            event = self._events.number((Event.EXPIRED, reason))
            self._attempts.add(hash(delivery_id), self._clock(), event)

    def explain(self, asked: str) -> Explained:
        """What is known of a request id, or of a delivery id."""
        self._flush()
        numbers = self._requests.numbers_of(asked.encode())
        loose: list[DeliveryTold] = []
        if (raw := _bytes_of(asked)) is not None:
            found = self._deliveries.number_of(raw)
            request = -1 if found < 0 else self._requests.number(self._deliveries.request_of(found))
            if request >= 0:
                numbers = [*(each for each in numbers if each != request), request]
            else:
                told = self._delivery(raw, "" if found < 0 else self._lanes.word(self._deliveries.lane_of(found)))
                loose += [told] if told.attempts or told.lane else []
        since = max(self._since, self._requests.oldest_at())
        return Explained([self._request(each) for each in numbers[-MOST_REQUESTS:]], loose, since, self.most)

    def _request(self, number: int) -> RequestTold:
        requests, deliveries = self._requests, self._deliveries
        first, count = requests.part_of(number)
        held = range(max(first, deliveries.next - deliveries.most), first + count)[:MOST_TOLD]
        told = [self._delivery(deliveries.id_of(each), self._lanes.word(deliveries.lane_of(each))) for each in held]
        return RequestTold(
            requests.id_of(number).decode("ascii", "replace"),
            self._callers.word(requests.caller_of(number)),
            requests.at(number),
            requests.status_of(number),
            requests.repeats_of(number),
            told,
            count - len(told),
        )

    def _delivery(self, raw: bytes, lane: str) -> DeliveryTold:
        name = str(UUID(bytes=raw))
        attempts = [AttemptTold(at, *self._events.word(event)) for at, event in self._attempts.of(hash(name))]
        return DeliveryTold(name, lane, attempts)

    def _flush(self) -> None:
        """Put what is fresh into the rings, all at once."""
        fresh, self._fresh = self._fresh, []
        counts = [len(entry.ids) for entry in fresh]
        firsts = [*accumulate(counts, initial=self._deliveries.next)]
        number = self._requests.next
        if len(fresh) == firsts[-1] - firsts[0] == sum(map(bool, counts)):  # one each
            ids = [entry.ids[0] for entry in fresh]
            lanes = [entry.lanes[0] for entry in fresh]
            owners = [*range(number, number + len(fresh))]
        else:
            ids = [each for entry in fresh for each in entry.ids]
            lanes = [each for entry in fresh for each in entry.lanes]
            owners = [each for each, count in enumerate(counts, number) for _ in range(count)]
        callers = list(map(self._callers.number, [entry.caller for entry in fresh]))
        self._requests.add(fresh, callers=callers, firsts=firsts[:-1], counts=counts)
        self._deliveries.add(ids, list(map(self._lanes.number, lanes)), owners)


def _event_of(outcome: Outcome) -> tuple[Event, str]:
    match outcome:
        case Accepted():
            return Event.ACCEPTED, ""
        case Rejected(reason=reason):
            return Event.REJECTED, reason
        case Deferred(reason=reason):
            return Event.DEFERRED, reason
        case Undeliverable(reason=reason):
            return Event.UNDELIVERABLE, reason
        case _:
            assert_never(outcome)


def _bytes_of(asked: str) -> bytes | None:
    try:
        return UUID(asked).bytes
    except ValueError:
        return None


OFF = Journal(0, clock=lambda: 0.0)
"""Keeps nothing."""
