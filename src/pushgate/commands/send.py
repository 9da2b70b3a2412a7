"""`pushgate send`: one test notification to a running gateway, and what came of it, in words."""

from __future__ import annotations

import asyncio
import json as json_text
import re
import socket
import ssl
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar, assert_never

import msgspec
from cyclopts import Group, Parameter
from msgspec import Struct
from msgspec.structs import replace

from pushgate import cli
from pushgate.client import (
    ClientConfigError,
    Device,
    EncryptedNotification,
    GatewayError,
    GatewayRefused,
    GatewayUnavailable,
    GatewayUntrusted,
    ItemResult,
    ItemStatus,
    PlainNotification,
    PushGatewayClient,
    RequestUnusable,
    Retries,
)
from pushgate.commands.keys import Obstacle, explained
from pushgate.commands.notice import Gateway, Notice, Phone, notification_of, pushkey_of

MAX_WORDS_CHARS = 500
"""Of a gateway's own words that are shown."""

_FLAGS = {"base_url": "--url", "ca_file": "--ca-file", "cert_file": "--cert-file", "key_file": "--key-file"}
"""The client's options by the names they have here."""
_E = TypeVar("_E", bound=BaseException)


class Outcome(StrEnum):
    """What came of it."""

    TAKEN = "taken"
    """On disk at the gateway."""
    REJECTED = "rejected"
    """The provider has called the pushkey dead: the registration is to be deleted."""
    FAILED = "failed"
    """The gateway cannot send this one, and says why. No provider has called the pushkey dead."""
    REFUSED = "refused"
    """A 3xx or 4xx."""
    UNTRUSTED = "untrusted"
    """TLS ended it: one side does not accept the other's certificate."""
    UNAVAILABLE = "unavailable"
    """No answer, 429 or 5xx."""
    UNCLEAR = "unclear"
    """A 2xx that is not a gateway's answer."""


class Report(Struct, frozen=True, kw_only=True):
    """What came of it, and what to do now. Holds no pushkey."""

    outcome: Outcome
    said: str
    next_step: str
    request_id: str = ""
    """The X-Request-Id of the answer: what the gateway's `explain` asks for."""


_DEFAULT_GATEWAY, _DEFAULT_NOTICE = Gateway(), Notice()
_ANSWER = Group.create_ordered("Answer")


@explained
def send(
    *,
    gateway: Gateway = _DEFAULT_GATEWAY,
    phone: Phone,
    notice: Notice = _DEFAULT_NOTICE,
    json: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Answer as one line of JSON.", group=_ANSWER)
    ] = False,
) -> int:
    """Send one test notification to a running gateway and say what it answered.

    `taken` (exit code 0) means that it is on disk there. The provider is asked afterwards: a pushkey that turns out to
    be dead is `rejected` when you send again. The pushkey comes from --pushkey-file, --pushkey or the environment
    variable PUSHGATE_PUSHKEY.

    A gateway with default settings: `pushgate send --app-id org.example.health.apns --pushkey-file key.txt`.
    One that asks for certificates: add --url, --ca-file, --cert-file and --key-file.
    """
    pushkey = pushkey_of(phone)
    notification = notification_of(notice, Device(phone.app_id, pushkey))
    try:
        result, request_id = asyncio.run(_post(gateway, notification))
        report = replace(_judge(result, pushkey=pushkey), request_id=request_id)
    except ClientConfigError as error:
        raise Obstacle(f"cannot send: {_as_flags(str(error))}", mend="see pushgate send --help") from error
    except RequestUnusable as error:
        raise Obstacle(f"cannot send: {error}", mend="give --text, --title and --app-id in UTF-8") from error
    except GatewayError as error:
        report = _explain(error, gateway=gateway, sealed=notice.sealed, pushkey=pushkey)
        report = replace(report, request_id=error.request_id)
    _print(report, json=json)
    return cli.DONE if report.outcome is Outcome.TAKEN else cli.FAILED


