"""What stands before callers, attacked: certificates that nobody would issue, lists, headers, handshakes, floods."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import logging
import re
import resource
import socket
import ssl
import subprocess
import sys
import threading
import tomllib
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Literal

import httpx
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from pushgate import logs
from pushgate.allowance import Allowances, Limit
from pushgate.callers import Entry, by_certificate
from pushgate.config import load
from pushgate.errors import ConfigError, RequestError
from pushgate.listener import Listener
from pushgate.model import Caller
from pushgate.server import Scope
from pushgate.tls import Files, server_tls
from tests.api import BATCH, NOTIFY, SEALED, serving
from tests.certificates import DAY, SERVER, Authority, Leaf, new_key
from tests.samples import batch, device, encrypted, plain
from tests.tls_server import WAYS, Served, asking, client_tls, context, run_on, served

AUTHORITY = Authority("callers")
ERP = AUTHORITY.issue("erp.example.org")
ENTRY = Entry(Caller("erp"), san="erp.example.org")


# --- certificates that nobody would issue ------------------------------------------------------------------------

SAN, INFORMATION_ACCESS = ObjectIdentifier("2.5.29.17"), ObjectIdentifier("1.3.6.1.5.5.7.1.1")
DNS, MAIL, URI, ADDRESS = 2, 1, 6, 7
RDN = x509.RelativeDistinguishedName
Part = x509.NameAttribute[str | bytes] | RDN


def odd_leaf(
    *names: tuple[int, bytes],
    subject: x509.Name | None = None,
    garbled: ObjectIdentifier | None = None,
    signed_by: Authority | None = None,
) -> Leaf:
    """A certificate with these names, byte for byte, and an extension that holds nothing of what it should."""
    key, now = new_key(), datetime.now(UTC)
    subject = subject or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "erp")])
    builder = x509.CertificateBuilder(AUTHORITY.name, subject, key.public_key(), 7)
    builder = builder.not_valid_before(now - DAY).not_valid_after(now + DAY)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(AUTHORITY.key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    if names:
        inner = b"".join(bytes((0x80 | kind, len(value))) + value for kind, value in names)
        whole = bytes((0x30, len(inner))) + inner
        builder = builder.add_extension(x509.UnrecognizedExtension(SAN, whole), critical=False)
    if garbled is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([SERVER]), critical=False)
        builder = builder.add_extension(x509.UnrecognizedExtension(garbled, b"\x30\x03\x02\x01\x01"), critical=False)
    return Leaf(builder.sign((signed_by or AUTHORITY).key, hashes.SHA256()), key)


def known_as(leaf: Leaf, *clients: Entry) -> str:
    """The name of the caller; empty for nobody."""
    try:
        return by_certificate(clients)({"extensions": {"tls": {"client_cert_der": leaf.der}}}).name
    except RequestError as refused:
        assert (refused.status, refused.ends_connection) == (401, True)
        return ""


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


def attribute(oid: ObjectIdentifier, value: str) -> x509.NameAttribute[str | bytes]:
    return x509.NameAttribute(oid, value)


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


async def status_of(made: Served, leaf: Leaf) -> int:
    """The status of a request with this certificate; 0 where the handshake comes to nothing."""
    try:
        return (await asking(made.port, client_tls(AUTHORITY, leaf, made.folder)))[0]
    except OSError:
        return 0


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


# --- lists -------------------------------------------------------------------------------------------------------

MTLS = """\
[api]
auth = "mtls"
[api.tls]
cert_file = "server.pem"
key_file = "server.key"
client_ca_file = "ca.pem"
client_crl_file = "crl.pem"
"""


def faults_of(folder: Path, text: str = MTLS) -> Mapping[str, str]:
    """What is wrong with a configuration, by key."""
    AUTHORITY.issue("localhost").write(folder, "server")
    (folder / "pushgate.toml").write_text(text)
    try:
        load(folder / "pushgate.toml", environ={})
    except ConfigError as error:
        assert all(fault.mend for fault in error.faults)
        return {fault.path: fault.fault for fault in error.faults}
    return {}


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


# --- entries -----------------------------------------------------------------------------------------------------


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


# --- handshakes --------------------------------------------------------------------------------------------------

REFUSED = 0
PROFILES: Mapping[str, tuple[tuple[str, ...], int]] = {
    "1.2": (("-tls1_2",), 200),
    "1.3": (("-tls1_3",), 200),
    "1.1": (("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"), REFUSED),
    "1.0": (("-tls1", "-cipher", "DEFAULT@SECLEVEL=0"), REFUSED),
    "1.2 ChaCha20": (("-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"), 200),
    "1.2 without forward secrecy": (("-tls1_2", "-cipher", "AES256-GCM-SHA384"), REFUSED),
    "1.2 DHE": (("-tls1_2", "-cipher", "DHE-RSA-AES256-GCM-SHA384"), REFUSED),
    "1.2 CBC": (("-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA384"), REFUSED),
    "1.2 without encryption": (("-tls1_2", "-cipher", "NULL@SECLEVEL=0"), REFUSED),
    "1.2 without a certificate of ours": (("-tls1_2", "-cipher", "aNULL@SECLEVEL=0"), REFUSED),
    "1.3 AES-128": (("-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"), 200),
    "1.3 CCM": (("-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"), REFUSED),
    "1.3 P-256": (("-tls1_3", "-curves", "prime256v1"), 200),
    "1.3 P-384": (("-tls1_3", "-curves", "secp384r1"), 200),
    "a weak curve": (("-tls1_2", "-curves", "secp192r1"), REFUSED),
    "SHA-1": (("-tls1_2", "-sigalgs", "ECDSA+SHA1", "-cipher", "DEFAULT@SECLEVEL=0"), REFUSED),
    "h2 and http/1.1": (("-alpn", "h2,http/1.1"), 200),
    "small records": (("-maxfraglen", "512"), 200),
    "no tickets": (("-no_ticket",), 200),
    "a wildcard for a name": (("-servername", "*.example.net"), 200),
}


async def speak(port: int, leaf: tuple[Path, Path], *options: str, feed: Sequence[tuple[bytes, float]] = ()) -> str:
    """What `openssl s_client` tells, with these words (and pauses) on its standard input."""
    shown = ("-cert", str(leaf[0]), "-key", str(leaf[1]))
    talking = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", *shown, *options),
        stdin=PIPE,
        stdout=PIPE,
        stderr=STDOUT,
    )
    assert talking.stdin is not None
    ending = asyncio.get_running_loop().call_later(10, talking.kill)
    for words, pause_s in feed or [(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 0.0)]:
        if talking.returncode is None:
            talking.stdin.write(words)
            await asyncio.sleep(pause_s)
    assert talking.stdout is not None
    told = b""
    while b"HTTP/1.1 " not in told and (chunk := await talking.stdout.read(65536)):
        told += chunk
    if talking.returncode is None:
        with suppress(ProcessLookupError):
            talking.kill()
    ending.cancel()
    await talking.wait()
    return told.decode(errors="replace")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("way", WAYS)
def test_each_profile_of_a_handshake_comes_in_or_does_not(
    tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {}

    async def test() -> None:
        async with served(tmp_path, AUTHORITY, clients=[ENTRY], way=way) as made:
            files = ERP.write(tmp_path, "caller")
            for name, (options, status) in PROFILES.items():
                told = await speak(made.port, files, *options)
                if ("HTTP/1.1 200" in told) is not (status == 200):
                    wrong[name] = told

    run_on(way, test())
    assert wrong == {}
    with capsys.disabled():
        print(f"\nprofiles of handshakes by {way}: {len(PROFILES)}")


@pytest.mark.parametrize("way", WAYS)
def test_nobody_shakes_hands_again_and_nothing_is_taken_before_the_handshake(tmp_path: Path, way: str) -> None:
    ask = (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 0.0)

    async def test() -> None:
        async with served(tmp_path, AUTHORITY, clients=[ENTRY], way=way) as made:
            files = ERP.write(tmp_path, "caller")
            again = await speak(made.port, files, "-tls1_2", feed=[(b"", 0.3), (b"R\n", 0.3), ask])
            assert "RENEGOTIATING" in again
            assert "no renegotiation" in again
            assert made.seen == []
            keys = await speak(made.port, files, "-tls1_3", feed=[(b"", 0.3), *[(b"K\n", 0.01)] * 20, ask])
            assert "HTTP/1.1 200" in keys
            early = await speak(made.port, files, "-tls1_3", "-ign_eof")
            assert "Max Early Data: 0" in early

    run_on(way, test())


def hello(tls: ssl.SSLContext) -> bytes:
    """What a caller says first."""
    said = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        tls.wrap_bio(ssl.MemoryBIO(), said, server_hostname="localhost").do_handshake()
    return said.read()


def broken(good: bytes, chance: Random, number: int) -> bytes:
    """Something that is almost a first word, or not at all."""
    match number % 6:
        case 0:
            changed = bytearray(good)
            for _ in range(3):
                changed[chance.randrange(len(good))] = chance.randrange(256)
            return bytes(changed)
        case 1:
            return good[: chance.randrange(len(good))]
        case 2:
            return chance.randbytes(chance.randrange(1, 4000))
        case 3:
            return good + chance.randbytes(200)
        case 4:
            return b"\x16\x03\x01\xff\xff" + chance.randbytes(70_000)
        case _:
            return b"\x14\x03\x03\x00\x01\x01" * 2000


@pytest.mark.timeout(60)
@pytest.mark.parametrize("way", WAYS)
def test_no_bytes_of_a_stranger_are_a_fault_or_leave_a_place_taken(tmp_path: Path, way: str) -> None:
    """300 of them, half closed or aborted or silent afterwards, at any moment of a handshake."""
    faults: list[object] = []
    chance = Random(7)

    async def one(port: int, sent: bytes, *, half_closed: bool, aborted: bool) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(OSError, TimeoutError):
            writer.write(sent)
            await asyncio.sleep(chance.random() * 0.05)
            if half_closed:
                writer.write_eof()
            async with asyncio.timeout(0.01 if aborted else 0.3):
                while await reader.read(65_536):
                    pass
        writer.transport.abort()

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
        async with served(tmp_path, AUTHORITY, clients=[ENTRY], way=way) as made:
            caller = client_tls(AUTHORITY, ERP, tmp_path)
            good = hello(caller)
            for begin in range(0, 300, 30):
                numbers = range(begin, begin + 30)
                sent = [(broken(good, chance, number), number % 2 == 0, number % 5 == 0) for number in numbers]
                await asyncio.gather(*(one(made.port, words, half_closed=h, aborted=a) for words, h, a in sent))
            async with asyncio.timeout(5):
                while len(made.listener._server.places):
                    await asyncio.sleep(0.02)
            assert made.events.count("handshake") == 0
            assert made.events.count("handshake_failed") == made.events.count("accepted") == 300
            assert (await asking(made.port, caller))[:2] == (200, "erp")

    run_on(way, test())
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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_a_ticket_is_worth_nothing_once_its_caller_was_taken_out(
    tmp_path: Path, way: str, version: ssl.TLSVersion
) -> None:
    other = Entry(Caller("other"), san="other.example.org")

    async def test() -> None:
        async with served(tmp_path, AUTHORITY, clients=[ENTRY, other], way=way) as made:
            tls = client_tls(AUTHORITY, ERP, tmp_path, version=version)
            *answer, ticket = await asking(made.port, tls)
            assert answer == [200, "erp"]
            made.identify = by_certificate([other])
            assert (await asking(made.port, tls, ticket))[0] == 401
            assert made.events[-1] == "resumption"

    run_on(way, test())


# --- limits and logs ---------------------------------------------------------------------------------------------


def by_header(scope: Scope) -> Caller:
    return Caller(dict(scope["headers"]).get(b"x-caller", b"anyone").decode())


@pytest.mark.parametrize("connections", [1, 40])
async def test_a_burst_is_as_large_over_many_connections_as_over_one(connections: int) -> None:
    allowances = Allowances({"busy": Limit(0.001, 7)})
    async with serving(identify=by_header, allowances=allowances, monotonic=lambda: 5.0) as api:
        limits = httpx.Limits(max_connections=connections)
        url = f"http://127.0.0.1:{api.port}"
        async with httpx.AsyncClient(base_url=url, limits=limits, headers={"X-Caller": "busy"}) as http:
            sent = [http.post(SEALED, json=batch(encrypted(device=device(pushkey=f"{n:064x}")))) for n in range(60)]
            statuses = [answer.status_code for answer in await asyncio.gather(*sent)]
        assert (statuses.count(200), statuses.count(429)) == (7, 53)
        assert await api.waiting() == 7
        assert (await api.http.post(SEALED, json=batch(encrypted()))).status_code == 200


FLOOD_BYTES, PIECE = 150_000_000, b"x" * 1_000_000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.timeout(40)
@pytest.mark.parametrize("way", ["uvloop", "pyopenssl"])
@pytest.mark.parametrize("who", ["a stranger", "a caller"])
def test_what_somebody_sends_behind_its_answer_is_held_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, who: str
) -> None:
    """A body without an end, inside TLS: refused, and read until the connection is closed."""
    AUTHORITY.issue("localhost").write(tmp_path, "server")
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    files = Files([(tmp_path / "server.pem", tmp_path / "server.key")], tmp_path / "ca.pem")
    tls = server_tls(files, any_purpose=way == "pyopenssl")
    monkeypatch.setattr("tests.api.Listener", functools.partial(Listener, tls=tls))
    caller = client_tls(AUTHORITY, None if who == "a stranger" else ERP, tmp_path)

    def flood(port: int) -> bytes:
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        with caller.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(b"POST /push/v1/notify HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
            answer = connection.recv(4096)
            with suppress(OSError):
                for _ in range(FLOOD_BYTES // len(PIECE)):
                    connection.sendall(PIECE)
            return answer

    async def test() -> None:
        most = before = resident_bytes()
        async with serving(identify=by_certificate([ENTRY])) as api:
            flooding = asyncio.create_task(asyncio.to_thread(flood, api.port))
            while not flooding.done():
                await asyncio.sleep(0.02)
                most = max(most, resident_bytes())
            assert (await flooding).startswith(b"HTTP/1.1 401 " if who == "a stranger" else b"HTTP/1.1 413 ")
        assert most - before < 50_000_000

    run_on(way, test())


BREAKING = '"}\n{"event": "forged", "level": "error"}\r\n\x1b[2J\u202e\u2028'


@pytest.fixture
def logged() -> Iterator[Callable[[Literal["json", "console"]], io.StringIO]]:
    """Logs of this process, as a gateway writes them. Afterwards they are as before."""
    root = logging.getLogger()
    before, level, hooks = root.handlers[:], root.level, (sys.excepthook, threading.excepthook, sys.unraisablehook)

    def begin(form: Literal["json", "console"]) -> io.StringIO:
        written = io.StringIO()
        logs.configure(level="debug", form=form, stream=written)
        return written

    yield begin
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    structlog.reset_defaults()
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.mark.parametrize("form", ["json", "console"])
async def test_nothing_that_a_caller_writes_makes_a_line_of_the_log(
    form: Literal["json", "console"], logged: Callable[[Literal["json", "console"]], io.StringIO]
) -> None:
    written = logged(form)
    async with serving() as api:
        item = plain(device(app_id=f"a{BREAKING}"[:64], pushkey=BREAKING))
        assert (await api.post(NOTIFY, {"notification": item}))[0] == 400
        assert (await api.post(BATCH, {"notifications": [{"id": BREAKING[:64], "notification": item}] * 2}))[0] == 400
        assert (await api.post(BATCH, {BREAKING: BREAKING}))[0] == 400
        for begin in (
            b"POST /push/v1/notify/forged?\x1b[2J HTTP/1.1\r\nHost: forged\r\nX-Request-Id: forged\r\nforged",
            b"GET /forged HTTP/1.1\r\nHost: x\r\nX-Request-Id: " + b"forged" * 3000,
            b"GET /forged HTTP/1.1\r\nHost: x\r\nContent-Length: forged",
            b"FORGED /forged HTTP/1.1\r\nHost: forged",
        ):
            assert (await api.raw(begin + b"\r\n\r\n")).startswith(b"HTTP/1.1 4")
    told = written.getvalue()
    assert told
    assert "forged" not in told.lower()
    assert told.isascii()
    assert "\x1b" not in told
    if form == "json":
        assert {json.loads(line)["event"] for line in told.splitlines()} <= {"requests refused", INVALID}
        assert {json.loads(line)["level"] for line in told.splitlines()} == {"warning"}


INVALID = "Invalid HTTP request received."
"""What the server's library says."""


