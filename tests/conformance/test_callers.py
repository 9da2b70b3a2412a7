"""Callers over real mutual TLS: who shows which certificate is known by which name, and who is not let in."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from pushgate.callers import Entry, anyone, by_certificate
from pushgate.errors import RequestError
from pushgate.model import Caller
from tests.certificates import DAY, Authority, Leaf
from tests.tls_server import WAYS, Served, asking, client_tls, context, identify_by, run_on, served

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
ERP = Entry(Caller("erp"), san="erp.example.org")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def erp(authority: Authority) -> Leaf:
    return authority.issue("erp.example.org", "urn://example.org/erp")


async def status_of(made: Served, authority: Authority, leaf: Leaf | None) -> int:
    """The status of a request with this certificate; 0 where the handshake comes to nothing."""
    try:
        return (await asking(made.port, client_tls(authority, leaf, made.folder)))[0]
    except OSError:
        return 0


# --- who is who --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["san", "uri", "subject", "sha256", "spki_sha256"])
async def test_a_caller_is_known_by_any_mark_of_its_certificate(
    authority: Authority, erp: Leaf, tmp_path: Path, way: str
) -> None:
    marks = {
        "san": {"san": "erp.example.org"},
        "uri": {"san": "urn://example.org/erp"},
        "subject": {"subject": "O=Example,CN=erp"},
        "sha256": {"sha256": erp.sha256},
        "spki_sha256": {"spki_sha256": erp.spki_sha256},
    }
    clients = [Entry(Caller("other"), san="other.example.org"), Entry(Caller("erp"), **marks[way])]
    async with served(tmp_path, authority, clients=clients, way=way) as made:
        assert (await asking(made.port, client_tls(authority, erp, tmp_path)))[:2] == (200, "erp")


async def test_who_matches_no_entry_is_401(authority: Authority, erp: Leaf, tmp_path: Path) -> None:
    other = Entry(Caller("other"), san="example.org")
    async with served(tmp_path, authority, clients=[other]) as made:
        assert await status_of(made, authority, erp) == 401


async def test_without_entries_every_verified_certificate_is_known(
    authority: Authority, erp: Leaf, tmp_path: Path
) -> None:
    async with served(tmp_path, authority) as made:
        assert (await asking(made.port, client_tls(authority, erp, tmp_path)))[:2] == (200, "verified")
        assert await status_of(made, authority, authority.issue()) == 200  # without any other name than its subject


async def test_no_certificate_is_401_after_a_good_handshake(authority: Authority, tmp_path: Path) -> None:
    async with served(tmp_path, authority) as made:
        assert await status_of(made, authority, None) == 401
        assert made.seen == []


async def test_certificates_that_are_not_valid_never_get_in(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority()
    now = datetime.now(UTC)
    async with served(tmp_path, authority, clients=[ERP]) as made:
        for leaf in (
            stranger.issue("erp.example.org"),
            authority.issue("erp.example.org", ends=now - timedelta(seconds=1)),
            authority.issue("erp.example.org", begins=now + DAY),
        ):
            assert await status_of(made, authority, leaf) == 0
        assert made.seen == []
        assert made.events.count("certificate_refused") == 3


@pytest.mark.parametrize("trusted", ["the one that issues", "the one above it"])
async def test_an_authority_may_be_named_without_the_one_above_it(tmp_path: Path, trusted: str) -> None:
    root = Authority("root")
    issuing = Authority("issuing", above=root)
    erp = issuing.issue("erp.example.org")
    ours = root.issue("localhost")
    pem = issuing.pem if trusted == "the one that issues" else root.pem
    async with served(tmp_path, root, clients=[ERP], certificates=[ours], trusted=pem) as made:
        assert await status_of(made, root, erp) == 200
        by_root = root.issue("erp.example.org")
        assert await status_of(made, root, by_root) == (0 if trusted == "the one that issues" else 200)


def test_a_certificate_that_has_ended_is_401_on_a_connection_that_goes_on(erp: Leaf) -> None:
    scope = {"extensions": {"tls": {"client_cert_der": erp.der}}}
    now = erp.certificate.not_valid_after_utc.timestamp() - 1
    identify = by_certificate([ERP], clock=lambda: now)
    assert identify(scope).name == "erp"
    now += 2
    with pytest.raises(RequestError) as refused:
        identify(scope)
    assert (refused.value.status, refused.value.ends_connection) == (401, True)


@pytest.mark.parametrize("der", [b"garbage", b"\x30\x03\x02\x01\x01", None, b""])
def test_a_certificate_that_cannot_be_read_is_401(der: bytes | None) -> None:
    identify = by_certificate([])
    with pytest.raises(RequestError):
        identify({"extensions": {"tls": {"client_cert_der": der}}})


def test_without_authentication_everybody_is_the_same_caller() -> None:
    assert anyone({}).name == "anyone"


# --- revocation --------------------------------------------------------------------------------------------------


async def test_a_revoked_certificate_never_gets_in_and_others_do(
    authority: Authority, erp: Leaf, tmp_path: Path
) -> None:
    revoked = authority.issue("erp.example.org")
    async with served(tmp_path, authority, clients=[ERP], lists=authority.revocation_list(revoked)) as made:
        assert await status_of(made, authority, revoked) == 0
        assert await status_of(made, authority, erp) == 200
        assert await status_of(made, authority, None) == 401
        assert made.seen == ["erp"]


async def test_several_lists_stand_in_one_file_and_each_counts_for_its_issuer(tmp_path: Path) -> None:
    root = Authority("root")
    first, second, third = (Authority(name, above=root) for name in ("first", "second", "third"))
    ours = root.issue("localhost")
    leaves = [each.issue("erp.example.org") for each in (first, second, third)]
    revoked = second.issue("erp.example.org")
    lists = first.revocation_list() + b"\n# another one\n" + second.revocation_list(revoked)
    async with served(tmp_path, root, clients=[ERP], certificates=[ours], lists=lists) as made:
        assert [await status_of(made, root, leaf) for leaf in leaves] == [200, 200, 0]  # no list of the third
        assert await status_of(made, root, revoked) == 0


@pytest.mark.parametrize("when", ["ended", "not begun"])
async def test_a_list_that_is_out_of_date_keeps_its_callers_out(
    authority: Authority, erp: Leaf, tmp_path: Path, when: str
) -> None:
    now = datetime.now(UTC)
    begins, ends = (now - 2 * DAY, now - DAY) if when == "ended" else (now + DAY, now + 2 * DAY)
    async with served(tmp_path, authority, lists=authority.revocation_list(begins=begins, ends=ends)) as made:
        assert await status_of(made, authority, erp) == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])
def test_who_comes_back_with_a_ticket_is_known_and_judged_anew(
    authority: Authority, erp: Leaf, tmp_path: Path, way: str, version: ssl.TLSVersion
) -> None:
    """Nothing of the handshake is repeated with a ticket: dates, entries and lists are looked at all the same."""
    now = [datetime.now(UTC).timestamp()]

    async def test() -> None:
        lists = authority.revocation_list(ends=datetime.now(UTC) + 3 * DAY)
        async with served(tmp_path, authority, clients=[ERP], lists=lists, clock=lambda: now[0], way=way) as made:
            tls = client_tls(authority, erp, tmp_path, version=version)
            without = client_tls(authority, None, tmp_path, version=version)
            *answer, ticket = await asking(made.port, tls)
            assert answer == [200, "erp"]
            assert ticket is not None
            for _ in range(3):
                status, name, ticket = await asking(made.port, tls, ticket)
                assert (status, name) == (200, "erp")
            assert made.events.count("resumption") == 3
            assert made.events.count("handshake") == 1
            assert (await asking(made.port, without))[0] == 401

            now[0] += 4 * DAY.total_seconds()  # the list has ended, the certificate has not
            assert (await asking(made.port, tls, ticket))[0] == 401
            now[0] -= 4 * DAY.total_seconds()
            assert (await asking(made.port, tls, ticket))[0] == 200
            made.identify = by_certificate([Entry(Caller("erp"), san="renamed.example.org")])
            assert (await asking(made.port, tls, ticket))[0] == 401
            (tmp_path / "crl.pem").write_bytes(authority.revocation_list(erp))
            made.identify = identify_by(tmp_path, [ERP])
            assert (await asking(made.port, tls, ticket))[0] == 401  # though OpenSSL takes the ticket still

    run_on(way, test())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])
def test_a_new_list_makes_tickets_worthless(
    authority: Authority, erp: Leaf, tmp_path: Path, way: str, version: ssl.TLSVersion
) -> None:
    async def test() -> None:
        async with served(tmp_path, authority, clients=[ERP], lists=authority.revocation_list(), way=way) as made:
            tls = client_tls(authority, erp, tmp_path, version=version)
            *_, ticket = await asking(made.port, tls)
            (tmp_path / "crl.pem").write_bytes(authority.revocation_list(erp))
            made.listener.change_tls(context(tmp_path))
            with pytest.raises(OSError):
                await asking(made.port, tls, ticket)
            assert made.events[-1] == "certificate_refused"

    run_on(way, test())


async def test_an_open_connection_is_judged_by_the_new_list_and_closed_after_one_answer(
    authority: Authority, erp: Leaf, tmp_path: Path
) -> None:
    async with (
        served(tmp_path, authority, clients=[ERP], lists=authority.revocation_list()) as made,
        httpx.AsyncClient(verify=client_tls(authority, erp, tmp_path)) as http,
    ):
        url = f"https://localhost:{made.port}/"
        assert (await http.get(url)).status_code == 200
        (tmp_path / "crl.pem").write_bytes(authority.revocation_list(erp))
        made.listener.change_tls(context(tmp_path))
        made.identify = identify_by(tmp_path, [ERP])
        last = await http.get(url)
        assert (last.status_code, last.headers["connection"]) == (401, "close")
        with pytest.raises(httpx.TransportError):
            await http.get(url)


async def test_handshakes_at_the_same_time_as_a_change_end_well(
    authority: Authority, erp: Leaf, tmp_path: Path
) -> None:
    async with served(tmp_path, authority, clients=[ERP]) as made:
        tls = client_tls(authority, erp, tmp_path)

        async def change() -> None:
            for _ in range(20):
                made.listener.change_tls(context(tmp_path))
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(change())
            answers = [tasks.create_task(asking(made.port, tls)) for _ in range(20)]
        assert {each.result()[:2] for each in answers} == {(200, "erp")}
