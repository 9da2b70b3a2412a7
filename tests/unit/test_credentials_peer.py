"""TLS and address of a provider, and what lanes share."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pushgate.errors import CredentialError
from pushgate.http2 import Call
from pushgate.provider import apns, fcm
from pushgate.provider.key_files import (
    ClientCertificate,
    ProxyLogin,
    ServiceAccount,
    read_client_certificate,
    read_proxy,
)
from pushgate.provider.peer import RENEW_EVERY_S, Line, target, tls_context
from pushgate.provider.sharing import Sharing
from tests.provider_samples import (
    NOW,
    certificate,
    certificate_pem,
    private_pem,
    service_account,
    write,
    write_service_account,
    write_signing_key,
)

KEY = ec.generate_private_key(ec.SECP256R1())


def test_tls_is_always_verified_and_never_below_1_2(tmp_path: Path) -> None:
    ca_file = write(tmp_path / "ca.pem", certificate_pem(certificate(KEY)))
    for context in (tls_context(ca_file=None), tls_context(ca_file=ca_file)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_ca_file_replaces_the_systems_trust(tmp_path: Path) -> None:
    ca_file = write(tmp_path / "ca.pem", certificate_pem(certificate(KEY)))
    assert len(tls_context(ca_file=ca_file).get_ca_certs()) <= 1


def test_client_certificate_is_shown_without_a_file_being_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = write(tmp_path / "c.pem", certificate_pem(certificate(KEY)) + private_pem(KEY))
    found = read_client_certificate(path, key_path=None, password_path=None)
    shown: list[str] = []
    load = ssl.SSLContext.load_cert_chain

    def spy(context: ssl.SSLContext, certfile: str, *, password: str) -> None:
        content = Path(certfile).read_bytes()
        assert b"ENCRYPTED PRIVATE KEY" in content
        shown.append(certfile)
        load(context, certfile, password=password)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spy)
    tls_context(ca_file=None, certificate=found)
    assert len(shown) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["c.pem"]


def test_target_is_the_providers_own_or_the_configured_endpoint() -> None:
    tls = tls_context(ca_file=None)
    own = target("api.push.apple.com", endpoint="", proxy=None, tls=tls)
    assert (own.host, own.port, own.authority, own.proxy) == ("api.push.apple.com", 443, "api.push.apple.com", None)
    emulator = target("api.push.apple.com", endpoint="https://127.0.0.1:2197", proxy=None, tls=tls)
    assert (emulator.host, emulator.port, emulator.authority) == ("127.0.0.1", 2197, "127.0.0.1:2197")


@pytest.mark.parametrize(
    ("endpoint", "port", "authority"),
    [("https://[::1]:2197", 2197, "[::1]:2197"), ("https://[::1]", 443, "[::1]"), ("https://[::1]:443/", 443, "[::1]")],
)
def test_ipv6_address_is_bare_to_connect_and_in_brackets_in_requests(endpoint: str, port: int, authority: str) -> None:
    peer = target("api.push.apple.com", endpoint=endpoint, proxy=None, tls=tls_context(ca_file=None))
    assert (peer.host, peer.port, peer.authority) == ("::1", port, authority)


def test_proxy_is_passed_with_its_login(tmp_path: Path) -> None:
    login = write(tmp_path / "login", "user:pa:ss\n")
    tls = tls_context(ca_file=None)
    proxy = target("x.example.org", endpoint="", proxy=read_proxy("http://p.example.org:3128", login), tls=tls).proxy
    assert proxy is not None
    assert (proxy.host, proxy.port, proxy.authorization) == ("p.example.org", 3128, "Basic dXNlcjpwYTpzcw==")
    plain = target("x.example.org", endpoint="", proxy=read_proxy("http://p.example.org", None), tls=tls).proxy
    assert plain is not None
    assert (plain.port, plain.authorization) == (80, "")
    assert read_proxy("", None) is None


def test_faults_of_a_proxy_login_are_told(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="is not text -> "):
        read_proxy("http://p.example.org", write(tmp_path / "login", b"\xff\xfe"))
    with pytest.raises(CredentialError, match=r"cannot read .* -> "):
        read_proxy("http://p.example.org", tmp_path / "absent")


def test_no_repr_shows_a_secret() -> None:
    shown = ClientCertificate(certificate_pem(certificate(KEY)), KEY, 1.0)
    assert repr(shown) == "ClientCertificate(expires_at=1.0)"
    assert "secret" not in repr(ProxyLogin("h", 1, "user:secret"))
    assert "secret" not in repr(ServiceAccount("my-project", {"private_key": "secret"}))


# The line


class Connections:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def join(self, owner: Hashable) -> None:
        raise AssertionError

    def leave(self, owner: Hashable) -> None:
        raise AssertionError

    def waiting_of(self, owner: Hashable) -> int:
        return 0

    def send(self, call: Call, *, owner: Hashable) -> None:
        raise AssertionError

    def renew(self) -> None:
        self.calls.append("renew")

    async def close(self, timeout_s: float = 0.0) -> None:
        self.calls.append("close")


def test_line_renews_its_connections_only_so_often_and_never_closes_the_pool_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> list[str]:
        now = [1000.0]
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
        connections = Connections()
        line = Line(lambda: connections)
        for pause_s in (0.0, 0.0, RENEW_EVERY_S - 1, 1.0, 1.0):
            now[0] += pause_s
            line.renew()
        await asyncio.sleep(0)
        assert connections.calls == ["renew", "renew"]
        await line.close()
        return connections.calls

    assert asyncio.run(main()) == ["renew", "renew", "close"]


# Sharing


class Thing:
    def __init__(self) -> None:
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


async def test_thing_of_one_key_is_made_once_and_closed_by_the_last() -> None:
    sharing = Sharing()
    first, release_first = sharing.take("a", Thing)
    second, release_second = sharing.take("a", Thing)
    other, release_other = sharing.take("b", Thing)
    assert first is second is not other
    await release_first()
    assert first.closed == 0
    await release_second()
    assert (first.closed, other.closed) == (1, 0)
    again, _ = sharing.take("a", Thing)
    assert again is not first
    await release_other()


class Held(Sharing):
    """Keeps what was taken, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, list[Any]] = {}

    def take(self, key: Any, make: Any) -> Any:
        thing, release = super().take(key, make)
        self.taken.setdefault(key[0], []).append(thing)
        return thing, release


