"""`client_purpose = "any"`: certificates for servers come in by their fingerprint, and nothing else new does."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from pushgate.callers import Entry
from pushgate.model import Caller
from tests.certificates import CLIENT, DAY, SERVER, Authority, Leaf
from tests.tls_server import Served, asking, client_tls, run_on, served

pytest.importorskip("OpenSSL", reason="pyOpenSSL is not installed")

AUTHORITY = Authority()
MAIL = ExtendedKeyUsageOID.EMAIL_PROTECTION
FOR_SERVERS = AUTHORITY.issue("zeta.example.org", uses=[SERVER])
ZETA = Entry(Caller("zeta"), spki_sha256=FOR_SERVERS.spki_sha256)


async def status_of(made: Served, leaf: Leaf | None) -> int:
    """The status of a request with this certificate; 0 where the handshake comes to nothing."""
    try:
        return (await asking(made.port, client_tls(AUTHORITY, leaf, made.folder)))[0]
    except OSError:
        return 0


@pytest.mark.parametrize("way", ["asyncio", "uvloop"])
def test_python_itself_refuses_certificates_for_servers(tmp_path: Path, way: str) -> None:
    """The reason for all of it."""

    async def test() -> None:
        async with served(tmp_path, AUTHORITY, clients=[ZETA], way=way) as made:
            assert await status_of(made, FOR_SERVERS) == 0
            assert made.events == ["accepted", "certificate_refused"]

    run_on(way, test())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("kind", ["ECDSA", "RSA"])
def test_a_certificate_for_servers_comes_in_and_comes_back_with_a_ticket(
    tmp_path: Path, version: ssl.TLSVersion, kind: str
) -> None:
    async def test() -> None:
        leaf = FOR_SERVERS if kind == "ECDSA" else AUTHORITY.issue("zeta.example.org", uses=[SERVER], kind=None)
        entry = Entry(Caller("zeta"), sha256=leaf.sha256)
        async with served(tmp_path, AUTHORITY, clients=[entry], way="pyopenssl") as made:
            tls = client_tls(AUTHORITY, leaf, tmp_path, version=version)
            *answer, ticket = await asking(made.port, tls)
            assert answer == [200, "zeta"]
            assert (await asking(made.port, tls, ticket))[:2] == (200, "zeta")
            assert made.events == ["accepted", "handshake", "accepted", "resumption"]

    run_on("pyopenssl", test())


def uses_of(*uses: ObjectIdentifier, digital_signature: bool | None = None) -> Leaf:
    """A certificate with these uses, and a key usage where that is not None."""
    return AUTHORITY.issue("zeta.example.org", uses=uses, digital_signature=digital_signature)


@pytest.mark.parametrize(
    ("leaf", "comes_in"),
    [
        (uses_of(SERVER), True),
        (uses_of(CLIENT), True),
        (uses_of(), True),
        (uses_of(SERVER, CLIENT), True),
        (uses_of(SERVER, MAIL), True),
        (uses_of(SERVER, digital_signature=True), True),
        (uses_of(SERVER, digital_signature=False), False),
        (uses_of(MAIL), False),
        (uses_of(ExtendedKeyUsageOID.CODE_SIGNING), False),
    ],
    ids=["server", "client", "none", "both", "server and mail", "signs", "does not sign", "mail", "code"],
)
def test_the_purpose_of_a_client_or_a_server_is_good_and_no_other(tmp_path: Path, leaf: Leaf, comes_in: bool) -> None:
    async def test() -> None:
        entry = Entry(Caller("zeta"), sha256=leaf.sha256)
        async with served(tmp_path, AUTHORITY, clients=[entry], way="pyopenssl") as made:
            assert await status_of(made, leaf) == (200 if comes_in else 0)

    run_on("pyopenssl", test())


def test_everything_else_about_it_is_checked_as_always(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    key = FOR_SERVERS.key
    revoked = AUTHORITY.issue("zeta.example.org", uses=[SERVER], key=key)
    refused: Sequence[tuple[str, Leaf]] = [
        ("unable to get local issuer certificate", Authority().issue("zeta.example.org", uses=[SERVER], key=key)),
        ("certificate has expired", AUTHORITY.issue(uses=[SERVER], key=key, ends=now - timedelta(seconds=1))),
        ("certificate is not yet valid", AUTHORITY.issue(uses=[SERVER], key=key, begins=now + DAY)),
        ("certificate revoked", revoked),
        ("certificate signature failure", with_broken_signature(FOR_SERVERS)),
    ]

    async def test() -> None:
        lists = AUTHORITY.revocation_list(revoked)
        async with served(tmp_path, AUTHORITY, clients=[ZETA], lists=lists, way="pyopenssl") as made:
            for _, leaf in refused:
                assert await status_of(made, leaf) == 0
                assert made.events[-1] == "certificate_refused"
            assert await status_of(made, None) == 401
            assert await status_of(made, AUTHORITY.issue("zeta.example.org", uses=[SERVER])) == 401, "another key"
            assert await status_of(made, FOR_SERVERS) == 200
            assert made.seen == ["zeta"]

    run_on("pyopenssl", test())


def with_broken_signature(leaf: Leaf) -> Leaf:
    der = bytearray(leaf.der)
    der[-1] ^= 1
    return Leaf(x509.load_der_x509_certificate(bytes(der)), leaf.key)


def test_an_authority_for_servers_only_may_not_be_named_by_a_caller(tmp_path: Path) -> None:
    """A caller with a certificate cannot act as an authority: the purpose is passed over for its own only."""

    async def test() -> None:
        false_authority = Authority("false", above=AUTHORITY, is_authority=False)
        leaf = false_authority.issue("zeta.example.org", uses=[SERVER], key=FOR_SERVERS.key)
        async with served(tmp_path, AUTHORITY, clients=[ZETA], way="pyopenssl") as made:
            assert await status_of(made, leaf) == 0
            assert made.events[-1] == "certificate_refused"

    run_on("pyopenssl", test())


@pytest.mark.parametrize("kept", [True, False])
def test_requests_large_and_small_go_both_ways(tmp_path: Path, kept: bool) -> None:
    """Many records at once, on one connection and on several."""

    async def test() -> None:
        async with served(tmp_path, AUTHORITY, clients=[ZETA], way="pyopenssl") as made:
            tls = client_tls(AUTHORITY, FOR_SERVERS, tmp_path)
            limits = httpx.Limits(max_keepalive_connections=5 if kept else 0)
            async with httpx.AsyncClient(verify=tls, limits=limits) as http:
                url = f"https://localhost:{made.port}/echo"
                for size in (0, 1, 16_384, 16_385, 1_000_000):
                    answer = await http.post(url, content=b"x" * size)
                    assert (answer.status_code, len(answer.content)) == (200, size)
                answers = await asyncio.gather(*(http.post(url, content=b"y" * 50_000) for _ in range(20)))
                assert all(answer.content == b"y" * 50_000 for answer in answers)

    run_on("pyopenssl", test())


def test_a_caller_that_reads_nothing_is_waited_for(tmp_path: Path) -> None:
    """Answers that nobody reads do not pile up without end: the caller is not read from either."""

    async def test() -> None:
        async with served(tmp_path, AUTHORITY, clients=[ZETA], way="pyopenssl") as made:
            tls = client_tls(AUTHORITY, FOR_SERVERS, tmp_path)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", made.port, ssl=tls, server_hostname="localhost", limit=1024
            )
            body = b"z" * 200_000
            request = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            for _ in range(10):
                writer.write(request)
            read = 0
            async with asyncio.timeout(10):
                await asyncio.sleep(0.3)
                while read < 10 * len(body):
                    read += (await reader.read(65536)).count(b"z")
            assert read == 10 * len(body)
            writer.close()

    run_on("pyopenssl", test())


def test_the_end_of_a_connection_is_said_by_both_sides(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path, AUTHORITY, clients=[ZETA], way="pyopenssl") as made:
            tls = client_tls(AUTHORITY, FOR_SERVERS, tmp_path)
            for ending in ("close", "abort", "wait"):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", made.port, ssl=tls, server_hostname="localhost"
                )
                close = b"Connection: close\r\n" if ending == "wait" else b""
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n" % close)
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                if ending == "wait":
                    await reader.read()
                elif ending == "abort":
                    writer.transport.abort()
                writer.close()
                async with asyncio.timeout(5):
                    while len(made.listener._server.places):
                        await asyncio.sleep(0.01)

    run_on("pyopenssl", test())
