"""Who calls: a client certificate becomes a `Caller`, or a 401. The handshake asks, the application decides.

The certificate is one that the TLS layer accepted against `api.tls.client_ca_file`, or one that a trusted proxy tells
of (`forwarded`). With `[[clients]]` only those that match an entry are known; without entries every one is, by the name
`verified`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from pushgate import forwarded
from pushgate.errors import RequestError
from pushgate.model import Caller
from pushgate.revocation import Revocations
from pushgate.server import UNAUTHENTICATED, Identify, Scope
from pushgate.tls import UNREADABLE

ANYONE = Caller("anyone")
"""The caller where nobody has to say who they are (`auth = "none"`)."""
VERIFIED = Caller("verified")
KNOWN_CERTIFICATES = 1024
"""How many certificates are remembered with their caller."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Mark = tuple[str, str]
"""What a certificate is known by: its kind (a field of `Entry`) and its value."""


class Entry(Struct, frozen=True):
    """One entry of `[[clients]]`: how a caller is recognised (exactly one way) and what it may do."""

    caller: Caller
    san: str = ""
    """A DNS name (in lower case) or URI that stands in the certificate's subject alternative names."""
    subject: str = ""
    """The whole subject as `forwarded.subject_of` writes it, e.g. `CN=erp,O=Example`."""
    sha256: str = ""
    """SHA-256 of the certificate (DER), in lower-case hex."""
    spki_sha256: str = ""
    """SHA-256 of its public key (SubjectPublicKeyInfo, DER), in lower-case hex."""

    @property
    def mark(self) -> Mark:
        """The one way by which it is recognised."""
        values = {kind: getattr(self, kind) for kind in ("san", "subject", "sha256", "spki_sha256")}
        return next((kind, value) for kind, value in values.items() if value)


class _Known(Struct, frozen=True):
    caller: Caller
    until: float
    """When the certificate, or what is known of it, ends, in unix seconds."""


def anyone(scope: Scope) -> Caller:
    """`auth = "none"`: everybody is the same caller."""
    return ANYONE


def by_certificate(
    clients: Sequence[Entry], *, revocations: Revocations | None = None, clock: Callable[[], float] = time.time
) -> Identify:
    """`auth = "mtls"`: the caller whose entry fits the certificate of the connection."""
    find = lru_cache(KNOWN_CERTIFICATES)(lambda der: _of_certificate(der, clients, revocations))

    def identify(scope: Scope) -> Caller:
        der = scope.get("extensions", {}).get("tls", {}).get("client_cert_der")
        return _unless_over(find(der) if der else None, clock())

    return identify


def by_proxy(
    clients: Sequence[Entry],
    *,
    trusted: Sequence[Network],
    style: forwarded.Style,
    clock: Callable[[], float] = time.time,
) -> Identify:
    """`auth = "proxy"`: the caller whose entry fits the certificate that a trusted proxy tells of."""
    find = lru_cache(KNOWN_CERTIFICATES)(lambda values: _told(style, values, clients))
    is_trusted = lru_cache(KNOWN_CERTIFICATES)(lambda host: _is_among(host, trusted))

    def identify(scope: Scope) -> Caller:
        peer = scope.get("client")
        values = forwarded.values_of(style, scope["headers"]) if peer and is_trusted(peer[0]) else None
        return _unless_over(find(values) if values else None, clock())

    return identify


def _unless_over(known: _Known | None, now: float) -> Caller:
    """A kept or resumed connection outlives the handshake's own look at the dates. Raises `RequestError` 401."""
    if known is None or known.until < now:
        raise RequestError(401, UNAUTHENTICATED, ends_connection=True)  # nobody we know keeps a place here
    return known.caller


def _is_among(host: str, networks: Sequence[Network]) -> bool:
    address = ipaddress.ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any((mapped or address) in network for network in networks)


def _told(style: forwarded.Style, values: Sequence[bytes], clients: Sequence[Entry]) -> _Known | None:
    try:
        shown = forwarded.read(style, values)
    except UNREADABLE:
        return None
    if shown.der:
        return _of_certificate(shown.der, clients, None)
    caller = _caller_of(shown.marks, clients)
    return None if caller is None or not shown.marks else _Known(caller, math.inf)


def _of_certificate(der: bytes, clients: Sequence[Entry], revocations: Revocations | None) -> _Known | None:
    try:
        certificate = x509.load_der_x509_certificate(der)
        marks = _marks(certificate, der)
    except UNREADABLE:
        return None
    if (caller := _caller_of(marks, clients)) is None:
        return None
    until = certificate.not_valid_after_utc.timestamp()
    return _Known(caller, until if revocations is None else min(until, revocations.good_until(certificate)))


def _caller_of(marks: set[Mark] | frozenset[Mark], clients: Sequence[Entry]) -> Caller | None:
    if not clients:
        return VERIFIED
    return next((client.caller for client in clients if client.mark in marks), None)


def _marks(certificate: x509.Certificate, der: bytes) -> set[Mark]:
    """Everything that an entry can recognise a certificate by."""
    public_key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    marks = {
        ("sha256", hashlib.sha256(der).hexdigest()),
        ("spki_sha256", hashlib.sha256(public_key).hexdigest()),
        ("subject", certificate.subject.rfc4514_string()),
    }
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return marks
    hosts = names.get_values_for_type(x509.DNSName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return marks | set(forwarded.sans(hosts, uris))
