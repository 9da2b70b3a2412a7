"""Provider tokens (JWT, ES256) as APNs checks them, and what one connection remembers of them.

Apple, "Establishing a token-based connection to APNs".
"""

from __future__ import annotations

from collections.abc import Mapping

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from msgspec import Struct

MAX_AGE_S = 3600
"""Apple: a token is refused when it is older than one hour."""
MIN_UPDATE_S = 1200
"""Apple: a connection's token must not change more than once in 20 minutes."""
MAX_FUTURE_S = 60
"""How far ahead of ours the provider's clock may be. Apple does not say."""

Keys = Mapping[tuple[str, str], EllipticCurvePublicKey]
"""(key id, team id) -> public key."""


class Refusal(Struct, frozen=True):
    """An APNs status with its reason."""

    status: int
    reason: str


MISSING = Refusal(403, "MissingProviderToken")
INVALID = Refusal(403, "InvalidProviderToken")
EXPIRED = Refusal(403, "ExpiredProviderToken")
UNRELATED_KEY = Refusal(403, "UnrelatedKeyIdInToken")
WRONG_ENVIRONMENT = Refusal(403, "BadEnvironmentKeyIdInToken")
TOO_MANY_UPDATES = Refusal(429, "TooManyProviderTokenUpdates")


class _Verified(Struct, frozen=True):
    key_id: str
    team_id: str
    issued_at: float


def load_keys(keys: Mapping[tuple[str, str], bytes | EllipticCurvePublicKey]) -> Keys:
    """Public keys from PEM or as objects. Raises ValueError for a key that is not of an elliptic curve."""
    loaded = {}
    for name, key in keys.items():
        public = load_pem_public_key(key) if isinstance(key, bytes) else key
        if not isinstance(public, EllipticCurvePublicKey):
            raise ValueError(f"the key {name[0]} of team {name[1]} is not for ES256")
        loaded[name] = public
    return loaded


class ProviderAuthentication:
    """One connection's provider tokens: bound to the first key and team, and to a slow change of tokens."""

    def __init__(self, *, keys: Keys, environment: str, key_environments: Mapping[str, str]) -> None:
        self._keys = keys
        self._environment = environment
        self._key_environments = key_environments
        self._token = ""
        self._current: _Verified | None = None
        self._changed_at: float | None = None

    @property
    def established(self) -> bool:
        """Whether this connection has shown a valid token."""
        return self._current is not None

    def fault(self, authorization: str, *, now: float) -> Refusal | None:
        """What is wrong with an authorization header at UNIX time `now`."""
        scheme, _, token = authorization.strip().partition(" ")
        if not token:
            return MISSING
        if scheme.lower() != "bearer":
            return INVALID
        if self._current is not None and token == self._token:
            return EXPIRED if now - self._current.issued_at > MAX_AGE_S else None
        verified = self._verify(token)
        if verified is None or verified.issued_at > now + MAX_FUTURE_S:
            return INVALID
        return self._binding_fault(verified, now=now) or self._adopt(token, verified, now=now)

    def _verify(self, token: str) -> _Verified | None:
        try:
            head = jwt.get_unverified_header(token)
            claims = jwt.decode(token, options={"verify_signature": False})
            key_id, team_id, issued_at = head.get("kid"), claims.get("iss"), claims.get("iat")
            if not (isinstance(key_id, str) and isinstance(team_id, str) and type(issued_at) is int):
                return None
            key = self._keys.get((key_id, team_id))
            if key is None:
                return None
            jwt.decode(token, key, algorithms=["ES256"], options={"verify_iat": False})
        except jwt.PyJWTError:
            return None
        return _Verified(key_id, team_id, issued_at)

    def _binding_fault(self, verified: _Verified, *, now: float) -> Refusal | None:
        if self._key_environments.get(verified.key_id, self._environment) != self._environment:
            return WRONG_ENVIRONMENT
        current = self._current
        if current is not None and (verified.key_id, verified.team_id) != (current.key_id, current.team_id):
            return UNRELATED_KEY
        return EXPIRED if now - verified.issued_at > MAX_AGE_S else None

    def _adopt(self, token: str, verified: _Verified, *, now: float) -> Refusal | None:
        if self._current is not None:
            if self._changed_at is not None and now - self._changed_at < MIN_UPDATE_S:
                return TOO_MANY_UPDATES
            self._changed_at = now
        self._token, self._current = token, verified
        return None
