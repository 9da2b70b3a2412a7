"""The client against a real HTTPS server with mutual TLS: what it sends, when again, and what it makes of answers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from msgspec import Struct

from pushgate.client import (
    AnswerUnusable,
    ClientConfigError,
    Counts,
    Device,
    EncryptedNotification,
    GatewayError,
    GatewayRefused,
    GatewayUnavailable,
    GatewayUntrusted,
    Item,
    ItemStatus,
    KeyChain,
    PlainNotification,
    Prio,
    PushGatewayClient,
    RequestUnusable,
    Retries,
    Summary,
    SyncPushGatewayClient,
    open_sealed,
    seal,
)

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "send-from-a-backend.md"
NOW = 1_784_000_000.0
CHAIN = KeyChain.begin(bytes(32), key_identifier="key-1", month="2026-07")
DEVICE = Device("de.example.app.apns", "pushkey-1", 1_767_225_600)
PLAIN = PlainNotification(devices=(DEVICE, Device("de.example.app.apns", "pushkey-2")), event_id="$1")


class Answer(Struct, frozen=True):
    """What the server says to one request, or how it fails to."""

    status: int = 200
    body: bytes | None = None
    """None = what a gateway that takes everything would say."""
    headers: tuple[str, ...] = ()


DROP, HANG, DRIP = Answer(-1), Answer(-2), Answer(-3)


class Server:
    """A Push Gateway of these tests: says what `script` holds, one entry a request, and then takes everything."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.script: list[Answer] = []
        self.heard: list[tuple[str, dict[str, str], Any]] = []
        self.raw: list[bytes] = []
        self.connections = 0
        self.hanging = threading.Event()
        self._tls = tls
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}/tenant/push/v1/"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(plain,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(5)
        with (
            contextlib.suppress(OSError),
            self._tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as connection,
        ):
            try:
                connection.do_handshake()
            except ssl.SSLError:
                # Let the client hear why: a reset would overtake the alert.
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
                return
            with connection.makefile("rb") as lines:
                while self._converse(connection, lines):
                    pass

    def _converse(self, connection: ssl.SSLSocket, lines: Any) -> bool:
        """One request and its answer; False when there is nothing more to say."""
        head: list[str] = []
        while line := lines.readline().decode().strip():
            head.append(line)
        if not head:
            return False
        headers = dict(re.split(r":\s*", line.lower(), maxsplit=1) for line in head[1:])
        body = lines.read(int(headers["content-length"]))
        self.raw.append(body)
        self.heard.append((head[0].split(" ")[1], headers, json.loads(body)))
        answer = self.script.pop(0) if self.script else Answer()
        if answer == HANG:
            self.hanging.set()
            self._ended.wait(5)
        elif answer == DRIP:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not self._ended.wait(0.02):
                connection.sendall(b" ")
        elif answer != DROP:
            content = taken(self.heard[-1][2]) if answer.body is None else answer.body
            lines_out = [f"HTTP/1.1 {answer.status} x", f"Content-Length: {len(content)}", *answer.headers, "", ""]
            connection.sendall("\r\n".join(lines_out).encode() + content)
            return True
        return False


def taken(heard: Any) -> bytes:
    if "notification" in heard:
        return b'{"rejected":[]}'
    return results(*({"id": item["id"], "status": "success", "rejected": []} for item in heard["notifications"]))


def results(*items: object) -> bytes:
    return json.dumps({"results": items, "summary": {}}).encode()


class Files(Struct, frozen=True):
    """A certification authority with a gateway and a backend, as PEM files."""

    ca: str
    cert: str
    key: str
    both: str
    """Certificate and key in one file."""
    locked_key: str
    """The key behind a password."""
    stranger: str
    """Certificate and key of an authority that the gateway does not know."""
    other_ca: str

    @property
    def options(self) -> dict[str, Any]:
        return {"ca_file": self.ca, "cert_file": self.cert, "key_file": self.key}


