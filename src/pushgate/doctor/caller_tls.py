"""[api.tls]: the server's certificates with their keys and chains, the authorities of callers, revocation lists."""

from __future__ import annotations

import functools
import math
import ssl
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from pushgate import revocation
from pushgate.config.api_table import Api
from pushgate.doctor import certificates
from pushgate.doctor.finding import Check, Finding, ok, warning, wrong

LIST_SOON_S = 3600
"""A list that ends within the hour has not been fetched in time."""
AT = "api.tls"
_MEND_FILE = "write it anew; pushgate check-config names what is wrong with it"


def look(api: Api, *, now: float) -> Iterator[Finding]:
    """Everything about the port of the callers that stands in files. `now` in unix seconds."""
    tls = api.tls
    if tls is None:
        return
    authorities = _read(tls.client_ca_file) if tls.client_ca_file else []

    def known(issuer: x509.Name) -> bool:
        name = issuer.public_bytes()
        return any(each.subject == issuer for each in authorities) or any(name in der for der in _roots())

    for which, path in (("cert_file", tls.cert_file), ("second_cert_file", tls.second_cert_file)):
        if path is not None:
            yield from _server(f"{AT}.{which}", path, known, now=now)
    if tls.client_ca_file is not None:
        yield _authorities(f"{AT}.client_ca_file", authorities, now=now)
    if tls.client_crl_file is not None:
        yield from _lists(f"{AT}.client_crl_file", tls.client_crl_file, authorities, now=now)


def _read(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return []


@functools.cache
def _roots() -> tuple[bytes, ...]:
    """Whom this system trusts, in DER: not parsed, for some roots of old times break the rules."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return tuple(context.get_ca_certs(binary_form=True))


def _server(about: str, path: Path, known: certificates.Known, *, now: float) -> Iterator[Finding]:
    shown = _read(path)
    if not shown:
        yield wrong(Check.CERTIFICATE, about, f"no certificate in {path}", next_step=_MEND_FILE)
        return
    own = shown[0]
    yield certificates.life(Check.CERTIFICATE, about, own, now=now, ended="callers refuse it")
    for each in shown[1:]:
        told = certificates.life(Check.CERTIFICATE, about, each, now=now, ended="callers refuse what it has issued")
        if told.next_step:
            yield told
    for_names = list(certificates.names(own))
    if for_names:
        seen = f"the key belongs to it; callers can reach it as {', '.join(for_names)}"
        yield ok(Check.KEYS, about, seen)
    else:
        mend = "have one issued with the name that callers use as a subject alternative name"
        yield wrong(Check.KEYS, about, "it has no subject alternative name: callers refuse it", next_step=mend)
    yield certificates.chain(about, shown, known=known)


def _authorities(about: str, found: list[x509.Certificate], *, now: float) -> Finding:
    if not found:
        return wrong(Check.AUTHORITIES, about, "no certificate in it", next_step=_MEND_FILE)
    lives = [
        certificates.life(Check.AUTHORITIES, about, each, now=now, ended="callers with its certificates are refused")
        for each in found
    ]
    if bad := next((each for each in lives if each.next_step), None):
        return bad
    if other := next((each for each in found if not certificates.may_issue(each)), None):
        seen = f"{certificates.name(other.subject)} is no authority: it vouches for nobody but itself"
        mend = "name the certificate of the authority that issues to callers"
        return warning(Check.AUTHORITIES, about, seen, next_step=mend)
    return ok(Check.AUTHORITIES, about, "; ".join(each.seen for each in lives))


def _lists(about: str, path: Path, authorities: list[x509.Certificate], *, now: float) -> Iterator[Finding]:
    try:
        lists = revocation.read(path)
    except (OSError, ValueError) as error:
        fault, _, mend = str(error).partition(" -> ")
        yield wrong(Check.REVOCATION, about, fault, next_step=mend or _MEND_FILE)
        return
    for issuer, end in lists.ends().items():
        yield _list(about, issuer, end, now=now)
    for each in authorities:
        if certificates.may_issue(each) and not lists.covers(each):
            seen = f"no list of {certificates.name(each.subject)}: callers with its certificates are refused"
            mend = "write its list behind the others, unless it issues to no caller"
            yield warning(Check.REVOCATION, about, seen, next_step=mend)


def _list(about: str, issuer: str, end: float, *, now: float) -> Finding:
    mend = "fetch the new list, and see why the timer did not"
    if end <= now:
        seen = f"the list of {issuer} has ended on {certificates.day(end)}: its callers are refused"
        return wrong(Check.REVOCATION, about, seen, next_step=mend)
    if end - now < LIST_SOON_S:
        seen = f"the list of {issuer} ends in {int((end - now) // 60)} minutes: its callers are refused then"
        return warning(Check.REVOCATION, about, seen, next_step=mend)
    until = "for ever" if math.isinf(end) else f"until {certificates.day(end)}"
    return ok(Check.REVOCATION, about, f"the list of {issuer} counts {until}")
