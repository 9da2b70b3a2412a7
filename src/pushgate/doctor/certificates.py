"""What certificates say of themselves: until when, whether a chain hangs together and is whole. Reads no file."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from pushgate.doctor.finding import Check, Finding, ok, said, warning, wrong

DAY_S = 86_400
SOON_S = 30 * DAY_S
"""A certificate that ends within these is worth a warning: renewals take days where people are asked."""
Known = Callable[[x509.Name], bool]
"""Whether this system trusts an authority of that name."""


def day(moment: float) -> str:
    """Unix seconds as a day in UTC."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"


def name(subject: x509.Name) -> str:
    """A name as people write it, cut to a sane length."""
    return said(subject.rfc4514_string()) or "(no name)"


def life(check: Check, about: str, certificate: x509.Certificate, *, now: float, ended: str) -> Finding:
    """Whether it has begun, and when it ends. `ended` says what an end means."""
    begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    who = name(certificate.subject)
    if now < begins:
        mend = "set this machine's clock if it is behind; else wait, or have another one issued"
        return wrong(check, about, f"{who} begins on {day(begins)} only", next_step=mend)
    if ends <= now:
        return wrong(check, about, f"{who} has expired on {day(ends)}: {ended}", next_step="have it renewed")
    left = int((ends - now) // DAY_S)
    if ends - now < SOON_S:
        seen = f"{who} expires on {day(ends)}, in {left} day{'' if left == 1 else 's'}"
        return warning(check, about, seen, next_step="have it renewed now; a new file is taken over while it runs")
    return ok(check, about, f"{who}, until {day(ends)}")


def chain(about: str, certificates: Sequence[x509.Certificate], *, known: Known) -> Finding:
    """Whether each certificate was issued by the next one, and the last one by an authority that is `known`."""
    for position, (lower, upper) in enumerate(itertools.pairwise(certificates), 1):
        if not issued_by(lower, upper):
            seen = (
                f"certificate {position} was issued by {name(lower.issuer)},"
                f" but {name(upper.subject)} follows: callers may fail to check it"
            )
            mend = "write them in order: the server's own first, then the one that issued it, and so on"
            return wrong(Check.CHAIN, about, seen, next_step=mend)
    last = certificates[-1]
    count = len(certificates)
    told = f"{count} certificate{'' if count == 1 else 's'}, in order"
    if last.issuer == last.subject:
        return ok(Check.CHAIN, about, f"{told}, up to {name(last.subject)} itself")
    if known(last.issuer):
        return ok(Check.CHAIN, about, f"{told}, issued by {name(last.issuer)}")
    seen = f"{told}, but this system does not know who issued the last one: {name(last.issuer)}"
    mend = "is that an authority between a root and you: put its certificate behind yours; a root callers must trust"
    return warning(Check.CHAIN, about, seen, next_step=mend)


def issued_by(lower: x509.Certificate, upper: x509.Certificate) -> bool:
    """Whether `upper` has signed `lower`."""
    try:
        lower.verify_directly_issued_by(upper)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def may_issue(certificate: x509.Certificate) -> bool:
    """Whether it is the certificate of an authority."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def names(certificate: x509.Certificate) -> Iterator[str]:
    """Whom it is for: its subject alternative names."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return
    for each in found:
        if isinstance(each, x509.DNSName | x509.IPAddress | x509.UniformResourceIdentifier):
            yield said(str(each.value))
