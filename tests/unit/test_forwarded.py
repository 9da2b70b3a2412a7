"""forwarded: the headers of Envoy and nginx, as these write them and as somebody might forge them."""

from __future__ import annotations

import re
from contextlib import suppress
from hashlib import sha256
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushgate.forwarded import Style, read, values_of
from tests.certificates import Authority

CERTIFICATE = Authority().issue("erp.example.org")
OTHER = Authority().issue("other.example.org")
ESCAPED = quote(CERTIFICATE.pem.decode(), safe="")
XFCC, CERT, VERIFY = b"x-forwarded-client-cert", b"x-ssl-client-cert", b"x-ssl-client-verify"
HASH = CERTIFICATE.sha256


def from_envoy(value: str) -> tuple[bytes, set[tuple[str, str]]]:
    shown = read(Style.XFCC, [value.encode()])
    return shown.der, set(shown.marks)


# --- which headers are read --------------------------------------------------------------------------------------


def test_only_the_headers_of_the_style_are_read() -> None:
    headers = [(b"host", b"x"), (XFCC, b"Hash=ab"), (CERT, b"c"), (VERIFY, b"SUCCESS")]
    assert values_of(Style.XFCC, headers) == (b"Hash=ab",)
    assert values_of(Style.NGINX, headers) == (b"c", b"SUCCESS")


@pytest.mark.parametrize(
    ("style", "headers"),
    [
        (Style.XFCC, []),
        (Style.XFCC, [(XFCC, b"Hash=ab"), (XFCC, b"Hash=ab")]),
        (Style.XFCC, [(CERT, b"c"), (VERIFY, b"SUCCESS")]),
        (Style.NGINX, [(CERT, b"c")]),
        (Style.NGINX, [(VERIFY, b"SUCCESS")]),
        (Style.NGINX, [(CERT, b"c"), (CERT, b"c")]),
        (Style.NGINX, [(VERIFY, b"SUCCESS"), (VERIFY, b"SUCCESS")]),
        (Style.NGINX, [(CERT, b"c"), (CERT, b"d"), (VERIFY, b"SUCCESS")]),
        (Style.NGINX, [(CERT, b"c"), (VERIFY, b"NONE"), (VERIFY, b"SUCCESS")]),
        (Style.NGINX, [(XFCC, b"Hash=ab")]),
    ],
)
def test_a_header_that_is_missing_or_comes_twice_is_none(style: Style, headers: list[tuple[bytes, bytes]]) -> None:
    assert values_of(style, headers) is None


# --- nginx -------------------------------------------------------------------------------------------------------


def test_nginx_tells_the_whole_certificate() -> None:
    assert read(Style.NGINX, [ESCAPED.encode(), b"SUCCESS"]).der == CERTIFICATE.der