async def _post(gateway: Gateway, notification: PlainNotification | EncryptedNotification) -> tuple[ItemResult, str]:
    """One attempt, as a batch of one: that tells more than `/notify` does. The answer, and its request id."""
    async with PushGatewayClient(
        gateway.url,
        cert_file=_named(gateway.cert_file),
        key_file=_named(gateway.key_file),
        ca_file=_named(gateway.ca_file),
        timeout_s=gateway.timeout_s,
        retries=Retries(count=0),
    ) as client:
        match notification:
            case PlainNotification():
                answer = await client.notify_batch([notification])
            case EncryptedNotification():
                answer = await client.notify_encrypted_batch([notification])
            case never:
                assert_never(never)
    return answer.results[0], "".join(answer.request_ids)


def _named(file: Path | None) -> str | None:
    return None if file is None else str(file)


# --- what came of it ---------------------------------------------------------------------------------------------


def _judge(result: ItemResult, *, pushkey: str) -> Report:
    """The gateway's answer. `rejected` wins over every status, as it does for the backends."""
    words = _shown(result.error, pushkey=pushkey)
    if result.rejected:
        return Report(
            outcome=Outcome.REJECTED,
            said="the provider has called this pushkey dead",
            next_step="delete this registration: the app gets a new pushkey when it registers again",
        )
    if result.status is ItemStatus.FAILED:
        return Report(
            outcome=Outcome.FAILED,
            said=f"{words or 'the gateway does not say why'}. Nothing was kept of it",
            next_step=_after_failure(words),
        )
    return Report(
        outcome=Outcome.TAKEN,
        said="the gateway has it on disk. The provider has not been asked yet" + (f" ({words})" if words else ""),
        next_step="look at the phone. Send again to learn whether the provider has called the pushkey dead",
    )


def _after_failure(words: str) -> str:
    """What to mend, by what the gateway says of the item: the pushkey, the message, or itself."""
    if re.search(r"\bpushkey is not an? ", words):
        return "correct the pushkey, or token_encoding of the app at the gateway. The registration may be fine: keep it"
    if "too large" in words:
        return "give a shorter --text or --title: a provider takes no more. The pushkey is not to blame"
    if "not allowed for this caller" in words:
        return "add the app to this caller's apps in [[clients]] of the gateway's configuration, or correct --app-id"
    return "mend this at the gateway (pushgate check-config lists its apps). The pushkey is not to blame"


def _explain(error: GatewayError, *, gateway: Gateway, sealed: bool, pushkey: str) -> Report:
    match error:
        case GatewayRefused():
            said = _words_of(error, pushkey=pushkey)
            mend = _after_refusal(error.status, said, gateway=gateway, sealed=sealed)
            return Report(outcome=Outcome.REFUSED, said=said, next_step=mend)
        case GatewayUntrusted():
            said, mend = _distrust(error, gateway=gateway)
            return Report(outcome=Outcome.UNTRUSTED, said=said, next_step=mend)
        case GatewayUnavailable():
            said, mend = _absence(error, gateway=gateway)
            return Report(outcome=Outcome.UNAVAILABLE, said=said, next_step=mend)
        case _:
            mend = f"find out who answers at {gateway.url}: it does not speak the Push Gateway API"
            said = f"{error}. Nobody knows whether it was taken"
            return Report(outcome=Outcome.UNCLEAR, said=said, next_step=mend)


def _words_of(error: GatewayRefused, *, pushkey: str) -> str:
    """The status, the gateway's error, and where it says the fault is."""
    place = [str(error.details[name]) for name in ("path", "reason") if name in error.details]
    return _shown(": ".join([f"{error.status} {error.error}".rstrip(), *place]), pushkey=pushkey)


