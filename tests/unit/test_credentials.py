"""Tokens: APNs' made on a grid and the same everywhere, Google's fetched ahead of time, once."""

from __future__ import annotations

import asyncio
import functools
import gc
import io
import json
import ssl
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import google.auth
import google.auth.exceptions
import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from pushgate.errors import CredentialError
from pushgate.provider.credentials import (
    AHEAD_S,
    CLOCK_SET_BACK_S,
    GRID_S,
    MIN_LIFE_S,
    MIN_RENEWAL_S,
    ApnsToken,
    Fetched,
    GoogleToken,
    TokenFault,
)
from pushgate.provider.google_fetch import Way, google_fetch
from pushgate.provider.key_files import ProxyLogin, ServiceAccount
from tests.provider_samples import NOW, service_account, write

KEY = ec.generate_private_key(ec.SECP256R1())
SLOT = NOW - NOW % GRID_S


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def apns_token(clock: Clock) -> ApnsToken:
    return ApnsToken(KEY, key_id="KEY1234567", team_id="TEAM123456", clock=clock)


def issued_at(bearer: str) -> int:
    claims = jwt.decode(bearer.removeprefix("bearer "), options={"verify_signature": False})
    iat: int = claims["iat"]
    return iat


# APNs


def test_apns_token_is_a_jwt_that_others_verify() -> None:
    scheme, _, token = apns_token(Clock()).bearer().partition(" ")
    assert scheme == "bearer"
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": "KEY1234567"}
    claims = jwt.decode(token, KEY.public_key(), algorithms=["ES256"], options={"verify_iat": False})
    assert claims == {"iss": "TEAM123456", "iat": SLOT}


def test_every_process_arrives_at_the_same_token() -> None:
    assert apns_token(Clock(SLOT + 1)).bearer() == apns_token(Clock(SLOT + GRID_S - 1)).bearer()


@given(steps=st.lists(st.floats(0, 3000), min_size=1, max_size=40))
def test_apns_token_is_never_older_than_40_minutes_and_lives_20_at_least(steps: list[float]) -> None:
    clock = Clock()
    token = apns_token(clock)
    changes: list[int] = []
    for step in steps:
        clock.now += step
        iat = issued_at(token.bearer())
        assert 0 <= clock.now - iat <= GRID_S
        if not changes or changes[-1] != iat:
            changes.append(iat)
    assert all(later - earlier >= MIN_LIFE_S for earlier, later in pairwise(changes))


def test_clock_that_steps_back_a_little_does_not_bring_the_old_token_back() -> None:
    clock = Clock(SLOT + 10)
    token = apns_token(clock)
    new = token.bearer()
    clock.now = SLOT - 200
    assert token.bearer() == new
    clock.now = SLOT - 100_000
    assert issued_at(token.bearer()) <= clock.now


def test_expired_token_is_renewed_only_when_it_is_older_than_20_minutes() -> None:
    clock = Clock(SLOT + MIN_LIFE_S - 1)
    token = apns_token(clock)
    first = token.bearer()
    assert not token.renew(first)
    assert token.bearer() == first
    clock.now += 1
    assert token.renew(first)
    assert issued_at(token.bearer()) == SLOT + MIN_LIFE_S
    assert token.renew(first), "another one than the refused is there already"
    assert not token.renew(token.bearer())


def test_renewed_token_lives_20_minutes_too() -> None:
    clock = Clock(SLOT + GRID_S - 1)
    token = apns_token(clock)
    token.renew(token.bearer())
    renewed = token.bearer()
    clock.now += MIN_LIFE_S - 1
    assert token.bearer() == renewed
    clock.now += 1
    assert issued_at(token.bearer()) == SLOT + GRID_S


# Google


