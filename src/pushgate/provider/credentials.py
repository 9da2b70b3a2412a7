"""The tokens that prove to a provider who we are: made or fetched ahead of time, one for all lanes of a key.

`bearer()` is the value of the authorization header. A provider that calls a token bad is told of with `renew`.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import math
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC
from enum import StrEnum
from pathlib import Path
from typing import cast
from urllib.parse import quote

import google.auth
import google.auth.transport.requests
import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from google.auth import exceptions, transport
from google.auth.credentials import Credentials
from google.oauth2 import service_account
from msgspec import Struct

from pushgate.errors import CredentialError
from pushgate.provider.bounded_session import bounded_session
from pushgate.provider.key_files import ProxyLogin, ServiceAccount
from pushgate.provider.peer import tls_context

Clock = Callable[[], float]
"""Unix seconds."""

GRID_S = 2400
"""An APNs token lives from one multiple of it to the next. Apple wants 20 to 60 minutes: 40 is in the middle."""
MIN_LIFE_S = 1200
"""APNs answers TooManyProviderTokenUpdates to tokens that change faster."""
CLOCK_SET_BACK_S = 300
"""A token from further ahead than this means that the clock was wrong when it was made."""

FCM_SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
AHEAD_S = 300
"""A Google token is renewed so long before it ends, or half-way where it lives shorter than twice this."""
FETCH_TIMEOUT_S = 5
"""Of one step on the way to the token endpoint, and of each wait for more of its answer."""
FETCH_DEADLINE_S = 15
"""Of a whole fetch, with all its requests; google-auth makes up to three, and more where there is no account file."""
MAX_ANSWER_BYTES = 65_536
"""Of all answers to one fetch, with their headers. Google's have some 2 KB."""
WAIT_S = 10
"""A delivery waits at most so long for the first token."""
MIN_RENEWAL_S = 60
"""A token younger than this is not fetched anew because a request was refused: the token is not the fault."""
LONGEST_BACKOFF_S = 60

_TOKEN = re.compile(r"[!-~]{1,8192}")
"""What may stand in a header: an access token with anything else is none. Google's have 1 KB, and 2 KB at most."""


class TokenFault(StrEnum):
    """Why there is no token: what a `CredentialError` of a token says."""

    UNREACHABLE = "token endpoint unreachable"
    REFUSED = "token endpoint refused the credentials"
    NO_DEFAULT = "no application default credentials"


class ApnsToken:
    """The provider token of an APNs key: a JWT, signed with ES256 (Apple: "Establishing a token-based connection").

    Its `iat` stands on a grid and its signature is deterministic (RFC 6979), so every process and every machine with
    the same key shows APNs the same token, without talking to each other.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, *, key_id: str, team_id: str, clock: Clock) -> None:
        self._key = key
        self._key_id = key_id
        self._team_id = team_id
        self._clock = clock
        self._issued_at = -math.inf
        self._good_until = -math.inf
        self._bearer = ""

    def bearer(self) -> str:
        """`bearer <jwt>`, at most 40 minutes old."""
        now = self._clock()
        if not self._issued_at - CLOCK_SET_BACK_S <= now < self._good_until:
            slot = math.floor(now / GRID_S) * GRID_S
            self._issue(slot, good_until=slot + GRID_S)
        return self._bearer

    def renew(self, refused: str) -> bool:
        """APNs calls this bearer expired. Whether there is another one to try: only if it is older than 20 minutes."""
        if refused != self.bearer():
            return True
        now = self._clock()
        if now - self._issued_at < MIN_LIFE_S:
            return False
        self._issue(self._issued_at + MIN_LIFE_S, good_until=now + MIN_LIFE_S)
        return True

    async def close(self) -> None:
        """Nothing to let go of."""

    def _issue(self, issued_at: float, *, good_until: float) -> None:
        head = _base64url(msgspec.json.encode({"alg": "ES256", "kid": self._key_id}))
        claims = _base64url(msgspec.json.encode({"iss": self._team_id, "iat": int(issued_at)}))
        signed = head + b"." + claims
        signature = self._key.sign(signed, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        r, s = decode_dss_signature(signature)
        jwt = signed + b"." + _base64url(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        self._issued_at = issued_at
        self._good_until = good_until
        self._bearer = f"bearer {jwt.decode()}"


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


class Fetched(Struct, frozen=True):
    """An access token as the token endpoint gave it."""

    token: str
    expires_at: float

    def __repr__(self) -> str:
        return f"Fetched(expires_at={self.expires_at})"


class GoogleToken:
    """An access token of Google, fetched in a thread, one fetch at a time, ahead of its end.

    A fetch that has no result after `FETCH_DEADLINE_S` has failed, and its thread holds nobody, not even our exit.

    Until a new one is there the old token is used as long as it is valid, whoever was refused with it: for another
    project it may be good. After that `bearer` raises `CredentialError`. A clock that was set back makes no token
    fresh and no wait longer.
    """

    def __init__(self, fetch: Callable[[], Fetched], *, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._bearer = ""
        self._fetched_at = -math.inf
        self._fresh_until = -math.inf
        self._expires_at = -math.inf
        self._failed_at = -math.inf
        self._pause_s = 0.0
        self._failures = 0
        self._fault = TokenFault.UNREACHABLE
        self._fetching: asyncio.Task[None] | None = None

    async def bearer(self, *, refused: str = "") -> str:
        """`Bearer <token>`. Raises CredentialError when there is none, with a `TokenFault` as its message.

        Who was refused with one, and then said so with `renew`, gets what is fetched after that or the error.
        """
        now = self._clock()
        if self._is_fresh(now):
            return self._bearer
        if self._fetching is None and not self._failed_at <= now < self._failed_at + self._pause_s:
            self._fetching = asyncio.create_task(self._refresh())
        if self._is_usable(now, refused):
            return self._bearer
        if self._fetching is not None:
            await asyncio.wait((self._fetching,), timeout=WAIT_S)
        if self._is_usable(self._clock(), refused):
            return self._bearer
        raise CredentialError(self._fault)

    def renew(self, refused: str) -> bool:
        """FCM does not take this bearer. Whether there is another one to try, or one worth fetching."""
        if refused != self._bearer:
            return True
        if 0 <= self._clock() - self._fetched_at < MIN_RENEWAL_S:
            return False
        self._fresh_until = -math.inf
        return True

    async def close(self) -> None:
        """Stop fetching. A request that its thread is in ends by its own deadline, or with the process."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait((self._fetching,))

    def _is_fresh(self, now: float) -> bool:
        return self._fetched_at - CLOCK_SET_BACK_S <= now < self._fresh_until

    def _is_usable(self, now: float, refused: str) -> bool:
        return now < self._expires_at and (refused != self._bearer or self._is_fresh(now))

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(FETCH_DEADLINE_S):
                fetched = await _in_daemon_thread(self._fetch)
        except CredentialError as error:
            self._failed(TokenFault(str(error)))
        except TimeoutError:
            self._failed(TokenFault.UNREACHABLE)
        else:
            self._take(fetched)
        finally:
            self._fetching = None

    def _take(self, fetched: Fetched) -> None:
        now = self._clock()
        lifetime_s = fetched.expires_at - now
        if lifetime_s <= 0:
            self._failed(TokenFault.REFUSED)
            return
        self._fault = TokenFault.UNREACHABLE  # of a later fetch, as long as it has no answer
        self._failures = 0
        self._bearer = f"Bearer {fetched.token}"
        self._fetched_at = now
        self._expires_at = fetched.expires_at
        self._fresh_until = now + max(lifetime_s - AHEAD_S, lifetime_s / 2)

    def _failed(self, fault: TokenFault) -> None:
        self._fault = fault
        self._failures += 1
        self._failed_at = self._clock()
        self._pause_s = min(2.0 ** min(self._failures, 10), LONGEST_BACKOFF_S)