# --- what it is made of ------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]


def pinned() -> Mapping[str, str]:
    """Each library of the lock file with its version."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    entries = [line for line in lines if line and not line.startswith((" ", "#", "--"))]
    found = [re.fullmatch(r"([a-z0-9._-]+)==(\S+)(?: ;[^\\]*)? \\", line) for line in entries]
    assert all(found), [line for line, one in zip(entries, found, strict=True) if one is None]
    return {one[1]: one[2] for one in found if one is not None}


def test_every_library_that_runs_is_pinned_with_its_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=;\[ ]", each)[0] for each in project["dependencies"]}
    assert wanted | {"pyopenssl"} <= pinned().keys()
    text = (ROOT / "requirements.lock").read_text()
    for name, version in pinned().items():
        entry = text[text.index(f"{name}=={version}") :]
        assert re.match(r"\S+ (?:;[^\\\n]* )?\\\n    --hash=sha256:[0-9a-f]{64}", entry), name
    assert "://" not in re.sub(r"#.*", "", text), "nothing comes from a place of its own"


def test_the_bill_of_materials_lists_what_is_pinned() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\nsbom:")[2].partition("\n\n")[0]
    assert "cyclonedx-py requirements --pyproject pyproject.toml" in recipe
    assert recipe.rstrip().endswith("requirements.lock")
    tool = Path(sys.executable).parent / "cyclonedx-py"
    command = [str(tool), "requirements", "--pyproject", "pyproject.toml", "requirements.lock"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=15).stdout
    listed = {each["name"]: each["version"] for each in json.loads(told)["components"]}
    assert listed == pinned()
