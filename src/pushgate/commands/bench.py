"""`pushgate bench`: load on a running gateway for some seconds, and how fast it took it."""

from __future__ import annotations

import asyncio
import itertools
import json as json_text
import resource
import secrets
import ssl
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import uvloop
from cyclopts import Group, Parameter, validators
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pushgate import cli
from pushgate.client import (
    ClientConfigError,
    Device,
    EncryptedNotification,
    GatewayError,
    ItemStatus,
    PushGatewayClient,
    Retries,
    month_of,
)
from pushgate.commands.keys import Obstacle, explained
from pushgate.commands.load import Answer, AtOnce, Load, Peer, Schedule, Steady, Template, percentile, sealed_parts
from pushgate.model import CIPHERTEXT_CHARS

MAX_SECONDS = 600
MAX_CONNECTIONS = 1000
MAX_RATE = 1_000_000
CONNECTIONS = 8
STEADY_CONNECTIONS = 64
"""For a steady rate: as many may be without an answer at a time."""
BATCH = 100
"""The most in one request (contract)."""
ANSWERED_WITHIN_S = 10.0
MARK_BYTES = 23
"""Random bytes that the pushkeys of a run have in common."""
BUSY = 0.9
"""From this share of a core on this process, not the gateway, may be what was measured."""
REACHED = 0.95
WARNING = (
    "The pushkeys are random: no phone gets anything. Use an app whose `endpoint` is an emulator. Never use one that\n"
    "reaches Apple or Google: they take thousands of unknown pushkeys for abuse, and real devices' notifications wait\n"
    "while the gateway holds the lane for mass rejection."
)
_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


@Parameter(name="*", group=Group.create_ordered("Gateway"))
@dataclass(frozen=True, kw_only=True)
class Where:
    """Which gateway, and who says so."""

    url: Annotated[str, Parameter(help="Its address. It ends in /push/v1/.")] = "http://127.0.0.1:8080/push/v1/"
    cert_file: Annotated[
        Path | None, Parameter(name=("--cert-file", "--cert"), help="The certificate it knows you by (PEM).")
    ] = None
    key_file: Annotated[
        Path | None, Parameter(name=("--key-file", "--key"), help="Its key (PEM), where that is another file.")
    ] = None
    ca_file: Annotated[
        Path | None,
        Parameter(
            name=("--ca-file", "--ca"), help="Whom to trust as a gateway (PEM). Default: whom this system trusts."
        ),
    ] = None


@Parameter(name="*", group=Group.create_ordered("Load"))
@dataclass(frozen=True, kw_only=True)
class How:
    """How much load."""

    rate: Annotated[
        float | None,
        Parameter(
            help="Notifications a second, steadily, however slow the answers are. Without it: as fast as they come.",
            validator=validators.Number(gt=0, lte=MAX_RATE),
        ),
    ] = None
    connections: Annotated[
        int | None,
        Parameter(
            help=f"Over so many connections, one request at a time on each. Default: {CONNECTIONS}, and at most"
            f" {STEADY_CONNECTIONS} with --rate.",
            validator=validators.Number(gte=1, lte=MAX_CONNECTIONS),
        ),
    ] = None
    seconds: Annotated[float, Parameter(help="For so long.", validator=validators.Number(gt=0, lte=MAX_SECONDS))] = 10
    batch: Annotated[
        int, Parameter(help="Sealed notifications in a request.", validator=validators.Number(gte=1, lte=BATCH))
    ] = 1


class Latency(Struct, frozen=True):
    """Milliseconds from request to answer."""

    p50: float
    p90: float
    p99: float
    max: float


class Report(Struct, frozen=True, kw_only=True):
    """What came of it."""

    seconds: float
    requests: int
    """That were answered."""
    taken: int
    """Notifications that are on disk at the gateway."""
    taken_per_s: float
    statuses: Mapping[str, int]
    """Requests by status of HTTP; `none`: no answer."""
    results: Mapping[str, int]
    """Notifications by what their result says."""
    latency_ms: Latency
    notes: tuple[str, ...]

    @property
    def all_taken(self) -> bool:
        """Whether nothing was refused, failed or lost."""
        return self.taken > 0 and set(self.statuses) == {"200"} and set(self.results) == {"success"}


