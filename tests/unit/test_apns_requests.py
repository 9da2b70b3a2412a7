"""APNs requests: the header block, what is refused beforehand, and what becomes of an attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hpack import Decoder, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pushgate.errors import Http2Error, NotSent, Unanswered
from pushgate.http2 import Call, Response
from pushgate.model import Counts, Delivery, Prio
from pushgate.outcome import Accepted, Cause, Deferred, Rejected, Undeliverable
from pushgate.provider import INTERNAL, ProviderRequest
from pushgate.provider.apns import (
    NOT_A_TOKEN,
    REASONS,
    TOO_LARGE,
    ApnsProvider,
    authorization,
    build_request,
    form,
)
from pushgate.provider.apns_payload import MAX_PAYLOAD_BYTES
from pushgate.provider.apns_settings import Alert, Settings
from pushgate.provider.credentials import GRID_S, ApnsToken
from pushgate.provider.peer import Line
from tests.attempts import outcome_of
from tests.provider_samples import ID, NOW, TOKEN, badge_only, device, plain, sealed

KEY = ec.generate_private_key(ec.SECP256R1())


def settings(**more: Any) -> Settings:
    fields = {"bundle_id": "de.example.app", "alert": Alert(title="New notification")} | more
    return Settings.model_construct(**(Settings.model_construct().__dict__ | fields))


def built(delivery: Delivery, bearer: str = "bearer a.b.c", **more: Any) -> ProviderRequest | Undeliverable:
    the_form = form(settings(**more), authority="api.push.apple.com")
    return build_request(delivery, form=the_form, authorization=authorization(bearer) if bearer else b"")


def head_of(request: ProviderRequest | Undeliverable) -> list[tuple[str, str]]:
    assert isinstance(request, ProviderRequest)
    return [(name.decode(), value.decode()) for name, value in Decoder().decode(request.head, raw=True)]


def test_head_is_what_apns_wants_in_the_order_of_http2() -> None:
    assert head_of(built(sealed())) == [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "api.push.apple.com"),
        (":path", f"/3/device/{TOKEN}"),
        ("apns-topic", "de.example.app"),
        ("apns-push-type", "alert"),
        ("apns-priority", "5"),
        ("authorization", "bearer a.b.c"),
        ("apns-id", ID),
        ("apns-expiration", "1750086000"),
    ]


def test_path_and_authorization_are_never_indexed() -> None:
    request = built(sealed())
    assert isinstance(request, ProviderRequest)
    fields = Decoder().decode(request.head, raw=True)
    assert {field[0] for field in fields if isinstance(field, NeverIndexedHeaderTuple)} == {b":path", b"authorization"}


def test_certificate_needs_no_authorization() -> None:
    assert "authorization" not in dict(head_of(built(sealed(), bearer="")))


@pytest.mark.parametrize(
    ("delivery", "push_type", "priority"),
    [
        (sealed(prio=Prio.HIGH), "alert", "10"),
        (sealed(prio=Prio.LOW), "alert", "5"),
        (plain(prio=Prio.HIGH), "alert", "10"),
        (badge_only(prio=Prio.HIGH), "alert", "10"),
        (badge_only(prio=Prio.LOW), "alert", "5"),
        (badge_only(Counts(missed_calls=1), prio=Prio.HIGH), "background", "5"),
    ],
)
def test_priority_follows_prio_and_a_background_update_is_never_urgent(
    delivery: Delivery, push_type: str, priority: str
) -> None:
    head = dict(head_of(built(delivery)))
    assert (head["apns-push-type"], head["apns-priority"]) == (push_type, priority)


def test_nothing_in_a_request_tells_which_service_sent_it() -> None:
    names = {name for name, _ in head_of(built(sealed()))}
    assert "apns-collapse-id" not in names


@pytest.mark.parametrize("chars", [2, 64, 160, 4096])
def test_token_of_any_length_goes_into_the_path(chars: int) -> None:
    assert dict(head_of(built(sealed(device("a" * chars)))))[":path"] == "/3/device/" + "a" * chars


def test_base64_token_goes_out_as_hex() -> None:
    request = built(sealed(device("q83v//8=")), token_encoding="base64")
    assert dict(head_of(request))[":path"] == "/3/device/abcdefffff"


BAD_PUSHKEYS = [
    "",
    "abc",
    "xy_-" * 16,
    "ab ab",
    "ab/../ab",
    "ab\r\nx: y",
    "ab\n",
    "\x00\x00",
    "äö",
    "٣٣",
    "ab" * 2049,
    "Zm9v!",
]


@pytest.mark.parametrize("encoding", ["hex", "base64"])
@pytest.mark.parametrize("pushkey", BAD_PUSHKEYS)
def test_pushkey_that_is_no_token_is_refused_and_never_sent(pushkey: str, encoding: str) -> None:
    delivery = sealed(device(pushkey))
    assert provider(token_encoding=encoding).refuse(delivery) == NOT_A_TOKEN
    assert built(delivery, token_encoding=encoding) == Undeliverable(NOT_A_TOKEN)


@given(pushkey=st.text(max_size=80))
def test_no_pushkey_breaks_out_of_the_path(pushkey: str) -> None:
    for encoding in ("hex", "base64"):
        request = built(sealed(device(pushkey)), token_encoding=encoding)
        if isinstance(request, ProviderRequest):
            path = dict(head_of(request))[":path"].removeprefix("/3/device/")
            assert path and set(path) <= set("0123456789abcdefABCDEF")


@pytest.mark.parametrize(
    ("delivery", "more"),
    [
        (sealed(key_identifier="k" * 3000), {}),
        (sealed(ciphertext="\x01" * 1404), {}),
        (sealed(device(data={"big": "x" * 3000})), {"forward_data": ("big",)}),
        (plain(event_id="$" * 5000), {}),
        (plain(room_id="\x01" * 700), {}),
    ],
)
def test_what_cannot_be_made_to_fit_is_refused_and_never_sent(delivery: Delivery, more: dict[str, Any]) -> None:
    assert provider(**more).refuse(delivery) == TOO_LARGE
    assert built(delivery, **more) == Undeliverable(TOO_LARGE)


@given(
    ciphertext=st.text(st.characters(codec="utf-8"), min_size=1404, max_size=1404),
    key_identifier=st.text(st.characters(codec="utf-8"), max_size=900),
    identifier=st.none() | st.text(st.characters(codec="utf-8"), max_size=900),
    counts=st.none() | st.builds(Counts, unread=st.integers(0, 2**40)),
)
def test_what_is_not_refused_fits(
    ciphertext: str, key_identifier: str, identifier: str | None, counts: Counts | None
) -> None:
    delivery = sealed(ciphertext=ciphertext, key_identifier=key_identifier, identifier=identifier, counts=counts)
    request = built(delivery)
    assert (provider().refuse(delivery) is None) == isinstance(request, ProviderRequest)
    assert isinstance(request, Undeliverable) or len(request.body) <= MAX_PAYLOAD_BYTES


def test_ordinary_ones_are_not_refused() -> None:
    for delivery in (sealed(), plain(), badge_only(), plain(content={"body": "x" * 60_000}), plain(event_id="e" * 900)):
        assert provider().refuse(delivery) is None
    assert provider(forward_data=("x",)).refuse(sealed(device(data={"x": 1}))) is None


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


def answer(status: int, reason: str = "", **more: Any) -> Response:
    return Response(status, b'{"reason":"%s"}' % reason.encode() if reason else b"", decoded=more)


def provider(*answers: Response | Http2Error, clock: Clock | None = None, **more: Any) -> ApnsProvider:
    return provider_and_pool(*answers, clock=clock, **more)[0]


def provider_and_pool(
    *answers: Response | Http2Error, clock: Clock | None = None, **more: Any
) -> tuple[ApnsProvider, FakePool]:
    clock = clock or Clock()
    pool = FakePool(*answers)
    token = ApnsToken(KEY, key_id="KEY1234567", team_id="TEAM123456", clock=clock)
    return ApnsProvider(
        settings(**more), line=Line(lambda: pool), authority="x.example.org", token=token, clock=clock
    ), pool


async def test_200_is_accepted() -> None:
    sender, pool = provider_and_pool(answer(200), request_timeout_s=7)
    assert await outcome_of(sender, sealed()) == Accepted()
    assert pool.requests[0][2] == 7


async def test_a_certificate_that_has_expired_asks_nobody_and_keeps_the_delivery() -> None:
    clock, pool = Clock(), FakePool(answer(200))
    line = Line(lambda: pool)
    sender = ApnsProvider(
        settings(), line=line, authority="x.example.org", token=None, clock=clock, good_until=clock.now + 1
    )
    assert await outcome_of(sender, sealed()) == Accepted()
    clock.now += 1
    assert await outcome_of(sender, sealed()) == Deferred(Cause.CREDENTIALS, "certificate expired")
    assert len(pool.requests) == 1
    assert "certificate expired" in REASONS


async def test_a_bug_in_reading_an_answer_is_deferred_and_told_without_what_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError(TOKEN)

    monkeypatch.setattr("pushgate.provider.apns.classify", broken)
    with capture_logs() as logged:
        assert await outcome_of(provider(answer(410, "Unregistered")), sealed()) == Deferred(Cause.CONNECTION, INTERNAL)
    assert logged == [{"event": "answer not understood", "fault": "ZeroDivisionError", "log_level": "error"}]


async def test_pushkey_ts_of_the_device_decides_about_a_410() -> None:
    body = Response(410, b'{"reason":"Unregistered","timestamp":1749000000000}', decoded={})
    sender = provider(body, body)
    assert await outcome_of(sender, sealed(device(pushkey_ts=1_748_000_000))) == Rejected("Unregistered", 1749000000000)
    assert await outcome_of(sender, sealed(device(pushkey_ts=1_749_500_000))) == Deferred(Cause.DEVICE, "Unregistered")


async def test_retry_after_of_the_answer_is_read_against_our_clock() -> None:
    late = answer(503, "ServiceUnavailable", **{"retry-after": "Sun, 15 Jun 2025 15:08:40 GMT"})
    assert await outcome_of(provider(late), sealed()) == Deferred(Cause.PROVIDER, "ServiceUnavailable", 120.0)


@pytest.mark.parametrize(
    ("error", "reason"), [(NotSent("no connection"), "connect"), (Unanswered("stream reset by the peer"), "reset")]
)
async def test_no_answer_is_deferred(error: Http2Error, reason: str) -> None:
    assert await outcome_of(provider(error), sealed()) == Deferred(Cause.CONNECTION, reason)
    assert reason in REASONS


async def test_no_answer_within_the_deadline_is_a_timeout() -> None:
    assert await outcome_of(provider(Unanswered("no answer in time"), request_timeout_s=0.0), sealed()) == Deferred(
        Cause.CONNECTION, "timeout"
    )


@pytest.mark.parametrize(
    ("status", "reason"), [(503, "Shutdown"), (400, "IdleTimeout"), (403, "UnrelatedKeyIdInToken"), (421, "")]
)
async def test_connections_that_apns_wants_no_more_give_way_once(status: int, reason: str) -> None:
    sender, pool = provider_and_pool(*[answer(status, reason)] * 3)
    for _ in range(3):
        outcome = await outcome_of(sender, sealed())
        assert outcome == Deferred(Cause.CONNECTION, reason or "status 421")
    assert (pool.renewed, pool.closed) == (1, 0)


async def test_providers_on_one_line_are_owners_of_their_own_until_they_close() -> None:
    sender, pool = provider_and_pool()
    other = ApnsProvider(settings(), line=sender._line, authority="x.example.org", token=None, clock=Clock())
    assert pool.owners == [sender, other]
    await sender.close()
    assert pool.owners == [other]


async def test_what_cannot_be_sent_never_reaches_the_pool() -> None:
    sender, pool = provider_and_pool()
    assert await outcome_of(sender, sealed(device("no token"))) == Undeliverable(NOT_A_TOKEN)
    assert pool.requests == []


OLD_ENOUGH = NOW - NOW % GRID_S + 1300


async def test_expired_token_is_renewed_and_the_request_repeated_once() -> None:
    sender, pool = provider_and_pool(
        answer(403, "ExpiredProviderToken"), answer(200), answer(200), clock=Clock(OLD_ENOUGH)
    )
    assert await outcome_of(sender, sealed()) == Accepted()
    assert await outcome_of(sender, sealed()) == Accepted()
    first, second, third = pool.bearers()
    assert first != second == third
    assert pool.requests[0][1] == pool.requests[1][1]


async def test_token_that_stays_expired_is_a_fault_of_credentials() -> None:
    sender, pool = provider_and_pool(*[answer(403, "ExpiredProviderToken")] * 3, clock=Clock(OLD_ENOUGH))
    assert await outcome_of(sender, sealed()) == Deferred(Cause.CREDENTIALS, "ExpiredProviderToken")
    assert await outcome_of(sender, sealed()) == Deferred(Cause.CREDENTIALS, "ExpiredProviderToken")
    assert len(pool.requests) == 3


async def test_young_token_is_not_renewed() -> None:
    sender, pool = provider_and_pool(answer(403, "ExpiredProviderToken"), clock=Clock(NOW - NOW % GRID_S + 60))
    assert await outcome_of(sender, sealed()) == Deferred(Cause.CREDENTIALS, "ExpiredProviderToken")
    assert len(pool.requests) == 1


async def test_many_with_an_expired_token_renew_it_once() -> None:
    class Expiring(FakePool):
        def waiting_of(self, owner: Hashable) -> int:
            return 0

        def send(self, call: Call, *, owner: Hashable) -> None:
            self.requests.append((call.head, call.body, call.timeout_s))
            status = 200 if self.bearers()[-1] != self.bearers()[0] else 403
            asyncio.get_running_loop().call_soon(call.told, answer(status, "ExpiredProviderToken"))

    clock = Clock(OLD_ENOUGH)
    pool = Expiring()
    token = ApnsToken(KEY, key_id="KEY1234567", team_id="TEAM123456", clock=clock)
    sender = ApnsProvider(settings(), line=Line(lambda: pool), authority="x.example.org", token=token, clock=clock)
    outcomes = await asyncio.gather(*(outcome_of(sender, sealed()) for _ in range(5)))
    assert outcomes == [Accepted()] * 5
    assert len(set(pool.bearers())) == 2


async def test_token_of_a_new_period_is_encoded_anew() -> None:
    clock = Clock()
    sender, pool = provider_and_pool(answer(200), answer(200), clock=clock)
    await outcome_of(sender, sealed())
    clock.now += GRID_S
    await outcome_of(sender, sealed())
    assert len(set(pool.bearers())) == 2


def test_no_repr_shows_pushkey_or_credentials() -> None:
    request = built(sealed())
    assert isinstance(request, ProviderRequest)
    for thing in (request, provider(), form(settings(), authority="x"), sealed()):
        assert TOKEN not in repr(thing)
        assert "a.b.c" not in repr(thing)
