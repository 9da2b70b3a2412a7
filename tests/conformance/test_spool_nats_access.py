"""Into a real NATS and out of it: logins, TLS, and what is said when it is not as it should be."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from msgspec.structs import replace

from pushgate.errors import SpoolUnusable
from pushgate.spool.cipher import Keys
from pushgate.spool.jetstream.cluster import Cluster, Server, Tls
from pushgate.spool.jetstream.link import Link
from pushgate.spool.jetstream.login import Login
from pushgate.spool.jetstream.protocol import Message
from pushgate.spool.limits import Limits
from pushgate.spool.nats import NatsSpool
from tests.nats_cluster import NatsCluster, nats_cluster
from tests.ports import free_port

PASSWORD = "p-c9f0f895"


async def works(cluster: Cluster) -> None:
    spool = await NatsSpool.open(cluster)
    await spool.probe()
    await spool.close()


async def refusal(cluster: Cluster) -> str:
    with pytest.raises(SpoolUnusable) as caught:
        await (await NatsSpool.open(cluster)).close()
    assert " -> " in str(caught.value), "it says what to do"
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


@contextmanager
def server(folder: Path, more: str, **options: object) -> Iterator[Cluster]:
    with nats_cluster(folder, more=more) as nats:
        yield Cluster(nats.addresses, patience_s=5.0)


class NKey:
    """A key of NATS as text: an operator's (O), an account's (A) or a user's (U)."""

    def __init__(self, kind: str) -> None:
        self.key = Ed25519PrivateKey.generate()
        prefix = {"O": 14 << 3, "A": 0, "U": 20 << 3}[kind]
        self.public = self._text(bytes([prefix]), self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
        head = bytes([(18 << 3) | (prefix >> 5), (prefix & 31) << 3])
        self.seed = self._text(head, self.key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))

    @staticmethod
    def _text(prefix: bytes, raw: bytes) -> str:
        body = prefix + raw
        return base64.b32encode(body + binascii.crc_hqx(body, 0).to_bytes(2, "little")).decode().rstrip("=")

    def says(self, subject: NKey, **nats: object) -> str:
        """A JWT of this key about another one (NATS JWT version 2)."""
        claims = {"iat": int(time.time()), "iss": self.public, "sub": subject.public, "nats": {"version": 2, **nats}}
        claims["jti"] = base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).decode().rstrip("=")
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        body = ".".join(_url(json.dumps(each).encode()) for each in (head, claims))
        return f"{body}.{_url(self.key.sign(body.encode()))}"


def _url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def by_password(folder: Path) -> tuple[str, Login]:
    (folder / "password").write_text(PASSWORD)
    return f"authorization {{ user: push, password: {PASSWORD} }}", Login("push", folder / "password")


def by_token(folder: Path) -> tuple[str, Login]:
    (folder / "token").write_text(PASSWORD)
    return f"authorization {{ token: {PASSWORD} }}", Login(token_file=folder / "token")


def by_seed(folder: Path) -> tuple[str, Login]:
    user = NKey("U")
    (folder / "seed").write_text(user.seed)
    return f"authorization {{ users: [ {{ nkey: {user.public} }} ] }}", Login(nkey_file=folder / "seed")


def by_credentials(folder: Path) -> tuple[str, Login]:
    operator, account, system, user = NKey("O"), NKey("A"), NKey("A"), NKey("U")
    (folder / "operator.jwt").write_text(operator.says(operator, type="operator"))
    free = dict.fromkeys(("subs", "conn", "leaf", "imports", "exports", "data", "payload"), -1)
    storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1, "wildcards": True}
    told = operator.says(account, type="account", limits={**free, **storage})
    of_system = operator.says(system, type="account", limits=free)
    jwt = account.says(user, type="user", subs=-1, data=-1, payload=-1)
    (folder / "creds").write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    more = (
        f'operator: "{folder / "operator.jwt"}"\nsystem_account: {system.public}\nresolver: MEMORY\n'
        f"resolver_preload: {{ {account.public}: {told}, {system.public}: {of_system} }}\n"
    )
    return more, Login(creds_file=folder / "creds")


