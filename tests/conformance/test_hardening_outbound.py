"""A provider, a token endpoint or a proxy that means harm: it gets no more than was meant for it, and costs little."""

from __future__ import annotations

import asyncio
import base64
import resource
import ssl
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pushgate.emulator import ApnsEmulator, FcmEmulator, Flaw, Landscape
from pushgate.model import Delivery
from pushgate.outcome import Accepted, Cause, Deferred
from pushgate.provider import Provider, apns, fcm
from pushgate.provider.credentials import TokenFault
from pushgate.provider.sharing import Sharing
from tests.attempts import outcome_of
from tests.conformance.hostile_peer import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    THIS_STREAM,
    WINDOW_UPDATE,
    Script,
    answer,
    fields,
    frame,
    hostile,
    hostile_http1,
    repeated,
    tunnel,
)
from tests.provider_samples import TOKEN, device, sealed

STATUS_410 = frame(HEADERS, END_HEADERS, THIS_STREAM, fields((":status", "410")))
FULL = bytes(16_384)

FLOODS: dict[str, Script] = {
    "a body of 100 MB": repeated(frame(DATA, 0, THIS_STREAM, FULL), first=STATUS_410),
    "a body of a byte at a time": repeated(frame(DATA, 0, THIS_STREAM, b"x"), first=STATUS_410),
    "padding without a body": repeated(frame(DATA, 0x8, THIS_STREAM, b"\xff" + bytes(255)), first=STATUS_410),
    "empty DATA": repeated(frame(DATA, 0, THIS_STREAM), first=STATUS_410),
    "headers without end": repeated(
        frame(CONTINUATION, 0, THIS_STREAM, FULL), first=frame(HEADERS, 0, THIS_STREAM, FULL)
    ),
    "empty CONTINUATION": repeated(frame(CONTINUATION, 0, THIS_STREAM), first=frame(HEADERS, 0, THIS_STREAM, b"\x88")),
    "interim answers": repeated(frame(HEADERS, END_HEADERS, THIS_STREAM, fields((":status", "103")))),
    "interim answers with much to say": repeated(
        frame(HEADERS, END_HEADERS, THIS_STREAM, fields((":status", "100"), ("x", "y" * 10_000)))
    ),
    "answers to one request": repeated(answer(THIS_STREAM, 410)),
    "trailers": repeated(frame(HEADERS, END_HEADERS, THIS_STREAM, fields(("x", "y"))), first=STATUS_410),
    "SETTINGS": repeated(frame(SETTINGS, 0, 0, bytes((0, 3, 0, 0, 0, 100)))),
    "acknowledgements": repeated(frame(SETTINGS, 1, 0)),
    "PING": repeated(frame(PING, 0, 0, b"12345678")),
    "WINDOW_UPDATE": repeated(frame(WINDOW_UPDATE, 0, 0, bytes((0, 0, 0, 1)))),
    "PRIORITY": repeated(frame(PRIORITY, 0, THIS_STREAM, bytes(5))),
    "RST_STREAM": repeated(frame(RST_STREAM, 0, THIS_STREAM, bytes(4))),
    "GOAWAY": repeated(frame(GOAWAY, 0, 0, (2**31 - 1).to_bytes(4, "big") + bytes(4) + b"x" * 1000)),
    "PUSH_PROMISE": repeated(frame(PUSH_PROMISE, END_HEADERS, THIS_STREAM, bytes((0, 0, 0, 2)) + fields((":a", "b")))),
    "frames that nobody knows": repeated(frame(0x42, 0xFF, 0, b"x" * 100)),
    "a frame of 16 MB": repeated(bytes(65_536), first=b"\xff\xff\xff" + bytes(6)),
    "HTTP/1.1": repeated(b"x" * 65_536, first=b"HTTP/1.1 200 OK\r\n\r\n"),
    "a number that never ends": repeated(
        frame(CONTINUATION, 0, THIS_STREAM, b"\xff" * 100), first=frame(HEADERS, 0, THIS_STREAM, b"\x1f")
    ),
    "a block that unpacks": repeated(frame(HEADERS, END_HEADERS, THIS_STREAM, b"\x88" + b"\xb2" * 16_000)),
}


