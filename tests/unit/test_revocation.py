"""revocation: what the lists of a file say of a certificate, and which files hold none."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from pushgate.revocation import Revocations, read
from tests.certificates import DAY, Authority

NOW = datetime.now(UTC).replace(microsecond=0)
FIRST, SECOND = Authority("first"), Authority("second")
LEAF, REVOKED = FIRST.issue(), FIRST.issue()


def reading(folder: Path, *lists: bytes) -> Revocations:
    path = folder / "crl.pem"
    path.write_bytes(b"# comments are passed over\n".join(lists))
    return read(path)


def test_a_certificate_is_good_until_the_list_of_its_issuer_ends(tmp_path: Path) -> None:
    found = reading(tmp_path, FIRST.revocation_list(REVOKED, ends=NOW + DAY), SECOND.revocation_list())
    assert found.good_until(LEAF.certificate) == (NOW + DAY).timestamp()
    assert found.good_until(REVOKED.certificate) == 0
    assert found.good_until(Authority("third").issue().certificate) == 0
    assert found.covers(FIRST.certificate)
    assert not found.covers(Authority("third").certificate)


def test_of_two_lists_of_one_issuer_the_later_end_counts_and_either_revokes(tmp_path: Path) -> None:
    early = FIRST.revocation_list(begins=NOW - 3 * DAY, ends=NOW - DAY)
    late = FIRST.revocation_list(REVOKED, ends=NOW + DAY)
    for lists in ((early, late), (late, early)):
        found = reading(tmp_path, *lists)
        assert found.good_until(LEAF.certificate) == (NOW + DAY).timestamp()
        assert found.good_until(REVOKED.certificate) == 0
        assert found.ends() == {"CN=first": (NOW + DAY).timestamp()}


def test_a_list_without_an_end_never_ends() -> None:
    class Endless:
        issuer = FIRST.certificate.subject
        next_update_utc = None

        def get_revoked_certificate_by_serial_number(self, number: int) -> None:
            return None

    found = Revocations([Endless()])  # type: ignore[list-item]  # the library makes none without an end
    assert found.good_until(LEAF.certificate) == math.inf


def indirect() -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(FIRST.name).last_update(NOW)
    scope = x509.IssuingDistributionPoint(
        full_name=[x509.UniformResourceIdentifier("http://crl.example.org/")],
        relative_name=None,
        only_contains_user_certs=False,
        only_contains_ca_certs=False,
        only_some_reasons=None,
        indirect_crl=True,
        only_contains_attribute_certs=False,
    )
    builder = builder.next_update(NOW + timedelta(days=1)).add_extension(scope, critical=True)
    return builder.sign(FIRST.key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "no revocation list in"),
        (LEAF.pem, "no revocation list in"),
        (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "list 1 of .* cannot be read"),
        (FIRST.revocation_list(delta=True), "list 1 of .* holds only a part"),
        (FIRST.revocation_list() + indirect(), "list 2 of .* by a deputy"),
    ],
    ids=["empty", "a certificate", "garbage", "a delta", "an indirect one"],
)
def test_a_file_that_holds_no_whole_lists_says_how_to_mend_it(tmp_path: Path, content: bytes, fault: str) -> None:
    with pytest.raises(ValueError, match=rf"{fault}.* -> "):
        reading(tmp_path, content)


def test_a_file_that_is_gone_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "gone.pem")
