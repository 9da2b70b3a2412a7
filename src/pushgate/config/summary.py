"""What will run with these settings, in words: the answer of `check-config`. Holds no secret."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, assert_never

from pushgate import revocation
from pushgate.config.nats_table import Nats
from pushgate.config.rules import IDENTITIES
from pushgate.errors import ConfigFault
from pushgate.provider import apns_settings, fcm_settings

if TYPE_CHECKING:
    from pushgate.config.api_table import Api
    from pushgate.config.client_table import Client
    from pushgate.config.management_table import Management
    from pushgate.config.settings import AppSettings, Settings
    from pushgate.config.spool_table import Spool


def describe(settings: Settings) -> str:
    """One line for each thing that will run, its kind in front."""
    lines = list(facts(settings))
    width = max(len(kind) for kind, _ in lines)
    return "\n".join(f"{kind:<{width}}  {text}" for kind, text in lines)


def overdue(settings: Settings, *, now: float) -> list[ConfigFault]:
    """What does not keep a gateway from starting, but keeps an app from sending, or callers out: what has expired."""
    late = list(_lists_of_before(settings, now=now))
    for app_id, app in settings.apps.items():
        shown = apns_settings.client_certificate(app) if isinstance(app, apns_settings.Settings) else None
        if shown is not None and shown.expires_at <= now:
            day = f"{datetime.fromtimestamp(shown.expires_at, UTC):%Y-%m-%d}"
            at = f'apps."{app_id}".certificate_file'
            late.append(ConfigFault(at, f"expired on {day}: nothing of this app is sent", "have it renewed"))
    return late


def _lists_of_before(settings: Settings, *, now: float) -> Iterator[ConfigFault]:
    path = None if settings.api.tls is None else settings.api.tls.client_crl_file
    if path is not None:
        for issuer, end in revocation.read(path).ends().items():
            if end <= now:
                day = f"{datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC"
                fault = f"the list of {issuer} has ended on {day}: its callers are refused"
                yield ConfigFault("api.tls.client_crl_file", fault, "fetch the new list")


def facts(settings: Settings) -> Iterator[tuple[str, str]]:
    """The same as pairs of kind and text."""
    api = settings.api
    yield "listen", f"{api.listen}, {'TLS' if api.tls else 'no TLS'}, paths under {api.base_path}/push/v1"
    yield "callers", _callers(api, settings.clients)
    if api.tls is not None and api.tls.client_crl_file is not None:
        yield "revoked", f"those that {api.tls.client_crl_file} lists"
    for client in settings.clients:
        yield "client", _client(client)
    yield "limits", f"{api.max_request_kb} KB a request, {api.max_notification_kb} KB a notification"
    yield "management", _management(settings.management)
    if settings.tracing.endpoint:
        yield "traces", f"to {settings.tracing.endpoint}, a share of {settings.tracing.sample:g}"
    if api.processes != 1:
        count = "one for each core that may be used" if api.processes == "auto" else str(api.processes)
        yield "processes", f"{count}, each with a spool of its own beside the first"
    where = _where(settings.spool)
    on_disk = ", encrypted" if settings.spool.is_encrypted else ""
    yield "spool", f"{where}, a delivery is tried for {settings.spool.max_age_s} s at most{on_disk}"
    yield "room", _room(settings.spool)
    window_s = settings.dedup.window_s
    yield "repeats", f"known for {window_s} s" if window_s else "all of them are sent"
    for app_id, app in settings.apps.items():
        yield "app", f"{app_id}: {_app(app)}"
    if not settings.apps:
        yield "app", "none: every notification will be refused"


def _where(spool: Spool) -> str:
    if spool.is_shared:
        nats = spool.nats or Nats()
        servers = ", ".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in spool.nats_servers()
        )
        return f"NATS at {servers}, stream {nats.name}, {'TLS' if nats.tls != 'no' else 'no TLS'}"
    return str(spool.sqlite_path or "in memory: every stop loses what waits")


def _management(management: Management) -> str:
    asks = ", with a token" if management.token_file else ""
    return f"{management.listen}{asks}" if management.listen else "off"


def _room(spool: Spool) -> str:
    most = f"{spool.max_waiting} deliveries" if spool.max_waiting else "any number of deliveries"
    return f"{most}, {spool.max_mb} MB" if spool.max_mb else f"{most}, as long as the disk has space"


def _callers(api: Api, clients: tuple[Client, ...]) -> str:
    match api.auth:
        case "mtls" if clients:
            purpose = " of any purpose" if api.tls and api.tls.client_purpose == "any" else ""
            return f"those below, by client certificate{purpose}"
        case "mtls":
            return "every client certificate that client_ca_file vouches for"
        case "proxy":
            known = "those below" if clients else "every one"
            return f"{known}, by what {', '.join(api.trusted_proxies)} tell in the header of {api.proxy_header}"
        case "none":
            return "anybody who reaches the port"
        case _:
            assert_never(api.auth)


def _client(client: Client) -> str:
    known_by = next(f"{key} {getattr(client, key)}" for key in IDENTITIES if getattr(client, key))
    kinds = "plain and sealed" if client.plain else "sealed only"
    often = f"; {client.rate_per_s:g} requests a second, {client.at_once:g} at once" if client.rate_per_s else ""
    return f"{client.name}: {known_by}; apps {', '.join(client.apps)}; {kinds}{often}"


def _app(app: AppSettings) -> str:
    match app:
        case apns_settings.Settings():
            proof = "certificate" if app.certificate_file else f"key {app.key_id} of team {app.team_id}"
            endpoint = app.endpoint or f"https://{apns_settings.HOSTS[app.environment]}"
            return f"APNs {app.environment} at {endpoint}, topic {app.bundle_id}, {proof}{_by_way_of(app.proxy)}"
        case fcm_settings.Settings():
            proof = "service account" if app.credentials_file else "application default credentials"
            endpoint = app.endpoint or f"https://{fcm_settings.HOST}"
            return f"FCM at {endpoint}, project {app.project_id}, {proof}{_by_way_of(app.proxy)}"
        case _:
            assert_never(app)


def _by_way_of(proxy: str) -> str:
    return f", by way of {proxy}" if proxy else ""