@pytest.fixture(scope="module")
def landscape(tmp_path_factory: pytest.TempPathFactory) -> Landscape:
    return Landscape(tmp_path_factory.mktemp("outbound"), project_id="my-project")


@pytest.fixture
async def google(landscape: Landscape) -> AsyncIterator[FcmEmulator]:
    """For its token endpoint, where FCM itself is somebody else."""
    emulator = FcmEmulator(
        tls=landscape.server_tls(),
        project_id=landscape.project_id,
        service_account_email=landscape.service_account_email,
        public_key=landscape.service_account_public_key,
    )
    await emulator.start()
    yield emulator
    await emulator.close()


Open = Callable[..., Provider]


@pytest.fixture
async def opened(landscape: Landscape, google: FcmEmulator) -> AsyncIterator[Open]:
    """Opens providers by name, and closes them."""
    providers: list[Provider] = []

    def open_(name: str, **more: Any) -> Provider:
        how: dict[str, Any] = {"ca_file": landscape.ca_file, "request_timeout_s": 5} | more
        made: Provider
        if name == "apns":
            key = {
                "key_file": landscape.apns_key_file,
                "key_id": landscape.apns_key_id,
                "team_id": landscape.apns_team_id,
            }
            settings = apns.Settings.model_validate({"bundle_id": "de.example.app"} | key | how)
            made = apns.ApnsProvider.open(settings, clock=time.time, sharing=Sharing())
        else:
            account = {"credentials_file": landscape.write_service_account(token_url=google.token_url)}
            settings_ = fcm.Settings.model_validate({"project_id": "my-project"} | account | how)
            made = fcm.FcmProvider.open(settings_, clock=time.time, sharing=Sharing())
        providers.append(made)
        return made

    yield open_
    for provider in providers:
        await provider.close()


@asynccontextmanager
async def apns_emulator(landscape: Landscape) -> AsyncIterator[ApnsEmulator]:
    emulator = ApnsEmulator(tls=landscape.server_tls(), keys=landscape.apns_keys, topics={"de.example.app"})
    await emulator.start()
    try:
        yield emulator
    finally:
        await emulator.close()


def to_fcm() -> Delivery:
    return delivery("a-device")


def delivery(pushkey: str = TOKEN) -> Delivery:
    """That has an hour left."""
    found = sealed(device(pushkey))
    return Delivery(
        id=found.id,
        device=found.device,
        notification=found.notification,
        accepted_at=time.time(),
        expires_at=time.time() + 3600,
    )


# --- floods


