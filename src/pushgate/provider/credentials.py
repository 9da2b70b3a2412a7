"""The tokens that prove to a provider who we are: made or fetched ahead of time, one for all lanes of a key.

`bearer()` is the value of the authorization header. A provider that calls a token bad is told of with `renew`.
"""

from __future__ import annotations

import asyncio
import base64
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from enum import StrEnum

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from msgspec import Struct

from pushgate.errors import CredentialError

Clock = Callable[[], float]
"""Unix seconds."""

GRID_S = 2400
"""An APNs token lives from one multiple of it to the next. Apple wants 20 to 60 minutes: 40 is in the middle."""
MIN_LIFE_S = 1200
"""APNs answers TooManyProviderTokenUpdates to tokens that change faster."""
CLOCK_SET_BACK_S = 300
"""A token from further ahead than this means that the clock was wrong when it was made."""

AHEAD_S = 300
"""A Google token is renewed so long before it ends, or half-way where it lives shorter than twice this."""
FETCH_DEADLINE_S = 15
"""Of a whole fetch, with all its requests; google-auth makes up to three, and more where there is no account file."""
WAIT_S = 10
"""A delivery waits at most so long for the first token."""
MIN_RENEWAL_S = 60
"""A token younger than this is not fetched anew because a request was refused: the token is not the fault."""
LONGEST_BACKOFF_S = 60


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

    @property
    def ends_at(self) -> float:
        """When the token at hand ends, in unix seconds; 0 where there is none."""
        return max(self._expires_at, 0.0)

    def at_hand(self) -> str | None:
        """`Bearer <token>`, where there is one that is fresh: `bearer` would give the same."""
        return self._bearer if self._is_fresh(self._clock()) else None

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
