"""Who may call, made of the settings: TLS, the way to know callers, and how often each may ask.

`of` may fail and changes nothing; what it gives is put in place all at once. What waits for a restart (`api.auth`,
whether there is TLS at all) stays as it was.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from pathlib import Path
from typing import assert_never

import structlog
from cryptography import x509
from msgspec import Struct

from pushgate import callers, revocation
from pushgate.allowance import Limit
from pushgate.config import Client, Settings
from pushgate.config.files import digest
from pushgate.config.listen import Tls as Table
from pushgate.errors import ConfigError, ConfigFault
from pushgate.forwarded import Style
from pushgate.model import Caller
from pushgate.revocation import Revocations
from pushgate.server import Identify
from pushgate.tls import Files, Tls, server_tls

log = structlog.get_logger(__name__)


class Admission(Struct, frozen=True):
    """Who may call."""

    auth: str
    identify: Identify
    names: tuple[str, ...]
    """Every name that `identify` can give."""
    limits: Mapping[str, Limit]
    tls: Tls | None
    tls_table: Table | None
    files: bytes
    """What the files of TLS hold, as a hash."""
    revocations: Revocations | None

    @property
    def lists_end_at(self) -> float:
        """When the first of the revocation lists ends, in unix seconds; 0 where none does."""
        ends = {} if self.revocations is None else self.revocations.ends()
        return min((end for end in ends.values() if end < math.inf), default=0.0)

    def tell(self, now: float) -> None:
        """Log what keeps callers out although nothing is wrong with them."""
        if self.revocations is None or self.tls_table is None:
            return
        for issuer, end in self.revocations.ends().items():
            if end <= now:
                log.error("revocation list has ended", issuer=issuer, mend="fetch the new list")
        for authority in _authorities(self.tls_table.client_ca_file):
            if not self.revocations.covers(authority):
                log.warning("no revocation list of an authority", issuer=authority.subject.rfc4514_string())


def of(settings: Settings, *, before: Admission | None = None) -> Admission:
    """What the settings say, with the TLS of `before` where nothing of it has changed: connections stay open.

    Raises `ConfigError`, or `OSError` (`ssl.SSLError` is one).
    """
    api = settings.api
    if before is not None and before.auth != api.auth:
        return before
    table = api.tls if before is None or (before.tls is None) == (api.tls is None) else before.tls_table
    files = b"" if table is None else digest(table)
    is_same = before is not None and before.tls_table == table and before.files == files
    revocations = _revocations(table)
    return Admission(
        auth=api.auth,
        identify=_identify(settings, revocations),
        names=tuple(client.name for client in settings.clients) or (_NAMES[api.auth],),
        limits={each.name: Limit(each.rate_per_s, each.at_once) for each in settings.clients if each.rate_per_s},
        tls=before.tls if before is not None and is_same else _tls(table),
        tls_table=table,
        files=files,
        revocations=revocations,
    )


_NAMES = {"none": callers.ANYONE.name, "mtls": callers.VERIFIED.name, "proxy": callers.VERIFIED.name}


def _tls(table: Table | None) -> Tls | None:
    if table is None:
        return None
    files = Files(table.certificates, table.client_ca_file, table.client_crl_file)
    return server_tls(files, any_purpose=table.client_purpose == "any")


def _revocations(table: Table | None) -> Revocations | None:
    if table is None or table.client_crl_file is None:
        return None
    try:
        return revocation.read(table.client_crl_file)
    except ValueError as error:
        fault, _, mend = str(error).partition(" -> ")
        raise ConfigError([ConfigFault("api.tls.client_crl_file", fault, mend)]) from error


def _identify(settings: Settings, revocations: Revocations | None) -> Identify:
    api = settings.api
    clients = [_entry(client) for client in settings.clients]
    match api.auth:
        case "none":
            return callers.anyone
        case "mtls":
            return callers.by_certificate(clients, revocations=revocations)
        case "proxy":
            trusted = [ipaddress.ip_network(each) for each in api.trusted_proxies]
            return callers.by_proxy(clients, trusted=trusted, style=Style(api.proxy_header))
        case _:
            assert_never(api.auth)


def _entry(client: Client) -> callers.Entry:
    return callers.Entry(
        Caller(client.name, client.apps, client.plain),
        san=client.san,
        subject=client.subject,
        sha256=client.sha256,
        spki_sha256=client.spki_sha256,
    )


def _authorities(path: Path | None) -> list[x509.Certificate]:
    return [] if path is None else x509.load_pem_x509_certificates(path.read_bytes())
