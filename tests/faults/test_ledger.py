"""The ledger itself: it finds what is lost, sent twice and wrongly told; the table on the page is that of the suite."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal
from unittest.mock import create_autospec

import msgspec
import pytest

from pushgate.emulator.exchange import Peer, Request
from pushgate.stage import APNS_APP_ID, FCM_APP_ID
from tests.faults import table
from tests.faults.ledger import Ledger, Verdict, longest_pause_s
from tests.faults.table import Row
from tests.faults.watching import Key, calls_dead, mark_of, open_session_of
from tests.processes import staged


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: Clock) -> AsyncIterator[Ledger]:
    """Of a gateway that is not running: what it took and logged is written by the test."""
    (tmp_path / "gateway.log").touch()
    async with staged(tmp_path) as run, Ledger(run, seed=1, clock=clock) as ledger:
        yield ledger


def log(folder: Path, **event: object) -> None:
    with (folder / "gateway.log").open("a") as file:
        file.write(json.dumps(event) + "\n")


def take(ledger: Ledger, pushkey: str, *, at: float = 100.0) -> Key:
    key = (pushkey, mark_of({"event_id": "$1"}))
    ledger.taken[key] = at
    return key


async def test_what_never_arrives_is_lost_whatever_the_log_says(ledger: Ledger, tmp_path: Path) -> None:
    take(ledger, "a")
    take(ledger, "b")
    ledger.watch.arrived("a", {"event_id": "$1"})
    ledger.watch.arrived("b", {"event_id": "$2"})
    log(tmp_path, event="out of time", count=1)
    verdict = ledger.judge()
    assert (verdict.taken, verdict.arrived, verdict.lost, verdict.expired) == (2, 1, 1, 1)


async def test_only_so_much_is_expired_as_the_gateway_says_and_only_where_it_may(
    ledger: Ledger, tmp_path: Path
) -> None:
    ledger._may_expire = True
    for pushkey in "abc":
        take(ledger, pushkey)
    log(tmp_path, event="out of time", lane="x", attempts=3)
    assert ledger.judge().lost == 2
    log(tmp_path, event="out of time", lane="x", count=2)
    assert (ledger.judge().lost, ledger.judge().expired) == (0, 3)


async def test_rejected_is_what_a_provider_called_dead_and_the_gateway_settled_so(
    ledger: Ledger, tmp_path: Path
) -> None:
    for pushkey in "abc":
        take(ledger, pushkey)
    ledger.watch.called_dead("a")
    ledger.watch.called_dead("b")
    log(tmp_path, event="pushkey is dead", lane="x")
    verdict = ledger.judge()
    assert (verdict.rejected, verdict.lost) == (1, 2)


async def test_sent_twice_is_explained_only_by_a_fault_between_the_two(ledger: Ledger, clock: Clock) -> None:
    def arrive(pushkey: str, at: float) -> None:
        clock.now = at
        ledger.watch.arrived(pushkey, {"event_id": "$1"})

    arrive("a", 101)
    clock.now = 102
    with ledger.fault():
        arrive("b", 103)
        clock.now = 104
    arrive("a", 105)
    arrive("b", 106)
    arrive("c", 107)
    assert (ledger.judge().twice, ledger.judge().twice_unexplained) == (2, 0)
    arrive("c", 108)
    arrive("a", 109)
    assert (ledger.judge().twice, ledger.judge().twice_unexplained) == (3, 2)


async def test_what_a_caller_sent_again_is_explained_by_a_fault_since_it_sent_it_first(
    ledger: Ledger, clock: Clock
) -> None:
    def arrive_twice(pushkey: str, *, sent_at: float | None = None) -> None:
        for clock.now in (110.0, 111.0):
            ledger.watch.arrived(pushkey, {"event_id": "$1"})
        if sent_at is not None:
            ((key, _),) = ((key, times) for key, times in ledger.watch.arrivals.items() if key[0] == pushkey)
            ledger.sent_again[key] = sent_at

    clock.now = 102
    with ledger.fault():
        clock.now = 104
    arrive_twice("before", sent_at=101)
    arrive_twice("within", sent_at=103)
    assert (ledger.judge().twice, ledger.judge().twice_unexplained) == (2, 0)
    arrive_twice("afterwards", sent_at=105)
    assert (ledger.judge().twice, ledger.judge().twice_unexplained) == (3, 1)
    arrive_twice("only once")
    assert (ledger.judge().twice, ledger.judge().twice_unexplained) == (4, 2)


async def test_told_is_wrong_before_a_provider_has_said_so(ledger: Ledger, clock: Clock) -> None:
    ledger.told = {"a": 105.0, "b": 105.0, "c": 105.0}
    clock.now = 104
    ledger.watch.called_dead("a")
    clock.now = 106
    ledger.watch.called_dead("b")
    assert (ledger.judge().told, ledger.judge().wrongly_told) == (3, 2)


async def test_refused_and_in_doubt_are_counted_where_they_arrive(ledger: Ledger) -> None:
    ledger.refused = {("a", "$1"), ("b", "$1")}
    ledger.in_doubt = {("c", "$1"), ("d", "$1"), ("e", "$1")}
    for pushkey in "acd":
        ledger.watch.arrived(pushkey, {"event_id": "$1"})
    verdict = ledger.judge()
    assert (verdict.refused_arrived, verdict.in_doubt_arrived, verdict.lost) == (1, 2, 0)


@pytest.mark.parametrize(
    ("taken", "arrivals", "pause_s"),
    [
        ({}, {}, 0),
        ({"a": 1}, {"a": [4]}, 3),
        ({"a": 4}, {"a": [1, 9]}, 0),  # arrived before the answer: nobody waited
        ({"a": 1, "b": 2}, {"a": [5], "b": [6, 20]}, 4),
        ({"a": 1, "b": 2}, {"a": [3], "b": [9]}, 6),
        ({"a": 1, "b": 2}, {"a": [3], "b": [9], "x": [5, 7]}, 2),  # others arrive meanwhile
        ({"a": 1, "b": 50}, {"a": [2], "b": [51]}, 1),  # nothing waits in between
        ({"a": 1, "lost": 1}, {"a": [2]}, 1),
    ],
)
def test_a_pause_is_the_longest_time_in_which_something_waits_and_nothing_comes(
    taken: dict[str, float], arrivals: dict[str, list[float]], pause_s: float
) -> None:
    assert longest_pause_s({(k, ""): v for k, v in taken.items()}, {(k, ""): v for k, v in arrivals.items()}) == pause_s


async def test_what_it_makes_is_unique_and_of_all_kinds(ledger: Ledger) -> None:
    notes = [ledger.make(is_sealed=bool(number & 2)) for number in range(40)]
    devices = [note.device if hasattr(note, "device") else note.devices[0] for note in notes]
    assert len({device.pushkey for device in devices}) == 40
    kinds = {(type(note).__name__, device.app_id) for note, device in zip(notes, devices, strict=True)}
    assert kinds == {
        (kind, app) for kind in ("PlainNotification", "EncryptedNotification") for app in (APNS_APP_ID, FCM_APP_ID)
    }
    ledger._pushkeys = 3
    few = {device.pushkey for device in ledger.devices()}
    assert len(few) == 3
    assert {ledger.device().pushkey for _ in range(100)} == few


async def test_the_watch_sees_which_pushkeys_are_called_dead(ledger: Ledger) -> None:
    emulators = ledger._run.stage.apns, ledger._run.stage.fcm
    for emulator in emulators:
        emulator.temper = type(emulator.temper)("accept-all")
    session = open_session_of(emulators[0])(Peer(http2=True))
    for token in ("dead" + "0" * 60, "a" * 64):
        session.answer(Request("POST", f"/3/device/{token}", (), b'{"event_id":"$1"}', 2))
    session = open_session_of(emulators[1])(Peer(http2=True))
    for token in ("dead-one", "living"):
        body = b'{"message":{"token":"%b","data":{"event_id":"$2"}}}' % token.encode()
        session.answer(Request("POST", "/v1/projects/example-project/messages:send", (), body, len(body)))
    assert set(ledger.watch.dead) == {"dead" + "0" * 60, "dead-one"}
    assert set(ledger.watch.arrivals) == {("a" * 64, "$1"), ("living", "$2")}


@pytest.mark.parametrize(
    ("status", "body", "is_dead"),
    [
        (400, b'{"reason":"BadDeviceToken"}', True),
        (400, b'{"reason":"BadTopic"}', False),
        (410, b'{"reason":"BadDeviceToken"}', False),
        (200, b"", False),
        (404, b"<html>", False),
        (404, b'{"error":{"details":[{"errorCode":"UNREGISTERED"}]}}', True),
        (404, b'{"error":{"status":"NOT_FOUND"}}', False),
        (400, b'{"error":{"details":[{"fieldViolations":[{"field":"message.token"}]}]}}', True),
    ],
)
def test_only_a_providers_own_word_calls_a_pushkey_dead(status: int, body: bytes, is_dead: bool) -> None:
    assert calls_dead(status, body) is is_dead


# --- the table


@pytest.mark.parametrize(
    "broken",
    [
        Verdict(taken=0, lost=0),
        Verdict(taken=9, lost=1),
        Verdict(taken=9, lost=0, refused_arrived=1),
        Verdict(taken=9, lost=0, wrongly_told=1),
        Verdict(taken=9, lost=0, twice=2, twice_unexplained=1),
        Verdict(taken=9, lost=0, twice=4),
    ],
)
def test_a_broken_promise_fails_the_test_of_its_fault(broken: Verdict) -> None:
    table.check(Verdict(taken=9, lost=0, twice=3), twice_at_most=3, because="three were in flight")
    with pytest.raises(AssertionError):
        table.check(broken, twice_at_most=3, because="three were in flight")


def row(fault: str, taken: str = "1") -> Row:
    return Row(fault, "by hand", taken, "0", "0", "0.1 s", "")


def test_the_page_has_a_row_for_each_fault_of_the_suite_and_no_other() -> None:
    faults = table.faults_of_the_suite()
    assert len(faults) == len(set(faults)), "two faults have the same name"
    rows = table.read(table.PAGE.read_text())
    assert list(rows) == faults, "run `make faults`"
    assert {each.lost for each in rows.values()} == {"0"}


def test_what_ran_is_written_and_what_did_not_run_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{table.BEGIN}\n\n{table.END}\n\nbehind\n")
    table.rewrite(page, {"a": row("a"), "b": row("b")}, ["b", "a"])
    table.rewrite(page, {"a": row("a", "2"), "gone": row("gone")}, ["b", "a", "never ran"])
    assert table.read(page.read_text()) == {"b": row("b"), "a": row("a", "2")}
    assert page.read_text().startswith("before\n\n" + table.BEGIN)
    assert page.read_text().endswith(table.END + "\n\nbehind\n")


@pytest.mark.parametrize("passed", [True, False])
def test_the_row_of_a_failed_test_goes_from_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passed: bool
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{table.BEGIN}\n{table.END}\n")
    table.rewrite(page, {"a": row("a"), "b": row("b")}, ["a", "b"])
    monkeypatch.setattr(table, "faults_of_the_suite", lambda: ["a", "b"])
    gathering = table.Gathering(page)
    outcome: Literal["passed", "failed"] = "passed" if passed else "failed"
    properties = [(table.NAME, "a"), (table.ROW, msgspec.to_builtins(row("a", "2")))]
    gathering.pytest_runtest_logreport(
        pytest.TestReport("x", ("x", 1, "x"), {}, outcome, None, "call", user_properties=properties)
    )
    gathering.pytest_terminal_summary(create_autospec(pytest.TerminalReporter))
    assert table.read(page.read_text()) == ({"a": row("a", "2")} if passed else {}) | {"b": row("b")}


def test_a_page_without_markers_is_not_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(AssertionError, match="markers"):
        table.rewrite(page, {"a": row("a")}, ["a"])
    assert page.read_text() == "nothing\n"