_DEFAULT_WHERE, _DEFAULT_HOW = Where(), How()


@explained
def bench(
    *,
    app_id: Annotated[
        str,
        Parameter(
            name=("--app", "--app-id"), help="The app, as the gateway's configuration calls it: one with an emulator."
        ),
    ],
    where: Where = _DEFAULT_WHERE,
    how: How = _DEFAULT_HOW,
    json: Annotated[_Flag, Parameter(help="Answer as one line of JSON.")] = False,
) -> int:
    """Put load on a running gateway with an emulator behind it, and say how fast it took it.

    The notifications are sealed ones that differ each time, to pushkeys that are random: no phone gets anything. The
    app must be one whose provider is an emulator (`pushgate emulate`), never one with real devices. What is measured is
    the time until the gateway has a request on disk; it hands over to the provider meanwhile.

    `pushgate bench --app org.example.health.apns --seconds 5 --batch 100`
    """
    print(WARNING, file=sys.stderr)
    mark = "be" + secrets.token_hex(MARK_BYTES)  # an emulator's dead ones begin otherwise
    uvloop.run(_try(where, app_id, mark))
    report = uvloop.run(_bench(where, how, app_id, mark, shows=not json))
    print(json_text.dumps(msgspec.to_builtins(report)) if json else _in_words(report, how))
    return cli.DONE if report.all_taken else cli.FAILED


# --- before the load ---------------------------------------------------------------------------------------------


async def _try(where: Where, app_id: str, mark: str) -> None:
    """One notification must be taken, else there is no load. Raises `Obstacle`."""
    notification = EncryptedNotification(
        device=Device(app_id, mark.ljust(64, "f")),
        ciphertext="A" * CIPHERTEXT_CHARS,
        time_message_encrypted=_month(),
        key_identifier="load",
    )
    mend = "pushgate send with the same gateway and app says what to mend"
    try:
        async with PushGatewayClient(
            where.url,
            cert_file=_named(where.cert_file),
            key_file=_named(where.key_file),
            ca_file=_named(where.ca_file),
            timeout_s=ANSWERED_WITHIN_S,
            retries=Retries(count=0),
        ) as client:
            (result,) = (await client.notify_encrypted_batch([notification])).results
    except ClientConfigError as error:
        raise Obstacle(f"cannot send: {error}", mend="see pushgate bench --help") from error
    except GatewayError as error:
        raise Obstacle(f"no load: {error}", mend=mend, code=cli.FAILED) from error
    if result.status is not ItemStatus.SUCCESS:
        raise Obstacle(f"no load: {result.error or result.status}", mend=mend, code=cli.FAILED)


def _named(file: Path | None) -> str | None:
    return None if file is None else str(file)


def _month() -> str:
    return month_of(datetime.now(UTC).date())


def _peer(where: Where) -> tuple[Peer, str]:
    """Where it listens, and the path of what is asked. `_try` has shown that all of it is right."""
    url = urlsplit(where.url)
    path = f"{url.path.rstrip('/')}/notifyEncrypted/batch"
    if url.scheme == "http":
        return Peer(url.hostname or "", url.port or 80), path
    tls = ssl.create_default_context(cafile=where.ca_file)
    if where.cert_file is not None:
        tls.load_cert_chain(where.cert_file, where.key_file, password="")
    return Peer(url.hostname or "", url.port or 443, tls), path


# --- the load ----------------------------------------------------------------------------------------------------


class _Result(Struct, frozen=True):
    status: str


class _Results(Struct, frozen=True):
    results: tuple[_Result, ...]


