"""Who calls: a client certificate becomes a `Caller`, or a 401. The handshake asks, the application decides.

A verified certificate is one that the TLS layer accepted against `api.tls.client_ca_file`. With `[[clients]]` only
those that match an entry are known; without entries every verified one is, by the name `verified`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from pushgate.errors import RequestError
from pushgate.model import Caller
from pushgate.server import UNAUTHENTICATED, Identify, Scope

ANYONE = Caller("anyone")
"""The caller where nobody has to say who they are (`auth = "none"`)."""
VERIFIED = Caller("verified")
KNOWN_CERTIFICATES = 1024
"""How many certificates are remembered with their caller."""


class Entry(Struct, frozen=True):
    """One entry of `[[clients]]`: how a caller is recognised (exactly one way) and what it may do."""

    caller: Caller
    san: str = ""
    """A DNS name or URI that stands in the certificate's subject alternative names."""
    subject: str = ""
    """The whole subject as RFC 4514 writes it, e.g. `CN=erp,O=Example`."""
    sha256: str = ""
    """SHA-256 of the certificate (DER), in lower-case hex."""
    spki_sha256: str = ""
    """SHA-256 of its public key (SubjectPublicKeyInfo, DER), in lower-case hex."""


def anyone(scope: Scope) -> Caller:
    """`auth = "none"`: everybody is the same caller."""
    return ANYONE


class _Known(Struct, frozen=True):
    caller: Caller
    until: float
    """When the certificate ends, in unix seconds."""


def by_certificate(clients: Sequence[Entry], *, clock: Callable[[], float] = time.time) -> Identify:
    """`auth = "mtls"`: the caller whose entry fits the certificate of the connection."""
    find = lru_cache(KNOWN_CERTIFICATES)(lambda der: _known(der, clients))

    def identify(scope: Scope) -> Caller:
        der = scope.get("extensions", {}).get("tls", {}).get("client_cert_der")
        known = find(der) if der else None
        # A kept or resumed connection outlives the handshake's own look at the dates.
        if known is None or known.until < clock():
            raise RequestError(401, UNAUTHENTICATED)
        return known.caller

    return identify


def _known(der: bytes, clients: Sequence[Entry]) -> _Known | None:
    try:
        certificate = x509.load_der_x509_certificate(der)
        marks = _marks(certificate, der)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, UnsupportedAlgorithm):
        return None
    caller = _caller_of(marks, clients) if clients else VERIFIED
    return None if caller is None else _Known(caller, certificate.not_valid_after_utc.timestamp())


def _caller_of(marks: set[tuple[str, str]], clients: Sequence[Entry]) -> Caller | None:
    for client in clients:
        wanted = {("san", client.san), ("subject", client.subject)}
        wanted |= {("sha256", client.sha256), ("spki_sha256", client.spki_sha256)}
        if any(value and (kind, value) in marks for kind, value in wanted):
            return client.caller
    return None


def _marks(certificate: x509.Certificate, der: bytes) -> set[tuple[str, str]]:
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
    texts = [*names.get_values_for_type(x509.DNSName), *names.get_values_for_type(x509.UniformResourceIdentifier)]
    return marks | {("san", text) for text in texts}