@pytest.mark.parametrize("way", [by_password, by_token, by_seed, by_credentials])
async def test_every_login_lets_us_in_and_none_keeps_us_out(way: object, tmp_path: Path) -> None:
    assert callable(way)
    more, login = way(tmp_path)
    with server(tmp_path / "nats", more) as cluster:
        await works(replace(cluster, login=login))
        assert "NATS refuses us: Authorization Violation" in await refusal(cluster)


async def test_a_wrong_password_is_told_at_once(tmp_path: Path) -> None:
    more, login = by_password(tmp_path)
    with server(tmp_path / "nats", more) as cluster:
        await works(replace(cluster, login=login))
        (tmp_path / "password").write_text("wrong")
        async with asyncio.timeout(3):
            assert "see the login in [spool.nats]" in await refusal(replace(cluster, login=login))


@pytest.mark.parametrize("when", ["yes", "first"])
async def test_tls_with_a_certificate_of_ours(when: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, host in (("server", "127.0.0.1"), ("client", "push.example.org")):
        leaf = authority.issue_cert(host)
        leaf.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        leaf.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    first = "handshake_first: true" if when == "first" else ""
    more = (
        f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key", '
        f'ca_file: "{tmp_path}/ca.pem", verify: true, {first} }}'
    )
    with server(tmp_path / "nats", more) as cluster:
        ours = Tls("yes", tmp_path / "ca.pem", tmp_path / "client.pem", tmp_path / "client.key")
        tls = replace(ours, when="first") if when == "first" else ours
        cluster = replace(cluster, patience_s=3.0)
        await works(replace(cluster, tls=tls))
        assert "TLS" in await refusal(replace(cluster, tls=replace(tls, ca_file=tmp_path / "other.pem")))
        await refusal(replace(cluster, tls=replace(tls, cert_file=None, key_file=None), patience_s=1.0))
        if when == "yes":
            assert 'set spool.nats.tls = "yes"' in await refusal(replace(cluster, tls=Tls()))
        assert "see that they are PEM" in await refusal(replace(cluster, tls=Tls("yes", tmp_path / "server.key")))


async def test_tls_is_not_done_without(nats: NatsCluster) -> None:
    cluster = Cluster(nats.addresses, name="no-tls", tls=Tls("yes"), patience_s=1.0)
    assert ssl.OPENSSL_VERSION
    assert "has no TLS" in await refusal(cluster)


# --- not as it should be


async def test_nobody_there_is_told_with_the_address() -> None:
    nobody = Server("127.0.0.1", free_port())
    assert f"no NATS at {nobody}" in await refusal(Cluster((nobody,), patience_s=0.5))


class Speaker(asyncio.Protocol):
    """Says something to whoever connects, and answers each PING."""

    def __init__(self, greeting: bytes) -> None:
        self._greeting = greeting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        transport.write(self._greeting)

    def data_received(self, data: bytes) -> None:
        if b"PING\r\n" in data:
            self._transport.write(b"PONG\r\n")


async def refusal_of_one_that_says(greeting: bytes) -> str:
    listening = await asyncio.get_running_loop().create_server(lambda: Speaker(greeting), "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        return await refusal(Cluster((Server("127.0.0.1", port),), patience_s=0.5))


class Fickle(Speaker):
    """Lets everybody in, and lets go of them at once."""

    connections = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Fickle.connections += 1
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if b"PING\r\n" in data:
            self._transport.close()


async def test_a_server_that_lets_go_of_everybody_is_not_stormed() -> None:
    info = b'INFO {"version":"2.12.0","headers":true,"connect_urls":["' + 80 * b"x" + b':4222","127.0.0.1:1"]}\r\n'
    listening = await asyncio.get_running_loop().create_server(lambda: Fickle(info), "127.0.0.1", 0)
    async with listening:
        link = Link(Cluster((Server("127.0.0.1", listening.sockets[0].getsockname()[1]),)), client="test")
        await link.open()
        await asyncio.sleep(2)
        before = Fickle.connections
        assert 2 <= before <= 8, "each pause is longer than the one before"
        await asyncio.sleep(3)
        assert before < Fickle.connections <= before + 4, "and it goes on"
        await link.close()


@pytest.mark.parametrize(("version", "told"), [("2.10.29", "NATS is 2.10.29"), ("", "of no version")])
async def test_an_old_server_is_refused(version: str, told: str) -> None:
    info = json.dumps({"version": version, "headers": True}).encode()
    assert told in await refusal_of_one_that_says(b"INFO " + info + b"\r\n")


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"INFO {]\r\n", b"INFO 7\r\n"])
async def test_what_is_not_nats_is_told(greeting: bytes) -> None:
    assert "no NATS at" in await refusal_of_one_that_says(greeting)