def apns_settings(folder: Path, **more: Any) -> apns.Settings:
    fields: dict[str, Any] = {
        "bundle_id": "de.example.app",
        "key_file": folder / "AuthKey_KEY1234567.p8",
        "key_id": "KEY1234567",
        "team_id": "TEAM123456",
    }
    return apns.Settings(**fields | more)


def count(things: list[Any]) -> int:
    return len({id(thing) for thing in things})


async def test_apns_lanes_of_one_key_share_token_and_connections_but_not_across_environments(tmp_path: Path) -> None:
    write_signing_key(tmp_path)
    sharing = Held()
    opened = [
        apns.ApnsProvider.open(settings, clock=lambda: NOW, sharing=sharing)
        for settings in (
            apns_settings(tmp_path),
            apns_settings(tmp_path, bundle_id="de.example.other"),
            apns_settings(tmp_path, environment="sandbox"),
            apns_settings(tmp_path, team_id="TEAM999999"),
        )
    ]
    assert count(sharing.taken["apns token"]) == 2
    assert count(sharing.taken["apns"]) == 3
    for provider in opened:
        await provider.close()


async def test_apns_lanes_with_different_certificates_share_nothing(tmp_path: Path) -> None:
    sharing = Held()
    opened = []
    for name in ("a", "b", "b"):
        key = ec.generate_private_key(ec.SECP256R1())
        path = tmp_path / name
        if not path.exists():
            write(path, certificate_pem(certificate(key)) + private_pem(key))
        settings = apns.Settings(bundle_id="de.example.app", certificate_file=path)
        opened.append(apns.ApnsProvider.open(settings, clock=lambda: NOW, sharing=sharing))
    assert count(sharing.taken["apns"]) == 2
    assert "apns token" not in sharing.taken
    for provider in opened:
        await provider.close()


async def test_fcm_lanes_of_one_account_share_token_and_connections(tmp_path: Path) -> None:
    account = service_account(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    path = write_service_account(tmp_path, account)
    sharing = Held()
    opened = [
        fcm.FcmProvider.open(settings, clock=lambda: NOW, sharing=sharing)
        for settings in (
            fcm.Settings(project_id="my-project", credentials_file=path),
            fcm.Settings(project_id="my-project", credentials_file=path, flatten_content=True),
            fcm.Settings(project_id="my-project"),
        )
    ]
    assert count(sharing.taken["google token"]) == 2
    assert count(sharing.taken["fcm"]) == 2
    for provider in opened:
        await provider.close()
