"""`pushgate explain`: what became of a request or a delivery, by its id."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from pushgate import cli
from pushgate.commands.check_config import load_or_explain
from pushgate.commands.keys import Obstacle, explained
from pushgate.config import Settings
from pushgate.config.listen import parse_listen
from pushgate.console.remote import NoAnswer, NobodyThere, Remote
from pushgate.errors import ConfigError
from pushgate.journal import DeliveryTold, Event, Explained, RequestTold

_ENDS = {
    Event.ACCEPTED: "accepted by the provider",
    Event.REJECTED: "the provider calls the pushkey dead",
    Event.DEFERRED: "deferred, it will be tried again",
    Event.UNDELIVERABLE: "the provider will never take it",
    Event.EXPIRED: "its time was up",
}
_WAITS = "waits: not tried yet"
_ELSEWHERE = "not tried by this gateway: ask the others about this delivery"
"""Where another may send what this one has taken."""


@explained
def explain(
    asked: Annotated[
        str, Parameter(name="ID", help="An X-Request-Id, or the id of a delivery: what APNs has as apns-id.")
    ],
    /,
    *,
    config: Annotated[Path, Parameter(help="The configuration (TOML) of the gateway.")],
    json: Annotated[bool, Parameter(help="Answer as one line of JSON.")] = False,
) -> int:
    """Tell what became of a request or of a delivery.

    Asks the running gateway over its management port. From a caller's complaint: every answer carries an
    `X-Request-Id`, the caller's own or one of ours. It leads to the deliveries of the request, their lanes, and each
    attempt with the provider's word. There are ids, times and reasons, and nothing of the notification. The gateway
    keeps this in memory, of the last `management.journal` deliveries, until it stops. Exits 1 when it knows nothing
    of the id. Several gateways do not know of each other: ask each, on a spool that they share first for the request,
    then for its deliveries.

    `pushgate explain --config pushgate.toml 9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d`
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", asked):
        mend = "copy an X-Request-Id from an answer, or an apns-id; a pushkey is not one"
        raise Obstacle("not an id", mend=mend)
    settings = load_or_explain(config)
    if settings is None:
        return cli.USAGE
    found = asyncio.run(_ask(settings, asked))
    if json:
        print(msgspec.json.encode(found).decode())
    else:
        for line in _lines(found, untried=_ELSEWHERE if settings.spool.is_shared else _WAITS):
            print(line)
    if found.requests or found.deliveries:
        return cli.DONE
    print(_unknown(found), file=sys.stderr)
    return cli.FAILED


async def _ask(settings: Settings, asked: str) -> Explained:
    """Raises `Obstacle`."""
    address = settings.management.listen
    if not address or not parse_listen(address).port:
        raise Obstacle(
            "the gateway has no management port that is known", mend="set management.listen", code=cli.FAILED
        )
    try:
        async with Remote(address, token=settings.management.token()) as remote:
            return await remote.ask("GET", "/explain", Explained, params={"id": asked})
    except ConfigError as error:
        (fault,) = error.faults
        raise Obstacle(f"{fault.path}: {fault.fault}", mend=fault.mend) from error
    except (NoAnswer, NobodyThere) as fault:
        mend = (
            f"is {address} the management.listen of this gateway, and does it run? What it knew is gone when it stops"
        )
        raise Obstacle(str(fault), mend=mend, code=cli.FAILED) from fault


def _lines(found: Explained, *, untried: str) -> Iterator[str]:
    for request in found.requests:
        yield from _of_request(request, untried=untried)
    for delivery in found.deliveries:
        yield from _of_delivery(delivery, status="unknown: its request is not in the journal any more")


def _of_request(request: RequestTold, *, untried: str) -> Iterator[str]:
    yield f"request {request.request_id}"
    yield f"  {_time(request.at)}  answered {request.status} to {_printable(request.caller)}"
    total = len(request.deliveries) + request.more
    if not total:
        yield "  no delivery came of it"
    if request.repeats:
        yield f"  {request.repeats} of {total} deliveries left out: repeats of what was sent before"
    waits = "left out as a repeat" if request.repeats >= total else untried
    if 0 < request.repeats < total:
        waits = f"{untried}, or left out as a repeat"
    for delivery in request.deliveries:
        yield from _of_delivery(delivery, status=waits)
    if request.more:
        yield f"  and {request.more} more deliveries"


def _of_delivery(delivery: DeliveryTold, *, status: str) -> Iterator[str]:
    yield f"  delivery {delivery.id}" + (f"  lane {_printable(delivery.lane)}" if delivery.lane else "")
    for attempt in delivery.attempts:
        reason = f": {_printable(attempt.reason)}" if attempt.reason else ""
        yield f"    {_time(attempt.at)}  {_ENDS[attempt.event]}{reason}"
    if not delivery.attempts:
        yield f"    {status}"


def _unknown(found: Explained) -> str:
    if not found.most:
        return "nothing is known: the journal of this gateway is off\n  -> set management.journal"
    return (
        f"nothing is known of this id: the journal holds the last {found.most} deliveries, from {_time(found.since)} on"
        "\n  -> is it older, or of another gateway? Each knows its own only: ask the others"
    )


def _time(moment: float) -> str:
    """Unix seconds as ISO 8601 in UTC, to the millisecond."""
    return f"{datetime.fromtimestamp(moment, UTC).isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)
