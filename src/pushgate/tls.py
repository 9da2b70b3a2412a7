"""TLS for callers: our certificates, versions and ciphers, and whose certificates callers may show.

A session that is resumed has no chain to be checked again. It carries the certificate that the caller had shown, and
`callers` judges that at each request. Whatever changes the files makes new TLS, whose keys open no older ticket.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from msgspec import Struct

CIPHERS_OF_TLS_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"
ALPN = "http/1.1"
HANDSHAKE_WITHIN_S = 10.0
CLOSE_WITHIN_S = 3.0
"""How long the other side of a connection may take to say that it is closed, too."""
TICKET_KEYS_S = 12 * 3600.0
MOST_SESSIONS = 4096
TRY_AGAIN_S = 60.0
UNREADABLE = (
    TypeError,
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises on certificates that it cannot take apart, though OpenSSL can."""


class Shaken(Struct, frozen=True):
    """The handshake came about, and the connection has been handed over."""

    is_resumed: bool


class Failed(Struct, frozen=True):
    """It did not. The connection is closed."""

    reason: str = ""
    """OpenSSL's word; empty where the other side fell silent or went away."""
    is_certificate: bool = False
    """Whether the caller's certificate was the reason."""


class Tls(Protocol):
    """What shakes hands with a caller."""

    @property
    def sessions(self) -> int:
        """How many sessions it keeps in memory: those of callers that know no tickets."""
        ...

    async def shake(self, accepted: socket.socket, guest: asyncio.Protocol) -> Shaken | Failed:
        """Shake hands on a socket, which is not ours any more, and connect `guest`.

        Its transport gives, as `ssl_object`, something with `getpeercert(binary_form=True)`: the caller's certificate.
        """
        ...


class Files(Struct, frozen=True):
    """What TLS is made of: certificates with their keys, each of another kind, and whom to trust."""

    certificates: Sequence[tuple[Path, Path]]
    client_ca_file: Path | None = None
    client_crl_file: Path | None = None

    def digest(self) -> bytes:
        """A hash of what they hold. Raises `OSError`."""
        more = [path for path in (self.client_ca_file, self.client_crl_file) if path is not None]
        paths = [*(path for pair in self.certificates for path in pair), *more]
        return sha256(b"".join(sha256(path.read_bytes()).digest() for path in paths)).digest()


def server_tls(files: Files, *, any_purpose: bool = False) -> Tls:
    """TLS 1.2 and 1.3 (E-Rezept offers 1.2 only). A client certificate is asked for, not demanded.

    With several certificates OpenSSL shows the one that the caller can check. With `client_crl_file` a caller's
    certificate is refused when its issuer's list names it, has ended, or is not there. `any_purpose` takes certificates
    for servers too. Raises `OSError` (`ssl.SSLError` is one).
    """
    if not any_purpose:
        return RenewedTls(lambda: PythonTls(files), files)
    from pushgate.any_purpose import AnyPurposeTls  # needs pyOpenSSL, which nothing else does

    return RenewedTls(lambda: AnyPurposeTls(files), files)


class PythonTls:
    """TLS by Python's own `ssl`, and by the event loop."""

    def __init__(self, files: Files) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS_OF_TLS_1_2)
        for cert_file, key_file in files.certificates:
            context.load_cert_chain(cert_file, key_file)
        context.set_alpn_protocols([ALPN])
        if files.client_ca_file is not None:
            context.load_verify_locations(files.client_ca_file)
            context.verify_mode = ssl.CERT_OPTIONAL
            # An authority that issues for callers may be named alone, without the one above it.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if files.client_crl_file is not None:
            context.load_verify_locations(files.client_crl_file)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        self._context = context

    @property
    def sessions(self) -> int:
        """See `Tls.sessions`."""
        return self._context.session_stats()["number"]

    async def shake(self, accepted: socket.socket, guest: asyncio.Protocol) -> Shaken | Failed:
        """See `Tls.shake`."""
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: guest,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_WITHIN_S,
                ssl_shutdown_timeout=CLOSE_WITHIN_S,
            )
        except ssl.SSLCertVerificationError as error:
            return Failed(error.verify_message, is_certificate=True)
        except ssl.SSLError as error:
            return Failed(error.reason or "")
        except OSError:
            return Failed()
        shaken: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        return Shaken(is_resumed=shaken is not None and bool(shaken.session_reused))


class RenewedTls:
    """TLS that is made anew now and then, for connections to come: its keys for tickets and its memory of sessions.

    Whoever learns such a key can read what was said with tickets under it. And OpenSSL keeps 20,000 sessions of callers
    that know no tickets, 12 KB each with their certificate (measured), for two hours.
    """

    def __init__(
        self, make: Callable[[], Tls], files: Files, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Made anew from the same files only: one that has changed is the matter of `reload`."""
        self._make = make
        self._files = files
        self._monotonic = monotonic
        self._digest = files.digest()
        self._tls = make()
        self._renew_at = monotonic() + TICKET_KEYS_S
        self._try_again_at = 0.0

    @property
    def sessions(self) -> int:
        """See `Tls.sessions`."""
        return self._tls.sessions

    async def shake(self, accepted: socket.socket, guest: asyncio.Protocol) -> Shaken | Failed:
        """See `Tls.shake`."""
        now = self._monotonic()
        if (self._tls.sessions >= MOST_SESSIONS or now >= self._renew_at) and now >= self._try_again_at:
            self._renew(now)
        return await self._tls.shake(accepted, guest)

    def _renew(self, now: float) -> None:
        self._try_again_at = now + TRY_AGAIN_S
        with suppress(OSError):
            if self._files.digest() == self._digest:
                self._tls = self._make()
                self._renew_at = now + TICKET_KEYS_S
