"""What a proxy in front says of the caller's certificate, in a header: Envoy's way and nginx's.

Envoy: `X-Forwarded-Client-Cert`, elements parted by commas, each of `Key=value` parted by semicolons; the last element
is the one that the proxy next to us wrote. nginx: `X-SSL-Client-Cert` with the certificate and `X-SSL-Client-Verify`
with what came of checking it. Whoever may send such a header is decided elsewhere (`callers`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from hashlib import sha256
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from msgspec import Struct


class Style(StrEnum):
    """Which headers are read. All others are ignored."""

    XFCC = "xfcc"
    NGINX = "nginx"


class Shown(Struct, frozen=True):
    """What is told of a certificate: all of it, or some marks."""

    der: bytes = b""
    """The certificate; empty where only marks of it are told."""
    marks: frozenset[tuple[str, str]] = frozenset()
    """Kind (as in `callers.Entry`) and value. Where the certificate is told they are its own, and not here."""


HEADERS = {Style.XFCC: (b"x-forwarded-client-cert",), Style.NGINX: (b"x-ssl-client-cert", b"x-ssl-client-verify")}
"""What a proxy has to send, each once."""


def values_of(style: Style, headers: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, ...] | None:
    """The values of the headers that are read, or None where one is missing or comes twice."""
    found = tuple(value for wanted in HEADERS[style] for name, value in headers if name == wanted)
    names = {name for name, _ in headers}
    return found if len(found) == len(HEADERS[style]) and names.issuperset(HEADERS[style]) else None


def read(style: Style, values: Sequence[bytes]) -> Shown:
    """The certificate that `values_of` holds. Raises ValueError where there is none, or it was not verified."""
    match style:
        case Style.NGINX:
            certificate, verified = values
            if verified != b"SUCCESS":
                raise ValueError("not verified")
            return Shown(_der(certificate))
        case Style.XFCC:
            return _from_envoy(values[0].decode())


def sans(hosts: Iterable[str], uris: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The marks of subject alternative names. A URI has a colon and a DNS name none, so neither passes for the other.

    Upper and lower case are the same in DNS names (RFC 5280 §7.2).
    """
    yield from (("san", host.lower()) for host in hosts if host and ":" not in host)
    yield from (("san", uri) for uri in uris if ":" in uri)


def subject_of(text: str) -> str:
    """A subject as `rfc4514_string` of a certificate's own writes it. Raises ValueError where it cannot be read.

    OpenSSL and Envoy write names (RFC 2253 §2.3 leaves them open) where RFC 4514 has but numbers.
    """
    return x509.Name.from_rfc4514_string(text, _NAMES_OF_OPENSSL).rfc4514_string()


_NAMES_OF_OPENSSL = {
    "emailAddress": NameOID.EMAIL_ADDRESS,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "businessCategory": NameOID.BUSINESS_CATEGORY,
    "jurisdictionC": NameOID.JURISDICTION_COUNTRY_NAME,
    "jurisdictionST": NameOID.JURISDICTION_STATE_OR_PROVINCE_NAME,
    "jurisdictionL": NameOID.JURISDICTION_LOCALITY_NAME,
    "organizationIdentifier": NameOID.ORGANIZATION_IDENTIFIER,
    "postalCode": NameOID.POSTAL_CODE,
    "postalAddress": NameOID.POSTAL_ADDRESS,
    "street": NameOID.STREET_ADDRESS,
    "title": NameOID.TITLE,
    "GN": NameOID.GIVEN_NAME,
    "SN": NameOID.SURNAME,
    "initials": NameOID.INITIALS,
    "pseudonym": NameOID.PSEUDONYM,
    "dnQualifier": NameOID.DN_QUALIFIER,
}

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_ELEMENT = re.compile(rf'((?:[^",]|{_QUOTED})+)(,?)')
_PAIR = re.compile(rf'\s*([A-Za-z]+)=({_QUOTED}|[^",;]*)(;?)')
_CERT = re.compile(r"(?i)(?:^|;)\s*cert=")
_ONCE = ("hash", "cert", "subject")


def _from_envoy(header: str) -> Shown:
    """Raises ValueError."""
    *before, last = _chain(_ELEMENT, header)
    pairs = [(found[1].lower(), _unquoted(found[2])) for found in _chain(_PAIR, last[1])]
    told = dict(pairs)
    if any(sum(key == name for key, _ in pairs) > 1 for name in _ONCE):
        raise ValueError("said twice")
    if "cert" not in told and any(_CERT.search(each[1]) for each in before):
        raise ValueError("a certificate, and then none: a name in it may hold a comma")
    fingerprint = told.get("hash", "").lower()
    if told.get("cert"):
        der = _der(told["cert"].encode())
        if fingerprint not in ("", sha256(der).hexdigest()):
            raise ValueError("two certificates")
        return Shown(der)
    hosts, uris = ([value for key, value in pairs if key == kind] for kind in ("dns", "uri"))
    marks = set(sans(hosts, uris))
    if fingerprint:
        marks.add(("sha256", fingerprint))
    with suppress(ValueError):  # with an attribute that we have no name for: no mark, then
        marks.add(("subject", subject_of(told.get("subject", ""))))
    return Shown(marks=frozenset(marks - {("subject", "")}))


def _chain(link: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """The links that make up the whole text. What joins one to the next is its last group, empty in the last one.

    Raises ValueError where anything else stands in the text.
    """
    found, at = None, 0
    while found is None or found[found.re.groups]:
        found = link.match(text, at)
        if found is None:
            raise ValueError("not as Envoy writes it")
        yield found
        at = found.end()
    if at != len(text):
        raise ValueError("not as Envoy writes it")


def _unquoted(value: str) -> str:
    """Without quotes. A backslash stays: it belongs to the subject as RFC 4514 writes it, nothing else has one."""
    return value[1:-1] if value.startswith('"') else value


def _der(escaped_pem: bytes) -> bytes:
    """The one certificate of a PEM text that was escaped as in URLs. Raises ValueError."""
    (certificate,) = x509.load_pem_x509_certificates(unquote_to_bytes(escaped_pem))
    return certificate.public_bytes(Encoding.DER)
