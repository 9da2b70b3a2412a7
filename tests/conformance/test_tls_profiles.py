"""TLS as callers speak it: old and strict ones, with certificates of both kinds, on the event loop of production."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pushgate.callers import Entry
from pushgate.model import Caller
from tests.certificates import BRAINPOOL, P256, P384, Authority, Leaf
from tests.openssl import E_REZEPT, s_client
from tests.tls_server import WAYS, asking, client_tls, run_on, served

AUTHORITY = Authority()
ECDSA, RSA = AUTHORITY.issue("localhost"), AUTHORITY.issue("localhost", kind=None)
ERP = Entry(Caller("erp"), san="erp.example.org")
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost:443\r\nX-Request-Id: 7\r\nConnection: close\r\n\r\n"
NO_PSS = ("-sigalgs", "ECDSA+SHA256:ECDSA+SHA384:RSA+SHA256:RSA+SHA384")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", [P256, P384, None], ids=["P-256", "P-384", "RSA"])
@pytest.mark.parametrize(
    ("certificates", "cipher"),
    [
        ([ECDSA], "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ([RSA], "ECDHE-RSA-AES256-GCM-SHA384"),
        ([RSA, ECDSA], "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ],
    ids=["ECDSA", "RSA", "both"],
)
def test_e_rezept_comes_in_with_whatever_certificates(
    tmp_path: Path, way: str, key: ec.EllipticCurve | None, certificates: Sequence[Leaf], cipher: str
) -> None:
    async def test() -> None:
        caller = AUTHORITY.issue("erp.example.org", kind=key).write(tmp_path, "caller")
        async with served(tmp_path, AUTHORITY, clients=[ERP], certificates=certificates, way=way) as made:
            said = await s_client(made.port, REQUEST, *E_REZEPT, ca_file=tmp_path / "ca.pem", caller=caller)
            assert (said.status, said.body, said.cipher) == (200, b"erp", cipher), said.log
            assert "Verification: OK" in said.log
            nobody = await s_client(made.port, REQUEST, *E_REZEPT, ca_file=tmp_path / "ca.pem")
            assert nobody.status == 401, nobody.log

    run_on(way, test())


@pytest.mark.parametrize(
    ("options", "comes_in", "signature"),
    [
        (("-tls1_2", "-sigalgs", "RSA+SHA256"), True, "RSA"),
        (("-tls1_2", "-sigalgs", "ECDSA+SHA256"), True, "ECDSA"),
        (("-tls1_3", "-sigalgs", "RSA-PSS+SHA256"), True, "RSA-PSS"),
        (("-tls1_3", *NO_PSS), True, "ECDSA"),
        (("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"), True, "RSA-PSS"),
        (("-tls1_2", "-curves", "secp384r1"), True, "RSA-PSS"),
        (("-tls1_2", "-cipher", "ECDHE-RSA-AES256-SHA384"), False, ""),
        (("-tls1_2", "-cipher", "AES128-GCM-SHA256"), False, ""),
        (("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"), False, ""),
    ],
    ids=["RSA only", "ECDSA only", "1.3 RSA-PSS", "1.3 no PSS", "an RSA cipher", "P-384", "CBC", "no ECDHE", "1.1"],
)
async def test_each_caller_is_shown_the_certificate_that_it_can_check(
    tmp_path: Path, options: Sequence[str], comes_in: bool, signature: str
) -> None:
    """TLS 1.3 without RSA-PSS fails where there is an RSA certificate only: with both it works."""
    caller = AUTHORITY.issue("erp.example.org").write(tmp_path, "caller")
    if "RSA" in signature:  # a caller that offers no ECDSA has no such certificate
        caller = AUTHORITY.issue("erp.example.org", kind=None).write(tmp_path, "caller")
    async with served(tmp_path, AUTHORITY, clients=[ERP], certificates=[ECDSA, RSA]) as made:
        said = await s_client(made.port, REQUEST, *options, ca_file=tmp_path / "ca.pem", caller=caller)
        assert said.status == (200 if comes_in else 0), said.log
        assert said.of("Peer signature type") == signature


async def test_an_rsa_certificate_alone_keeps_out_who_offers_1_3_without_pss(tmp_path: Path) -> None:
    async with served(tmp_path, AUTHORITY, certificates=[RSA]) as made:
        said = await s_client(made.port, REQUEST, "-tls1_3", *NO_PSS, ca_file=tmp_path / "ca.pem")
        assert said.status == 0
        assert made.events == ["accepted", "handshake_failed"]


async def test_a_callers_key_on_a_brainpool_curve_is_refused(tmp_path: Path) -> None:
    """What the how-to page says of it: Python can offer one curve or OpenSSL's own choice, which has none of these."""
    caller = AUTHORITY.issue("erp.example.org", kind=BRAINPOOL).write(tmp_path, "caller")
    async with served(tmp_path, AUTHORITY, clients=[ERP]) as made:
        said = await s_client(made.port, REQUEST, *E_REZEPT, ca_file=tmp_path / "ca.pem", caller=caller)
        assert said.status == 0
        assert made.seen == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_who_comes_back_without_its_certificate_is_known_by_the_ticket(tmp_path: Path, way: str, version: str) -> None:
    """`openssl s_client -sess_out`, `-sess_in`: the certificate of the first connection is in the session."""

    async def test() -> None:
        caller = AUTHORITY.issue("erp.example.org").write(tmp_path, "caller")
        ca_file, ticket = tmp_path / "ca.pem", tmp_path / "ticket"
        async with served(tmp_path, AUTHORITY, clients=[ERP], way=way) as made:
            first = await s_client(made.port, REQUEST, version, "-sess_out", ticket, ca_file=ca_file, caller=caller)
            assert (first.body, first.is_resumed) == (b"erp", False)
            again = await s_client(made.port, REQUEST, version, "-sess_in", ticket, ca_file=ca_file)
            assert (again.body, again.is_resumed) == (b"erp", True)
            assert made.events.count("resumption") == 1

    run_on(way, test())


@pytest.mark.parametrize("way", ["asyncio", "uvloop"])
def test_sessions_are_resumed_without_tickets_too(tmp_path: Path, way: str) -> None:
    """As callers do that know no tickets (TLS 1.2, session ids). By pyOpenSSL they shake hands anew."""

    async def test() -> None:
        async with served(tmp_path, AUTHORITY, clients=[ERP], way=way) as made:
            tls = client_tls(AUTHORITY, AUTHORITY.issue("erp.example.org"), tmp_path, version=ssl.TLSVersion.TLSv1_2)
            tls.options |= ssl.OP_NO_TICKET
            *_, session = await asking(made.port, tls)
            assert (await asking(made.port, tls, session))[:2] == (200, "erp")

    run_on(way, test())


@pytest.mark.parametrize(("curve", "key"), [("prime256v1", P256), ("secp384r1", P384)])
async def test_the_curves_of_e_rezept_from_python(tmp_path: Path, curve: str, key: ec.EllipticCurve) -> None:
    async with served(tmp_path, AUTHORITY, clients=[ERP], certificates=[RSA, ECDSA]) as made:
        leaf = AUTHORITY.issue("erp.example.org", kind=key)
        tls = client_tls(AUTHORITY, leaf, tmp_path, version=ssl.TLSVersion.TLSv1_2)
        tls.set_ecdh_curve(curve)
        tls.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384")
        assert (await asking(made.port, tls))[:2] == (200, "erp")
