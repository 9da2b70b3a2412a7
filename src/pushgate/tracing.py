"""What traces tell of a request and its deliveries: the spans accept, put, lease and attempt, joined to the caller's.

Whoever works on the path holds a `Tracing` or None: off, it costs one look at that. A span holds names of callers and
lanes, ids, counts, outcomes and their reasons; nothing of a notification, and nothing of a pushkey, not even a hash.
To which trace a delivery belongs is known in memory only, and only of the last ones. What was read back from disk, or
comes from another process, begins a trace of its own. This module knows no wire format: see `otlp`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from enum import Enum
from itertools import islice
from typing import Protocol

import structlog
from msgspec import Struct

from pushgate.model import Delivery
from pushgate.outcome import Accepted, Deferred, Outcome, Rejected
from pushgate.request_id import Entry

log = structlog.get_logger(__name__)

MOST_KNOWN = 100_000
"""Deliveries whose trace is known: 20 MB."""
TELL_EVERY_S = 60.0

_64_BITS = (1 << 64) - 1


class Kind(Enum):
    """On which side of a call a span stands."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


class Span(Struct, frozen=True):
    """A part of a trace that has ended. Times in unix nanoseconds. `parent_id` is 0 where there is none."""

    name: str
    kind: Kind
    trace_id: int
    span_id: int
    parent_id: int
    begun_ns: int
    ended_ns: int
    has_failed: bool
    facts: tuple[tuple[str, str | int], ...]


class Spans(Protocol):
    """Where spans go that have ended."""

    @property
    def dropped(self) -> int:
        """How many did not get to where they should."""
        ...

    def add(self, span: Span) -> None:
        """Take one. Never waits: one that finds no room is dropped."""
        ...

    async def close(self) -> None:
        """Send what is left, for a bounded time."""
        ...


class Putting(Protocol):
    """The part of a spool that is traced."""

    async def put(self, deliveries: Sequence[Delivery]) -> int:
        """See `spool.Spool.put`."""
        ...


class Held(Protocol):
    """The part of a `spool.Lease` that is told of."""

    @property
    def delivery(self) -> Delivery:
        """What is sent."""
        ...

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        ...


class _Request(Struct):
    """The span of a request that has not ended."""

    trace_id: int
    parent_id: int
    span_id: int
    begun_ns: int


class _Origin(Struct):
    """What the next attempt of a delivery hangs on, and since when it waits (0: nobody knows)."""

    trace_id: int
    parent_id: int
    since_ns: int


_NEW = _Origin(0, 0, 0)
"""Of a delivery that is not known."""
_UNTRACED = _Origin(0, 0, 0)
"""Of a delivery that is known to be left out."""

_REQUEST: ContextVar[_Request | None] = ContextVar("_REQUEST", default=None)
"""The request that is being answered, where it is traced."""


