"""How an access token is fetched from Google: by google-auth, bounded in time and bytes, by no way but the configured.

Apart from `credentials`, because the libraries cost 0.15 s and 10 MB, and who has no app of FCM needs none of them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import cast
from urllib.parse import quote

import google.auth
import google.auth.transport.requests
from google.auth import exceptions, transport
from google.auth.credentials import Credentials
from google.oauth2 import service_account
from msgspec import Struct

from pushgate.errors import CredentialError
from pushgate.provider.bounded_session import bounded_session
from pushgate.provider.credentials import FETCH_DEADLINE_S, Fetched, TokenFault
from pushgate.provider.key_files import ProxyLogin, ServiceAccount
from pushgate.provider.peer import tls_context

FCM_SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
FETCH_TIMEOUT_S = 5
"""Of one step on the way to the token endpoint, and of each wait for more of its answer."""
MAX_ANSWER_BYTES = 65_536
"""Of all answers to one fetch, with their headers. Google's have some 2 KB."""

_TOKEN = re.compile(r"[!-~]{1,8192}")
"""What may stand in a header: an access token with anything else is none. Google's have 1 KB, and 2 KB at most."""


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