class Endpoint:
    """Gives out token-1, token-2, …; held back or failing where a test wants that."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.count = 0
        self.fault: TokenFault | None = None
        self.lifetime_s = 3600.0
        self.open = threading.Event()
        self.open.set()

    def __call__(self) -> Fetched:
        self.count += 1
        self.open.wait(5)
        if self.fault is not None:
            raise CredentialError(self.fault)
        return Fetched(f"token-{self.count}", self.clock.now + self.lifetime_s)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def endpoint(clock: Clock) -> Endpoint:
    return Endpoint(clock)


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_token_is_fetched_once_for_all_who_wait(clock: Clock, endpoint: Endpoint) -> None:
    token = GoogleToken(endpoint, clock=clock)
    assert set(await asyncio.gather(*(token.bearer() for _ in range(20)))) == {"Bearer token-1"}
    assert await token.bearer() == "Bearer token-1"
    assert endpoint.count == 1


async def test_token_is_fetched_ahead_of_its_end_while_the_old_one_goes_on(clock: Clock, endpoint: Endpoint) -> None:
    token = GoogleToken(endpoint, clock=clock)
    await token.bearer()
    endpoint.open.clear()
    clock.now += 3600 - AHEAD_S
    assert [await token.bearer() for _ in range(3)] == ["Bearer token-1"] * 3
    await settled(lambda: endpoint.count == 2)
    endpoint.open.set()
    async with asyncio.timeout(5):
        while await token.bearer() != "Bearer token-2":
            await asyncio.sleep(0.001)
    assert endpoint.count == 2


async def test_failing_endpoint_does_not_matter_while_the_token_is_valid_and_is_asked_ever_more_rarely(
    clock: Clock, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(fetch: Callable[[], Fetched]) -> Fetched:
        return fetch()

    monkeypatch.setattr("pushgate.provider.credentials._in_daemon_thread", at_once)
    token = GoogleToken(endpoint, clock=clock)
    await token.bearer()
    endpoint.fault = TokenFault.UNREACHABLE
    clock.now += 3600 - AHEAD_S
    for _ in range(AHEAD_S - 1):
        assert await token.bearer() == "Bearer token-1"
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        clock.now += 1
    assert 5 <= endpoint.count <= 12
    clock.now += 100
    with pytest.raises(CredentialError, match=TokenFault.UNREACHABLE):
        await token.bearer()
    asked = endpoint.count
    with pytest.raises(CredentialError, match=TokenFault.UNREACHABLE):
        await token.bearer()
    assert endpoint.count == asked, "not again before the backoff is over"
    endpoint.fault = None
    clock.now += 61
    assert (await token.bearer()).startswith("Bearer token-")


async def test_token_that_lives_shortly_is_used_for_half_its_life_before_it_is_fetched_anew(
    clock: Clock, endpoint: Endpoint
) -> None:
    endpoint.lifetime_s = 200
    token = GoogleToken(endpoint, clock=clock)
    for _ in range(100):
        assert await token.bearer() == "Bearer token-1"
        clock.now += 1
    assert endpoint.count == 1
    await token.bearer()
    await settled(lambda: endpoint.count == 2)


@pytest.mark.parametrize("lifetime_s", [0, -60])
async def test_token_that_is_dead_on_arrival_is_a_refusal_and_is_not_asked_for_again_at_once(
    clock: Clock, endpoint: Endpoint, lifetime_s: float
) -> None:
    endpoint.lifetime_s = lifetime_s
    token = GoogleToken(endpoint, clock=clock)
    for _ in range(3):
        with pytest.raises(CredentialError, match=TokenFault.REFUSED):
            await token.bearer()
    assert endpoint.count == 1


async def test_refused_token_is_fetched_anew_but_not_when_it_is_fresh(clock: Clock, endpoint: Endpoint) -> None:
    token = GoogleToken(endpoint, clock=clock)
    first = await token.bearer()
    assert not token.renew(first)
    clock.now += MIN_RENEWAL_S
    assert token.renew(first)
    assert await token.bearer(refused=first) == "Bearer token-2"
    assert token.renew(first), "another one than the refused is there already"


async def test_refused_token_serves_the_others_until_a_new_one_is_there(clock: Clock, endpoint: Endpoint) -> None:
    token = GoogleToken(endpoint, clock=clock)
    first = await token.bearer()
    clock.now += 120
    endpoint.open.clear()
    assert token.renew(first)
    refused = asyncio.create_task(token.bearer(refused=first))
    await settled(lambda: endpoint.count == 2)
    assert await token.bearer() == first
    assert not refused.done(), "whose token was refused waits for another one"
    endpoint.open.set()
    assert await refused == await token.bearer() == "Bearer token-2"


async def test_refusal_with_an_unreachable_endpoint_leaves_the_others_their_token_until_it_expires(
    clock: Clock, endpoint: Endpoint
) -> None:
    token = GoogleToken(endpoint, clock=clock)
    first = await token.bearer()
    clock.now += 120
    endpoint.fault = TokenFault.UNREACHABLE
    for _ in range(3):
        assert token.renew(first)
        with pytest.raises(CredentialError, match=TokenFault.UNREACHABLE):
            await token.bearer(refused=first)
        assert await token.bearer() == first
    assert endpoint.count == 2, "not again before the backoff is over"
    clock.now += 3600 - 120
    with pytest.raises(CredentialError, match=TokenFault.UNREACHABLE):
        await token.bearer()


async def test_endpoint_that_gives_the_refused_token_once_more_is_not_waited_for_again(clock: Clock) -> None:
    token = GoogleToken(lambda: Fetched("same", clock.now + 3600), clock=clock)
    first = await token.bearer()
    clock.now += 120
    assert token.renew(first)
    assert await token.bearer(refused=first) == first
    assert not token.renew(first)


@pytest.mark.parametrize("hours", [3, 0.5])
async def test_clock_that_goes_back_does_not_make_an_old_token_fresh(
    clock: Clock, endpoint: Endpoint, hours: float
) -> None:
    token = GoogleToken(endpoint, clock=clock)
    await token.bearer()
    clock.now -= hours * 3600
    assert await token.bearer() == "Bearer token-1", "good for some time still, nobody knows for how long"
    await settled(lambda: endpoint.count == 2)
    assert await token.bearer(refused="Bearer token-1") == "Bearer token-2"
    for _ in range(3):
        assert await token.bearer() == "Bearer token-2"
    assert endpoint.count == 2


@pytest.mark.parametrize("back_s", [1, CLOCK_SET_BACK_S, 3 * 3600])
async def test_refused_token_is_fetched_anew_after_the_clock_went_back(
    clock: Clock, endpoint: Endpoint, back_s: float
) -> None:
    token = GoogleToken(endpoint, clock=clock)
    first = await token.bearer()
    clock.now -= back_s
    assert token.renew(first)
    assert await token.bearer(refused=first) == "Bearer token-2"
    assert not token.renew("Bearer token-2")


async def test_clock_that_goes_back_a_little_does_not_cost_a_fetch(clock: Clock, endpoint: Endpoint) -> None:
    token = GoogleToken(endpoint, clock=clock)
    await token.bearer()
    clock.now -= CLOCK_SET_BACK_S
    assert await token.bearer() == "Bearer token-1"
    await asyncio.sleep(0)
    assert endpoint.count == 1


async def test_backoff_of_the_endpoint_ends_when_the_clock_goes_back(clock: Clock, endpoint: Endpoint) -> None:
    token = GoogleToken(endpoint, clock=clock)
    endpoint.fault = TokenFault.REFUSED
    with pytest.raises(CredentialError):
        await token.bearer()
    endpoint.fault = None
    clock.now -= 3 * 3600
    assert await token.bearer() == "Bearer token-2"


async def test_fault_of_long_ago_is_not_told_of_a_fetch_that_is_merely_slow(
    clock: Clock, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = GoogleToken(endpoint, clock=clock)
    endpoint.fault = TokenFault.REFUSED
    with pytest.raises(CredentialError, match=TokenFault.REFUSED):
        await token.bearer()
    endpoint.fault = None
    clock.now += 60
    assert await token.bearer() == "Bearer token-2"
    endpoint.open.clear()
    clock.now += 3600
    monkeypatch.setattr("pushgate.provider.credentials.WAIT_S", 0)
    with pytest.raises(CredentialError, match=TokenFault.UNREACHABLE):
        await token.bearer()
    endpoint.open.set()


async def test_waiter_that_is_cancelled_does_not_end_the_fetch_for_others(clock: Clock, endpoint: Endpoint) -> None:
    token = GoogleToken(endpoint, clock=clock)
    endpoint.open.clear()
    waiters = [asyncio.create_task(token.bearer()) for _ in range(2)]
    await settled(lambda: endpoint.count == 1)
    waiters[0].cancel()
    await asyncio.wait(waiters[:1])
    endpoint.open.set()
    assert await waiters[1] == "Bearer token-1"
    assert endpoint.count == 1


async def test_fetch_that_hangs_is_given_up_and_another_one_is_made(
    clock: Clock, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushgate.provider.credentials.FETCH_DEADLINE_S", 0.01)
    token = GoogleToken(endpoint, clock=clock)
    endpoint.open.clear()
    with pytest.raises(CredentialError, match=TokenFault.UNREACHABLE):
        await token.bearer()
    endpoint.open.set()
    monkeypatch.undo()
    clock.now += 61
    assert await token.bearer() == "Bearer token-2"


async def test_fetch_that_fails_in_an_unforeseen_way_is_told_to_those_who_run_us(clock: Clock) -> None:
    token = GoogleToken(lambda: Fetched(str(1 // 0), 0), clock=clock)
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context["exception"]))
    with pytest.raises(CredentialError, match=TokenFault.UNREACHABLE):
        await token.bearer()
    gc.collect()
    assert [type(each) for each in heard] == [ZeroDivisionError]


async def test_close_ends_a_fetch_that_hangs(clock: Clock, endpoint: Endpoint) -> None:
    token = GoogleToken(endpoint, clock=clock)
    await token.close()
    endpoint.open.clear()
    waiter = asyncio.create_task(token.bearer())
    await settled(lambda: endpoint.count == 1)
    await token.close()
    with pytest.raises(CredentialError):
        await waiter
    endpoint.open.set()


# The token endpoint

ACCOUNT = service_account(rsa.generate_private_key(public_exponent=65537, key_size=2048))
FETCH = functools.partial(google_fetch, ServiceAccount("my-project", ACCOUNT))


class Web:
    """What `requests` would have sent, and what comes back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[dict[str, Any]] = []
        self.status = 200
        self.body: bytes | Exception = b""
        web = self

        def request(session: requests.Session, method: str, url: str, **more: Any) -> requests.Response:
            web.asked.append({"method": method, "url": url} | more)
            if isinstance(web.body, Exception):
                raise web.body
            response = requests.Response()
            response.status_code = web.status
            response._content = web.body
            return response

        monkeypatch.setattr(requests.Session, "request", request)
        monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Web:
    return Web(monkeypatch)


