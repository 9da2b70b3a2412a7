"""Every answer of the API carries the id of its request, and the journal knows what became of it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from pushgate.errors import RequestError
from pushgate.journal import Explained, Journal
from pushgate.model import Caller
from pushgate.server import UNAUTHENTICATED, Scope
from tests.api import BATCH, NOTIFY, SEALED, Api, serving
from tests.samples import APNS_APP, batch, device, encrypted, plain

OURS = re.compile(r"[0-9a-f]{12}-[0-9a-f]+")
STRANGER = "stranger.example.org"


def identify(scope: Scope) -> Caller:
    if any(name == b"x-who" for name, _ in scope["headers"]):
        raise RequestError(401, UNAUTHENTICATED)
    return Caller("erp")


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving(identify=identify) as api:
        api.application._journal = Journal(100, clock=lambda: 1_800_000_000.0)
        yield api


def explained(api: Api, asked: str) -> Explained:
    return api.application._journal.explain(asked)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", SEALED, batch(encrypted()), {}, 200),
        ("POST", NOTIFY, {"notification": 1}, {}, 400),
        ("POST", NOTIFY, {}, {"x-who": "nobody"}, 401),
        ("GET", "/push/v1/nowhere", None, {}, 404),
        ("GET", NOTIFY, None, {}, 405),
        ("POST", BATCH, "x" * (1024 * 1024 + 1), {}, 413),
        ("POST", BATCH, "x", {"content-type": "text/plain"}, 415),
        ("GET", "/push/v1/openapi.json", None, {}, 200),
    ],
)
async def test_every_answer_carries_its_id(
    api: Api, method: str, path: str, body: object, headers: dict[str, str], status: int
) -> None:
    for given, expected in (("the-callers.own_1", re.compile(r"the-callers\.own_1")), ("not one", OURS), (None, OURS)):
        more = {**headers, **({} if given is None else {"X-Request-Id": given})}
        answer = await api.http.request(method, path, json=body, headers=more)
        assert answer.status_code == status
        assert expected.fullmatch(answer.headers["x-request-id"])
        assert len(answer.headers.get_list("x-request-id")) == 1


async def test_an_id_leads_to_deliveries_lanes_and_repeats(api: Api) -> None:
    asked = {"X-Request-Id": "complaint-7"}
    two = plain(devices=[device(APNS_APP, "aa"), device(APNS_APP, "bb")], event_id="$1")
    await api.http.post(NOTIFY, json={"notification": two}, headers=asked)
    await api.http.post(NOTIFY, json={"notification": two}, headers=asked)
    first, second = explained(api, "complaint-7").requests
    assert (first.caller, first.status, first.repeats, second.repeats) == ("erp", 200, 0, 2)
    assert [each.lane for each in first.deliveries] == [APNS_APP, APNS_APP]
    waiting = {lease.delivery.id for lease in await api.spool.lease(APNS_APP, 10)}
    assert {each.id for each in first.deliveries} == waiting
    assert explained(api, next(iter(waiting))).requests == [first]


async def test_who_is_not_known_or_sends_too_often_pushes_nobody_out(api: Api) -> None:
    known = await api.http.post(NOTIFY, json={"notification": 1})
    unknown = await api.http.post(NOTIFY, json={}, headers={"x-who": "nobody"})
    (request,) = explained(api, known.headers["x-request-id"]).requests
    assert (request.status, request.deliveries) == (400, [])
    assert explained(api, unknown.headers["x-request-id"]).requests == []


async def test_the_journal_holds_no_pushkey(api: Api) -> None:
    pushkey = "5ec7e7" * 10 + "abcd"
    await api.http.post(
        SEALED, json=batch(encrypted(device=device(APNS_APP, pushkey))), headers={"X-Request-Id": pushkey}
    )
    journal = api.application._journal
    journal.explain("x")
    held = repr([vars(part) for part in vars(journal).values() if hasattr(part, "__dict__")])
    assert APNS_APP in held
    assert pushkey not in held