async def _in_daemon_thread(fetch: Callable[[], Fetched]) -> Fetched:
    """Its result. `asyncio.to_thread` would not do: the loop and the interpreter wait for its threads at the end."""
    future: Future[Fetched] = Future()

    def run() -> None:
        try:
            future.set_result(fetch())
        except BaseException as error:  # noqa: BLE001 # raised where the future is awaited
            future.set_exception(error)

    future.set_running_or_notify_cancel()  # from here on nobody but the thread ends it
    threading.Thread(target=run, name="google token", daemon=True).start()
    return await asyncio.wrap_future(future)


class Way(Struct, frozen=True):
    """How the token endpoint is reached: whom to trust (None: the system's CAs), and through which proxy.

    As the provider itself is. The environment has no say in it (HTTPS_PROXY, REQUESTS_CA_BUNDLE, .netrc).
    """

    ca_file: Path | None = None
    proxy: ProxyLogin | None = None


def google_fetch(account: ServiceAccount | None, *, way: Way) -> Callable[[], Fetched]:
    """A function that fetches a token for FCM: of a service account, or of the application default credentials.

    It blocks for `FETCH_DEADLINE_S` at most, unless the system's resolver takes longer, follows no redirect, and raises
    CredentialError with a `TokenFault` as its message.
    """
    if account is None:
        return functools.partial(_fetch, _default_credentials, way=way)
    make = service_account.Credentials.from_service_account_info
    made = make(account.info, scopes=[FCM_SCOPE])  # type: ignore[no-untyped-call] # google-auth has no types there
    return functools.partial(_fetch, lambda _: made, way=way)


def _proxy_url(proxy: ProxyLogin) -> str:
    user, _, password = proxy.login.partition(":")
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if proxy.login else ""
    return f"http://{login}{proxy.host}:{proxy.port}"


def _default_credentials(request: transport.Request) -> Credentials:
    found, _ = google.auth.default(scopes=[FCM_SCOPE], request=request)
    return found


def _fetch(credentials: Callable[[transport.Request], Credentials], *, way: Way) -> Fetched:
    proxies = {"https": _proxy_url(way.proxy)} if way.proxy else {}
    try:
        tls = tls_context(ca_file=way.ca_file)
        with bounded_session(deadline_s=FETCH_DEADLINE_S, max_bytes=MAX_ANSWER_BYTES, tls=tls) as session:
            plain = transport.requests.Request(session)
            ask = functools.partial(plain, timeout=FETCH_TIMEOUT_S, proxies=proxies, allow_redirects=False)
            request = cast(transport.Request, ask)
            found = credentials(request)
            found.refresh(request)  # type: ignore[no-untyped-call] # google-auth has no types there
    except exceptions.DefaultCredentialsError as error:
        raise CredentialError(TokenFault.NO_DEFAULT) from error
    except (exceptions.TransportError, OSError) as error:
        raise CredentialError(TokenFault.UNREACHABLE) from error
    except Exception as error:  # a foreign library reads a foreign answer: it may fail in any way
        retryable = isinstance(error, exceptions.RefreshError) and error.retryable
        raise CredentialError(TokenFault.UNREACHABLE if retryable else TokenFault.REFUSED) from error
    if not isinstance(found.token, str) or not _TOKEN.fullmatch(found.token) or found.expiry is None:
        raise CredentialError(TokenFault.REFUSED)
    return Fetched(found.token, found.expiry.replace(tzinfo=UTC).timestamp())
