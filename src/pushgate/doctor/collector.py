"""The collector of traces: one batch without a span, on the way that the gateway's spans take.

It blocks: see `patience`. Without a collector notifications go through all the same, so nothing here is more than a
warning.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import requests

from pushgate.config.tracing_table import Tracing
from pushgate.doctor.finding import Check, Finding, not_checked, ok, said, warning
from pushgate.doctor.patience import STEP_S, in_thread
from pushgate.errors import ConfigError, CredentialError
from pushgate.provider.bounded_session import bounded_session
from pushgate.provider.peer import tls_context

ABOUT = "tracing.endpoint"
NO_SPANS = b""
"""An `ExportTraceServiceRequest` with nothing in it, as protobuf."""
MAX_ANSWER_BYTES = 65_536
_LOGIN, _PATH = (401, 403), (404, 405)


async def look(tracing: Tracing, *, offline: bool) -> list[Finding]:
    """What the collector says; nothing where traces are off."""
    if not tracing.endpoint:
        return []
    if offline:
        mend = "run it again without --offline"
        return [not_checked(Check.TRACES, ABOUT, "--offline: the collector was not asked", next_step=mend)]
    try:
        return [await in_thread(lambda: _ask(tracing), within_s=STEP_S + 1)]
    except TimeoutError:
        return [_silence(_host(tracing))]
    except (ConfigError, CredentialError):
        return [_told("a file of [tracing] cannot be used", "pushgate check-config names it: was it changed just now?")]


def _ask(tracing: Tracing) -> Finding:
    """Raises `ConfigError` and `CredentialError` where a file has become unusable."""
    headers = {**tracing.headers(), "Content-Type": "application/x-protobuf"}
    tls = tls_context(ca_file=tracing.ca_file)
    within_s = min(tracing.timeout_s, STEP_S)
    try:
        with bounded_session(deadline_s=within_s, max_bytes=MAX_ANSWER_BYTES, tls=tls) as session:
            answer = session.post(
                tracing.endpoint, data=NO_SPANS, headers=headers, timeout=within_s, allow_redirects=False
            )
    except Exception as fault:  # noqa: BLE001 - whatever a stranger's answer leads to, it is told
        return _unreached(fault, tracing)
    return judge(answer.status_code, answer.headers, _host(tracing))


def judge(status: int, headers: Mapping[str, str], host: str) -> Finding:
    """What a status says to a batch without a span."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if status == requests.codes.ok and kind == "text/html":
        mend = "correct tracing.endpoint: as a rule port 4318 and the path /v1/traces"
        return _told(f"{host} answers with a page for people", mend)
    if status == requests.codes.ok:
        return ok(Check.TRACES, ABOUT, f"the collector at {host} takes spans")
    if status in _LOGIN:
        return _told(f"{host} answers {status}", "name the file with its login as tracing.headers_file")
    if status in _PATH or 300 <= status < 400:
        mend = "correct tracing.endpoint: its path is /v1/traces as a rule; redirects are not followed"
        return _told(f"{host} answers {status}", mend)
    return _told(f"{host} answers {status}", "is that a collector for OTLP over HTTP? Its log says why")


def _unreached(fault: BaseException, tracing: Tracing) -> Finding:
    host = _host(tracing)
    for cause in _causes(fault):
        match cause:
            case ssl.SSLCertVerificationError():
                mend = "name who issued it as tracing.ca_file, or correct the name in tracing.endpoint"
                return _told(f"the certificate of {host} is not trusted: {said(cause.verify_message)}", mend)
            case ssl.SSLError():
                mend = "does that port speak TLS? Else write http:// in tracing.endpoint"
                return _told(f"no TLS with {host}: {said(str(cause.reason))}", mend)
            case socket.gaierror():
                return _told(f"there is no host {host}", "correct tracing.endpoint, or see /etc/resolv.conf")
            case ConnectionRefusedError():
                mend = "does the collector run, and take OTLP over HTTP (port 4318, not 4317 of gRPC)?"
                return _told(f"nobody listens at {host}", mend)
            case TimeoutError() | requests.Timeout():
                return _silence(host)
    mend = "does it take OTLP over HTTP (port 4318, not 4317 of gRPC)? With or without TLS?"
    return _told(f"{host} ends the connection without an answer ({type(fault).__name__})", mend)


def _causes(fault: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = fault
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _silence(host: str) -> Finding:
    return _told(f"no answer from {host}", "is there a firewall on the way, or is the collector overloaded?")


def _told(seen: str, mend: str) -> Finding:
    return warning(Check.TRACES, ABOUT, f"{seen}: traces get lost, notifications do not", next_step=mend)


def _host(tracing: Tracing) -> str:
    parts = urlsplit(tracing.endpoint)
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
