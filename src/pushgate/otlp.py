"""Spans on their way to a collector: OTLP over HTTP, as protobuf, in batches, by a thread of its own.

Whoever ends a span never waits: it goes into a bounded queue, and past its bound it is dropped and counted. A batch
that does not arrive is dropped too. The environment has no say in where spans go and what is sent with them: neither
OTEL_…, nor HTTPS_PROXY, REQUESTS_CA_BUNDLE or .netrc. Redirects are not followed. Imported only where traces are on.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import requests
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2 as pb

from pushgate import __version__
from pushgate.provider.bounded_session import bounded_session
from pushgate.tracing import Kind, Span

log = structlog.get_logger(__name__)

MOST_WAITING = 8192
"""Spans, some 5 MB."""
BATCH = 512
EVERY_S = 1.0
"""How long a span waits at most for others to go with it."""
PAUSE_S = 5.0
"""After a batch that did not arrive."""
TELL_EVERY_S = 60.0
MAX_ANSWER_BYTES = 65_536

_KINDS = {
    Kind.INTERNAL: pb.Span.SPAN_KIND_INTERNAL,
    Kind.SERVER: pb.Span.SPAN_KIND_SERVER,
    Kind.CLIENT: pb.Span.SPAN_KIND_CLIENT,
}
_FAILED = pb.Status(code=pb.Status.STATUS_CODE_ERROR)


class OtlpSpans:
    """The way to one collector."""

    def __init__(
        self,
        endpoint: str,
        *,
        headers: Mapping[str, str],
        timeout_s: float,
        tls: ssl.SSLContext,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = endpoint
        self._headers = {"User-Agent": f"pushgate/{__version__}", **headers, "Content-Type": "application/x-protobuf"}
        self._timeout_s = timeout_s
        self._tls = tls
        self._monotonic = monotonic
        self._waiting: deque[Span] = deque()
        self._overflow = 0
        """Counted by those who add."""
        self._lost = 0
        """Counted by the thread."""
        self._tell_again_at = 0.0
        self._is_closing = False
        self._something = threading.Event()
        """Set when a batch is full, and at the end."""
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """See `tracing.Spans.dropped`."""
        return self._overflow + self._lost

    def add(self, span: Span) -> None:
        """See `tracing.Spans.add`."""
        if len(self._waiting) >= MOST_WAITING:
            self._overflow += 1
            return
        self._waiting.append(span)
        if len(self._waiting) == BATCH:
            self._something.set()

    async def close(self) -> None:
        """Send what is left, until one batch does not arrive, and for twice `timeout_s` at most."""
        self._is_closing = True
        self._something.set()
        await asyncio.to_thread(self._thread.join, 2 * self._timeout_s)

    # --- the thread

    def _run(self) -> None:
        while not self._is_closing:
            self._something.wait(EVERY_S)
            self._something.clear()
            if not self._send_all():
                self._pause()
        self._send_all()

    def _pause(self) -> None:
        until = self._monotonic() + PAUSE_S
        while not self._is_closing and (left_s := until - self._monotonic()) > 0:
            self._something.wait(left_s)
            if not self._is_closing:
                self._something.clear()

    def _send_all(self) -> bool:
        """Whether all that waited has arrived. Stops at the first batch that has not."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH))]
            fault = self._send(batch)
            if fault:
                self._lost += len(batch)
                self._tell(fault)
                return False
        return True

    def _send(self, batch: list[Span]) -> str:
        """What went wrong, or nothing."""
        try:
            content = encode(batch)
            with bounded_session(deadline_s=self._timeout_s, max_bytes=MAX_ANSWER_BYTES, tls=self._tls) as session:
                answer = session.post(
                    self._endpoint,
                    data=content,
                    headers=self._headers,
                    timeout=self._timeout_s,
                    allow_redirects=False,
                )
        except Exception as fault:  # noqa: BLE001 - whatever it is, the next batch is tried
            return type(fault).__name__
        return "" if answer.status_code == requests.codes.ok else f"status {answer.status_code}"

    def _tell(self, fault: str) -> None:
        if (now := self._monotonic()) >= self._tell_again_at:
            self._tell_again_at = now + TELL_EVERY_S
            log.warning("traces do not arrive", fault=fault, count=self.dropped)


def encode(spans: Iterable[Span]) -> bytes:
    """An `ExportTraceServiceRequest` (OTLP 1.x) with these spans, all of this service."""
    encoded = pb.ScopeSpans(
        scope=InstrumentationScope(name="pushgate", version=__version__), spans=[_encode(span) for span in spans]
    )
    resource = Resource(attributes=[_fact("service.name", "pushgate"), _fact("service.version", __version__)])
    request = ExportTraceServiceRequest(resource_spans=[pb.ResourceSpans(resource=resource, scope_spans=[encoded])])
    return bytes(request.SerializeToString())


def _encode(span: Span) -> pb.Span:
    return pb.Span(
        name=span.name,
        kind=_KINDS[span.kind],
        trace_id=span.trace_id.to_bytes(16, "big"),
        span_id=span.span_id.to_bytes(8, "big"),
        parent_span_id=span.parent_id.to_bytes(8, "big") if span.parent_id else b"",
        start_time_unix_nano=span.begun_ns,
        end_time_unix_nano=span.ended_ns,
        attributes=[_fact(name, value) for name, value in span.facts],
        status=_FAILED if span.has_failed else None,
        flags=0x01,  # sampled
    )


def _fact(name: str, value: str | int) -> KeyValue:
    found = AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
    return KeyValue(key=name, value=found)