def _after_refusal(status: int, said: str, *, gateway: Gateway, sealed: bool) -> str:
    match status:
        case 401 if gateway.cert_file is None:
            return "say who you are: --cert-file and --key-file, with a certificate that the gateway knows"
        case 401 if not sealed and "sealed" in said:
            return "send a sealed one: --sealed --keychain FILE"
        case 401:
            return "name this certificate in [[clients]] of the gateway's configuration, or give another --cert-file"
        case 404:
            return "correct --url: it ends in /push/v1/, behind the gateway's api.base_path if it has one"
        case 400 | 413:
            return "correct what it names: an unknown app, a text that is too long"
        case _:
            return f"is that a Push Gateway? Correct --url ({gateway.url})"


def _distrust(error: GatewayUntrusted, *, gateway: Gateway) -> tuple[str, str]:
    for cause in _causes(error, ssl.SSLCertVerificationError):
        said = f"the gateway's certificate is not trusted here: {cause.verify_message}"
        if "mismatch" in cause.verify_message:
            return said, f"use a name that the certificate is for in --url ({gateway.url})"
        if gateway.ca_file is None:
            return said, "give --ca-file: the certificate of the authority that issued the gateway's"
        return said, f"is {gateway.ca_file} the authority that issued the gateway's certificate?"
    mend = "give a --cert-file from an authority in the gateway's client_ca_file"
    return f"the gateway does not accept our certificate ({error})", mend


def _absence(error: GatewayUnavailable, *, gateway: Gateway) -> tuple[str, str]:
    if error.status is not None:
        wait = "" if error.retry_after_s is None else f" after {error.retry_after_s:g} s"
        return f"the gateway cannot take it now ({error.status})", f"send again{wait}; the gateway's log says why"
    for _ in _causes(error, ConnectionRefusedError):
        return f"nobody listens at {gateway.url}", "is it running? pushgate serve --config FILE; its log names the port"
    for _ in _causes(error, socket.gaierror):
        return "there is no host of this name", f"correct --url ({gateway.url})"
    for cause in _causes(error, ssl.SSLError):
        mend = "without TLS there, write --url http://…; else see the gateway's log"
        return f"no TLS with the gateway: {cause.reason or cause}", mend
    for _ in _causes(error, TimeoutError):
        return f"no answer within {gateway.timeout_s:g} s", "is a firewall between? --timeout-s waits longer"
    reasons = [cause.strerror for cause in _causes(error, OSError) if cause.strerror]
    mend = "see the gateway's log; where it expects TLS write --url https://…, where a certificate give --cert-file"
    return f"the connection ended without an answer{f': {reasons[-1]}' if reasons else ''}", mend


def _causes(error: BaseException, kind: type[_E]) -> Iterator[_E]:
    """Whatever of that kind has led to the error. httpcore hides causes, but keeps the context."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, kind):
            yield link
        link = link.__cause__ or link.__context__


def _shown(words: str, *, pushkey: str) -> str:
    """A gateway's own words without the pushkey, on one line and not without end."""
    hidden = words.replace(pushkey, "[pushkey]")
    printable = "".join(char if char.isprintable() else "?" for char in hidden)
    return printable if len(printable) <= MAX_WORDS_CHARS else printable[:MAX_WORDS_CHARS] + "…"


def _as_flags(message: str) -> str:
    """What the client says of its options, with the names they have here."""
    return re.sub(r"(?<!\S)(base_url|ca_file|cert_file|key_file)(?!\S)", lambda found: _FLAGS[found[0]], message)


def _print(report: Report, *, json: bool) -> None:
    if json:
        print(json_text.dumps(msgspec.to_builtins(report), ensure_ascii=False))
        return
    answered = report.outcome in (Outcome.TAKEN, Outcome.REJECTED, Outcome.FAILED)
    where = sys.stdout if answered else sys.stderr
    print(f"{report.outcome}: {report.said}\n  -> {report.next_step}", file=where)
    if report.request_id:
        print(f"  request {report.request_id}", file=where)
    if report.request_id and answered:
        print(f"  -> what became of it, at the gateway: pushgate explain {report.request_id} --config FILE")
