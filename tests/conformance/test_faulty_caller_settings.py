"""Settings of callers that could not do what they say: revocation lists, entries, proxies, patterns of apps."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pushgate.callers import Entry
from pushgate.config import load
from pushgate.model import Caller
from tests.certificates import DAY, Authority
from tests.conformance.odd_callers import (
    AUTHORITY,
    ENTRY,
    ERP,
    MTLS,
    attribute,
    faults_of,
    known_as,
    odd_leaf,
    status_of,
)
from tests.tls_server import context, served


def list_of(authority: Authority, **scope: bool) -> bytes:
    """A list for a part of the certificates of an authority."""
    kinds = ("only_contains_user_certs", "only_contains_ca_certs", "only_contains_attribute_certs", "indirect_crl")
    chosen = {kind: scope.get(kind, False) for kind in kinds}
    point = x509.IssuingDistributionPoint(full_name=None, relative_name=None, only_some_reasons=None, **chosen)
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder(authority.name, now - DAY, now + DAY)
    return builder.add_extension(point, True).sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_an_authority_in_the_file_of_the_lists_is_refused_for_openssl_would_trust_it(tmp_path: Path) -> None:
    stranger = Authority("stranger")
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    for content in (
        AUTHORITY.revocation_list() + stranger.pem + stranger.revocation_list(),
        stranger.pem.replace(b" CERT", b" TRUSTED CERT") + AUTHORITY.revocation_list(),
        AUTHORITY.revocation_list() + stranger.pem.replace(b" CERT", b" X509 CERT"),
    ):
        (tmp_path / "crl.pem").write_bytes(content)
        assert "beside revocation lists" in faults_of(tmp_path)["api.tls.client_crl_file"]


async def test_why_an_authority_in_the_file_of_the_lists_is_refused(tmp_path: Path) -> None:
    """What would come of it: the reason for the test above, and a sign when that is no longer needed."""
    stranger = Authority("stranger")
    lists = AUTHORITY.revocation_list() + stranger.revocation_list()
    async with served(tmp_path, AUTHORITY, clients=[ENTRY], lists=lists) as made:
        assert await status_of(made, stranger.issue("erp.example.org")) == 0
        (tmp_path / "crl.pem").write_bytes(lists + stranger.pem)
        made.listener.change_tls(context(tmp_path))
        assert await status_of(made, stranger.issue("erp.example.org")) == 200


def test_a_list_that_its_authority_has_not_signed_is_refused(tmp_path: Path) -> None:
    twin, other = Authority("callers"), Authority("not in the file")
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    for lists, is_good in (
        (AUTHORITY.revocation_list(ERP), True),
        (AUTHORITY.revocation_list() + other.revocation_list(), True),  # of one that callers bring along, perhaps
        (twin.revocation_list(), False),
        (AUTHORITY.revocation_list() + twin.revocation_list(), False),
    ):
        (tmp_path / "crl.pem").write_bytes(lists)
        found = faults_of(tmp_path)
        assert found == {} if is_good else "was not signed by" in found["api.tls.client_crl_file"]
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem + twin.pem)  # an authority that has changed its key
    assert faults_of(tmp_path) == {}


@pytest.mark.parametrize(
    ("kind", "is_good"),
    [
        ("only_contains_user_certs", True),
        ("only_contains_ca_certs", False),
        ("only_contains_attribute_certs", False),
        ("indirect_crl", False),
    ],
)
def test_a_list_that_leaves_out_callers_is_refused(tmp_path: Path, kind: str, is_good: bool) -> None:
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    (tmp_path / "crl.pem").write_bytes(list_of(AUTHORITY, **{kind: True}))
    assert ("api.tls.client_crl_file" in faults_of(tmp_path)) is not is_good


def test_a_list_in_the_file_of_the_authorities_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem + AUTHORITY.revocation_list(ERP))
    text = MTLS.replace('client_crl_file = "crl.pem"\n', "")
    assert "holds a revocation list" in faults_of(tmp_path, text)["api.tls.client_ca_file"]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('san = "ERP.example.org"', "san"),
        ('san = "erp.example.org "', "san"),
        ('san = "münchen.example.org"', "san"),
        ('san = "10.0.0.1"', "san"),
        ('san = "erp@example.org"', "san"),
        ('san = "https://a b"', "san"),
        ('san = "a\\u0000b"', "san"),
        ('san = "a.example.org"\nrate_per_s = 1e-320', "rate_per_s"),
        ('san = "a.example.org"\nrate_per_s = nan', "rate_per_s"),
        ('san = "a.example.org"\nrate_per_s = inf', "rate_per_s"),
        ('san = "a.example.org"\nrate_per_s = -1', "rate_per_s"),
    ],
)
def test_an_entry_that_could_fit_nobody_or_break_a_limit_is_refused(tmp_path: Path, line: str, key: str) -> None:
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    (tmp_path / "crl.pem").write_bytes(AUTHORITY.revocation_list())
    assert f"clients[0].{key}" in faults_of(tmp_path, f'{MTLS}[[clients]]\nname = "a"\n{line}\n')


def test_a_subject_may_be_written_as_openssl_prints_it(tmp_path: Path) -> None:
    """Certificates of extended validation have names in their subjects that RFC 4514 has but numbers for."""
    told = "CN=erp,serialNumber=HRB 1,businessCategory=Private Organization,jurisdictionC=DE,emailAddress=a@example.org"
    oids = (
        NameOID.EMAIL_ADDRESS,
        NameOID.JURISDICTION_COUNTRY_NAME,
        NameOID.BUSINESS_CATEGORY,
        NameOID.SERIAL_NUMBER,
        NameOID.COMMON_NAME,
    )
    values = ("a@example.org", "DE", "Private Organization", "HRB 1", "erp")
    leaf = odd_leaf(subject=x509.Name([attribute(oid, value) for oid, value in zip(oids, values, strict=True)]))
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    (tmp_path / "crl.pem").write_bytes(AUTHORITY.revocation_list())
    assert faults_of(tmp_path, f'{MTLS}[[clients]]\nname = "a"\nsubject = "{told}"\n') == {}
    (client,) = load(tmp_path / "pushgate.toml", environ={}).clients
    assert known_as(leaf, Entry(Caller("a"), subject=client.subject)) == "a"


@pytest.mark.parametrize("network", ["::ffff:10.0.0.1", "::ffff:0.0.0.0/96", "0.0.0.0/0", "::/0", "10.0.0.1/24", "x"])
def test_proxies_that_are_nobody_or_everybody_are_refused(tmp_path: Path, network: str) -> None:
    text = f'[api]\nauth = "proxy"\nproxy_header = "xfcc"\ntrusted_proxies = ["{network}"]\n'
    assert "api.trusted_proxies[0]" in faults_of(tmp_path, text)


@pytest.mark.parametrize(
    ("app_id", "may"),
    [
        ("de.example.app", True),
        ("de.example.", True),
        ("de.example", False),
        ("xde.example.app", False),
        ("DE.example.app", False),
        ("de-example.app", False),
        ("de.example.app\n", True),
        ("\nde.example.app", False),
        ("one", True),
        ("one\n", False),
        ("two", False),
        ("", False),
    ],
)
def test_patterns_of_apps_are_of_the_whole_app_id(app_id: str, may: bool) -> None:
    assert Caller("erp", ("de.example.*", "one")).may_send_to(app_id) is may