class Tracing:
    """Makes the spans of one gateway process. `sample` is the share of traces that are kept, by their ids."""

    def __init__(
        self,
        spans: Spans,
        *,
        sample: float,
        provider_of: Callable[[str], str],
        clock_ns: Callable[[], int] = time.time_ns,
        bits: Callable[[int], int] = random.getrandbits,
        monotonic: Callable[[], float] = time.monotonic,
        most_known: int = MOST_KNOWN,
    ) -> None:
        self._spans = spans
        self._kept_below = int(sample * (_64_BITS + 1))
        self._provider_of = provider_of
        self._clock_ns = clock_ns
        self._bits = bits
        self._monotonic = monotonic
        self._most_known = most_known
        self._known: dict[str, _Origin] = {}
        self._tell_again_at = 0.0

    # --- requests

    def accept(self, entry: Entry) -> None:
        """A request begins. It goes on with the caller's trace; what the caller does not record, we do not either."""
        remote = entry.trace_parent
        trace_id, parent_id, is_sampled = (self._bits(128) or 1, 0, True) if remote is None else remote
        if is_sampled and self._is_kept(trace_id):
            _REQUEST.set(_Request(trace_id, parent_id, self._id(), self._clock_ns()))
        else:
            _REQUEST.set(None)

    def answered(self, entry: Entry, status: int) -> None:
        """The request that was begun last is answered."""
        if (request := _REQUEST.get()) is None:
            return
        facts: tuple[tuple[str, str | int], ...] = (
            ("http.response.status_code", status),
            ("pushgate.caller", entry.caller),
            ("pushgate.request_id", entry.request_id.decode("ascii", "replace")),
            ("pushgate.deliveries", len(entry.ids)),
            ("pushgate.repeats", entry.repeats),
        )
        ids = (request.trace_id, request.span_id, request.parent_id)
        self._spans.add(
            Span("accept", Kind.SERVER, *ids, request.begun_ns, self._clock_ns(), has_failed=status >= 500, facts=facts)
        )

    async def put(self, spool: Putting, deliveries: Sequence[Delivery]) -> int:
        """What `spool.put` does, as a part of the request that is being answered."""
        request = _REQUEST.get()
        if request is None:
            self._remember(deliveries, _UNTRACED)
            return await spool.put(deliveries)
        begun_ns, put_id = self._clock_ns(), self._id()
        origin = _Origin(request.trace_id, put_id, 0)
        self._remember(deliveries, origin)  # before: the first attempt may have ended when the put returns here
        is_done = False
        try:
            repeats = await spool.put(deliveries)
            is_done = True
        finally:
            origin.since_ns = self._clock_ns()
            facts = (("pushgate.deliveries", len(deliveries)),)
            ids = (request.trace_id, put_id, request.span_id)
            self._spans.add(Span("put", Kind.INTERNAL, *ids, begun_ns, origin.since_ns, not is_done, facts))
        return repeats

    def _remember(self, deliveries: Sequence[Delivery], origin: _Origin) -> None:
        known = self._known
        for delivery in deliveries:
            known[delivery.id] = origin
        if (more := len(known) - self._most_known) > 0:
            for each in list(islice(known, more)):
                del known[each]

    # --- attempts

    def attempted(self, attempts: Sequence[tuple[Held, Outcome, float]]) -> None:
        """These attempts have ended, each after so many seconds. Raises nothing: an answer must not be lost for it."""
        try:
            now_ns = self._clock_ns()
            for lease, outcome, took_s in attempts:
                self._attempt(lease, outcome, begun_ns=now_ns - int(took_s * 1e9), ended_ns=now_ns)
        except Exception as fault:  # noqa: BLE001 - see above
            if (now := self._monotonic()) >= self._tell_again_at:
                self._tell_again_at = now + TELL_EVERY_S
                log.error("tracing failed unexpectedly", fault=type(fault).__name__)

    def _attempt(self, lease: Held, outcome: Outcome, *, begun_ns: int, ended_ns: int) -> None:
        delivery = lease.delivery
        origin = self._known.get(delivery.id, _NEW)
        if origin is _NEW:
            trace_id = self._bits(128) or 1
            origin = _Origin(trace_id, 0, 0) if self._is_kept(trace_id) else _UNTRACED
        if origin is _UNTRACED:
            self._go_on(delivery.id, outcome, origin)
            return
        where: tuple[tuple[str, str | int], ...] = (
            ("pushgate.lane", delivery.lane),
            ("pushgate.delivery_id", delivery.id),
        )
        if origin.since_ns:
            ids = (origin.trace_id, self._id(), origin.parent_id)
            since_ns = min(origin.since_ns, begun_ns)
            self._spans.add(Span("lease", Kind.INTERNAL, *ids, since_ns, begun_ns, has_failed=False, facts=where))
        span_id = self._id()
        ids = (origin.trace_id, span_id, origin.parent_id)
        facts = (*where, *self._facts(lease, outcome))
        has_failed = not isinstance(outcome, Accepted)
        self._spans.add(Span("attempt", Kind.CLIENT, *ids, begun_ns, ended_ns, has_failed, facts))
        next_parent_id = origin.parent_id or span_id
        self._go_on(delivery.id, outcome, _Origin(origin.trace_id, next_parent_id, ended_ns))

    def _facts(self, lease: Held, outcome: Outcome) -> tuple[tuple[str, str | int], ...]:
        facts = (
            ("pushgate.provider", self._provider_of(lease.delivery.lane)),
            ("pushgate.attempt", lease.attempt),
            ("pushgate.outcome", type(outcome).__name__.lower()),
        )
        return facts if isinstance(outcome, Accepted) else (*facts, ("pushgate.reason", outcome.reason))

    def _go_on(self, delivery_id: str, outcome: Outcome, origin: _Origin) -> None:
        """Where there may be another attempt (a rejection may not be believed), it belongs to the same trace."""
        if isinstance(outcome, Deferred | Rejected):
            self._known[delivery_id] = origin
            if len(self._known) > self._most_known:
                del self._known[next(iter(self._known))]
        else:
            self._known.pop(delivery_id, None)

    # --- how they are made

    def _id(self) -> int:
        return self._bits(64) or 1

    def _is_kept(self, trace_id: int) -> bool:
        return trace_id & _64_BITS < self._kept_below
