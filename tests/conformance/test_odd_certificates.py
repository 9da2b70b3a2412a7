"""Certificates that nobody would issue: with odd names and subjects, or such as cannot be read. They are nobody's."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from pushgate.callers import Entry
from pushgate.model import Caller
from tests.certificates import Authority, Leaf
from tests.conformance.odd_callers import (
    ADDRESS,
    AUTHORITY,
    DNS,
    ENTRY,
    INFORMATION_ACCESS,
    MAIL,
    URI,
    attribute,
    known_as,
    odd_leaf,
    status_of,
)
from tests.tls_server import WAYS, asking, client_tls, run_on, served

RDN = x509.RelativeDistinguishedName
Part = x509.NameAttribute[str | bytes] | RDN


NAMES: Mapping[str, tuple[Sequence[tuple[int, bytes]], bool]] = {
    "as it stands": ([(DNS, b"erp.example.org")], True),
    "in capitals": ([(DNS, b"ERP.Example.ORG")], True),
    "the last of several": ([(DNS, b"a.example.org"), (URI, b"urn:x"), (DNS, b"erp.example.org")], True),
    "beside one that is no text": ([(DNS, b"\xc3\xbc.example.org"), (DNS, b"erp.example.org")], True),
    "with a NUL and another name": ([(DNS, b"erp.example.org\x00.example.net")], False),
    "with a NUL behind": ([(DNS, b"erp.example.org\x00")], False),
    "with a dot behind": ([(DNS, b"erp.example.org.")], False),
    "with a blank behind": ([(DNS, b"erp.example.org ")], False),
    "with a line end": ([(DNS, b"erp.example.org\n")], False),
    "a wildcard": ([(DNS, b"*.example.org")], False),
    "a part of it": ([(DNS, b"example.org")], False),
    "more than it": ([(DNS, b"erp.example.org.example.net")], False),
    "a letter that looks the same": ([(DNS, "\u0435rp.example.org".encode())], False),
    "as a URI": ([(URI, b"erp.example.org")], False),
    "as an address of mail": ([(MAIL, b"erp.example.org")], False),
    "inside a URI": ([(URI, b"https://erp.example.org")], False),
    "an address": ([(ADDRESS, b"\x7f\x00\x00\x01")], False),
    "latin letters": ([(DNS, b"\xfc.example.org")], False),
    "nothing": ([(DNS, b"")], False),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_name_is_the_whole_name_of_its_kind(case: str) -> None:
    names, fits = NAMES[case]
    assert known_as(odd_leaf(*names), ENTRY) == ("erp" if fits else "")


@pytest.mark.parametrize(
    ("names", "fits"),
    [
        ([(URI, b"spiffe://example.org/erp")], True),
        ([(DNS, b"spiffe://example.org/erp")], False),
        ([(URI, b"spiffe://example.org/ERP")], False),
        ([(URI, b"spiffe://example.org/erp/")], False),
        ([(URI, b"spiffe://example.org/erp#x")], False),
    ],
)
def test_a_uri_is_compared_as_it_stands(names: Sequence[tuple[int, bytes]], fits: bool) -> None:
    entry = Entry(Caller("erp"), san="spiffe://example.org/erp")
    assert known_as(odd_leaf(*names), entry) == ("erp" if fits else "")


def test_of_two_entries_that_fit_the_first_counts() -> None:
    both = odd_leaf((DNS, b"a.example.org"), (DNS, b"b.example.org"))
    first, second = Entry(Caller("a"), san="a.example.org"), Entry(Caller("b"), san="b.example.org")
    assert [known_as(both, first, second), known_as(both, second, first)] == ["a", "b"]


NAME, ORGANIZATION = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME
SUBJECTS: Mapping[str, tuple[list[Part], bool]] = {
    "the same": ([attribute(ORGANIZATION, "Example"), attribute(NAME, "erp")], True),
    "another order": ([attribute(NAME, "erp"), attribute(ORGANIZATION, "Example")], False),
    "one that looks like two": ([attribute(NAME, "erp,O=Example")], False),
    "one that is escaped already": ([attribute(NAME, "erp\\,O=Example")], False),
    "joined by plus": ([attribute(NAME, "erp+O=Example")], False),
    "one of two parts": (
        [RDN([attribute(NAME, "erp"), attribute(ORGANIZATION, "Example")])],
        False,
    ),
    "in capitals": ([attribute(ORGANIZATION, "EXAMPLE"), attribute(NAME, "ERP")], False),
    "more": (
        [attribute(NameOID.COUNTRY_NAME, "DE"), attribute(ORGANIZATION, "Example"), attribute(NAME, "erp")],
        False,
    ),
    "a line end": ([attribute(ORGANIZATION, "Example"), attribute(NAME, "erp\n")], False),
    "a NUL": ([attribute(ORGANIZATION, "Example"), attribute(NAME, "erp\x00")], False),
    "a name that is a number": ([attribute(ORGANIZATION, "Example"), attribute(NAME, "#657270")], False),
}


@pytest.mark.parametrize("case", SUBJECTS)
def test_a_subject_is_the_whole_subject_in_its_order(case: str) -> None:
    parts, fits = SUBJECTS[case]
    leaf = odd_leaf(subject=x509.Name(part if isinstance(part, RDN) else RDN([part]) for part in parts))
    assert known_as(leaf, Entry(Caller("erp"), subject="CN=erp,O=Example")) == ("erp" if fits else "")


class Odd(Leaf, frozen=True):
    """A certificate that is given byte for byte."""

    altered: bytes = b""

    @property
    def pem(self) -> bytes:
        return ssl.DER_cert_to_PEM_cert(self.altered).encode()


def altered(old: bytes, new: bytes) -> Leaf:
    """A certificate that OpenSSL can read and Python's library cannot, with a good signature."""
    leaf = odd_leaf()
    signed = leaf.certificate.tbs_certificate_bytes.replace(old, new)
    assert signed != leaf.certificate.tbs_certificate_bytes
    assert isinstance(AUTHORITY.key, ec.EllipticCurvePrivateKey)
    signature = AUTHORITY.key.sign(signed, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    inner = signed + algorithm + b"\x03" + bytes((len(signature) + 1, 0)) + signature
    return Odd(leaf.certificate, leaf.key, (), b"\x30\x82" + len(inner).to_bytes(2) + inner)


ALTERED = {
    "bits for a name": (b"\x06\x03\x55\x04\x03\x0c\x03erp", b"\x06\x03\x55\x04\x03\x03\x03\x00rp"),
    "a version that is none": (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x03"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ALTERED)
def test_a_certificate_that_cannot_be_read_is_401_and_never_5xx(tmp_path: Path, way: str, what: str) -> None:
    faults: list[object] = []

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
        entry = Entry(Caller("erp"), subject="CN=erp")
        async with served(tmp_path, AUTHORITY, clients=[entry], way=way) as made:
            assert await status_of(made, altered(*ALTERED[what])) == 401
            assert made.events == ["accepted", "handshake"]

    run_on(way, test())
    assert faults == []


def test_an_extension_that_cannot_be_read_is_a_refused_certificate_and_no_fault_of_ours(tmp_path: Path) -> None:
    """With `client_purpose = "any"` we look into a certificate before its signature is checked: of anybody, then."""
    faults: list[object] = []

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
        entry = Entry(Caller("erp"), sha256="0" * 64)
        async with served(tmp_path, AUTHORITY, clients=[entry], way="pyopenssl") as made:
            for signer in (AUTHORITY, Authority()):
                assert await status_of(made, odd_leaf(garbled=INFORMATION_ACCESS, signed_by=signer)) == 0
            assert made.events == ["accepted", "certificate_refused"] * 2

    run_on("pyopenssl", test())
    assert faults == []


@pytest.mark.parametrize("way", WAYS)
def test_a_weak_key_is_no_certificate(tmp_path: Path, way: str) -> None:
    weak = AUTHORITY.issue("erp.example.org", key=rsa.generate_private_key(65537, 1024))

    async def test() -> None:
        async with served(tmp_path, AUTHORITY, clients=[ENTRY], way=way) as made:
            tls = client_tls(AUTHORITY, None, tmp_path)
            tls.set_ciphers("DEFAULT@SECLEVEL=0")
            tls.load_cert_chain(*weak.write(tmp_path, "weak"))
            with pytest.raises(OSError):
                await asking(made.port, tls)
            assert made.events == ["accepted", "certificate_refused"]

    run_on(way, test())
