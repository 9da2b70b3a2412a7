"""What the doctor makes of what it sees: certificates, disks, locks, dates, answers of providers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Literal

import httpx
import pytest
from google.auth import exceptions

from pushgate.doctor import Check, Finding, State, apns, certificates, clock, fcm, management, permissions, spool
from pushgate.doctor.clock import Heard
from pushgate.doctor.credentials import topic
from pushgate.doctor.finding import MAX_WORDS_CHARS, said
from pushgate.errors import CredentialError
from pushgate.outcome import Accepted, Cause, Deferred, Rejected, Undeliverable
from pushgate.provider import apns_answer, fcm_answer
from pushgate.provider.apns_settings import Settings
from pushgate.provider.credentials import TokenFault
from pushgate.spool.database import APPLICATION_ID, FORMAT
from tests.certificates import Authority

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
APNS = Settings.model_construct(bundle_id="org.example.app", key_file=Path("k.p8"), environment="production")
STATUSES = (200, 400, 401, 403, 404, 405, 408, 410, 413, 418, 421, 429, 500, 503)


# --- certificates


@pytest.mark.parametrize(
    ("days", "state", "seen"),
    [
        ((-9, 31), State.OK, "CN=erp,O=Example, until 2026-07-02"),
        ((-9, 29), State.WARNING, "expires on 2026-06-30, in 29 days"),
        ((-9, 1), State.WARNING, "expires on 2026-06-02, in 1 day"),
        ((-9, 0), State.WRONG, "has expired on 2026-06-01: callers refuse it"),
        ((1, 9), State.WRONG, "begins on 2026-06-02 only"),
    ],
)
def test_the_life_of_a_certificate(days: tuple[int, int], state: State, seen: str) -> None:
    begins, ends = (NOW + timedelta(days=each) for each in days)
    leaf = Authority().issue("localhost", begins=begins, ends=ends).certificate
    found = certificates.life(Check.CERTIFICATE, "x", leaf, now=NOW.timestamp(), ended="callers refuse it")
    assert found.state is state
    assert seen in found.seen.replace("O=Example,CN=erp", "CN=erp,O=Example")


def test_a_chain_is_in_order_and_leads_to_somebody_known() -> None:
    root = Authority("root")
    middle = Authority("middle", above=root)
    leaf, stranger = middle.issue("localhost"), Authority("stranger").certificate

    def state(*shown: object, known: bool) -> State:
        return certificates.chain("x", shown, known=lambda _: known).state  # type: ignore[arg-type] # certificates

    assert state(leaf.certificate, middle.certificate, known=True) is State.OK
    assert state(leaf.certificate, middle.certificate, known=False) is State.WARNING
    assert state(leaf.certificate, middle.certificate, root.certificate, known=False) is State.OK, "the root itself"
    assert state(leaf.certificate, known=False) is State.WARNING
    assert state(middle.certificate, leaf.certificate, known=True) is State.WRONG
    assert state(leaf.certificate, stranger, middle.certificate, known=True) is State.WRONG
    namesake = Authority("middle", above=root).certificate
    assert state(leaf.certificate, namesake, known=True) is State.WRONG, "of the same name, and not who signed"


def test_a_certificate_for_something_else_than_push_has_no_topic() -> None:
    found = topic("app", Authority().issue("localhost").certificate, "org.example.app")
    assert (found.state, found.seen) == (State.WRONG, "the certificate is none for push: its subject has no user id")


@pytest.mark.parametrize(
    ("mode", "own_group", "state", "who"),
    [
        (0o100600, False, State.OK, "only its owner can"),
        (0o100400, True, State.OK, "only its owner can"),
        (0o100640, False, State.WARNING, "its group"),
        (0o100640, True, State.OK, "only its owner and this user's own group"),
        (0o100660, True, State.WARNING, "its group"),
        (0o100604, False, State.WARNING, "everybody on this machine"),
        (0o100644, True, State.WARNING, "everybody on this machine"),
    ],
)
def test_who_may_read_a_secret(mode: int, own_group: bool, state: State, who: str) -> None:
    found = permissions.judge(Path("k.p8"), "x", mode, own_group=own_group)
    assert (found.state, found.seen.startswith(who)) == (state, True)


# --- the disk


@pytest.mark.parametrize(
    ("folder", "state", "seen"),
    [
        ("/srv/spool", State.OK, "ext4"),
        ("/srv/nfs/deep/spool", State.WARNING, "nfs4: locks and fsync may not hold"),
        ("/srv/with space", State.WARNING, "fuse.sshfs: locks and fsync may not hold"),
        ("/run/pushgate", State.WARNING, "tmpfs: what waits is gone with the machine"),
        ("/over", State.OK, "xfs"),
        ("/srvelse", State.WARNING, "overlay: what waits is gone with the container"),
    ],
)
def test_a_file_system_that_does_not_keep_is_named(folder: str, state: State, seen: str) -> None:
    mounts = (
        "overlay / overlay rw 0 0\n/dev/sda1 /srv ext4 rw 0 0\nserver:/x /srv/nfs nfs4 rw 0 0\n"
        "tmpfs /run tmpfs rw 0 0\n"
        "me@host: /srv/with\\040space fuse.sshfs rw 0 0\ntmpfs /over tmpfs rw 0 0\n/dev/sdb /over xfs rw 0 0\n\nx\n"
    )
    found = spool.file_system(Path(folder), mounts)
    assert (found.state, found.seen.startswith(seen)) == (state, True), found


def test_a_system_that_does_not_tell_its_mounts_is_not_checked() -> None:
    assert spool.file_system(Path("/srv"), "").state is State.NOT_CHECKED


@pytest.mark.parametrize(
    ("free_mb", "max_mb", "used_mb", "state"),
    [(99, 1, 0, State.WRONG), (500, 8192, 0, State.WARNING), (500, 8192, 7700, State.OK), (500, 0, 0, State.OK)],
)
def test_space_is_enough_for_what_the_spool_may_grow_by(free_mb: int, max_mb: int, used_mb: int, state: State) -> None:
    assert spool.space(free_mb=free_mb, max_mb=max_mb, used_mb=used_mb).state is state


def header(application: int, version: int) -> bytes:
    return (
        b"SQLite format 3\0".ljust(60, b"\0") + version.to_bytes(4, "big") + bytes(4) + application.to_bytes(4, "big")
    )


@pytest.mark.parametrize(
    ("beginning", "state"),
    [
        (b"", State.OK),
        (header(APPLICATION_ID, FORMAT), State.OK),
        (header(APPLICATION_ID, FORMAT + 1), State.WRONG),
        (header(7, FORMAT), State.WRONG),
        (b"PK\x03\x04" + b"\0" * 96, State.WRONG),
    ],
)
def test_a_file_is_a_spool_of_this_release(beginning: bytes, state: State) -> None:
    assert spool.format_of(Path("spool.db"), beginning).state is state


@pytest.mark.parametrize(
    ("held", "is_answering", "state", "seen"),
    [
        (None, False, State.OK, "nobody uses it"),
        (spool.Holder(7), True, State.OK, "a gateway runs (process 7)"),
        (spool.Holder(7), False, State.WARNING, "process 7 uses it"),
        (spool.Holder(0), False, State.WARNING, "a process of another container uses it"),
        (None, True, State.WARNING, "although a gateway answers"),
    ],
)
def test_who_uses_the_spool(held: spool.Holder | None, is_answering: bool, state: State, seen: str) -> None:
    found = spool.lock(held, is_answering=is_answering, management="127.0.0.1:8081")
    assert (found.state, seen in found.seen) == (state, True)


# --- the clock


@pytest.mark.parametrize(
    ("skews", "trusted_by", "state", "seen"),
    [
        ([0.4], [], State.OK, "within 2 s of the clock of h0"),
        ([60], [], State.OK, "within 60 s of the clock of h0"),
        ([5, -61], [], State.WRONG, "61 s behind the clock of h1"),
        ([3600], ["APNs"], State.WRONG, "3600 s ahead of the clock of h0"),
        ([], ["APNs"], State.OK, "APNs takes a token of this clock"),
        ([], [], State.NOT_CHECKED, "no answer had a Date"),
        ([math.nan], [], State.NOT_CHECKED, "no answer had a Date"),
    ],
)
def test_the_clock_is_judged_by_the_worst_that_was_heard(
    skews: list[float], trusted_by: list[str], state: State, seen: str
) -> None:
    there = NOW.timestamp()
    heard = [
        Heard(f"h{n}", "nonsense" if math.isnan(skew) else formatdate(there, usegmt=True), there + skew)
        for n, skew in enumerate(skews)
    ]
    found = clock.judge(heard, trusted_by=trusted_by)
    assert (found.state, seen in found.seen) == (state, True), found


# --- what providers say


def of_apns(status: int, reason: str) -> Finding:
    outcome = apns_answer.classify(status, {}, b'{"reason":"%s"}' % reason.encode(), now=0)
    return apns.judge("app", APNS, outcome)


def test_every_word_of_apns_ends_in_a_state_with_its_next_step() -> None:
    """All of them with every status: what is a fault of ours has a step of its own."""
    own_steps = {step.replace("{topic}", "org.example.app") for step in apns.NEXT_STEPS.values()}
    met = set()
    for reason in apns_answer.REASONS:
        for status in STATUSES:
            found = of_apns(status, reason)
            assert bool(found.next_step) == (found.state is not State.OK)
            if status != 200 and reason in found.seen:
                met.add(reason)
            outcome = apns_answer.classify(status, {}, b'{"reason":"%s"}' % reason.encode(), now=0)
            is_ours = isinstance(outcome, Deferred) and (outcome.cause, outcome.reason) == (Cause.CREDENTIALS, reason)
            if is_ours and not reason.startswith("status"):
                assert (found.state, found.next_step in own_steps) == (State.WRONG, True), reason
    assert met >= {reason for reason in apns_answer.REASONS if not reason.startswith("status")}


@pytest.mark.parametrize("reason", ["BadDeviceToken", "Unregistered", "ExpiredToken"])
def test_what_is_only_about_the_pushkey_is_well(reason: str) -> None:
    assert apns.judge("app", APNS, Rejected(reason)).state is State.OK
    assert fcm.judge("app", "p", Rejected("UNREGISTERED"), "").state is State.OK


def test_apns_and_fcm_are_told_apart_where_the_request_itself_is_refused() -> None:
    for found, who in (
        (apns.judge("app", APNS, Undeliverable("BadPriority")), "APNs"),
        (fcm.judge("app", "p", Undeliverable("INVALID_ARGUMENT"), ""), "FCM"),
    ):
        assert (found.state, found.seen.startswith(f"{who} refuses")) == (State.WARNING, True)
    assert fcm.judge("app", "p", Accepted(), "").state is State.OK


def test_every_word_of_fcm_ends_in_a_state_with_its_next_step() -> None:
    own_steps = {step.replace("{project}", "p") for step in fcm.NEXT_STEPS.values()}
    for code in fcm_answer.REASONS:
        for status in STATUSES:
            body = b'{"error":{"status":"%s"}}' % code.encode()
            outcome = fcm_answer.classify(status, {}, body, now=0)
            found = fcm.judge("app", "p", outcome, "")
            assert bool(found.next_step) == (found.state is not State.OK)
            is_ours = isinstance(outcome, Deferred) and outcome.cause is Cause.CREDENTIALS and outcome.reason == code
            if is_ours and not code.startswith("status"):
                assert (found.state, found.next_step in own_steps) == (State.WRONG, True), code


@pytest.mark.parametrize("word", fcm.DENIED)
def test_why_permission_is_denied_is_read_from_the_details(word: str) -> None:
    body = b'{"error":{"details":[7,{"reason":"OTHER"},{"reason":"%s"}]}}' % word.encode()
    assert fcm.detail(body) == word
    found = fcm.judge("app", "my-project", Deferred(Cause.CREDENTIALS, "PERMISSION_DENIED"), word)
    meaning, _ = fcm.DENIED[word]
    assert meaning in found.seen
    assert "{project}" not in found.next_step


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"error":1}', b'{"error":{"details":{}}}', b'{"error":{"details":[{"reason":[]}]}}']
)
def test_answers_without_details_say_nothing_more(body: bytes) -> None:
    assert fcm.detail(body) == ""


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        ({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, "the key was deleted"),
        ({"error": "invalid_grant", "error_description": "SECRET"}, "the clock of this machine, or a key"),
        ({"error": "invalid_grant"}, "the clock of this machine, or a key"),
        ({"error": "SECRET"}, "without a word that we know"),
        ({"error": ["SECRET"]}, "without a word that we know"),
        ("SECRET", "without a word that we know"),
    ],
)
def test_of_a_refused_token_only_known_words_are_shown(told: Mapping[str, object] | str, seen: str) -> None:
    error = CredentialError(TokenFault.REFUSED)
    error.__cause__ = exceptions.RefreshError("SECRET", told)  # type: ignore[no-untyped-call] # of google-auth
    found = fcm.token_fault("app", error)
    assert seen in found.seen
    assert "SECRET" not in repr(found)


@pytest.mark.parametrize(
    ("error", "next_step"),
    [
        (CredentialError(TokenFault.NO_DEFAULT), "GOOGLE_APPLICATION_CREDENTIALS"),
        (CredentialError(TokenFault.UNREACHABLE), "run this again"),
        (TimeoutError(), "run this again"),
    ],
)
def test_a_token_that_cannot_be_fetched_has_its_next_step(
    error: CredentialError | TimeoutError, next_step: str
) -> None:
    found = fcm.token_fault("app", error)
    assert (found.state, next_step in found.next_step) == (State.WRONG, True)


def test_a_message_is_only_validated_and_otherwise_the_same() -> None:
    assert fcm.only_validated(b'{"message":{"token":"x"}}') == b'{"message":{"token":"x"},"validate_only":true}'


def test_what_strangers_say_is_one_line_and_not_long() -> None:
    assert said("a\x1b[2Jb\nc") == "a?[2Jb?c"
    assert len(said("x" * 9999)) == MAX_WORDS_CHARS + 1


# --- a gateway that runs


async def management_says(answer: httpx.Response | Exception) -> management.Seen:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url == "http://127.0.0.1:8081/health/ready"
        if isinstance(answer, Exception):
            raise answer
        return answer

    return await management.look("0.0.0.0:8081", transport=httpx.MockTransport(handle))


@pytest.mark.parametrize(
    ("answer", "state", "is_gateway", "seen"),
    [
        (httpx.Response(200, json={"status": "ok"}), State.OK, True, "takes notifications"),
        (httpx.Response(503, json={"status": "not ready", "reason": "dra\nining"}), State.WRONG, True, "dra?ining"),
        (httpx.Response(200, text="<html>"), State.WRONG, False, "another program"),
        (httpx.Response(200, json=[]), State.WRONG, False, "another program"),
        (httpx.Response(200, json={"status": "UP"}), State.WRONG, False, "another program"),
        (httpx.RemoteProtocolError("no HTTP"), State.WRONG, False, "another program"),
        (httpx.ReadTimeout("late"), State.WRONG, False, "does not answer within 5 s"),
        (httpx.ConnectError("refused"), State.NOT_CHECKED, False, "no gateway runs"),
    ],
)
async def test_what_the_management_port_says(
    answer: httpx.Response | Exception, state: State, is_gateway: bool, seen: str
) -> None:
    found = await management_says(answer)
    assert (found.finding.state, found.is_gateway, seen in found.finding.seen) == (state, is_gateway, True)


def cells(taking: int, not_taking: int, dead: int) -> httpx.Response:
    counts = {"taking": taking, "not_taking": not_taking, "dead": dead, "left_over": 1}
    lines = (f'pushgate_cells{{state="{state}"}} {count}.0' for state, count in counts.items())
    return httpx.Response(200, text="\n".join(["# TYPE pushgate_cells gauge", *lines, "# EOF"]))


@pytest.mark.parametrize(
    ("answer", "wanted", "state", "seen"),
    [
        (cells(2, 0, 0), 2, State.OK, "2 take notifications"),
        (cells(2, 0, 0), "auto", State.OK, "2 take notifications"),
        (cells(1, 0, 1), 2, State.WARNING, "1 of 2 take notifications"),
        (cells(1, 1, 0), "auto", State.WARNING, "1 of 2 take notifications"),
        (cells(2, 0, 0), 4, State.WARNING, "2 run, and the configuration says 4"),
        (httpx.Response(200, text="pushgate_up 1\n"), 2, State.WARNING, "1 run, and the configuration says 2"),
        (httpx.Response(401), 2, State.NOT_CHECKED, "the metrics answer 401"),
        (httpx.ReadTimeout("late"), 2, State.NOT_CHECKED, "the metrics do not answer"),
    ],
)
async def test_the_processes_of_a_gateway_are_counted(
    answer: httpx.Response | Exception, wanted: int | Literal["auto"], state: State, seen: str
) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        assert (str(request.url), request.headers["authorization"]) == ("http://[::1]:8081/metrics", "Bearer token")
        if isinstance(answer, Exception):
            raise answer
        return answer

    transport = httpx.MockTransport(handle)
    found = await management.processes("[::]:8081", wanted, token=b"token", transport=transport)
    assert (found.check, found.about, found.state, found.seen) == (Check.GATEWAY, "api.processes", state, seen)


@pytest.mark.parametrize("listen", ["", "127.0.0.1:0"])
async def test_a_management_port_that_cannot_be_known_is_not_asked(listen: str) -> None:
    assert (await management.look(listen)).finding.state is State.NOT_CHECKED
