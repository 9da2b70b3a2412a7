"""tracing: which spans there are, below which others, and which traces are kept. And its table of the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pushgate.config import tracing_table
from pushgate.config.settings import load
from pushgate.errors import ConfigError, ConfigFault, SpoolUnavailable
from pushgate.model import Delivery, Device, EncryptedNotification
from pushgate.outcome import Accepted, Cause, Deferred, Outcome, Rejected, Undeliverable
from pushgate.request_id import CURRENT, RequestIds
from pushgate.spool import Lease
from pushgate.tracing import Span, Tracing

TRACE, PARENT = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
AGAIN = Deferred(Cause.CONNECTION, "timeout")


class Kept:
    """Spans that have ended."""

    dropped = 0

    def __init__(self) -> None:
        self.all: list[Span] = []

    def add(self, span: Span) -> None:
        self.all.append(span)

    async def close(self) -> None:
        """Nothing is open."""


class Disk:
    """A spool that takes all or nothing."""

    is_full = False

    async def put(self, deliveries: Sequence[Delivery]) -> int:
        if self.is_full:
            raise SpoolUnavailable("disk full")
        return 0


class Way:
    """The way of requests and deliveries, with a clock that goes on by a microsecond at each look."""

    def __init__(self, *, sample: float = 1.0, most_known: int = 100) -> None:
        self.kept = Kept()
        self.disk = Disk()
        ids = count(1)
        self.tracing = Tracing(
            self.kept,
            sample=sample,
            provider_of=lambda lane: "apns",
            clock_ns=count(10**18, 1000).__next__,
            bits=lambda _: next(ids),
            most_known=most_known,
        )

    async def request(self, *ids: str, traceparent: bytes = b"") -> None:
        entry = RequestIds().begin([(b"traceparent", traceparent)])
        self.tracing.accept(entry)
        await self.tracing.put(self.disk, [delivery(each) for each in ids])
        self.tracing.answered(entry, 200)
        CURRENT.set(None)

    def attempt(self, delivery_id: str, outcome: Outcome, number: int = 1) -> None:
        self.tracing.attempted([(Lease(delivery(delivery_id), number, None), outcome, 1e-7)])

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.kept.all]


def delivery(delivery_id: str) -> Delivery:
    device = Device("a.b.apns", "pushkey")
    note = EncryptedNotification(device=device, ciphertext="AA", time_message_encrypted="2026-11", key_identifier="k")
    return Delivery(id=delivery_id, device=device, notification=note, accepted_at=0, expires_at=1)


def parent(flags: str = "01") -> bytes:
    return f"00-{TRACE:032x}-{PARENT:016x}-{flags}".encode()


async def test_each_delivery_of_a_request_is_below_its_put() -> None:
    way = Way()
    await way.request("one", "two", traceparent=parent())
    way.attempt("one", AGAIN)
    way.attempt("two", Accepted())
    way.attempt("one", Accepted(), 2)
    assert way.names == ["put", "accept", *["lease", "attempt"] * 3]
    put, accept, *others = way.kept.all
    assert {span.trace_id for span in way.kept.all} == {TRACE}
    assert (accept.parent_id, put.parent_id) == (PARENT, accept.span_id)
    assert {span.parent_id for span in others} == {put.span_id}
    assert others[0].begun_ns == put.ended_ns
    assert others[4].begun_ns == others[1].ended_ns
    assert [span.has_failed for span in others] == [False, True, False, False, False, False]


@pytest.mark.parametrize("outcome", [Accepted(), Undeliverable("TooLarge"), AGAIN, Rejected("Unregistered")])
async def test_what_was_not_taken_in_here_begins_a_trace_of_its_own(outcome: Outcome) -> None:
    way = Way()
    way.attempt("of before", outcome)
    way.attempt("of before", Accepted(), 2)
    goes_on = isinstance(outcome, Deferred | Rejected)
    first, second = [span for span in way.kept.all if span.name == "attempt"]
    assert first.parent_id == 0
    assert (second.trace_id, second.parent_id) == ((first.trace_id, first.span_id) if goes_on else (3, 0))
    assert way.names.count("lease") == goes_on


async def test_what_the_caller_does_not_record_makes_no_span_at_all() -> None:
    way = Way()
    await way.request("one", traceparent=parent("00"))
    way.attempt("one", AGAIN)
    way.attempt("one", Accepted(), 2)
    assert way.names == []


@pytest.mark.parametrize(
    ("sample", "low", "kept"),
    [(0.0, 0, False), (0.5, (1 << 63) - 1, True), (0.5, 1 << 63, False), (1.0, (1 << 64) - 1, True)],
)
async def test_the_share_is_decided_by_the_trace_id(sample: float, low: int, kept: bool) -> None:
    way = Way(sample=sample)
    traceparent = f"00-{1 << 64 | low:032x}-{PARENT:016x}-01".encode()
    await way.request("one", traceparent=traceparent)
    way.attempt("one", Accepted())
    assert way.names == (["put", "accept", "lease", "attempt"] if kept else [])


async def test_what_is_known_of_deliveries_is_bounded() -> None:
    way = Way(most_known=3)
    await way.request(*"abcde", traceparent=parent())
    for each in "abcde":
        way.attempt(each, AGAIN)
    assert len(way.tracing._known) == 3
    way = Way(most_known=3)
    await way.request(*"abcde", traceparent=parent())
    for each in "edcba":
        way.attempt(each, Accepted())
    assert way.tracing._known == {}
    attempts = [span for span in way.kept.all if span.name == "attempt"]
    assert [span.trace_id == TRACE for span in attempts] == [True, True, True, False, False]


async def test_a_put_that_fails_says_so() -> None:
    way = Way()
    way.disk.is_full = True
    with pytest.raises(SpoolUnavailable):
        await way.request("one")
    assert [(span.name, span.has_failed) for span in way.kept.all] == [("put", True)]


async def test_a_bug_in_it_costs_nobody_an_answer() -> None:
    way = Way()
    providers: dict[str, str] = {}
    way.tracing._provider_of = providers.__getitem__
    with capture_logs() as logs:
        way.attempt("one", Accepted())
        way.attempt("two", Accepted())
    assert way.names == []
    assert [(each["event"], each["fault"]) for each in logs] == [("tracing failed unexpectedly", "KeyError")]


@pytest.mark.parametrize("traceparent", [b"", b"00-junk", parent().replace(b"00f067aa0ba902b7", b"0" * 16)])
async def test_without_a_good_traceparent_a_trace_begins_here(traceparent: bytes) -> None:
    way = Way()
    await way.request("one", traceparent=traceparent)
    accept = way.kept.all[-1]
    assert (accept.name, accept.trace_id, accept.parent_id) == ("accept", 1, 0)


# --- the table


def faults(folder: Path, table: str) -> list[ConfigFault]:
    file = folder / "pushgate.toml"
    file.write_text(f"[tracing]\n{table}\n")
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    return list(caught.value.faults)


@pytest.mark.parametrize(
    ("endpoint", "fault"),
    [
        ("collector.example.org:4318", "not the address of a collector"),
        ("grpc://collector.example.org:4317", "not the address of a collector"),
        ("https://", "not the address of a collector"),
        ("https://user:geheim@collector.example.org/v1/traces", "not the address of a collector"),
        ("http://collector.example.org:99999/v1/traces", "not the address of a collector"),
        ("http://[::1/v1/traces", "not the address of a collector"),
        ("https://collector.example.org:4318", "no path"),
    ],
)
def test_an_address_that_cannot_be_is_a_fault(tmp_path: Path, endpoint: str, fault: str) -> None:
    (found,) = faults(tmp_path, f'endpoint = "{endpoint}"')
    assert (found.path, found.fault) == ("tracing.endpoint", fault)
    assert "geheim" not in str(found)
    assert ("headers_file" in found.mend) == ("@" in endpoint)


def test_without_its_package_it_is_a_fault_that_says_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing_table, "find_spec", lambda name: None)
    (found,) = faults(tmp_path, 'endpoint = "https://collector.example.org:4318/v1/traces"')
    assert found.fault == "traces need opentelemetry-proto, which is not installed"
    mend = "install it beside pushgate (pipx inject pushgate opentelemetry-proto), or leave endpoint empty"
    assert found.mend == mend


@pytest.mark.parametrize("line", ["geheim", "a b: geheim", "Host: geheim", "Content-Type: geheim", "a: gehe\tim", "a:"])
def test_a_header_that_cannot_be_is_a_fault_that_does_not_repeat_it(tmp_path: Path, line: str) -> None:
    (tmp_path / "headers").write_text(f"# login\nx-good: 1\n{line}\n")
    (found,) = faults(tmp_path, 'endpoint = "http://127.0.0.1:4318/v1/traces"\nheaders_file = "headers"')
    assert found.path == "tracing.headers_file"
    assert found.fault.startswith("line 3 of ")
    assert "geheim" not in str(found)


def test_files_do_nothing_without_an_address(tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("x-good: 1\n")
    (found,) = faults(tmp_path, 'headers_file = "headers"')
    assert (found.path, found.fault) == ("tracing.headers_file", "does nothing without endpoint")


def test_what_is_given_is_what_is_sent(tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("\nx-tenant:  a b\t\nAuthorization: Basic Zm9v\n")
    file = tmp_path / "pushgate.toml"
    file.write_text('[tracing]\nendpoint = "http://127.0.0.1:4318/v1/traces"\nheaders_file = "headers"\n')
    settings = load(file, environ={})
    assert settings.tracing.headers() == {"x-tenant": "a b", "Authorization": "Basic Zm9v"}
    assert "traces" in settings.describe() and "Zm9v" not in settings.describe()
