"""FCM requests: the header block, what is refused beforehand, and what becomes of an attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

import pytest
from hpack import Decoder, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pushgate.errors import CredentialError, Http2Error, NotSent, Unanswered
from pushgate.http2 import Call, Response
from pushgate.model import Counts, Delivery
from pushgate.outcome import Accepted, Cause, Deferred, Rejected, Undeliverable
from pushgate.provider import INTERNAL, ProviderRequest
from pushgate.provider.credentials import Fetched, GoogleToken, TokenFault
from pushgate.provider.fcm import NOT_A_TOKEN, REASONS, TOO_LARGE, FcmProvider, build_request, head
from pushgate.provider.fcm_payload import MAX_DATA_BYTES, Look, data_bytes
from pushgate.provider.fcm_settings import Settings
from pushgate.provider.peer import Line
from tests.attempts import outcome_of
from tests.provider_samples import NOW, badge_only, device, plain, sealed


def test_head_is_what_fcm_wants_in_the_order_of_http2_and_authorization_is_never_indexed() -> None:
    block = head("my-project", authority="fcm.googleapis.com", bearer="Bearer abc")
    fields = Decoder().decode(block, raw=True)
    assert [(name.decode(), value.decode()) for name, value in fields] == [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "fcm.googleapis.com"),
        (":path", "/v1/projects/my-project/messages:send"),
        ("authorization", "Bearer abc"),
        ("content-type", "application/json"),
    ]
    assert {field[0] for field in fields if isinstance(field, NeverIndexedHeaderTuple)} == {b"authorization"}


@pytest.mark.parametrize("pushkey", ["", " ", "a b", "a/b", "a\n", "\x00", "ä", "a" * 4097, "a\x7f"])
def test_pushkey_that_is_no_token_is_refused_and_never_sent(pushkey: str) -> None:
    delivery = sealed(device(pushkey))
    assert provider().refuse(delivery) == NOT_A_TOKEN
    assert build_request(delivery, look=Look(False, ()), head=b"", now=NOW) == Undeliverable(NOT_A_TOKEN)


def test_ordinary_ones_are_not_refused() -> None:
    token = "cZ1-_x:APA91b" + "A" * 130
    for delivery in (sealed(device(token)), plain(), badge_only(), plain(content={"body": "x" * 60_000})):
        assert provider().refuse(delivery) is None
    assert provider(forward_data=("x",)).refuse(sealed(device(data={"x": 1}))) is None
    assert provider().refuse(plain(event_id="e" * 900)) is None
    assert provider().refuse(sealed(ciphertext="ä" * 1404, key_identifier="k" * 600)) is None


@pytest.mark.parametrize(
    ("delivery", "more"),
    [
        (sealed(key_identifier="k" * 3000), {}),
        (sealed(ciphertext="€" * 1404), {}),
        (sealed(device(data={"big": "x" * 3000})), {"forward_data": ("big",)}),
        (plain(event_id="$" * 5000), {}),
        (plain(room_id="€" * 1400), {}),
    ],
)
def test_what_cannot_be_made_to_fit_is_refused(delivery: Delivery, more: dict[str, Any]) -> None:
    assert provider(**more).refuse(delivery) == TOO_LARGE


@given(
    ciphertext=st.text(st.characters(codec="utf-8"), min_size=1404, max_size=1404),
    key_identifier=st.text(st.characters(codec="utf-8"), max_size=900),
    identifier=st.none() | st.text(st.characters(codec="utf-8"), max_size=900),
    counts=st.none() | st.builds(Counts, unread=st.integers(0, 2**60), missed_calls=st.integers(0, 2**60)),
)
def test_what_is_not_refused_fits(
    ciphertext: str, key_identifier: str, identifier: str | None, counts: Counts | None
) -> None:
    delivery = sealed(ciphertext=ciphertext, key_identifier=key_identifier, identifier=identifier, counts=counts)
    fits = data_bytes(delivery, Look(False, ())) <= MAX_DATA_BYTES
    assert (provider().refuse(delivery) is None) == fits


# Sending


class FakePool:
    """Answers in turn; keeps what it was asked."""

    def __init__(self, *answers: Response | Http2Error) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[bytes, bytes, float]] = []
        self.closed = self.renewed = 0
        self.owners: list[Hashable] = []

    def join(self, owner: Hashable) -> None:
        self.owners.append(owner)

    def leave(self, owner: Hashable) -> None:
        self.owners.remove(owner)

    def waiting_of(self, owner: Hashable) -> int:
        return 0

    def send(self, call: Call, *, owner: Hashable) -> None:
        assert owner in self.owners
        self.requests.append((call.head, call.body, call.timeout_s))
        call.deadline = asyncio.get_running_loop().time() + call.timeout_s
        asyncio.get_running_loop().call_soon(call.told, self.answers.pop(0))

    def renew(self) -> None:
        self.renewed += 1

    async def close(self, timeout_s: float = 0.0) -> None:
        self.closed += 1

    def bearers(self) -> list[str]:
        heads = [dict(Decoder().decode(head, raw=True)) for head, _, _ in self.requests]
        return [head[b"authorization"].decode() for head in heads]


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Fetches:
    """A token endpoint that counts: token-1, token-2, or a fault."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.count = 0
        self.fault: TokenFault | None = None

    def __call__(self) -> Fetched:
        self.count += 1
        if self.fault is not None:
            raise CredentialError(self.fault)
        return Fetched(f"token-{self.count}", self.clock.now + 3600)


