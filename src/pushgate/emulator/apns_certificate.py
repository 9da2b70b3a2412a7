"""Certificate authentication as APNs does it: topics and environment are written into the client certificate."""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import NameOID
from msgspec import Struct

SANDBOX_OID = x509.ObjectIdentifier("1.2.840.113635.100.6.3.1")
PRODUCTION_OID = x509.ObjectIdentifier("1.2.840.113635.100.6.3.2")
"""Apple's certificate extensions: the environments that a push certificate is for."""


class PushCertificate(Struct, frozen=True):
    """What a push certificate says."""

    topics: tuple[str, ...]
    """From the subject's user ids; empty for a certificate that is none for push."""
    environments: frozenset[str]
    """Of "sandbox" and "production"; empty means that it names none."""

    @classmethod
    def load(cls, der: bytes) -> PushCertificate:
        """Read a certificate that TLS has verified."""
        certificate = x509.load_der_x509_certificate(der)
        user_ids = certificate.subject.get_attributes_for_oid(NameOID.USER_ID)
        present = {extension.oid for extension in certificate.extensions}
        names = {SANDBOX_OID: "sandbox", PRODUCTION_OID: "production"}
        return cls(
            topics=tuple(str(attribute.value) for attribute in user_ids),
            environments=frozenset(name for oid, name in names.items() if oid in present),
        )
