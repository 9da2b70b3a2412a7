"""cells: shares of the settings, restarts, the key that all agree upon, and what is said of all together."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from pushgate.allowance import Allowances, Limit
from pushgate.breaker import Breaker, BreakerLimits
from pushgate.cells.agreement import Agreement
from pushgate.cells.child import Child
from pushgate.cells.counts import States, own_families
from pushgate.cells.messages import AskForget, AskRejections, Found, Question, Stopped
from pushgate.cells.restarts import AT_FIRST_S, SLOWLY_S, WITHIN_S, Restarts
from pushgate.cells.shares import cells_of, file_of, share_of
from pushgate.cells.together import Together
from pushgate.config import Api, Settings
from pushgate.errors import SpoolUnavailable
from pushgate.metrics.families import Family, Kind
from pushgate.provider import fcm_settings
from pushgate.spool.repeats import Repeats
from pushgate.spool.sharing import Doubts

# --- shares --------------------------------------------------------------------------------------------------------


def settings(**spool: object) -> Settings:
    base = Settings()
    app = fcm_settings.Settings.model_construct(provider="fcm", max_in_flight=1000)
    changed = base.spool.model_copy(update={"url": "sqlite:/data/spool.db", **spool})
    return base.model_copy(update={"spool": changed, "apps": {"a": app}})


@pytest.mark.parametrize(("cell", "name"), [(0, "spool.db"), (1, "spool.1.db"), (12, "spool.12.db")])
def test_each_cell_has_a_file_beside_the_first(cell: int, name: str) -> None:
    assert file_of(Path("/data/spool.db"), cell) == Path("/data") / name
    assert share_of(settings(), cell=cell, cells=16).spool.sqlite_path == Path("/data") / name


def test_limits_of_the_whole_are_shared_and_never_become_none_or_nothing() -> None:
    share = share_of(settings(max_waiting=5, max_mb=1), cell=0, cells=3)
    assert (share.spool.max_waiting, share.spool.max_mb, share.apps["a"].max_in_flight) == (2, 1, 334)
    assert share.management.listen == ""
    boundless = share_of(settings(max_waiting=0, max_mb=0), cell=0, cells=3)
    assert (boundless.spool.max_waiting, boundless.spool.max_mb) == (0, 0), "no limit stays no limit"


def test_auto_is_one_for_each_core_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 3, 5})
    assert cells_of(Api(processes="auto")) == 3
    assert cells_of(Api(processes=7)) == 7


# --- restarts ------------------------------------------------------------------------------------------------------


def test_a_cell_that_dies_now_and_then_is_back_at_once() -> None:
    restarts = Restarts()
    assert [restarts.died(number * (WITHIN_S + 1)) for number in range(10)] == [AT_FIRST_S] * 10
    assert (restarts.count, restarts.keeps_dying(700)) == (10, False)


def test_one_that_keeps_dying_is_tried_slowly_and_never_given_up() -> None:
    restarts = Restarts()
    now, waits = 0.0, []
    for _ in range(12):
        waits.append(restarts.died(now))
        now += waits[-1]
    assert waits[:4] == [AT_FIRST_S, 2 * AT_FIRST_S, 4 * AT_FIRST_S, 8 * AT_FIRST_S]
    assert set(waits[4:6]) == {SLOWLY_S}
    assert restarts.keeps_dying(10), "five deaths within a minute"
    assert max(waits) == SLOWLY_S
    assert not restarts.keeps_dying(now + WITHIN_S + SLOWLY_S + 1)


# --- the key -------------------------------------------------------------------------------------------------------


def agreed(*found: Found) -> bytes:
    agreement = Agreement()
    told: list[int] = []
    for cell, _ in enumerate(found):
        agreement.expect(cell)
    for cell, each in reversed(list(enumerate(found))):
        assert told == [], "nobody is told before all have said what they found"
        told += agreement.found(cell, each)
    assert told == list(range(len(found)))
    return agreement.answer.secret


@pytest.mark.parametrize(
    ("binding", "expected"),
    [
        ((False, False, False), b"0"),
        ((False, True, True), b"1"),
        ((True, False, True), b"0"),
        ((False, False, True), b"2"),
    ],
)
def test_the_key_is_one_under_which_something_is_remembered(binding: Sequence[bool], expected: bytes) -> None:
    found = [Found(b"%d" % cell, is_binding) for cell, is_binding in enumerate(binding)]
    assert agreed(*found) == expected


def test_a_cell_that_dies_before_it_says_anything_is_not_waited_for() -> None:
    agreement = Agreement()
    for cell in (0, 1):
        agreement.expect(cell)
    assert agreement.found(1, Found(b"1", False)) == ()
    assert agreement.gone(0) == [1]
    assert agreement.answer.secret == b"1"
    agreement.expect(0)
    assert agreement.found(0, Found(b"0", True)) == (0,), "who comes later is told what holds"
    assert agreement.answer.secret == b"1"


# --- repeats and rejections of others ------------------------------------------------------------------------------


def test_what_is_told_again_is_no_news() -> None:
    repeats = Repeats(window_s=10)
    assert repeats.learn(b"a", 1000)
    assert not repeats.learn(b"a", 1000)
    assert not repeats.learn(b"a", 5000), "the same claim, told with another time"
    assert not repeats.claim(b"a", 9000)
    assert repeats.learn(b"a", 11_000), "claimed anew after the window"
    assert not repeats.claim(b"a", 12_000)


def test_a_release_counts_unless_it_was_claimed_again_since() -> None:
    repeats = Repeats(window_s=10)
    repeats.learn(b"a", 92000)
    assert not repeats.unlearn(b"a", 91000)
    assert not repeats.claim(b"a", 93000)
    assert repeats.unlearn(b"a", 94000)
    assert not repeats.unlearn(b"a", 94000)
    assert repeats.claim(b"a", 95000)


def test_doubts_concern_what_was_told_until_then_and_are_few() -> None:
    doubts = Doubts(most=2)
    doubts.add([b"a", b"b"], 100)
    assert [doubts.concern(b"a", at_ms) for at_ms in (99, 100, 101)] == [True, True, False]
    assert not doubts.concern(b"c", 1)
    doubts.add([b"c"], 100)
    assert [doubts.concern(name, 1) for name in (b"a", b"b", b"c")] == [False, True, True]


# --- what adds up --------------------------------------------------------------------------------------------------


def test_the_breaker_counts_what_others_saw() -> None:
    breaker = Breaker(BreakerLimits(share=0.2, count=50, window_s=300))
    breaker.hear(alive=0, dead=40)
    assert [breaker.dead(0, f"key-{n}") for n in range(12)] == [True] * 10 + [False] * 2
    assert breaker.tally(0) == (0, 0), "what ends it must come after it began"
    breaker = Breaker(BreakerLimits(share=0.2, count=50, window_s=300))
    breaker.hear(alive=1000, dead=40)
    assert all(breaker.dead(0, f"key-{n}") for n in range(100)), "few among many alive elsewhere"
    assert breaker.tally(0) == (0, 100)
    assert breaker.tally(301) == (0, 0)


def test_what_a_caller_takes_elsewhere_is_taken_here_too() -> None:
    here, there = (Allowances({"erp": Limit(rate_per_s=1, burst=4)}) for _ in range(2))
    assert [here.wait_s("erp", 0), here.wait_s("erp", 0), here.wait_s("chat", 0)] == [0, 0, 0]
    assert here.take_used() == {"erp": 2}
    assert here.take_used() == {}
    there.use("erp", 2)
    there.use("nobody", 5)
    assert [there.wait_s("erp", 0) for _ in range(3)] == [0, 0, 1]
    there.use("erp", 3)
    assert there.wait_s("erp", 3.5) == 0.5, "both took at once: it is owed, and filled up first"


def test_a_rate_of_one_a_second_is_kept_by_two_that_tell_each_other_at_once() -> None:
    two = [Allowances({"erp": Limit(rate_per_s=1, burst=1)}) for _ in range(2)]
    let_in = 0
    for tick in range(1000):
        now = tick / 10
        for which in (tick % 2, (tick + 1) % 2):
            if not two[which].wait_s("erp", now):
                let_in += 1
                two[1 - which].use("erp", two[which].take_used()["erp"])
    assert 99 <= let_in <= 101


# --- together ------------------------------------------------------------------------------------------------------


class FakeCell:
    """A cell that answers what it is told to."""

    def __init__(self, cell: int, answer: Callable[[Question], Any]) -> None:
        self.cell = cell
        self.families: Sequence[Family] = ()
        self.stopped: Stopped | None = None
        self._answer = answer

    async def ask(self, question: Question, kind: object, *, within_s: float = 1) -> Any:
        del kind, within_s
        return self._answer(question)


def together(*cells: FakeCell) -> tuple[Together, list[FakeCell]]:
    serving = list(cells)
    return Together(lambda: cast(list[Child], serving)), serving


def counted(value: float, *, waiting: float = 0) -> list[Family]:
    return [
        Family("a_total", Kind.COUNTER, "A.", [("a_total", (), value)]),
        Family("b", Kind.GAUGE, "B.", [("b", (), waiting)]),
    ]


def values(families: Sequence[Family]) -> dict[str, float]:
    return {name: value for family in families for name, _, value in family.samples}


async def test_a_counter_never_falls_when_a_cell_is_gone() -> None:
    first, second = FakeCell(0, lambda _: counted(5, waiting=3)), FakeCell(1, lambda _: counted(7, waiting=4))
    all_of_them, serving = together(first, second)
    assert values(await all_of_them.families()) == {"a_total": 12, "b": 7}
    serving.remove(second)
    all_of_them.gone(cast(Child, second))
    assert values(await all_of_them.families()) == {"a_total": 12, "b": 3}, "what it counted, not what waited there"
    first.stopped = Stopped(0, counted(6))
    serving.remove(first)
    all_of_them.gone(cast(Child, first))
    assert values(await all_of_them.families()) == {"a_total": 13}, "who says good-bye says all"


async def test_one_that_does_not_answer_counts_as_it_last_did() -> None:
    def silent(_: Question) -> Any:
        raise TimeoutError

    cell = FakeCell(0, silent)
    cell.families = counted(5)
    all_of_them, _ = together(cell, FakeCell(1, lambda _: counted(1)))
    assert values(await all_of_them.families())["a_total"] == 6


async def test_rejections_are_asked_of_any_and_forgotten_by_all() -> None:
    asked: list[tuple[int, Question]] = []

    def gone(question: Question) -> Any:
        asked.append((0, question))
        raise SpoolUnavailable("cell 0 is gone")

    def knows(question: Question) -> Any:
        asked.append((1, question))
        return 3 if isinstance(question, AskForget) else []

    all_of_them, serving = together(FakeCell(0, gone), FakeCell(1, knows))
    assert await all_of_them.rejections(prefix="ab", limit=5) == []
    assert asked == [(cell, AskRejections("", "ab", "", 5)) for cell in (0, 1)]
    with pytest.raises(SpoolUnavailable):
        await all_of_them.forget_rejections("a")
    serving.pop(0)
    assert await all_of_them.forget_rejections("a", since=7) == 3
    serving.clear()
    for asking in (all_of_them.forget_rejections("a"), all_of_them.count_rejections(), all_of_them.explain("x")):
        with pytest.raises(SpoolUnavailable, match="no cell"):
            await asking


# --- what the supervisor counts ------------------------------------------------------------------------------------


def test_the_page_has_what_the_supervisor_counts_and_nothing_else() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "metrics-and-logs.md").read_text()
    _, _, rest = page.partition("## Metrics of several processes")
    written = re.findall(r"^\| `(pushgate_\w+)` \|", rest.partition("\n## ")[0], re.M)
    counted = own_families(States(1, 2, 3, 4), {0: Restarts()}, refused=0, is_ready=True, now=0)
    also_of_one = ("pushgate_configuration_refused", "pushgate_ready")
    assert written == [each.name for each in counted if each.name not in also_of_one]
    for state in States.__struct_fields__:
        assert f"`{state}`" in rest


def test_each_process_is_counted_by_what_it_does() -> None:
    dying = Restarts()
    for _ in range(5):
        dying.died(0)
    counted = own_families(States(1, 0, 1, 2), {0: Restarts(), 1: dying}, refused=1, is_ready=False, now=1)
    samples = {(name, *labels): value for family in counted for name, labels, value in family.samples}
    assert samples == {
        ("pushgate_cells", ("state", "taking")): 1,
        ("pushgate_cells", ("state", "not_taking")): 0,
        ("pushgate_cells", ("state", "dead")): 1,
        ("pushgate_cells", ("state", "left_over")): 2,
        ("pushgate_cell_deaths_total", ("cell", "0")): 0,
        ("pushgate_cell_deaths_total", ("cell", "1")): 5,
        ("pushgate_cell_keeps_dying", ("cell", "0")): 0,
        ("pushgate_cell_keeps_dying", ("cell", "1")): 1,
        ("pushgate_configuration_refused",): 1,
        ("pushgate_ready",): 0,
    }