class World:
    """A provider, its pool, its token endpoint and its clock."""

    def __init__(self, *answers: Response | Http2Error, **more: Any) -> None:
        self.clock = Clock()
        self.fetches = Fetches(self.clock)
        self.pool = FakePool(*answers)
        fields = {"project_id": "my-project"} | more
        self.provider = FcmProvider(
            Settings(**fields),
            line=Line(lambda: self.pool),
            authority="x.example.org",
            token=GoogleToken(self.fetches, clock=self.clock),
            clock=self.clock,
        )


def provider(**more: Any) -> FcmProvider:
    return World(**more).provider


def error(status: int, code: str, **headers: Any) -> Response:
    kind = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
    body = f'{{"error":{{"status":"{code}","details":[{{"@type":"{kind}","errorCode":"{code}"}}]}}}}'
    return Response(status, body.encode(), decoded=headers)


def refused(status: int = 401, code: str = "UNAUTHENTICATED") -> Response:
    return Response(status, b'{"error":{"status":"%s"}}' % code.encode(), decoded={})


OK = Response(200, b'{"name":"projects/my-project/messages/1"}')


async def test_provider_is_an_owner_of_its_line_until_it_closes() -> None:
    world = World()
    assert world.pool.owners == [world.provider]
    await world.provider.close()
    assert world.pool.owners == []


async def test_200_is_accepted_with_the_fetched_token() -> None:
    world = World(OK, OK, request_timeout_s=12)
    assert await outcome_of(world.provider, sealed()) == Accepted()
    assert await outcome_of(world.provider, plain()) == Accepted()
    assert world.pool.bearers() == ["Bearer token-1"] * 2
    assert world.fetches.count == 1
    assert world.pool.requests[0][2] == 12


async def test_an_answer_is_classified_with_retry_after_against_our_clock() -> None:
    date = {"retry-after": "Sun, 15 Jun 2025 15:08:40 GMT"}
    world = World(error(404, "UNREGISTERED"), error(503, "UNAVAILABLE", **date))
    assert await outcome_of(world.provider, sealed()) == Rejected("UNREGISTERED")
    assert await outcome_of(world.provider, sealed()) == Deferred(Cause.PROVIDER, "UNAVAILABLE", 120.0)


@pytest.mark.parametrize(("status", "code"), [(401, "UNAUTHENTICATED"), (403, "PERMISSION_DENIED")])
async def test_refused_token_is_fetched_anew_and_the_request_repeated_once(status: int, code: str) -> None:
    world = World(OK, refused(status, code), OK)
    await outcome_of(world.provider, sealed())
    world.clock.now += 600
    assert await outcome_of(world.provider, sealed()) == Accepted()
    assert world.pool.bearers() == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]
    assert world.pool.requests[1][1] == world.pool.requests[2][1]


async def test_refusal_that_stays_is_a_fault_of_credentials_and_does_not_hammer_the_token_endpoint() -> None:
    world = World(OK, *[refused()] * 4)
    await outcome_of(world.provider, sealed())
    world.clock.now += 600
    for _ in range(3):
        assert await outcome_of(world.provider, sealed()) == Deferred(Cause.CREDENTIALS, "UNAUTHENTICATED")
    assert world.fetches.count == 2
    assert world.pool.answers == []


