"""Google's token endpoint for service accounts: a signed assertion in, an access token out.

https://developers.google.com/identity/protocols/oauth2/service-account (RFC 7523).
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from msgspec import Struct

from pushgate.emulator.exchange import Answer, Request, json_answer

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
GOOGLE_AUDIENCE = "https://oauth2.googleapis.com/token"
TOKEN_PATH = "/token"  # noqa: S105 - a path, not a secret
SCOPES = (
    "https://www.googleapis.com/auth/firebase.messaging",
    "https://www.googleapis.com/auth/cloud-platform",
)
"""Either lets its bearer send messages."""
SCOPE_PREFIX = "https://www.googleapis.com/auth/"
MAX_ASSERTION_S = 3600
MAX_SKEW_S = 60
MAX_TOKENS = 10_000
"""Access tokens above this push out the oldest."""


class AccessToken(Struct, frozen=True):
    """What an issued token is good for."""

    scopes: tuple[str, ...]
    expires_at: float


class OAuthRefusal(Struct, frozen=True):
    """An error of RFC 6749 §5.2."""

    error: str
    error_description: str
    status: int = 400

    def answer(self) -> Answer:
        """The error as it goes out."""
        return json_answer(self.status, {"error": self.error, "error_description": self.error_description})


_TIMES = OAuthRefusal(
    "invalid_grant",
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
    "Check your iat and exp values in the JWT claim.",
)


class TokenEndpoint:
    """Checks assertions of one service account and knows the access tokens that it gave out."""

    def __init__(
        self,
        *,
        service_account_email: str,
        public_key: bytes | RSAPublicKey,
        clock: Callable[[], float],
        lifetime_s: int,
        new_secret: Callable[[], str] = lambda: secrets.token_urlsafe(24),
    ) -> None:
        key = load_pem_public_key(public_key) if isinstance(public_key, bytes) else public_key
        if not isinstance(key, RSAPublicKey):
            raise ValueError("the key of a service account is an RSA key")
        self._key = key
        self._email = service_account_email
        self._clock = clock
        self._lifetime_s = lifetime_s
        self._new_secret = new_secret
        self._tokens: OrderedDict[str, AccessToken] = OrderedDict()

    def token(self, access_token: str) -> AccessToken | None:
        """What is known of an access token; expired ones are known too."""
        return self._tokens.get(access_token)

    def revoke(self) -> None:
        """Every token given out so far is void."""
        self._tokens.clear()

    def answer(self, request: Request, *, url: str) -> Answer:
        """Answer POST /token. `url` is the endpoint's own address, as an assertion may name it."""
        if request.method != "POST":
            return json_answer(405, {"error": "invalid_request", "error_description": "method not allowed"})
        form = parse_qs(request.body.decode("latin-1"), keep_blank_values=True)
        grant, assertion = form.get("grant_type", [""])[0], form.get("assertion", [""])[0]
        if not grant:
            return OAuthRefusal("invalid_request", "Required parameter is missing: grant_type").answer()
        if grant != GRANT_TYPE:
            return OAuthRefusal("unsupported_grant_type", f"Invalid grant_type: {grant}").answer()
        if not assertion:
            return OAuthRefusal("invalid_request", "Required parameter is missing: assertion").answer()
        return self._exchange(assertion, url)

    def _exchange(self, assertion: str, url: str) -> Answer:
        try:
            claims = jwt.decode(assertion, options={"verify_signature": False})
        except jwt.PyJWTError:
            return OAuthRefusal("invalid_grant", "Invalid JWT: the assertion is malformed.").answer()
        fault = self._claims_fault(claims, url)
        if fault is None and not self._is_signed(assertion):
            fault = OAuthRefusal("invalid_grant", "Invalid JWT Signature.")
        if fault is not None:
            return fault.answer()
        return self._issue(tuple(str(claims["scope"]).split()))

    def _claims_fault(self, claims: dict[str, object], url: str) -> OAuthRefusal | None:
        if claims.get("iss") != self._email:
            return OAuthRefusal("invalid_grant", "Invalid grant: account not found")
        if claims.get("aud") not in (GOOGLE_AUDIENCE, url):
            words = f"Invalid JWT: Failed audience check. The right audience is {GOOGLE_AUDIENCE}"
            return OAuthRefusal("invalid_grant", words)
        issued, expires, now = claims.get("iat"), claims.get("exp"), self._clock()
        if not isinstance(issued, int | float) or not isinstance(expires, int | float):
            return _TIMES
        if not (0 < expires - issued <= MAX_ASSERTION_S and issued <= now + MAX_SKEW_S and expires > now - MAX_SKEW_S):
            return _TIMES
        scopes = str(claims.get("scope", "")).split()
        if not scopes or any(not scope.startswith(SCOPE_PREFIX) for scope in scopes):
            return OAuthRefusal("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        return None

    def _is_signed(self, assertion: str) -> bool:
        try:
            jwt.PyJWS().decode(assertion, self._key, algorithms=["RS256"])
        except jwt.PyJWTError:
            return False
        return True

    def _issue(self, scopes: tuple[str, ...]) -> Answer:
        value = f"ya29.emulator-{self._new_secret()}"
        self._tokens[value] = AccessToken(scopes=scopes, expires_at=self._clock() + self._lifetime_s)
        if len(self._tokens) > MAX_TOKENS:
            self._tokens.popitem(last=False)
        body = {"access_token": value, "expires_in": self._lifetime_s, "token_type": "Bearer"}
        return json_answer(200, body, (("cache-control", "no-store"),))
