"""The way to a host, step by step: its name, TCP (through a proxy where there is one), TLS, HTTP/2 by ALPN.

It blocks: see `patience`. Nothing is sent but what opens a tunnel and TLS. Who shows a certificate that is not trusted
is looked at once more, without trust, for its name only.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from pushgate.doctor import certificates
from pushgate.doctor.finding import Check, Finding, not_checked, ok, said, wrong
from pushgate.doctor.patience import STEP_S, in_thread
from pushgate.http2.target import Proxy, Target

ADDRESS_S = 4.0
"""How long one address may take, where there are several."""
STEPS = (Check.NAME, Check.CONNECTION, Check.TLS)
SHOWN_ADDRESSES = 2
PROXY_ANSWER_BYTES = 16_384
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_NOT_YET, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64
"""X509_V_ERR_… of OpenSSL."""


class _Blocked(Exception):  # noqa: N818 - what was found
    """The way ends here. Stays inside this module."""

    def __init__(self, seen: str, *, next_step: str) -> None:
        super().__init__(seen)
        self.next_step = next_step


async def walk(target: Target, *, ca_file: Path | None, http2: bool = True) -> list[Finding]:
    """A finding for each step. `ca_file` is what the target's TLS trusts, None: the system's authorities.

    Ends within `STEP_S` for the name and as much for the rest.
    """
    about = _about(target)
    entry = (target.proxy.host, target.proxy.port) if target.proxy else (target.host, target.port)
    found: list[Finding] = []
    try:
        addresses = await in_thread(lambda: _resolve(*entry), within_s=STEP_S)
        found.append(ok(Check.NAME, about, _told(entry[0], addresses, target.proxy)))
        found += await in_thread(lambda: _reach(target, addresses, about, ca_file, http2=http2), within_s=STEP_S + 1)
    except _Blocked as end:
        found.append(wrong(Check.NAME, about, str(end), next_step=end.next_step))
    except TimeoutError:
        seen = f"no answer within {STEP_S:g} s"
        found.append(
            wrong(STEPS[len(found)], about, seen, next_step="is there a firewall, or a resolver that is down?")
        )
    for step in STEPS[len(found) :]:
        seen = f"the step before it ({found[-1].check}) went wrong"
        found.append(not_checked(step, about, seen, next_step=f"mend the {found[-1].check} first"))
    return found


def is_open(findings: list[Finding]) -> bool:
    """Whether the way leads to the host."""
    return all(each.next_step == "" for each in findings)


def _about(target: Target) -> str:
    by_way_of = f" by way of {target.proxy.host}:{target.proxy.port}" if target.proxy else ""
    return f"{target.host}:{target.port}{by_way_of}"


# --- the name


def _resolve(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        again = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
        seen = f"the resolver does not answer for {host}" if again else f"there is no host {host}"
        mend = "see the name server of this machine (/etc/resolv.conf)" if again else "correct the name"
        raise _Blocked(seen, next_step=f"{mend}; a network without DNS needs a proxy") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _told(host: str, addresses: list[str], proxy: Proxy | None) -> str:
    more = len(addresses) - SHOWN_ADDRESSES
    shown = ", ".join(addresses[:SHOWN_ADDRESSES]) + (f" and {more} more" if more > 0 else "")
    return f"the proxy {host} is {shown}; it resolves the rest" if proxy else shown


# --- TCP and the proxy


def _reach(target: Target, addresses: list[str], about: str, ca_file: Path | None, *, http2: bool) -> list[Finding]:
    until = time.monotonic() + STEP_S
    try:
        sock = _connect(target, addresses, until)
    except _Blocked as end:
        return [wrong(Check.CONNECTION, about, str(end), next_step=end.next_step)]
    how = "the proxy opens a tunnel" if target.proxy else "it accepts connections"
    connected = ok(Check.CONNECTION, about, how)
    try:
        with contextlib.closing(sock):
            told = _shake(sock, target, http2=http2)
    except ssl.SSLCertVerificationError as error:
        shown = _look_at(target, addresses, until)
        return [connected, _untrusted(about, error, shown, ca_file)]
    except _Blocked as end:
        return [connected, wrong(Check.TLS, about, str(end), next_step=end.next_step)]
    return [connected, ok(Check.TLS, about, told)]


def _connect(target: Target, addresses: list[str], until: float) -> socket.socket:
    """A socket that leads to the target. Raises `_Blocked`."""
    port = target.proxy.port if target.proxy else target.port
    who = f"the proxy {target.proxy.host}:{port}" if target.proxy else f"{target.host}:{port}"
    allow = "is the address of the proxy right?" if target.proxy else f"allow connections to {who}, or set proxy"
    failure: OSError = OSError("no address")
    for address in addresses:
        try:
            sock = socket.create_connection((address, port), timeout=min(ADDRESS_S, _left(until)))
        except OSError as error:
            failure = error
            continue
        try:
            if target.proxy is not None:
                _tunnel(sock, target, target.proxy, until)
        except BaseException:
            sock.close()
            raise
        sock.settimeout(_left(until))
        return sock
    raise _Blocked(f"{who}: {_why(failure)}", next_step=allow) from failure


def _why(failure: OSError) -> str:
    if isinstance(failure, TimeoutError):
        return "no answer: a firewall drops it, or nobody is there"
    if isinstance(failure, ConnectionRefusedError):
        return "the connection is refused: nobody listens there"
    return (failure.strerror or type(failure).__name__).lower()


def _left(until: float) -> float:
    return max(until - time.monotonic(), 0.05)


def _tunnel(sock: socket.socket, target: Target, proxy: Proxy, until: float) -> None:
    """Have the proxy open a tunnel. Raises `_Blocked` with what it answers."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    lines = [f"CONNECT {host}:{target.port} HTTP/1.1", f"Host: {host}:{target.port}"]
    lines += [f"Proxy-Authorization: {proxy.authorization}"] if proxy.authorization else []
    answer = b""
    try:
        sock.settimeout(_left(until))
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in answer and len(answer) < PROXY_ANSWER_BYTES:
            more = sock.recv(4096)
            if not more:
                break
            answer += more
    except OSError as error:
        mend = f"is {proxy.host}:{proxy.port} an HTTP proxy that opens tunnels (CONNECT)?"
        raise _Blocked(f"the proxy gives no answer to CONNECT ({_why(error)})", next_step=mend) from error
    found = _STATUS.match(answer)
    status = int(found[1]) if found else 0
    if not 200 <= status < 300:
        raise _Blocked(
            _refusal(status), next_step=_mend_proxy(status, f"{host}:{target.port}", login=bool(proxy.authorization))
        )


