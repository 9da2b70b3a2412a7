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

_ONE = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
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


def read(path: Path) -> Revocations:
    """The lists of a PEM file. Raises ValueError ("what -> how to mend it") or OSError."""
    found = _ONE.findall(path.read_bytes())
    if not found:
        raise ValueError(f"no revocation list in {path} -> {_MEND}")
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
    if x509.DeltaCRLIndicator in kinds or (scope is not None and (scope.indirect_crl or scope.only_some_reasons)):
        mend = "name complete lists, each by the authority that issues the certificates"
        raise ValueError(f"{place} holds only a part (a delta, some reasons), or is by a deputy -> {mend}")
    return parsed


_Scope = x509.IssuingDistributionPoint


def _end(each: x509.CertificateRevocationList) -> float:
    return math.inf if each.next_update_utc is None else each.next_update_utc.timestamp()
