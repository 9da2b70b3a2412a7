"""Callers over real mutual TLS: who shows which certificate is known by which name."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pushgate.callers import Entry, anyone, by_certificate
from pushgate.errors import RequestError
from pushgate.listener import Listener, server_tls
from pushgate.model import Caller


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("erp.example.org", common_name="erp")


@asynccontextmanager
async def gateway(
    authority: trustme.CA, folder: Path, clients: Sequence[Entry]
) -> AsyncIterator[tuple[str, list[Caller]]]:
    """A server that answers 204 to a known caller and notes who it was."""
    leaf = authority.issue_cert("localhost")
    for path, pem in ((folder / "cert.pem", leaf.cert_chain_pems[0]), (folder / "key.pem", leaf.private_key_pem)):
        pem.write_to_path(path)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    identify, seen = by_certificate(clients), list[Caller]()

    async def application(scope, receive, send) -> None:  # type: ignore[no-untyped-def]  # ASGI has no types of its own
        try:
            seen.append(identify(scope))
            status = 204
        except RequestError as refused:
            status = refused.status
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    tls = server_tls(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    listener = Listener(application, address="127.0.0.1:0", tls=tls)
    running = asyncio.create_task(listener.serve())
    try:
        yield f"https://localhost:{listener.port}/", seen
    finally:
        listener.stop()
        await running


async def ask(url: str, authority: trustme.CA, leaf: trustme.LeafCert | None) -> int:
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    if leaf is not None:
        leaf.configure_cert(tls)
    async with httpx.AsyncClient(verify=tls) as http:
        return (await http.get(url)).status_code


def marks(leaf: trustme.LeafCert) -> dict[str, str]:
    certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        "san": "erp.example.org",
        "subject": certificate.subject.rfc4514_string(),
        "sha256": hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
        "spki_sha256": hashlib.sha256(key).hexdigest(),
    }


@pytest.mark.parametrize("way", ["san", "subject", "sha256", "spki_sha256"])
async def test_a_caller_is_known_by_any_mark_of_its_certificate(
    authority: trustme.CA, certificate: trustme.LeafCert, tmp_path: Path, way: str
) -> None:
    erp = Caller("erp", ("de.example.*",))
    clients = [Entry(Caller("other"), san="other.example.org"), Entry(erp, **{way: marks(certificate)[way]})]
    async with gateway(authority, tmp_path, clients) as (url, seen):
        assert await ask(url, authority, certificate) == 204
        assert seen == [erp]


async def test_a_verified_certificate_that_no_entry_names_is_401(
    authority: trustme.CA, certificate: trustme.LeafCert, tmp_path: Path
) -> None:
    async with gateway(authority, tmp_path, [Entry(Caller("other"), san="example.org")]) as (url, _):
        assert await ask(url, authority, certificate) == 401


async def test_without_entries_every_verified_certificate_is_known(
    authority: trustme.CA, certificate: trustme.LeafCert, tmp_path: Path
) -> None:
    async with gateway(authority, tmp_path, []) as (url, seen):
        assert await ask(url, authority, certificate) == 204
        assert [caller.name for caller in seen] == ["verified"]


async def test_no_certificate_is_401_after_a_good_handshake(authority: trustme.CA, tmp_path: Path) -> None:
    async with gateway(authority, tmp_path, []) as (url, seen):
        assert await ask(url, authority, None) == 401
        assert seen == []


async def test_a_certificate_of_another_authority_never_gets_in(authority: trustme.CA, tmp_path: Path) -> None:
    stranger = trustme.CA().issue_cert("erp.example.org")
    async with gateway(authority, tmp_path, [Entry(Caller("erp"), san="erp.example.org")]) as (url, seen):
        with pytest.raises(httpx.TransportError):
            await ask(url, authority, stranger)
        assert seen == []


def test_a_certificate_that_has_ended_is_401_on_a_connection_that_goes_on(certificate: trustme.LeafCert) -> None:
    leaf = x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes())
    scope = {"extensions": {"tls": {"client_cert_der": leaf.public_bytes(Encoding.DER)}}}
    now = leaf.not_valid_after_utc.timestamp() - 1
    identify = by_certificate([Entry(Caller("erp"), san="erp.example.org")], clock=lambda: now)
    assert identify(scope).name == "erp"
    now += 2
    with pytest.raises(RequestError):
        identify(scope)


def test_a_certificate_that_cannot_be_read_is_401() -> None:
    identify = by_certificate([Entry(Caller("erp"), san="erp.example.org")])
    with pytest.raises(RequestError):
        identify({"extensions": {"tls": {"client_cert_der": b"garbage"}}})


def test_without_authentication_everybody_is_the_same_caller() -> None:
    assert anyone({}).name == "anyone"