def _refusal(status: int) -> str:
    return f"the proxy answers {status} to CONNECT" if status else "what the proxy answers to CONNECT is no HTTP"


def _mend_proxy(status: int, host: str, *, login: bool) -> str:
    match status:
        case 407 if login:
            return "correct user:password in proxy_login_file"
        case 407:
            return "write user:password into a file and name it as proxy_login_file"
        case 401 | 403 | 405:
            return f"have the proxy allow CONNECT to {host}"
        case 0:
            return "is that address an HTTP proxy that opens tunnels (CONNECT)?"
    return f"the proxy cannot reach {host}: ask who runs it, its log says why"


# --- TLS


def _shake(sock: socket.socket, target: Target, *, http2: bool) -> str:
    """What was agreed on. Raises `_Blocked`, or SSLCertVerificationError where the certificate is the reason."""
    name = target.server_name or target.host
    try:
        with target.tls.wrap_socket(sock, server_hostname=name) as tls:
            version, protocol = tls.version(), tls.selected_alpn_protocol()
            issuer = _issuer(tls.getpeercert(binary_form=True))
    except ssl.SSLCertVerificationError:
        raise
    except OSError as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else _why(error)
        mend = "does something on the way (a firewall, a proxy) end TLS? Does the port speak TLS at all?"
        raise _Blocked(f"no TLS: {said(str(reason))}", next_step=mend) from error
    if http2 and protocol != "h2":
        mend = "something on the way opens TLS and knows HTTP/1.1 only: have it let this host through"
        raise _Blocked(f"{version}, but no HTTP/2 is offered (ALPN); certificate by {issuer}", next_step=mend)
    return f"{version}{', HTTP/2' if http2 else ''}, certificate by {issuer}"


def _issuer(der: bytes | None) -> str:
    try:
        return certificates.name(x509.load_der_x509_certificate(der or b"").issuer)
    except ValueError:
        return "(unreadable)"


def _look_at(target: Target, addresses: list[str], until: float) -> x509.Certificate | None:
    """The certificate that is shown, whoever issued it. Nothing is sent to whom shows it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            _connect(target, addresses, until) as sock,
            context.wrap_socket(sock, server_hostname=target.server_name or target.host) as tls,
        ):
            return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
    except (_Blocked, OSError, ValueError):
        return None


def _untrusted(
    about: str, error: ssl.SSLCertVerificationError, shown: x509.Certificate | None, ca_file: Path | None
) -> Finding:
    issuer = certificates.name(shown.issuer) if shown else "(unknown)"
    seen = f"not trusted: {said(error.verify_message)}; certificate by {issuer}"
    match error.verify_code:
        case code if code in (_NOT_YET, _EXPIRED):
            mend = "is this machine's clock right? Else who runs that host must renew its certificate"
        case code if code in (_OTHER_NAME, _OTHER_ADDRESS):
            names = ", ".join(_first_names(shown)) or "nobody"
            seen += f", for {names}"
            mend = "correct the endpoint; or something on the way answers in its place"
        case _ if ca_file is not None:
            mend = f"is {ca_file} the authority of this host? Take ca_file out for the provider's own address"
        case _:
            mend = (
                f"is {issuer} a proxy of yours that opens TLS? Have it let this host through,"
                " or name its certificate as ca_file"
            )
    return wrong(Check.TLS, about, seen, next_step=mend)


def _first_names(shown: x509.Certificate | None) -> Iterator[str]:
    if shown is not None:
        yield from list(certificates.names(shown))[:3]
