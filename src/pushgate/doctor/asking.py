"""One harmless request to a provider: what is sent, by which line, and what came back where it is not about an app."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

from msgspec import Struct

from pushgate.doctor.clock import Heard
from pushgate.doctor.finding import Check, Finding, warning, wrong
from pushgate.errors import NotSent, Unanswered
from pushgate.http2 import Pool, Response, encode_headers
from pushgate.http2.target import Target
from pushgate.model import Counts, Delivery, Device, PlainNotification, Prio
from pushgate.outcome import Cause, Deferred, Rejected
from pushgate.provider import ProviderRequest
from pushgate.provider.answer import CONNECT, RESET, TIMEOUT
from pushgate.provider.credentials import Clock

REQUEST_S = 10.0


class Tools(Struct, frozen=True):
    """What every request needs from outside."""

    clock: Clock
    entropy: Callable[[int], bytes]
    """So many random bytes."""
    heard: list[Heard]
    """Dates, as they come in."""
    trusted_by: list[str]
    """Who took a token that was made by our clock."""


async def ask(peer: Target, request: ProviderRequest, *, tools: Tools) -> Response | Deferred:
    """The peer's answer, or why there is none. A date that comes with it is heard."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + REQUEST_S
    pool = Pool(peer, max_connections=1, connect_timeout_s=REQUEST_S)
    try:
        response = await pool.request(request.head, request.body, timeout_s=REQUEST_S)
    except NotSent:
        return Deferred(Cause.CONNECTION, CONNECT)
    except Unanswered:
        return Deferred(Cause.CONNECTION, TIMEOUT if clock() >= deadline else RESET)
    finally:
        await pool.close()
    if date := response.headers.get("date"):
        tools.heard.append(Heard(peer.host, date, tools.clock()))
    return response


async def hear_the_date(peer: Target, *, tools: Tools) -> None:
    """Have the host say anything, for the date that comes with it."""
    fields = [(":method", "GET"), (":scheme", "https"), (":authority", peer.authority), (":path", "/")]
    await ask(peer, ProviderRequest(encode_headers(fields), b""), tools=tools)


def trial(app_id: str, pushkey: str, *, tools: Tools) -> Delivery:
    """A notification that shows nothing and is kept nowhere, for a pushkey that is nobody's."""
    device = Device(app_id, pushkey)
    notification = PlainNotification(devices=(device,), prio=Prio.LOW, counts=Counts(unread=0))
    return Delivery(
        id=str(uuid.UUID(bytes=tools.entropy(16), version=4)),
        device=device,
        notification=notification,
        accepted_at=tools.clock(),
        expires_at=0,
    )


def trouble(app_id: str, who: str, outcome: Rejected | Deferred, *, with_certificate: bool = False) -> Finding:
    """What is not about the app's settings: no answer, too much, an outage, or somebody else who answers."""
    reason = outcome.reason
    match outcome:
        case Deferred(cause=Cause.CONNECTION):
            mend = "it was reached a moment ago: run this again; does it last, something on the way breaks HTTP/2"
            if with_certificate and reason in (CONNECT, RESET):
                mend = f"{who} may have refused the certificate: is it revoked, or for another provider?"
            return wrong(Check.PROVIDER, app_id, f"no answer: {reason}", next_step=mend)
        case Deferred(cause=Cause.CREDENTIALS):
            mend = f"that is no answer of {who}: correct the endpoint, or see who answers in its place (a proxy?)"
            return wrong(Check.PROVIDER, app_id, f"refused without a reason: {reason}", next_step=mend)
        case Deferred(cause=Cause.QUOTA | Cause.DEVICE):
            mend = "who else sends with these credentials? Run this again in a few minutes"
            return warning(Check.PROVIDER, app_id, f"{who} has had too much: {reason}", next_step=mend)
        case _:
            mend = f"nothing of ours is wrong: see the status page of {who}, and run this again later"
            return warning(Check.PROVIDER, app_id, f"{who} has trouble: {reason}", next_step=mend)
