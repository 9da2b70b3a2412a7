"""console: honest health, metrics, and what is remembered of dead pushkeys, for this machine only."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx
import pytest
from msgspec import Struct, structs

from pushgate.console import Console
from pushgate.console.guard import MAX_BODY_BYTES
from pushgate.console.rejections import MOST_AT_ONCE
from pushgate.console.remote import NoAnswer, NobodyThere, RemoteRejections
from pushgate.errors import SpoolUnavailable
from pushgate.metrics import Metrics
from pushgate.metrics.exposition import text
from pushgate.metrics.families import Family, Kind
from pushgate.spool import KnownRejection

APP, OTHER = "org.example.health.apns", "example-project.app.firebase"
LOOPBACK = ("127.0.0.1", 50_000)
HOST = (b"host", b"127.0.0.1:8081")
AS_JSON = (b"content-type", b"application/json")
TOKEN = "0123456789abcdef0123"


class Book:
    """The rejections of one test, and what was asked of them."""

    def __init__(self, count: int = 5) -> None:
        self.known = [
            KnownRejection(f"{n:032x}", APP if n % 2 else OTHER, "Unregistered", 1.5 if n % 2 else None, 1e9 + n)
            for n in range(count)
        ]
        self.forgotten: list[tuple[str, float, str]] = []
        self.fault: Exception | None = None

    async def rejections(
        self, *, app_id: str = "", prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[KnownRejection]:
        self._fail()
        found = [each for each in self.known if app_id in ("", each.app_id) and each.name.startswith(prefix)]
        return [each for each in found if each.name > after][:limit]

    async def count_rejections(self) -> Mapping[tuple[str, str], int]:
        self._fail()
        return {(APP, "Unregistered"): 3, (APP, "BadDeviceToken"): 2, (OTHER, "UNREGISTERED"): 1}

    async def forget_rejections(self, lane: str, *, since: float = 0, prefix: str = "") -> int:
        self._fail()
        self.forgotten.append((lane, since, prefix))
        return 7

    def _fail(self) -> None:
        if self.fault is not None:
            raise self.fault


class Answer(Struct, frozen=True):
    status: int
    headers: Mapping[bytes, bytes]
    body: bytes

    @property
    def said(self) -> Any:
        return json.loads(self.body)


class Asking(Struct, frozen=True, kw_only=True):
    """One request, as an ASGI server gives it."""

    method: str = "GET"
    path: str = "/rejections"
    query: bytes = b""
    headers: Sequence[tuple[bytes, bytes]] = (HOST,)
    body: Sequence[bytes] = (b"",)
    client: tuple[str, int] | None = LOOPBACK
    server: tuple[str, int] | None = ("127.0.0.1", 8081)

    async def of(self, console: Console) -> Answer:
        sent: list[Mapping[str, Any]] = []
        chunks = list(self.body)

        async def send(message: Mapping[str, Any]) -> None:
            sent.append(message)

        async def receive() -> Mapping[str, Any]:
            chunk = chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": self.method,
            "path": self.path,
            "query_string": self.query,
            "headers": self.headers,
            "client": self.client,
            "server": self.server,
        }
        await console(scope, receive, send)
        assert [each.get("more_body", False) for each in sent[1:]] == [True] * (len(sent) - 2) + [False]
        return Answer(sent[0]["status"], dict(sent[0]["headers"]), b"".join(each["body"] for each in sent[1:]))


FORGETTING = Asking(
    method="POST",
    path="/rejections/forget",
    headers=(HOST, AS_JSON),
    body=(json.dumps({"app": APP, "since": 0}).encode(),),
)


async def collect() -> Sequence[Family]:
    return [Family("pushgate_waiting", Kind.GAUGE, "Deliveries.", [("pushgate_waiting", (), 0.0)])]


def console(reason: str | None = None, *, book: Book | None = None, address: str = "127.0.0.1:8081") -> Console:
    return Console(unready=lambda: reason, collect=collect, rejections=book or Book(), address=address)


# --- health and metrics ------------------------------------------------------------------------------------------


async def test_ready_tells_the_reason_when_it_is_not() -> None:
    ready = Asking(path="/health/ready")
    assert (await ready.of(console())).status == 200
    answer = await ready.of(console("draining"))
    assert (answer.status, answer.body) == (503, b'{"status":"not ready","reason":"draining"}')


async def test_live_does_not_depend_on_ready() -> None:
    assert (await Asking(path="/health/live").of(console("draining"))).status == 200


async def test_metrics_are_prometheus_text() -> None:
    answer = await Asking(path="/metrics").of(console())
    body = b"# HELP pushgate_waiting Deliveries.\n# TYPE pushgate_waiting gauge\npushgate_waiting 0.0\n"
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers[b"content-type"] == b"text/plain; version=0.0.4; charset=utf-8"
    accept = (b"accept", b"application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.3")
    open_metrics = await Asking(path="/metrics", headers=(HOST, accept)).of(console())
    assert open_metrics.body == body + b"# EOF\n"
    assert open_metrics.headers[b"content-type"].startswith(b"application/openmetrics-text; version=1.0.0")


async def test_metrics_of_many_lanes_come_in_parts() -> None:
    metrics = Metrics([f"org.example.{number}" for number in range(300)])

    async def collect_many() -> Iterable[Family]:
        return metrics.each_family()

    for accept in ("text/plain", "application/openmetrics-text"):
        asking = Asking(path="/metrics", headers=(HOST, (b"accept", accept.encode())))
        answer = await asking.of(Console(unready=lambda: None, collect=collect_many))
        assert answer.body == text(metrics.families(), openmetrics=accept != "text/plain")
        assert b"content-length" not in answer.headers, "it is told as it is made"


async def test_health_is_for_everybody_and_nobody_keeps_a_place_by_it() -> None:
    for path, token in itertools.product(("/health/live", "/health/ready"), (b"", TOKEN.encode())):
        here = Console(unready=lambda: "draining", collect=collect, address="127.0.0.1:8081", token=token)
        stranger = Asking(path=path, client=("192.0.2.7", 1), headers=((b"host", b"gateway.example.org"),))
        answer = await stranger.of(here)
        assert (answer.status, answer.headers[b"connection"]) == (200 if path == "/health/live" else 503, b"close")


@pytest.mark.parametrize("path", ["/metrics", "/", "/nowhere"])
@pytest.mark.parametrize(
    ("address", "host", "is_ours"),
    [
        ("127.0.0.1:8081", b"127.0.0.1:8081", True),
        ("127.0.0.1:8081", b"localhost:8081", True),
        ("127.0.0.1:8081", b"127.0.0.1", True),
        ("127.0.0.1:8081", b"[::1]:8081", True),
        ("127.0.0.1:8081", b"rebound.example.org:8081", False),
        ("127.0.0.1:8081", b"192.0.2.7:8081", False),
        ("127.0.0.1:8081", b"127.0.0.1.example.org", False),
        ("127.0.0.1:8081", b"", False),
        ("ip6-localhost:8081", b"ip6-localhost:8081", True),
    ],
)
async def test_without_a_token_no_page_of_another_name_reads_anything(
    path: str, address: str, host: bytes, is_ours: bool
) -> None:
    """DNS rebinding: a browser on this machine asks, and the name that it was lured by stands in `Host`."""
    asking = Asking(path=path, headers=((b"host", host),))
    status = (await asking.of(console(address=address))).status
    assert status == (403 if not is_ours else 404 if path == "/nowhere" else 200)
    open_to_others = Console(unready=lambda: None, collect=collect, address="0.0.0.0:8081", token=TOKEN.encode())
    shown = structs.replace(asking, headers=[*asking.headers, (b"authorization", f"Bearer {TOKEN}".encode())])
    assert (await shown.of(open_to_others)).status == (404 if path == "/nowhere" else 200), "a token says enough"


@pytest.mark.parametrize(
    ("path", "method", "status", "allowed"),
    [
        ("/", "POST", 405, b"GET, HEAD"),
        ("/status", "GET", 404, None),
        ("/status/events", "HEAD", 405, b"GET"),
        ("/explain", "GET", 404, None),
        ("/rejections/", "GET", 404, None),
        ("/metrics", "POST", 405, b"GET, HEAD"),
        ("/rejections", "POST", 405, b"GET, HEAD"),
        ("/rejections", "DELETE", 405, b"GET, HEAD"),
        ("/rejections/forget", "GET", 405, b"POST"),
    ],
)
async def test_anything_else_is_refused_as_json(path: str, method: str, status: int, allowed: bytes | None) -> None:
    answer = await Asking(path=path, method=method).of(console())
    assert answer.status == status
    assert answer.headers[b"content-type"] == b"application/json"
    assert answer.headers[b"connection"] == b"close"
    assert answer.headers.get(b"allow") == allowed
    assert answer.body.startswith(b'{"error"')


async def test_without_a_spool_there_are_no_pages_about_rejections() -> None:
    bare = Console(unready=lambda: None, collect=collect)
    assert (await Asking().of(bare)).status == 404


async def test_other_protocols_are_ignored() -> None:
    async def never(*_: object) -> Any:
        pytest.fail("nothing is to be sent or received")

    await console()({"type": "lifespan"}, never, never)


# --- the token ---------------------------------------------------------------------------------------------------


def showing(*values: str, path: str = "/metrics") -> Asking:
    return Asking(path=path, headers=(HOST, *((b"authorization", value.encode()) for value in values)))


@pytest.mark.parametrize("path", ["/metrics", "/rejections", "/rejections/count", "/nowhere"])
async def test_where_there_is_a_token_it_is_wanted_for_all_but_health(path: str) -> None:
    here = Console(unready=lambda: None, collect=collect, rejections=Book(), token=TOKEN.encode())
    for health in ("/health/live", "/health/ready"):
        assert (await Asking(path=health).of(here)).status == 200
    refused = await Asking(path=path).of(here)
    assert (refused.status, refused.headers[b"www-authenticate"], refused.headers[b"connection"]) == (
        401,
        b"Bearer",
        b"close",
    )
    assert TOKEN not in refused.body.decode()
    expected = 404 if path == "/nowhere" else 200
    assert (await showing(f"Bearer {TOKEN}", path=path).of(here)).status == expected
    here.change_token(b"another" * 5)
    assert (await showing(f"Bearer {TOKEN}", path=path).of(here)).status == 401
    here.change_token(b"")
    assert (await Asking(path=path).of(here)).status == expected


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ((f"Bearer {TOKEN}",), 200),
        ((f"bearer  {TOKEN} ",), 200),
        ((f"Basic {TOKEN}",), 401),
        ((TOKEN,), 401),
        (("Bearer",), 401),
        (("Bearer ",), 401),
        ((f"Bearer {TOKEN}x",), 401),
        ((f"Bearer {TOKEN[:-1]}",), 401),
        ((f"Bearer {TOKEN}", f"Bearer {TOKEN}"), 401),
        (("Bearer \u00e9",), 401),
    ],
)
async def test_the_token_is_shown_as_rfc_6750_says(values: tuple[str, ...], status: int) -> None:
    here = Console(unready=lambda: None, collect=collect, token=TOKEN.encode())
    assert (await showing(*values).of(here)).status == status


async def test_the_token_lets_nobody_from_elsewhere_at_the_rejections() -> None:
    here = Console(unready=lambda: None, collect=collect, rejections=Book(), token=TOKEN.encode())
    stranger = structs.replace(showing(f"Bearer {TOKEN}", path="/rejections"), client=("192.0.2.7", 1))
    assert (await stranger.of(here)).status == 403
    shown = structs.replace(stranger, path="/metrics")
    assert (await shown.of(here)).status == 200


# --- the pages about rejections ----------------------------------------------------------------------------------


async def test_what_is_remembered_is_told_page_by_page() -> None:
    here = console()
    first = await Asking(query=b"limit=3").of(here)
    assert first.status == 200
    assert [each["name"][-1] for each in first.said["rejections"]] == ["0", "1", "2"]
    assert first.said["rejections"][1] == {
        "name": f"{1:032x}",
        "app_id": APP,
        "reason": "Unregistered",
        "since": 1.5,
        "told_at": 1e9 + 1,
    }
    assert first.said["rejections"][0]["since"] is None
    last = await Asking(query=f"limit=3&after={first.said['next']}".encode()).of(here)
    assert [each["name"][-1] for each in last.said["rejections"]] == ["3", "4"]
    assert last.said["next"] is None
    exact = await Asking(query=b"limit=5").of(here)
    assert (len(exact.said["rejections"]), exact.said["next"]) == (5, None)


async def test_what_is_remembered_is_told_of_one_app_or_prefix() -> None:
    of_app = await Asking(query=b"app=" + APP.encode()).of(console())
    assert {each["app_id"] for each in of_app.said["rejections"]} == {APP}
    of_prefix = await Asking(query=f"prefix={3:032X}".encode()).of(console())
    assert [each["name"] for each in of_prefix.said["rejections"]] == [f"{3:032x}"]


async def test_the_count_is_by_app_and_reason_with_the_total() -> None:
    answer = await Asking(path="/rejections/count").of(console())
    assert answer.said["total"] == 6
    assert answer.said["rejections"] == [
        {"app_id": OTHER, "reason": "UNREGISTERED", "count": 1},
        {"app_id": APP, "reason": "BadDeviceToken", "count": 2},
        {"app_id": APP, "reason": "Unregistered", "count": 3},
    ]


@pytest.mark.parametrize(
    "query",
    [
        b"limit=0",
        b"limit=1001",
        b"limit=-1",
        b"limit=1e2",
        b"limit=",
        b"limit=99999",
        b"prefix=xyz",
        b"prefix=" + b"a" * 33,
        b"after=%00",
        b"perfix=a",
        b"app=a&app=b",
        b"app",
        b"&&",
        b"app=\xff",
        b"limit=%D9%A3",
    ],
)
async def test_a_query_that_makes_no_sense_is_400(query: bytes) -> None:
    answer = await Asking(query=query).of(console())
    assert answer.status == 400
    assert len(answer.said["error"]) > 20


@pytest.mark.parametrize(
    ("asked", "passed_on"),
    [
        ({"app": APP, "since": 0}, (APP, 0.0, "")),
        ({"app": APP, "since": 1.5e9}, (APP, 1.5e9, "")),
        ({"app": APP, "prefix": "ABC"}, (APP, 0.0, "abc")),
        ({"app": APP, "prefix": "ab", "since": 1.5}, (APP, 1.5, "ab")),
    ],
)
async def test_forgetting_does_what_was_asked_and_says_how_many(
    asked: object, passed_on: tuple[str, float, str]
) -> None:
    book = Book()
    body = json.dumps(asked).encode()
    for chunks in ((body,), (body[:5], b"", body[5:])):
        answer = await structs.replace(FORGETTING, body=chunks).of(console(book=book))
        assert (answer.status, answer.said) == (200, {"app_id": APP, "forgotten": 7})
    assert book.forgotten == [passed_on] * 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b"{" * 2000,
        b'{"app": "secret-in-the-body"}',
        b'{"since": 0}',
        b'{"app": "", "since": 0}',
        b'{"app": 7, "since": 0}',
        b'{"app": "a", "since": -1}',
        b'{"app": "a", "since": 1e12}',
        b'{"app": "a", "since": NaN}',
        b'{"app": "a", "since": "secret-in-the-body"}',
        b'{"app": "a", "since": null}',
        b'{"app": "a", "prefix": "secret-in-the-body"}',
        b'{"app": "a", "prefix": "' + b"a" * 33 + b'"}',
        b'{"app": "a", "since": 0, "secret-in-the-body": 1}',
        b'{"app": "' + b"a" * 65 + b'", "since": 0}',
    ],
)
async def test_a_body_that_makes_no_sense_is_400_and_forgets_nothing(body: bytes) -> None:
    book = Book()
    answer = await structs.replace(FORGETTING, body=(body,)).of(console(book=book))
    assert answer.status == 400
    assert (book.forgotten, b"secret" in answer.body) == ([], False)


async def test_a_long_body_is_not_read_to_its_end() -> None:
    book = Book()
    endless = structs.replace(FORGETTING, body=(b" " * MAX_BODY_BYTES, b" ", b"never read"))
    answer = await endless.of(console(book=book))
    assert (answer.status, answer.headers[b"connection"], book.forgotten) == (413, b"close", [])


async def test_a_body_that_does_not_come_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushgate.console.guard.BODY_WITHIN_S", 0)
    sent: list[Mapping[str, Any]] = []

    async def receive() -> Mapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": FORGETTING.path, "headers": FORGETTING.headers}
    await console()({**scope, "client": LOOPBACK}, receive, send)
    assert sent[0]["status"] == 408


async def test_a_spool_that_does_not_answer_is_503() -> None:
    book = Book()
    for fault in (SpoolUnavailable("spool.db: no space left"), TimeoutError()):
        book.fault = fault
        for asking in (Asking(), Asking(path="/rejections/count"), FORGETTING):
            answer = await asking.of(console(book=book))
            assert (answer.status, "spool" in answer.said["error"]) == (503, True)


# --- who may ask -------------------------------------------------------------------------------------------------

_PAGES = [Asking(), Asking(path="/rejections/count"), FORGETTING]


@pytest.mark.parametrize("asking", _PAGES)
@pytest.mark.parametrize(
    ("client", "server", "status"),
    [
        (("127.0.0.1", 1), None, 200),
        (("127.8.8.8", 1), None, 200),
        (("::1", 1), None, 200),
        (("::ffff:127.0.0.1", 1), None, 200),
        (("192.0.2.7", 1), ("192.0.2.7", 8081), 200),
        (("192.0.2.7", 1), ("192.0.2.8", 8081), 403),
        (("192.0.2.7", 1), None, 403),
        (("::ffff:192.0.2.7", 1), None, 403),
        (("/run/socket", 1), None, 403),
        (None, ("127.0.0.1", 8081), 403),
    ],
)
async def test_only_this_machine_may_ask(
    asking: Asking, client: tuple[str, int] | None, server: tuple[str, int] | None, status: int
) -> None:
    book = Book()
    answer = await structs.replace(asking, client=client, server=server).of(console(book=book))
    assert answer.status == status
    assert status == 200 or ("this machine" in answer.said["error"] and not book.forgotten)


@pytest.mark.parametrize("asking", _PAGES)
@pytest.mark.parametrize(
    ("address", "hosts", "status"),
    [
        ("127.0.0.1:8081", [b"127.0.0.1:8081"], 200),
        ("127.0.0.1:8081", [b"localhost"], 200),
        ("127.0.0.1:8081", [b"LOCALHOST:1"], 200),
        ("127.0.0.1:8081", [b"[::1]:8081"], 200),
        ("[::1]:8081", [b"[::1]"], 200),
        ("192.0.2.7:8081", [b"192.0.2.7:8081"], 200),
        ("gateway.example.org:8081", [b"Gateway.example.org:8081"], 200),
        ("0.0.0.0:8081", [b"127.0.0.1:8081"], 200),
        ("127.0.0.1:8081", [b"attacker.example.org"], 403),
        ("127.0.0.1:8081", [b"127.0.0.1.attacker.example.org"], 403),
        ("127.0.0.1:8081", [b"localhost.:8081"], 403),
        ("127.0.0.1:8081", [b"192.0.2.7:8081"], 403),
        ("0.0.0.0:8081", [b"0.0.0.0:8081"], 403),
        ("[::]:8081", [b"[::]:8081"], 403),
        ("127.0.0.1:8081", [b"127.0.0.1", b"127.0.0.1"], 403),
        ("127.0.0.1:8081", [b"127.0.0.1@attacker.example.org"], 403),
        ("127.0.0.1:8081", [b"\xff"], 403),
        ("127.0.0.1:8081", [b""], 403),
        ("", [b""], 403),
        ("127.0.0.1:8081", [], 403),
    ],
)
async def test_the_host_must_be_that_of_this_port(
    asking: Asking, address: str, hosts: list[bytes], status: int
) -> None:
    headers = [*((b"host", host) for host in hosts), *(each for each in asking.headers if each[0] != b"host")]
    book = Book()
    answer = await structs.replace(asking, headers=headers).of(console(book=book, address=address))
    assert answer.status == status
    assert status == 200 or ("Host" in answer.said["error"] and not book.forgotten)


@pytest.mark.parametrize("asking", _PAGES)
@pytest.mark.parametrize(
    "header",
    [
        (b"origin", b"http://127.0.0.1:8081"),
        (b"origin", b"null"),
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"forwarded", b"for=192.0.2.7"),
        (b"via", b"1.1 proxy"),
    ],
)
async def test_neither_browsers_nor_proxies_may_ask(asking: Asking, header: tuple[bytes, bytes]) -> None:
    book = Book()
    answer = await structs.replace(asking, headers=(*asking.headers, header)).of(console(book=book))
    assert (answer.status, book.forgotten) == (403, [])
    assert "browser" in answer.said["error"] or "proxy" in answer.said["error"]


@pytest.mark.parametrize(
    ("types", "status"),
    [
        ([b"application/json"], 200),
        ([b"Application/JSON; charset=utf-8"], 200),
        ([], 415),
        ([b"text/plain"], 415),
        ([b"application/x-www-form-urlencoded"], 415),
        ([b"multipart/form-data; boundary=application/json"], 415),
        ([b"application/json", b"text/plain"], 415),
    ],
)
async def test_what_is_forgotten_must_be_asked_for_as_json(types: list[bytes], status: int) -> None:
    book = Book()
    headers = (HOST, *((b"content-type", each) for each in types))
    answer = await structs.replace(FORGETTING, headers=headers).of(console(book=book))
    assert (answer.status, len(book.forgotten)) == (status, int(status == 200))


# --- the other side ----------------------------------------------------------------------------------------------


def remote(book: Book, address: str = "127.0.0.1:8081") -> RemoteRejections:
    return RemoteRejections(address, transport=httpx.ASGITransport(app=console(book=book, address=address)))  # type: ignore[arg-type]  # its scope is a dict


@pytest.mark.parametrize("address", ["127.0.0.1:8081", "localhost:8081", "0.0.0.0:8081", "[::]:8081", "[::1]:8081"])
async def test_a_gateway_that_is_asked_answers_as_its_spool_would(address: str) -> None:
    book = Book(1500)
    async with remote(book, address) as there:
        assert await there.rejections(limit=3) == await book.rejections(limit=3)
        assert await there.rejections(app_id=APP, prefix="0" * 29, after=f"{3:032x}") == await book.rejections(
            app_id=APP, prefix="0" * 29, after=f"{3:032x}"
        )
        assert len(await there.rejections(limit=5000)) == MOST_AT_ONCE
        assert await there.count_rejections() == await book.count_rejections()
        assert await there.forget_rejections(APP, since=1.5, prefix="ab") == 7
    assert book.forgotten == [(APP, 1.5, "ab")]


async def test_what_the_gateway_refuses_is_told_in_its_words() -> None:
    book = Book()
    book.fault = SpoolUnavailable("spool.db: no space left")
    async with remote(book) as there:
        with pytest.raises(NoAnswer, match=r"answers 503: The spool does not answer: spool.db: no space left"):
            await there.count_rejections()
        with pytest.raises(NoAnswer, match="answers 400: prefix"):
            await there.rejections(prefix="nonsense")


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (httpx.ConnectError("refused"), NobodyThere, "nobody listens at http://127.0.0.1:8081"),
        (httpx.ReadTimeout("late"), NoAnswer, "does not answer in time"),
        (httpx.RemoteProtocolError("what?"), NoAnswer, "does not speak HTTP: RemoteProtocolError"),
        (httpx.Response(200, text="<html>"), NoAnswer, r"is not the management port of a gateway \(200\)"),
        (httpx.Response(200, json={"total": 1}), NoAnswer, "is not the management port"),
        (httpx.Response(404, text="\xff"), NoAnswer, r"is not the management port of a gateway \(404\)"),
        (httpx.Response(404, json=["error"]), NoAnswer, "is not the management port"),
        (httpx.Response(302, json={}), NoAnswer, "answers 302: $"),
        (httpx.Response(500, json={"error": "\x1b[2Jx" + "y" * 999}), NoAnswer, r"answers 500: \?\[2Jxy{295}$"),
    ],
)
async def test_whatever_answers_there_is_said_in_words(
    answer: httpx.Response | Exception, kind: type[Exception], said: str
) -> None:
    def respond(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with RemoteRejections("127.0.0.1:8081", transport=httpx.MockTransport(respond)) as there:
        with pytest.raises(kind, match=said):
            await there.count_rejections()