AUTHORITY = trustme.CA()
GATEWAY = AUTHORITY.issue_cert("127.0.0.1")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    at = tmp_path_factory.mktemp("tls")
    other = trustme.CA()
    backend, stranger = AUTHORITY.issue_cert("backend.example.org"), other.issue_cert("backend.example.org")
    chain, key = b"".join(blob.bytes() for blob in backend.cert_chain_pems), backend.private_key_pem.bytes()
    locked = load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    contents = {
        "ca": AUTHORITY.cert_pem.bytes(),
        "cert": chain,
        "key": key,
        "both": key + chain,
        "locked_key": locked,
        "stranger": stranger.private_key_and_cert_chain_pem.bytes(),
        "other_ca": other.cert_pem.bytes(),
    }
    for name, content in contents.items():
        (at / name).write_bytes(content)
    return Files(**{name: str(at / name) for name in contents})


def gateway_tls(*, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    GATEWAY.configure_cert(context)
    AUTHORITY.configure_trust(context)
    return context


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(gateway_tls())
    yield running
    running.close()


class Waits:
    """The client's clock and sleep: notes how long it would have waited."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)

    @property
    def options(self) -> dict[str, Any]:
        return {"sleep": self.sleep, "clock": lambda: NOW, "rng": lambda: 0.0}


@pytest.fixture
def waits() -> Waits:
    return Waits()


def make(server: Server, files: Files, waits: Waits, **options: Any) -> PushGatewayClient:
    return PushGatewayClient(server.url, **files.options, **waits.options, **options)


def sealed(number: int = 0) -> EncryptedNotification:
    device = Device("de.example.app.apns", f"pushkey-{number}")
    return seal(f"message {number}", key=CHAIN.newest).for_device(device)


async def test_a_sealed_batch_arrives_as_the_api_asks_and_opens_again(
    server: Server, files: Files, waits: Waits
) -> None:
    low = seal("test", key=CHAIN.newest).for_device(DEVICE, prio=Prio.LOW, counts=Counts(unread=3), identifier="h-1")
    async with make(server, files, waits, user_agent="backend/1.0") as client:
        result = await client.notify_encrypted_batch([low, Item(sealed(), "mine")])
    ((path, headers, body),) = server.heard
    assert path == "/tenant/push/v1/notifyEncrypted/batch"
    assert headers["content-type"] == "application/json"
    assert (headers["user-agent"], headers["accept"]) == ("backend/1.0", "application/json")
    first, second = body["notifications"]
    assert len(first["id"]) == 36
    assert second["id"] == "mine"
    assert first["notification"] == {
        "device": {"app_id": "de.example.app.apns", "pushkey": "pushkey-1", "pushkey_ts": 1_767_225_600},
        "ciphertext": low.ciphertext,
        "time_message_encrypted": "2026-07",
        "key_identifier": "key-1",
        "identifier": "h-1",
        "prio": "low",
        "counts": {"unread": 3},
    }
    assert [item.id for item in result.results] == [first["id"], "mine"]
    assert result.summary == Summary(total=2, successful=2, failed=0, partial=0)
    assert waits.slept == []


async def test_plain_notifications_have_their_two_endpoints(server: Server, files: Files, waits: Waits) -> None:
    server.script = [Answer(body=b'{"rejected":["pushkey-2"]}')]
    async with make(server, files, waits) as client:
        single = await client.notify(PLAIN)
        every = await client.notify_batch([PLAIN])
    assert [path for path, _, _ in server.heard] == ["/tenant/push/v1/notify", "/tenant/push/v1/notify/batch"]
    assert server.heard[0][2]["notification"]["prio"] == "high"
    assert server.heard[0][2]["notification"] == server.heard[1][2]["notifications"][0]["notification"]
    assert single.dead_pushkeys == ("pushkey-2",)
    assert every.dead_pushkeys == ()
    assert server.connections == 1


async def test_a_base_url_without_its_last_slash_reaches_the_same_path(
    server: Server, files: Files, waits: Waits
) -> None:
    server.url = server.url.rstrip("/")
    async with make(server, files, waits) as client:
        await client.notify(PLAIN)
    assert server.heard[0][0] == "/tenant/push/v1/notify"


async def test_each_item_gets_its_own_result_whatever_the_order_of_the_answer(
    server: Server, files: Files, waits: Waits
) -> None:
    server.script = [
        Answer(
            body=results(
                {"id": "c", "status": "failed", "rejected": ["pushkey-2"], "error": "known dead"},
                {"id": "b", "status": "partial", "rejected": ["pushkey-1"], "error": None},
                {"id": "a", "status": "success", "later": 1},
            )
        )
    ]
    async with make(server, files, waits) as client:
        result = await client.notify_batch([Item(PLAIN, "a"), Item(PLAIN, "b"), Item(PLAIN, "c")])
    assert [(item.id, item.status) for item in result.results] == [
        ("a", ItemStatus.SUCCESS),
        ("b", ItemStatus.PARTIAL),
        ("c", ItemStatus.FAILED),
    ]
    assert result.results[2].error == "known dead"
    assert result.dead_pushkeys == ("pushkey-1", "pushkey-2")


async def test_250_items_go_out_in_three_requests_and_come_back_as_one_result(
    server: Server, files: Files, waits: Waits
) -> None:
    items = [Item(sealed(number), str(number)) for number in range(250)]
    async with make(server, files, waits) as client:
        result = await client.notify_encrypted_batch(items)
    assert [len(body["notifications"]) for _, _, body in server.heard] == [100, 100, 50]
    assert [item.id for item in result.results] == [str(number) for number in range(250)]
    assert max(map(len, server.raw)) <= 256_000


async def test_large_items_are_sent_in_requests_that_every_gateway_takes(
    server: Server, files: Files, waits: Waits
) -> None:
    large = PlainNotification(devices=(DEVICE,), event_id="$1", content={"body": "x" * 60_000})
    async with make(server, files, waits) as client:
        result = await client.notify_batch([large] * 9)
    assert [len(body["notifications"]) for _, _, body in server.heard] == [4, 4, 1]
    assert result.summary.successful == 9


async def test_no_items_make_no_request(server: Server, files: Files, waits: Waits) -> None:
    async with make(server, files, waits) as client:
        assert (await client.notify_batch([])).results == ()
    assert server.heard == []


@pytest.mark.parametrize("status", [300, 307, 400, 401, 403, 404, 405, 408, 413, 415])
async def test_what_is_refused_is_not_sent_again(status: int, server: Server, files: Files, waits: Waits) -> None:
    body = b'{"error":"Invalid data format","details":{"path":"$.notification"}}'
    server.script = [Answer(status, body, ("Location: https://127.0.0.1:1/push/v1/notify",))]
    async with make(server, files, waits) as client:
        with pytest.raises(GatewayRefused, match=f"{status}.*: Invalid data format") as caught:
            await client.notify(PLAIN)
    assert (caught.value.status, caught.value.error) == (status, "Invalid data format")
    assert caught.value.details == {"path": "$.notification"}
    assert len(server.heard) == 1
    assert waits.slept == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_what_time_can_heal_is_sent_again_byte_by_byte_the_same(
    status: int, server: Server, files: Files, waits: Waits
) -> None:
    server.script = [Answer(status, b"Bad Gateway"), Answer(status, b'{"error":null}')]
    async with make(server, files, waits) as client:
        result = await client.notify_encrypted_batch([sealed()])
    assert result.summary.successful == 1
    assert waits.slept == [1.0, 2.0]
    assert len(set(server.raw)) == 1
    assert len(server.raw) == 3


async def test_used_up_retries_tell_what_the_gateway_said_last(server: Server, files: Files, waits: Waits) -> None:
    said = b'{"error":"Push Gateway under maintenance or overloaded."}'
    server.script = [Answer(503, said, ("Retry-After: 7",))] * 9
    async with make(server, files, waits, retries=Retries(count=2)) as client:
        with pytest.raises(GatewayUnavailable, match=r"3 attempts: 503 .*maintenance") as caught:
            await client.notify(PLAIN)
    assert (caught.value.attempts, caught.value.status, caught.value.retry_after_s) == (3, 503, 7.0)
    assert waits.slept == [7.0, 7.0]


@pytest.mark.parametrize(
    ("retry_after", "wait_s"),
    [("17", 17.0), (formatdate(NOW + 40, usegmt=True), 40.0), (formatdate(NOW - 40, usegmt=True), 0.0), ("soon", 1.0)],
)
async def test_retry_after_is_honoured_in_both_forms(
    retry_after: str, wait_s: float, server: Server, files: Files, waits: Waits
) -> None:
    server.script = [Answer(429, b"{}", (f"Retry-After: {retry_after}",))]
    async with make(server, files, waits) as client:
        await client.notify(PLAIN)
    assert waits.slept == [wait_s]


async def test_a_retry_after_beyond_the_longest_wait_ends_the_call(server: Server, files: Files, waits: Waits) -> None:
    server.script = [Answer(503, b"{}", ("Retry-After: 3600",))]
    async with make(server, files, waits) as client:
        with pytest.raises(GatewayUnavailable) as caught:
            await client.notify(PLAIN)
    assert (caught.value.attempts, caught.value.retry_after_s) == (1, 3600.0)
    assert waits.slept == []


async def test_a_dropped_connection_is_tried_again_on_a_new_one(server: Server, files: Files, waits: Waits) -> None:
    server.script = [DROP]
    async with make(server, files, waits) as client:
        assert (await client.notify(PLAIN)).rejected == ()
    assert (server.connections, len(server.heard), waits.slept) == (2, 2, [1.0])


async def test_a_gateway_that_is_not_there_is_unavailable(files: Files, waits: Waits) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{reserved.getsockname()[1]}/push/v1/"
        async with PushGatewayClient(url, **files.options, **waits.options) as client:
            with pytest.raises(GatewayUnavailable, match="4 attempts: connection failed") as caught:
                await client.notify(PLAIN)
    assert (caught.value.status, caught.value.retry_after_s) == (None, None)
    assert waits.slept == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("answer", [HANG, DRIP], ids=["nothing comes", "the last byte never comes"])
async def test_no_attempt_takes_longer_than_its_time(
    answer: Answer, server: Server, files: Files, waits: Waits
) -> None:
    server.script = [answer, answer]
    async with make(server, files, waits, timeout_s=0.15, retries=Retries(count=1)) as client:
        with pytest.raises(GatewayUnavailable, match=r"2 attempts: no answer within 0\.15 s"):
            await client.notify(PLAIN)
    assert waits.slept == [1.0]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b""),
        Answer(200, b"OK"),
        Answer(200, b"{}"),
        Answer(204, b""),
        Answer(200, results({"id": "other", "status": "success"})),
        Answer(200, b"not gzip", ("Content-Encoding: gzip",)),
    ],
)
async def test_a_success_that_cannot_be_read_is_none(
    answer: Answer, server: Server, files: Files, waits: Waits
) -> None:
    server.script = [answer]
    async with make(server, files, waits) as client:
        with pytest.raises(AnswerUnusable):
            await client.notify_batch([Item(PLAIN, "a")])
    assert len(server.heard) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(413, b"{}"), GatewayRefused),
        (Answer(503, b"{}"), GatewayUnavailable),
        (Answer(200, b"{}"), AnswerUnusable),
    ],
)
async def test_an_error_half_way_keeps_the_results_so_far(
    answer: Answer, error: type[GatewayError], server: Server, files: Files, waits: Waits
) -> None:
    items = [Item(sealed(number), str(number)) for number in range(150)]
    first = [{"id": str(number), "status": "success"} for number in range(99)]
    first.append({"id": "99", "status": "failed", "rejected": ["pushkey-99"]})  # type: ignore[dict-item] # mixed JSON
    server.script = [Answer(body=results(*first)), answer]
    async with make(server, files, waits, retries=Retries(count=0)) as client:
        with pytest.raises(error) as caught:
            await client.notify_encrypted_batch(items)
    assert [item.id for item in caught.value.results] == [str(number) for number in range(100)]
    assert caught.value.results[99].rejected == ("pushkey-99",)


async def test_results_and_errors_have_the_request_ids_of_their_answers(
    server: Server, files: Files, waits: Waits
) -> None:
    def named(request_id: str, status: int = 200) -> Answer:
        return Answer(status, None if status == 200 else b"{}", (f"X-Request-Id: {request_id}",))

    server.script = [named("one"), named("two"), named("with a space"), named("three", 400), named("four", 503)]
    async with make(server, files, waits, retries=Retries(count=0)) as client:
        result = await client.notify_encrypted_batch([sealed(number) for number in range(150)])
        assert result.request_ids == ("one", "two")
        assert (await client.notify(PLAIN)).request_id == ""
        for error, name in ((GatewayRefused, "three"), (GatewayUnavailable, "four")):
            with pytest.raises(error) as caught:
                await client.notify(PLAIN)
            assert caught.value.request_id == name


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("certificate", ["none", "stranger"])
async def test_a_backend_that_the_gateway_does_not_know_is_told_at_once(
    certificate: str, version: ssl.TLSVersion, files: Files, waits: Waits
) -> None:
    server = Server(gateway_tls(version=version))
    options: dict[str, Any] = {} if certificate == "none" else {"cert_file": files.stranger}
    try:
        async with PushGatewayClient(server.url, ca_file=files.ca, **options, **waits.options) as client:
            with pytest.raises(GatewayUntrusted, match="ALERT"):
                await client.notify(PLAIN)
    finally:
        server.close()
    assert (server.heard, waits.slept) == ([], [])


async def test_a_gateway_that_the_backend_does_not_trust_gets_nothing(
    server: Server, files: Files, waits: Waits
) -> None:
    async with PushGatewayClient(server.url, ca_file=files.other_ca, **waits.options) as client:
        with pytest.raises(GatewayUntrusted, match="CERTIFICATE_VERIFY_FAILED"):
            await client.notify(PLAIN)
    async with PushGatewayClient(server.url, cert_file=files.both, **waits.options) as client:
        with pytest.raises(GatewayUntrusted, match="CERTIFICATE_VERIFY_FAILED"):
            await client.notify(PLAIN)
    named = server.url.replace("127.0.0.1", "localhost")
    async with PushGatewayClient(named, **files.options, **waits.options) as client:
        with pytest.raises(GatewayUntrusted, match="CERTIFICATE_VERIFY_FAILED"):
            await client.notify(PLAIN)
    assert (server.heard, waits.slept) == ([], [])


async def test_a_connection_cut_in_the_handshake_is_tried_again(files: Files, waits: Waits) -> None:
    async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as listener:
        url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}/push/v1/"
        async with PushGatewayClient(url, **files.options, **waits.options) as client:
            with pytest.raises(GatewayUnavailable, match="4 attempts: connection failed"):
                await client.notify(PLAIN)


async def test_a_tls_error_that_the_caller_was_handling_is_not_the_gateway_s(
    server: Server, files: Files, waits: Waits
) -> None:
    server.script = [DROP]
    async with make(server, files, waits) as client:
        try:
            ssl.create_default_context(cadata="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----")
        except ssl.SSLError as error:
            error.reason = "TLSV1_ALERT_UNKNOWN_CA"
            assert (await client.notify(PLAIN)).rejected == ()
    assert waits.slept == [1.0]


async def test_certificate_and_key_may_share_a_file_or_come_as_a_context(
    server: Server, files: Files, waits: Waits
) -> None:
    async with PushGatewayClient(server.url, cert_file=files.both, ca_file=files.ca, **waits.options) as client:
        await client.notify(PLAIN)
    context = ssl.create_default_context(cafile=files.ca)
    context.load_cert_chain(files.cert, files.key)
    async with PushGatewayClient(server.url, tls=context, **waits.options) as client:
        await client.notify(PLAIN)
    assert len(server.heard) == 2
    with pytest.raises(ClientConfigError, match="either tls or files"):
        PushGatewayClient(server.url, tls=context, ca_file=files.ca)


def test_a_key_behind_a_password_is_an_error_and_no_question_on_the_terminal(
    files: Files, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ClientConfigError, match="cannot load cert_file") as caught:
        PushGatewayClient("https://push.example.org/push/v1/", cert_file=files.cert, key_file=files.locked_key)
    assert isinstance(caught.value.__cause__, ssl.SSLError)
    assert "pass phrase" not in "".join(capfd.readouterr())


async def test_nothing_secret_reaches_a_log_or_an_error(
    server: Server, files: Files, waits: Waits, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    notification = sealed(7)
    echo = json.dumps({"error": "pushkey-7", "details": {"was": notification.ciphertext}}).encode()
    server.script = [Answer(500, echo), DROP, Answer(400, echo), Answer(200, echo)]
    said = []
    async with make(server, files, waits) as client:
        for expected in (GatewayRefused, AnswerUnusable):
            with pytest.raises(expected) as caught:
                await client.notify_encrypted_batch([notification])
            said.append(f"{caught.value} {caught.value!r} {caught.value.__cause__!r}")
    assert len(server.heard) == 4
    for text in (*said, caplog.text):
        assert "pushkey-7" not in text
        assert notification.ciphertext[:40] not in text


def test_the_blocking_client_does_the_same_without_an_event_loop(server: Server, files: Files, waits: Waits) -> None:
    server.script = [Answer(503, b"{}"), Answer(body=b'{"rejected":["pushkey-1"]}')]
    with SyncPushGatewayClient(server.url, **files.options, **waits.options) as client:
        assert client.notify(PLAIN).dead_pushkeys == ("pushkey-1",)
        assert client.notify_batch([PLAIN]).summary.successful == 1
        assert client.notify_encrypted_batch([sealed()] * 3).summary.successful == 3
        with pytest.raises(RequestUnusable, match="two items"):
            client.notify_batch([Item(PLAIN, "a"), Item(PLAIN, "a")])
    assert waits.slept == [1.0]
    assert server.connections == 1
    client.close()
    with pytest.raises(ClientConfigError, match="closed"):
        client.notify(PLAIN)


def test_the_blocking_client_is_shared_by_threads(server: Server, files: Files, waits: Waits) -> None:
    with (
        SyncPushGatewayClient(server.url, **files.options, **waits.options) as client,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        done = list(pool.map(lambda number: client.notify_encrypted_batch([sealed(number)]), range(12)))
    assert sum(result.summary.successful for result in done) == 12


def test_closing_the_blocking_client_ends_a_call_that_waits(server: Server, files: Files, waits: Waits) -> None:
    server.script = [HANG]
    client = SyncPushGatewayClient(server.url, **files.options, **waits.options)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.notify, PLAIN)
        assert server.hanging.wait(5)
        client.close()
        with pytest.raises(concurrent.futures.CancelledError):
            waiting.result()


def test_the_how_to_does_what_it_says(
    server: Server, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, source in (("backend.pem", files.cert), ("backend.key", files.key), ("gateway-ca.pem", files.ca)):
        (tmp_path / name).write_bytes(Path(source).read_bytes())
    monkeypatch.chdir(tmp_path)
    server.script = [Answer()]
    blocks = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    assert len(blocks) == 6
    scope: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace("https://push.example.org/push/v1/", server.url), scope)  # the page is ours
    assert len(server.heard) == 2
    carried = server.heard[0][2]["notifications"][0]["notification"]
    assert open_sealed(scope["sealed"], keys=scope["chain"].keys).startswith(b'{"ChannelId":"erp.task.activate"')
    assert carried["ciphertext"] == scope["sealed"].ciphertext
    assert capsys.readouterr().out.endswith(" success\n")