@pytest.mark.parametrize(
    ("certificate", "verified"),
    [
        (ESCAPED, "NONE"),
        (ESCAPED, "FAILED:certificate has expired"),
        (ESCAPED, "success"),
        (ESCAPED, ""),
        ("", "SUCCESS"),
        ("garbage", "SUCCESS"),
        (quote("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "SUCCESS"),
        (ESCAPED + ESCAPED, "SUCCESS"),
    ],
    ids=lambda value: value.replace(ESCAPED, "certificate")[:40],
)
def test_what_nginx_did_not_verify_is_nobody(certificate: str, verified: str) -> None:
    with pytest.raises(ValueError):
        read(Style.NGINX, [certificate.encode(), verified.encode()])


# --- Envoy -------------------------------------------------------------------------------------------------------


def test_envoy_tells_the_certificate_which_then_speaks_for_itself() -> None:
    whole = f'By=spiffe://example.org/front;Hash={HASH};Cert="{ESCAPED}";Subject="CN=somebody";URI=;DNS=a;DNS=b'
    assert from_envoy(whole) == (CERTIFICATE.der, set())
    assert from_envoy(f"cert={ESCAPED}") == (CERTIFICATE.der, set())


def test_envoy_may_tell_marks_only() -> None:
    told = f'By=x;Hash={HASH.upper()};Subject="CN=erp,O=Ex\\"ample";URI=spiffe://e.org/a=b;DNS=a.org;DNS=b.org;DNS='
    assert from_envoy(told) == (
        b"",
        {
            ("sha256", HASH),
            ("subject", 'CN=erp,O=Ex\\"ample'),
            ("san", "spiffe://e.org/a=b"),
            ("san", "a.org"),
            ("san", "b.org"),
        },
    )
    assert from_envoy('Subject=""') == (b"", set())
    assert from_envoy('Subject="unheardOf=1";Hash=ab') == (b"", {("sha256", "ab")})


def test_the_last_element_counts() -> None:
    assert from_envoy(f'Hash=forged;DNS="a,b";URI=x,Hash={HASH}') == (b"", {("sha256", HASH)})
    assert from_envoy(f'Subject="CN=\\",Hash=forged",Hash={HASH}') == (b"", {("sha256", HASH)})


@pytest.mark.parametrize(
    "value",
    [
        "",
        ",",
        f"Hash={HASH},",
        f",Hash={HASH}",
        f"Hash={HASH},,Hash={HASH}",
        f"Hash={HASH};Hash=other",
        f'Cert="{ESCAPED}";Cert="{ESCAPED}"',
        'Subject="CN=a";subject="CN=b"',
        f'Hash={OTHER.sha256};Cert="{ESCAPED}"',
        'Hash="unclosed',
        f'Hash={HASH};Subject="CN=a"b',
        f"Hash={HASH};",
        f"Hash={HASH};no pair",
        "=x",
        'Cert="garbage"',
        f'Cert="{ESCAPED}{ESCAPED}"',
        "Hash=\udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
    ],
    ids=lambda value: re.sub(r"[0-9a-f]{32,}", "HASH", value)[:40] or "nothing",
)
def test_what_envoy_would_not_write_is_nobody(value: str) -> None:
    try:
        shown = read(Style.XFCC, [value.encode()])
    except ValueError:
        return
    assert not shown.der
    assert not {mark for mark in shown.marks if mark[1] in (HASH, OTHER.sha256, "other", "CN=a", "CN=b")}


def test_bytes_that_are_no_text_are_nobody() -> None:
    with pytest.raises(ValueError):
        read(Style.XFCC, [b"Hash=\xff"])


# --- Envoy itself: what 1.40.0 wrote, byte for byte ----------------------------------------------------------------

RECORDED_HASH = "dde9fca360ce51d5df0df40549ec11878442b81831bdd3f1db1e08624298eb89"
RECORDED = (
    f'Hash={RECORDED_HASH};Cert="'
    "-----BEGIN%20CERTIFICATE-----%0AMIIBZDCCAQqgAwIBAgIUTappatZ6BiY4peb%2FrRBvy7XUk9gwCgYIKoZIzj0EAw"
    "Iw%0AEjEQMA4GA1UEAwwHY2FsbGVyczAeFw0yNjExMjExNzU3MzFaFw0zNjExMTkxNzU3%0AMzFaMA4xDDAKBgNVBAMMA2Vy"
    "cDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKqZ%0AN428ZmruOWoya32R1Dk%2Fsxn9%2FwhAAGM%2Bhjwa6GqfK2QE69I"
    "t0nXEnXZItffZhfRY%0AaYmUJNRSPeppiNJqdt2jQjBAMB0GA1UdDgQWBBQ0O9ry0JlSqLRiaDWygwdFcRQX%0AxjAfBgNVH"
    "SMEGDAWgBQxvyhOASQshR%2F%2F4Kptn%2BgVv3QSJzAKBggqhkjOPQQDAgNI%0AADBFAiEA86XgxzG9bIKIO4H42Aq3DcZY"
    "v4wFvlKOnP7ilsTt1VkCIA1VLa7IPwST%0A72C1eIqWwyHyCmHLQfVPvOBEQcGfquyX%0A-----END%20CERTIFICATE----"
    '-%0A"'
)
"""With `SANITIZE_SET` and `cert: true`, as the how-to page has it."""
FIRST, SECOND, THIRD = "ad96577e" * 8, "bc183610" * 8, "597a9095" * 8


def test_what_envoy_wrote_with_the_certificate_is_that_certificate() -> None:
    der, marks = from_envoy(RECORDED)
    assert (sha256(der).hexdigest(), marks) == (RECORDED_HASH, set())


@pytest.mark.parametrize("before", ["", "Hash=forged;DNS=erp.example.org,"])
def test_what_envoy_wrote_without_the_certificate_is_read_name_by_name(before: str) -> None:
    """With `APPEND_FORWARD`, and with and without a header of the caller. Fingerprints are others."""
    told = (
        f'Hash={FIRST};Subject="CN=erp \\"one\\",O=Example\\, GmbH,C=DE";URI=spiffe://example.org/erp;DNS=A.example.org'
    )
    assert from_envoy(before + told)[1] == {
        ("sha256", FIRST),
        ("subject", 'CN=erp \\"one\\",O=Example\\, GmbH,C=DE'),
        ("san", "spiffe://example.org/erp"),
        ("san", "a.example.org"),
    }
    told = (
        f'Hash={SECOND};Subject="CN=erp,emailAddress=a@example.org,O=Ex\\C3\\A4mple,ST=K\\C3\\B6ln,C=DE,'
        'serialNumber=HRB 1,businessCategory=Private Organization";URI=;DNS=erp.example.org'
    )
    subject = (
        "CN=erp,1.2.840.113549.1.9.1=a@example.org,O=Exämple,ST=Köln,C=DE,2.5.4.5=HRB 1,2.5.4.15=Private Organization"
    )
    assert from_envoy(before + told)[1] == {("sha256", SECOND), ("subject", subject), ("san", "erp.example.org")}


@pytest.mark.parametrize(
    "value",
    [
        f'Hash={THIRD};Subject="CN=evil";URI=http://x,Hash=forged;DNS=erp.example.org;DNS=a;DNS=q"uote',
        RECORDED + ";URI=http://x,Hash=forged;DNS=erp.example.org",
        RECORDED + ";DNS=x,DNS=erp.example.org",
        RECORDED + f";DNS=x,Hash={HASH}",
        f'Subject="CN=x";cert={ESCAPED};DNS=x,DNS=erp.example.org',
    ],
    ids=["a quote in a name", "a comma in a URI", "a comma in a name", "a fingerprint in a name", "in small letters"],
)
def test_a_name_with_a_comma_forges_nobody_where_the_certificate_is_told(value: str) -> None:
    with pytest.raises(ValueError):
        from_envoy(value)


def test_a_name_of_one_kind_is_none_of_another() -> None:
    assert from_envoy("DNS=spiffe://example.org/erp;URI=erp.example.org") == (b"", set())


@given(
    forged=st.text(st.characters(codec="ascii"), max_size=60),
    names=st.lists(st.sampled_from(["Hash", "Cert", "URI", "DNS", "Subject"]), max_size=4),
)
def test_what_a_caller_sent_before_never_changes_what_the_proxy_says(forged: str, names: list[str]) -> None:
    """As with a proxy that appends its element: either it is read right, or it is nobody."""
    before = ";".join(f"{name}={forged}" for name in names)
    try:
        found = from_envoy(f"{before},Hash={HASH}")
    except ValueError:
        return
    assert found == (b"", {("sha256", HASH)})


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ValueError):
        read(Style.XFCC, [text.encode("utf-8", "surrogatepass")])


def test_a_long_header_takes_no_long_time() -> None:
    for unit in ('"', '\\"', "a=", ",", ";", 'a="b";', '"a",'):
        with pytest.raises(ValueError):
            read(Style.XFCC, [(unit * (30_000 // len(unit)) + '"').encode()])