class _Tally:
    """What was answered."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.results: Counter[str] = Counter()
        self.took_s = array("d")
        self._decode = msgspec.json.Decoder(_Results).decode

    def tell(self, answer: Answer | OSError, took_s: float) -> None:
        """See `Load`."""
        if isinstance(answer, OSError):
            self.statuses["none"] += 1
            return
        self.took_s.append(took_s)
        self.statuses[str(answer.status)] += 1
        if answer.status == 200:
            try:
                self.results.update(each.status for each in self._decode(answer.body).results)
            except msgspec.DecodeError:
                self.results["unreadable"] += 1


async def _bench(where: Where, how: How, app_id: str, mark: str, *, shows: bool) -> Report:
    peer, path = _peer(where)
    filler = secrets.token_urlsafe(CIPHERTEXT_CHARS)
    parts = sealed_parts([app_id] * how.batch, mark=mark, filler=filler, month=_month())
    template = Template(path, host=urlsplit(where.url).netloc, parts=parts)
    tally = _Tally()
    load = Load(peer, map(template.fill, itertools.count(0, how.batch)), tally.tell)
    begin, cpu_s = time.perf_counter(), _cpu_s()
    schedule: Schedule
    if how.rate is None:
        connections = how.connections or CONNECTIONS
        schedule = AtOnce(until=begin + how.seconds)
    else:
        connections = how.connections or STEADY_CONNECTIONS
        schedule = Steady(how.rate / how.batch, begin=begin, until=begin + how.seconds)
    showing = asyncio.create_task(_show(how.seconds, tally)) if shows and sys.stderr.isatty() else None
    lost = await load.run(schedule, connections=connections, within_s=how.seconds + ANSWERED_WITHIN_S)
    seconds, busy = time.perf_counter() - begin, _cpu_s() - cpu_s
    if showing is not None:
        showing.cancel()
        await asyncio.wait([showing])
    if lost:
        tally.statuses["none"] += lost
    return _report(tally, how, seconds=max(seconds, how.seconds), busy=busy / seconds)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _show(seconds: float, tally: _Tally) -> None:
    """A bar on the terminal, until cancelled."""
    columns = BarColumn(), TextColumn("{task.fields[rate]:,.0f} a second"), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=seconds, rate=0.0)
        for turn in itertools.count(1):
            await asyncio.sleep(0.2)
            progress.update(task, completed=turn * 0.2, rate=tally.results["success"] / (turn * 0.2), refresh=True)


def _report(tally: _Tally, how: How, *, seconds: float, busy: float) -> Report:
    taken = tally.results["success"]
    ordered = sorted(tally.took_s)
    p50, p90, p99, most = (round(percentile(ordered, share) * 1000, 2) for share in (0.5, 0.9, 0.99, 1))
    return Report(
        seconds=round(seconds, 2),
        requests=len(ordered),
        taken=taken,
        taken_per_s=round(taken / seconds, 1),
        statuses=dict(sorted(tally.statuses.items())),
        results=dict(+tally.results),
        latency_ms=Latency(p50, p90, p99, most),
        notes=tuple(_notes(how, taken / seconds, busy)),
    )


def _notes(how: How, rate: float, busy: float) -> Iterator[str]:
    if busy >= BUSY:
        yield f"this command was busy for {busy:.0%} of the time: the gateway may be faster than it could ask"
    if how.rate is not None and rate < how.rate * REACHED:
        yield f"{how.rate:,.0f} a second were not reached"


def _in_words(report: Report, how: How) -> str:
    took = report.latency_ms
    lines = [
        f"{report.taken:,} taken in {report.seconds:g} s, {report.taken_per_s:,.0f} a second, {how.batch} a request",
        f"answers  {_counts(report.statuses)}",
        f"results  {_counts(report.results)}",
        f"latency  p50 {took.p50:g} ms, p90 {took.p90:g} ms, p99 {took.p99:g} ms, max {took.max:g} ms",
        *(f"note     {note}" for note in report.notes),
    ]
    return "\n".join(lines)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items()) or "none"