def test_service_account_is_exchanged_for_a_token_with_the_scope_of_fcm(web: Web) -> None:
    web.body = json.dumps({"access_token": "ya29.x", "expires_in": 3599, "token_type": "Bearer"}).encode()
    fetched = FETCH(way=Way())()
    assert fetched.token == "ya29.x"
    (asked,) = web.asked
    assert asked["url"] == "https://oauth2.example.org/token"
    assert asked["timeout"] > 0
    form = parse_qs(asked["data"].decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    claims = jwt.decode(form["assertion"][0], options={"verify_signature": False})
    assert claims["scope"] == "https://www.googleapis.com/auth/firebase.messaging"
    assert 3500 < fetched.expires_at - claims["iat"] < 3700


def test_token_of_8_kb_is_taken(web: Web) -> None:
    web.body = b'{"access_token": "%s", "expires_in": 3599}' % (b"x" * 8192)
    assert FETCH(way=Way())().token == "x" * 8192


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> list[Path | None]:
    """Whose CAs were to be trusted, one for each fetch. None are the system's."""
    asked: list[Path | None] = []

    def tls_context(*, ca_file: Path | None) -> ssl.SSLContext:
        asked.append(ca_file)
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    monkeypatch.setattr("pushgate.provider.google_fetch.tls_context", tls_context)
    return asked


def test_token_endpoint_is_reached_by_the_configured_way(web: Web, trusted: list[Path | None]) -> None:
    web.body = b'{"access_token": "x", "expires_in": 3599}'
    FETCH(way=Way(Path("/ca.pem"), ProxyLogin("proxy.example.org", 3128, "us er:p@ss:w")))()
    FETCH(way=Way(None, ProxyLogin("proxy.example.org", 80)))()
    assert trusted == [Path("/ca.pem"), None]
    assert [asked["proxies"] for asked in web.asked] == [
        {"https": "http://us%20er:p%40ss%3Aw@proxy.example.org:3128"},
        {"https": "http://proxy.example.org:80"},
    ]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How `requests` goes out at last: its own merging with the environment is behind it."""
    sent: list[dict[str, Any]] = []

    def send(adapter: object, request: requests.PreparedRequest, **more: Any) -> requests.Response:
        sent.append(more | {"authorization": request.headers.get("Authorization")})
        response = requests.Response()
        response.status_code = 200
        response.url = str(request.url)
        response.request = request
        response.raw = io.BytesIO(b'{"access_token": "x", "expires_in": 3599}')
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    return sent


def test_environment_has_no_say_in_way_and_trust(
    wire: list[dict[str, Any]], trusted: list[Path | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, "/environment.pem")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://environment.example.org:1")
    proxy = ProxyLogin("proxy.example.org", 3128, "")
    FETCH(way=Way(Path("/ca.pem"), proxy))()
    FETCH(way=Way(None, None))()
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")
    FETCH(way=Way(None, proxy))()
    assert trusted == [Path("/ca.pem"), None, None]
    assert [sent["verify"] for sent in wire] == [True, True, True]
    configured = "http://proxy.example.org:3128"
    assert [sent["proxies"].get("https") for sent in wire] == [configured, None, configured]


def test_netrc_does_not_add_a_login(
    wire: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = write(tmp_path / "netrc", b"machine oauth2.example.org login someone password x\n")
    monkeypatch.setenv("NETRC", str(netrc))
    FETCH(way=Way())()
    assert [sent["authorization"] for sent in wire] == [None]


def test_no_request_is_made_after_the_deadline(wire: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushgate.provider.google_fetch.FETCH_DEADLINE_S", 0)
    with pytest.raises(CredentialError, match=TokenFault.UNREACHABLE):
        FETCH(way=Way())()
    assert wire == []


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (400, b'{"error":"invalid_grant","error_description":"Invalid JWT Signature."}', TokenFault.REFUSED),
        (401, b'{"error":"invalid_client"}', TokenFault.REFUSED),
        (403, b"<html>", TokenFault.REFUSED),
        (500, b"<html>", TokenFault.UNREACHABLE),
        (503, b'{"error":"temporarily_unavailable"}', TokenFault.UNREACHABLE),
        (200, b"<html>", TokenFault.REFUSED),
        (200, b"[]", TokenFault.REFUSED),
        (200, b"{}", TokenFault.REFUSED),
        (200, b'{"access_token":"x"}', TokenFault.REFUSED),
        (200, b'{"access_token":"x","expires_in":"soon"}', TokenFault.REFUSED),
        (200, b'{"access_token":"x","expires_in":1e30}', TokenFault.REFUSED),
        (200, b'{"access_token":"x\\r\\ny: z","expires_in":3599}', TokenFault.REFUSED),
        (200, b'{"access_token":7,"expires_in":3599}', TokenFault.REFUSED),
        (200, b'{"access_token":"","expires_in":3599}', TokenFault.REFUSED),
        (200, b'{"access_token":"a b","expires_in":3599}', TokenFault.REFUSED),
        (200, '{"access_token":"ä","expires_in":3599}'.encode(), TokenFault.REFUSED),
        (200, b'{"access_token":"x\\u007f","expires_in":3599}', TokenFault.REFUSED),
        (200, b'{"access_token":"%s","expires_in":3599}' % (b"x" * 8193), TokenFault.REFUSED),
        (307, b"", TokenFault.REFUSED),
        (200, requests.exceptions.ConnectionError("refused"), TokenFault.UNREACHABLE),
        (200, requests.exceptions.ReadTimeout(), TokenFault.UNREACHABLE),
        (200, OSError("Could not find a suitable TLS CA certificate bundle"), TokenFault.UNREACHABLE),
    ],
)
def test_any_trouble_with_the_token_endpoint_is_a_credential_error_with_a_fixed_word(
    web: Web, status: int, body: bytes | Exception, fault: TokenFault
) -> None:
    web.status, web.body = status, body
    with pytest.raises(CredentialError) as raised:
        FETCH(way=Way())()
    assert str(raised.value) == fault


def test_application_default_credentials_are_looked_for_with_the_scope_of_fcm(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    from google.oauth2.service_account import Credentials

    def default(*, scopes: list[str], request: object) -> tuple[Credentials, str]:
        made = Credentials.from_service_account_info(ACCOUNT, scopes=scopes)  # type: ignore[no-untyped-call] # google-auth has no types there
        return made, "my-project"

    monkeypatch.setattr(google.auth, "default", default)
    web.body = b'{"access_token": "x", "expires_in": 3599}'
    assert google_fetch(None, way=Way())().token == "x"


def test_no_application_default_credentials_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def default(**_: object) -> None:
        raise google.auth.exceptions.DefaultCredentialsError("none")  # type: ignore[no-untyped-call] # no types there

    monkeypatch.setattr(google.auth, "default", default)
    with pytest.raises(CredentialError, match=TokenFault.NO_DEFAULT):
        google_fetch(None, way=Way())()
