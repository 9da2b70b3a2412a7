"""Which client certificates were revoked: the revocation lists (RFC 5280 §5) of one file.

OpenSSL checks the same lists at each full handshake. They are asked here too, for connections that are kept and for
sessions that are resumed have no such handshake.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

_ONE = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
_ELSE = re.compile(rb"-----BEGIN (?!X509 CRL-----)")
_MEND = "write it anew, in PEM form: openssl crl -inform DER -in list.crl -out list.pem"


class Revocations:
    """What the lists say. Of an issuer without a list nothing is known, and nothing of it is good."""

    def __init__(self, lists: Sequence[x509.CertificateRevocationList]) -> None:
        self._lists = tuple(lists)

    def good_until(self, certificate: x509.Certificate) -> float:
        """Until when the certificate counts as not revoked, in unix seconds: until the list of its issuer ends.

        0 where it is revoked, or where no list is of its issuer.
        """
        ends_at = 0.0
        for each in self._lists:
            if each.issuer == certificate.issuer:
                if each.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
                    return 0.0
                ends_at = max(ends_at, _end(each))
        return ends_at

    def ends(self) -> dict[str, float]:
        """When the newest list of each issuer ends, in unix seconds; infinity where it does not say."""
        found: dict[str, float] = {}
        for each in self._lists:
            issuer = each.issuer.rfc4514_string()
            found[issuer] = max(found.get(issuer, 0.0), _end(each))
        return found

    def covers(self, authority: x509.Certificate) -> bool:
        """Whether there is a list of this authority."""
        return any(each.issuer == authority.subject for each in self._lists)

    def forged(self, authorities: Sequence[x509.Certificate]) -> str:
        """The issuer of a list that bears the name of one of these authorities and was signed by none of that name.

        Empty where there is no such list. Of issuers that are not among the authorities nothing can be said.
        """
        for each in self._lists:
            named = [authority for authority in authorities if authority.subject == each.issuer]
            if named and not any(_is_signed_by(each, authority) for authority in named):
                return each.issuer.rfc4514_string()
        return ""


def read(path: Path) -> Revocations:
    """The lists of a PEM file. Raises ValueError ("what -> how to mend it") or OSError.

    Nothing but lists may be in it: OpenSSL reads the same file, and would trust an authority that it finds there.
    """
    content = path.read_bytes()
    found = _ONE.findall(content)
    if not found:
        raise ValueError(f"no revocation list in {path} -> {_MEND}")
    if _ELSE.search(content):
        raise ValueError(f"{path} holds something else beside revocation lists -> leave nothing but the lists in it")
    return Revocations([_parse(pem, f"list {number} of {path}") for number, pem in enumerate(found, 1)])


def _parse(pem: bytes, place: str) -> x509.CertificateRevocationList:
    """A whole list. Raises ValueError."""
    try:
        parsed = x509.load_pem_x509_crl(pem)
        kinds = {type(extension.value) for extension in parsed.extensions}
        scope = next((each.value for each in parsed.extensions if isinstance(each.value, _Scope)), None)
        _ = parsed.next_update_utc, parsed.get_revoked_certificate_by_serial_number(1)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(f"{place} cannot be read -> {_MEND}") from error
    if x509.DeltaCRLIndicator in kinds or (scope is not None and _is_no_use(scope)):
        mend = "name complete lists, each by the authority that issues the certificates"
        raise ValueError(f"{place} holds only a part (a delta, some reasons or kinds), or is by a deputy -> {mend}")
    return parsed


_Scope = x509.IssuingDistributionPoint


def _is_no_use(scope: _Scope) -> bool:
    """Whether a list of this scope leaves out certificates of callers."""
    is_of_others = scope.only_contains_ca_certs or scope.only_contains_attribute_certs
    return bool(scope.indirect_crl or scope.only_some_reasons or is_of_others)


def _is_signed_by(each: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return each.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # others are a TypeError
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _end(each: x509.CertificateRevocationList) -> float:
    return math.inf if each.next_update_utc is None else each.next_update_utc.timestamp()
