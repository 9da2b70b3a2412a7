"""A collector of traces for tests: takes OTLP over HTTP on loopback and remembers every byte and header."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from msgspec import Struct
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue


class Seen(Struct, frozen=True):
    """A span as it arrived. Ids as hexadecimal digits, `parent_id` empty where there is none."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    begun_ns: int
    ended_ns: int
    has_failed: bool
    facts: Mapping[str, str | int]


class Collector:
    """What has arrived. `status` is what it answers, `location` where it sends elsewhere; it waits for `open` first."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.headers: list[Mapping[str, str]] = []
        self.status = 200
        self.location = ""
        self.open = threading.Event()
        self.open.set()
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/traces"

    @property
    def requests(self) -> list[ExportTraceServiceRequest]:
        return [ExportTraceServiceRequest.FromString(each) for each in self.raw]

    @property
    def spans(self) -> list[Seen]:
        return [
            Seen(
                span.name,
                span.kind,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                span.status.code == 2,
                facts_of(span.attributes),
            )
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    async def until(self, count: int, *, within_s: float = 10.0) -> list[Seen]:
        """Wait for so many spans, at least."""
        async with asyncio.timeout(within_s):
            while len(found := self.spans) < count:
                await asyncio.sleep(0.02)
        return found


def facts_of(attributes: Iterable[KeyValue]) -> dict[str, str | int]:
    found: dict[str, str | int] = {}
    for each in attributes:
        is_number = each.value.WhichOneof("value") == "int_value"
        found[each.key] = int(each.value.int_value) if is_number else str(each.value.string_value)
    return found


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that runs in threads of its own."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            collector.open.wait(10)
            collector.headers.append(dict(self.headers.items()))
            collector.raw.append(content)
            self.send_response(collector.status)
            if collector.location:
                self.send_header("Location", collector.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.port = server.server_port
    running = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    running.start()
    try:
        yield collector
    finally:
        collector.open.set()
        server.shutdown()
        running.join()
        server.server_close()