@pytest.mark.timeout(60)
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
async def test_a_provider_that_never_stops_is_left(landscape: Landscape, opened: Open, flood: Script) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with hostile(landscape.server_tls(), flood) as peer:
        async with asyncio.timeout(30):
            outcome = await outcome_of(opened("apns", endpoint=peer.origin), delivery())
        # One may take its 410 for what it is. None of them is a pushkey's end, or a yes.
        assert isinstance(outcome, Deferred)
        async with asyncio.timeout(30):
            while not peer.is_left:
                await asyncio.sleep(0.05)
        assert peer.sent_bytes < (3_000_000 if flood is FLOODS["interim answers with much to say"] else 30_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 40_000


LINES: dict[str, tuple[bytes, bytes]] = {
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "interim answers with headers": (b"", b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\n"),
    "a status line": (b"HTTP/1.1 200 ", b"x" * 1000),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
    "a header": (b"HTTP/1.1 200 OK\r\nx: ", b"y" * 1000),
    "a body without a length": (b"HTTP/1.1 200 OK\r\n\r\n", b" " * 1000),
    "chunks": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"3e8\r\n" + b" " * 1000 + b"\r\n"),
    "a chunk size": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"0" * 1000),
    "a chunk extension": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", b"x" * 1000),
    "trailers": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n"),
    "a refusal": (b"HTTP/1.1 407 Authenticate\r\nproxy-authenticate: Basic\r\n\r\n", b"x" * 1000),
    "a fault": (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 100000000\r\n\r\n", b"x" * 1000),
    "a compressed body": (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n", b"\x1f\x8b" * 500),
}
"""How an answer over HTTP/1.1 begins, and what never ends."""


def lines(name: str) -> Iterator[bytes]:
    begin, piece = LINES[name]
    yield begin
    for _ in range(400):
        yield piece * (65_536 // len(piece))


@pytest.mark.parametrize("name", LINES)
async def test_a_token_endpoint_that_never_stops_is_left(landscape: Landscape, opened: Open, name: str) -> None:
    async with hostile_http1(landscape.server_tls(), lambda: lines(name)) as peer:
        path = landscape.write_service_account(token_url=f"{peer.origin}/token").rename(landscape.folder / "a.json")
        outcome = await outcome_of(opened("fcm", credentials_file=path), delivery())
    assert isinstance(outcome, Deferred)
    assert outcome.reason in (TokenFault.REFUSED, TokenFault.UNREACHABLE)
    assert 0 < peer.sent_bytes < 10_000_000, "most of it is in buffers of the system"


@pytest.mark.parametrize("provider", ["apns", "fcm"])
@pytest.mark.parametrize("name", LINES)
async def test_a_proxy_that_never_stops_is_left(
    opened: Open, landscape: Landscape, tmp_path: Path, name: str, provider: str
) -> None:
    (tmp_path / "login").write_text("gateway:proxy-s3cret\n")
    async with hostile_http1(None, lambda: lines(name)) as peer:
        way = {"proxy": f"http://127.0.0.1:{peer.port}", "proxy_login_file": tmp_path / "login"}
        outcome = await outcome_of(opened(provider, **way), delivery())
    assert isinstance(outcome, Deferred)
    assert outcome.cause in (Cause.CONNECTION, Cause.CREDENTIALS)
    assert 0 < peer.sent_bytes < 10_000_000
    assert b"Bearer" not in peer.received
    assert b"assertion" not in peer.received


# --- elsewhere


@pytest.mark.parametrize("provider", ["apns", "fcm"])
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308])
async def test_a_provider_that_sends_us_elsewhere_is_not_followed(
    landscape: Landscape, opened: Open, provider: str, status: int
) -> None:
    async with hostile(landscape.server_tls(), lambda _: iter(())) as there:

        def redirect(stream: int) -> Iterator[bytes]:
            yield answer(stream, status, ("location", f"{there.origin}/3/device/x"))

        async with hostile(landscape.server_tls(), redirect) as peer:
            outcome = await outcome_of(opened(provider, endpoint=peer.origin), delivery())
    reason = f"status {status}" if status in (301, 302, 303, 307, 308) else "status other"
    assert outcome == Deferred(Cause.CREDENTIALS, reason)
    assert (there.connections, peer.connections) == (0, 1)


async def test_a_proxy_alone_gets_the_login_of_the_proxy(opened: Open, google: FcmEmulator, tmp_path: Path) -> None:
    (tmp_path / "login").write_text("gateway:proxy-s3cret\n")
    told = base64.b64encode(b"gateway:proxy-s3cret")
    async with tunnel() as proxy:
        way = {"proxy": f"http://127.0.0.1:{proxy.port}", "proxy_login_file": tmp_path / "login"}
        there = opened("fcm", endpoint=f"https://127.0.0.1:{google.port}", **way)
        assert await outcome_of(there, to_fcm()) == Accepted()
    assert proxy.connections == 2, "one for the token, one for the message"
    assert proxy.received.count(told) == 2
    (message,) = google.devices()["a-device"]
    assert not [name for name in message.headers if name.startswith("proxy-")]


# --- whom we trust

FLAWS = [Flaw.WRONG_NAME, Flaw.UNKNOWN_AUTHORITY, Flaw.EXPIRED]


@pytest.mark.parametrize("is_proxied", [False, True], ids=["", "proxy"])
@pytest.mark.parametrize("provider", ["apns", "fcm"])
@pytest.mark.parametrize("flaw", [*FLAWS, "plain text", "TLS 1.1"])
async def test_a_provider_without_a_good_certificate_is_told_nothing(
    landscape: Landscape, opened: Open, flaw: Flaw | str, provider: str, is_proxied: bool
) -> None:
    async with hostile(tls_with(landscape, flaw), lambda _: iter(())) as peer, tunnel() as proxy:
        way = {"proxy": f"http://127.0.0.1:{proxy.port}"} if is_proxied else {}
        outcome = await outcome_of(opened(provider, endpoint=peer.origin, **way), delivery())
    assert outcome == Deferred(Cause.CONNECTION, "connect")
    assert is_tls_at_most(peer.received)


@pytest.mark.parametrize("flaw", [*FLAWS, "plain text", "TLS 1.1"])
async def test_a_token_endpoint_without_a_good_certificate_is_told_nothing(
    landscape: Landscape, opened: Open, flaw: Flaw | str
) -> None:
    async with hostile_http1(tls_with(landscape, flaw), lambda: iter(())) as peer:
        path = landscape.write_service_account(token_url=f"{peer.origin}/token").rename(landscape.folder / "b.json")
        outcome = await outcome_of(opened("fcm", credentials_file=path), delivery())
    assert outcome == Deferred(Cause.CONNECTION, TokenFault.UNREACHABLE)
    assert is_tls_at_most(peer.received)


def tls_with(landscape: Landscape, flaw: Flaw | str) -> ssl.SSLContext | None:
    if flaw == "plain text":
        return None
    tls = landscape.server_tls(flaw=flaw if isinstance(flaw, Flaw) else Flaw.NONE)
    if flaw == "TLS 1.1":
        tls.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            tls.minimum_version = tls.maximum_version = ssl.TLSVersion.TLSv1_1
    return tls


def is_tls_at_most(received: bytes) -> bool:
    """Whether nothing came in, or, to whoever does not speak TLS, the beginning of a handshake (RFC 8446 §5.1)."""
    return received[:2] in (b"", b"\x16\x03")


# --- the environment


async def test_the_environment_changes_nothing_about_ways_trust_and_secrets(
    landscape: Landscape, opened: Open, google: FcmEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Landscape(tmp_path / "stranger")
    keys = tmp_path / "keys.log"
    netrc = tmp_path / "netrc"
    netrc.write_text("default login gateway password netrc-s3cret\n")
    async with tunnel() as proxy, apns_emulator(landscape) as apple:
        for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, str(stranger.ca_file))
        monkeypatch.setenv("SSLKEYLOGFILE", str(keys))
        monkeypatch.setenv("NETRC", str(netrc))
        there = opened("fcm", endpoint=f"https://127.0.0.1:{google.port}")
        assert await outcome_of(there, to_fcm()) == Accepted()
        to_apple = opened("apns", endpoint=f"https://127.0.0.1:{apple.port}")
        assert await outcome_of(to_apple, delivery()) == Accepted()
    assert proxy.connections == 0
    assert not keys.exists()
    assert google.counts["token_requests"] == 1


async def test_a_configured_proxy_is_used_whatever_the_environment_says(
    opened: Open, google: FcmEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")
    async with tunnel() as proxy:
        there = opened("fcm", endpoint=f"https://127.0.0.1:{google.port}", proxy=f"http://127.0.0.1:{proxy.port}")
        assert await outcome_of(there, to_fcm()) == Accepted()
    assert proxy.connections == 2