async def test_without_manage_the_stream_must_be_there_and_as_it_should(nats: NatsCluster) -> None:
    cluster = Cluster(nats.addresses, name="unmanaged", manage=False, patience_s=2.0)
    assert "no stream unmanaged in NATS -> make it there, or set spool.nats.manage = true" in await refusal(cluster)
    await (await NatsSpool.open(replace(cluster, manage=True), limits=Limits(max_waiting=10))).close()
    told = await refusal(cluster)
    assert "max_msgs is 10 instead of -1" in told
    spool = await NatsSpool.open(cluster, limits=Limits(max_waiting=10))
    await spool.close()
    await (await NatsSpool.open(replace(cluster, manage=True), limits=Limits(max_waiting=20))).close()
    config = (await nats.ask("STREAM.INFO.unmanaged"))["config"]
    assert isinstance(config, dict)
    assert config["max_msgs"] == 20, "changed with the configuration"


async def test_a_stream_of_somebody_else_is_left_alone(nats: NatsCluster) -> None:
    await nats.ask("STREAM.CREATE.theirs", name="theirs", subjects=["orders.*"])
    told = await refusal(Cluster(nats.addresses, name="theirs", patience_s=2.0))
    assert "is not ours" in told
    config = (await nats.ask("STREAM.INFO.theirs"))["config"]
    assert isinstance(config, dict)
    assert config["subjects"] == ["orders.*"]


async def test_more_copies_than_servers_are_refused_and_zero_takes_what_there_is(nats: NatsCluster) -> None:
    cluster = Cluster(nats.addresses, name="copies", patience_s=2.0)
    assert "lower spool.nats.replicas, or start more servers" in await refusal(replace(cluster, replicas=3))
    await works(cluster)


async def test_a_key_that_something_waits_for_is_missed(nats: NatsCluster) -> None:
    from tests.conformance.test_spool import LANE, delivery, drain, ids

    old, new = bytes(range(32)), bytes(range(1, 33))
    cluster = Cluster(nats.addresses, name="keys", patience_s=2.0)
    spool = await NatsSpool.open(cluster, keys=Keys((old,)))
    await spool.probe()
    await spool.put([delivery(1)])
    message = await spool._js.first("keys", spool._layout.lane(LANE))
    assert message is not None
    assert b"pushkey-1" not in message.payload
    assert b"Q2lwaGVydGV4dA" not in message.payload
    await spool.close()
    for keys in (Keys(), Keys((new,))):
        with pytest.raises(SpoolUnusable, match="sealed with a key that is not given"):
            await NatsSpool.open(cluster, keys=keys)
    after = await NatsSpool.open(cluster, keys=Keys((new, old)))
    leases = await drain(after)
    assert ids(leases) == [delivery(1).id]
    await after.ack(leases)
    await after.close()
    await (await NatsSpool.open(cluster)).close()


async def test_nothing_of_a_pushkey_stands_outside_of_payloads(nats: NatsCluster) -> None:
    from pushgate.outcome import Rejected
    from tests.conformance.test_spool import delivery, soon

    cluster = Cluster(nats.addresses, name="leaks", patience_s=2.0)
    spool = await NatsSpool.open(cluster, keys=Keys((bytes(range(32)),)), dedup_window_s=60)
    await spool.put([delivery(n, fingerprint=spool.fingerprint("plain", f"{n}")) for n in range(4)])
    for lease in (await soon(spool))[:2]:
        await spool.reject(lease, Rejected("Unregistered"))
    seen: list[Message] = []
    for stream in ("leaks", "KV_leaks-dead", "KV_leaks-state"):
        async for messages in spool._js.all_of(stream, ">"):
            seen += messages
    assert len(seen) >= 2 + 4 + 1
    for message in seen:
        assert b"pushkey" not in message.header + message.payload
        assert "pushkey" not in message.subject
    await spool.close()