NO_TOKEN = {
    TokenFault.REFUSED: Cause.CREDENTIALS,
    TokenFault.NO_DEFAULT: Cause.CREDENTIALS,
    TokenFault.UNREACHABLE: Cause.CONNECTION,
}


@pytest.mark.parametrize("fault", TokenFault)
async def test_no_token_sends_nothing_and_only_an_unreachable_endpoint_is_not_a_fault_of_credentials(
    fault: TokenFault,
) -> None:
    world = World()
    world.fetches.fault = fault
    assert await outcome_of(world.provider, sealed()) == Deferred(NO_TOKEN[fault], fault)
    assert world.pool.requests == []
    assert fault in REASONS


@pytest.mark.parametrize("fault", TokenFault)
async def test_token_that_cannot_be_fetched_anew_after_a_refusal_says_why_and_the_others_go_on(
    fault: TokenFault,
) -> None:
    world = World(OK, refused(403, "PERMISSION_DENIED"), OK)
    await outcome_of(world.provider, sealed())
    world.clock.now += 120
    world.fetches.fault = fault
    assert await outcome_of(world.provider, sealed()) == Deferred(NO_TOKEN[fault], fault)
    assert await outcome_of(world.provider, sealed()) == Accepted()
    assert world.pool.bearers() == ["Bearer token-1"] * 3


@pytest.mark.parametrize("where", ["pushgate.provider.fcm.classify", "pushgate.provider.fcm.GoogleToken.bearer"])
async def test_a_bug_is_deferred_and_told_without_what_it_says(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a pushkey")

    monkeypatch.setattr(where, broken)
    world = World(error(404, "UNREGISTERED"))
    with capture_logs() as logged:
        assert await outcome_of(world.provider, sealed()) == Deferred(Cause.CONNECTION, INTERNAL)
    assert logged == [{"event": "answer not understood", "fault": "ZeroDivisionError", "log_level": "error"}]


async def test_third_party_auth_error_holds_up_one_delivery_and_is_told_once_an_hour() -> None:
    world = World(*[error(401, "THIRD_PARTY_AUTH_ERROR")] * 6)
    told = []
    for step_s in (0, 1, 3598, 1, 1, -7200):
        world.clock.now += step_s
        with capture_logs() as logs:
            outcome = await outcome_of(world.provider, sealed())
        assert outcome == Deferred(Cause.DEVICE, "THIRD_PARTY_AUTH_ERROR")
        told.append(len(logs))
        for line in logs:
            assert (line["log_level"], line["lane"]) == ("error", "de.example.app")
            assert "ab" * 32 not in repr(line)
    assert told == [1, 0, 0, 1, 0, 1]
    assert len(world.pool.requests) == 6, "no new access token is worth a try"


@pytest.mark.parametrize(
    ("fault", "reason"), [(NotSent("no connection"), "connect"), (Unanswered("stream reset by the peer"), "reset")]
)
async def test_no_answer_is_deferred(fault: Http2Error, reason: str) -> None:
    assert await outcome_of(World(fault).provider, sealed()) == Deferred(Cause.CONNECTION, reason)
    assert reason in REASONS


async def test_misdirected_request_has_the_connections_replaced() -> None:
    world = World(Response(421, b"", decoded={}))
    assert await outcome_of(world.provider, sealed()) == Deferred(Cause.CONNECTION, "status 421")
    assert (world.pool.renewed, world.pool.closed) == (1, 0)


async def test_what_cannot_be_sent_never_reaches_the_pool() -> None:
    world = World()
    assert await outcome_of(world.provider, sealed(device("no token"))) == Undeliverable(NOT_A_TOKEN)
    assert world.pool.requests == []


def test_no_repr_shows_pushkey_or_credentials() -> None:
    request = build_request(sealed(), look=Look(False, ()), head=b"Bearer abc", now=NOW)
    assert isinstance(request, ProviderRequest)
    for thing in (request, provider(), Fetched("abc", 1.0)):
        assert "abc" not in repr(thing)
        assert "ab" * 32 not in repr(thing)
