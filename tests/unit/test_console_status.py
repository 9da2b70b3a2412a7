"""The status page's data: true, bounded whatever the metrics hold, cheap, and told to viewers as it changes."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from pushgate.console import Console, live, page
from pushgate.console.history import History, point
from pushgate.console.reading import Reading, read, share
from pushgate.console.shapes import NAME_CHARS, Notice, Status, shown
from pushgate.console.status import quantile, status
from pushgate.metrics import Metrics
from pushgate.metrics.exposition import text
from tests.status_scenes import HOSTILE, KEY, Scene, played

LANE = "org.example.a.apns"


class Viewer:
    """One that watches, as an ASGI server passes it on. `reads` is cleared to let it be slow."""

    def __init__(self) -> None:
        self.sent: list[Mapping[str, Any]] = []
        self.leaves = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()

    async def receive(self) -> Mapping[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Mapping[str, Any]) -> None:
        await self.reads.wait()
        self.sent.append(message)

    async def watch(self, console: Console, *headers: tuple[bytes, bytes]) -> None:
        head = [(b"host", b"127.0.0.1:8081"), *headers]
        scope = {"type": "http", "method": "GET", "path": "/status/events", "query_string": b"", "headers": head}
        await console(scope, self.receive, self.send)

    @property
    def events(self) -> list[tuple[str, Any]]:
        body = b"".join(message.get("body", b"") for message in self.sent[1:]).decode()
        return [(kind, json.loads(data)) for kind, data in re.findall(r"event: (\w+)\ndata: (.*)\n\n", body)]


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def said_of(scene: Scene) -> Status:
    return await scene.console._live.status()


def named(notices: Any, what: str) -> list[Notice]:
    return [each for each in notices if each.what == what]


# --- what is told ------------------------------------------------------------------------------------------------


async def test_an_hour_of_trouble_is_told_as_it_was() -> None:
    scene = await played("trouble")
    now = await said_of(scene)
    assert (now.health.state, now.health.version) == ("ok", "0.1.0")
    (credentials,) = named(now.notices, "credentials")
    assert (credentials.lane, credentials.urgent, credentials.until) == ("org.example.health.apns", True, 0)
    assert credentials.reasons == [("InvalidProviderToken", 6)]
    over = [each for each in named(now.notices, "quota") if each.until]
    assert over
    assert all(each.since < each.until for each in over)
    assert named(now.notices, "APNs certificate")[0].meaning == "It ends soon. 9 days are left."
    assert not named(now.notices, "FCM access token")
    assert [each.urgent for each in now.notices[:1]] == [True]
    first = now.lanes[0]
    assert (first.lane, first.state, first.severity) == ("org.example.health.apns", "credentials", 3)
    assert first.pause_s == 30 * 2**5 - (KEY.begins_s - 30 * (2**5 - 1))
    assert first.p95_s == 0
    healthy = now.lanes[1]
    assert 0.01 < healthy.p50_s < healthy.p95_s < 0.5
    assert sum(healthy.spread) > 0
    assert len(now.hour.accepted) == len(now.hour.waiting) == 359
    assert now.hour.waiting[-1] > now.hour.waiting[0]
    assert now.totals.accepted_per_s == pytest.approx(sum(each.accepted_per_s for each in now.lanes), rel=0.01)
    assert now.totals.hour_accepted == pytest.approx(sum(now.hour.accepted) * 10, rel=0.02)


async def test_what_keeps_notifications_out_is_told_with_its_reason() -> None:
    scene = await played("calm", steps=3)
    scene.unready = "the spool takes nothing: disk full"
    now = await said_of(scene)
    assert (now.health.state, now.health.reason) == ("not ready", "the spool takes nothing: disk full")
    assert now.notices[0].what == "not ready"
    scene.unready = "draining"
    assert (await said_of(scene)).health.state == "draining"


async def test_losses_and_faults_of_the_last_hour_are_told() -> None:
    scene = await played("calm", steps=2)
    scene.metrics.lanes[scene.lanes[0]].count_ending("expired", 3)
    scene.metrics.count_request("erp", 503)
    scene.metrics.refused.set(1)
    scene.metrics.backlog({"gone": (2, 7200.0)})
    scene.now += 10
    now = await said_of(scene)
    assert "3 of them" in named(now.notices, "out of time")[0].meaning
    assert named(now.notices, "requests failed")
    assert named(now.notices, "configuration refused")[0].urgent
    assert named(now.notices, "no app")[0].lane == "gone"
    assert (now.totals.hour_expired, now.totals.hour_broken) == (3, 1)


async def test_a_gateway_without_apps_says_what_is_missing() -> None:
    now = await said_of(await played("empty", steps=1))
    (notice,) = now.notices
    assert (notice.what, notice.urgent, "[apps." in notice.mend) == ("nothing configured", False, True)


def reading(at: float, accepted: int) -> Reading:
    made = Metrics([LANE], provider_of=lambda lane: "apns")
    made.lanes[LANE].count_ending("accepted", accepted)
    for _ in range(accepted):
        made.lanes[LANE].seconds.observe(0.02)
    return read(made.families(), at=at)


def test_a_lane_that_is_as_it_was_is_kept_once_and_one_that_never_did_anything_keeps_no_counts() -> None:
    made = Metrics(["busy", "idle"], provider_of=lambda lane: "apns")
    before = read(made.families(), at=0)
    made.lanes["busy"].count_ending("expired", 2)
    made.lanes["busy"].seconds.observe(0.02)
    made.lanes["busy"].alarm("quota", stands=True)
    now = read(made.families(), at=10)
    share(now, before)
    assert now.lanes["idle"] is before.lanes["idle"]
    assert (now.lanes["busy"].endings, before.lanes["busy"].endings) == ({"expired": 2.0}, {})
    assert (sum(now.lanes["busy"].buckets), before.lanes["busy"].buckets) == (1, [])
    assert (now.lanes["busy"].alarms, before.lanes["busy"].alarms) == (("quota",), ())
    history = History()
    history.add(before)
    history.add(now)
    lanes = {each.lane: each for each in status(now, history, unready="").lanes}
    assert (lanes["idle"].provider, lanes["idle"].spread, lanes["busy"].expired) == ("apns", [0] * 15, 2)
    assert sum(lanes["busy"].spread) == 1


def test_a_process_that_begins_anew_makes_no_rate_negative() -> None:
    history = History()
    for at, accepted in ((0, 100), (10, 200), (20, 5)):
        history.add(reading(at, accepted))
    now = reading(20, 5)
    told = status(now, history, unready="")
    assert history.span().accepted == [10.0, 0.0]
    assert (told.totals.accepted_per_s, told.totals.hour_accepted) == (0.0, 5)
    assert sum(told.lanes[0].spread) == 5


def test_what_is_remembered_is_bounded() -> None:
    history = History()
    for n in range(2000):
        history.add(reading(n * 10, n))
    assert len(history.span().accepted) == 360
    first = history.an_hour_ago()
    assert first is not None
    assert point(reading(19_990, 0)).at - first.at == 3600
    minutes, lately = history.minutes_ago, history.lately
    assert minutes is not None
    assert lately is not None
    assert 300 <= 19_990 - minutes.at <= 420
    assert 50 <= 19_990 - lately.at <= 70
    assert len(history._recent) + len(history._older) <= 13


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, [0, 0, 0], 0.0),
        (0.5, [10, 0, 0], 0.5),
        (0.5, [0, 10, 0], 1.5),
        (0.9, [0, 0, 5], 2.0),
        (1.0, [1, 1, 0], 2.0),
    ],
)
def test_a_quantile_lies_within_its_bucket(share: float, counts: list[float], expected: float) -> None:
    assert quantile(share, [1.0, 2.0, float("inf")], counts) == expected


# --- whatever the names are --------------------------------------------------------------------------------------


async def test_hostile_names_are_cut_and_have_nothing_invisible() -> None:
    scene = await played("hostile", steps=20)
    now = await said_of(scene)
    words = (
        [each.lane for each in now.lanes] + [each.lane for each in now.notices] + [each.caller for each in now.callers]
    )
    words += [each.lane for each in now.credentials]
    assert all(len(word) <= NAME_CHARS + 10 and word.isprintable() for word in words)
    assert any("<script>" in word for word in words), "told as it is: the page writes text, not HTML"
    encoded = msgspec.json.encode(now)
    assert len(encoded) < 30_000
    assert b"\n" not in encoded
    assert shown("x" * 500) != shown("x" * 501)
    assert shown(shown("x" * 500)) == shown("x" * 500)


async def test_a_thousand_lanes_cost_little_and_a_change_is_small() -> None:
    scene = await played("many")
    console, took, wrote = scene.console, [], []
    for _ in range(3):
        scene.now += 1.5
        began = time.process_time()
        encoded = msgspec.json.encode(await console._live.status())
        took.append(time.process_time() - began)
        began = time.process_time()
        text(scene.metrics.families())
        wrote.append(time.process_time() - began)
    assert min(took) < 0.5, "measured: 0.06 s"
    assert min(wrote) < 0.5, "measured: 0.065 s"
    told = json.loads(encoded)
    assert (len(told["lanes"]), told["more_lanes"]) == (1000, 0)
    assert (len(told["callers"]), told["more_callers"]) == (200, 101)
    viewer = Viewer()
    watching = asyncio.create_task(viewer.watch(console))
    await until(lambda: viewer.events)
    scene.metrics.lanes[scene.lanes[7]].count_ending("accepted")
    scene.now += 2
    await console._live._look()
    await console._live._tell()
    await until(lambda: len(viewer.events) > 1)
    kind, change = viewer.events[1]
    assert (kind, scene.lanes[7] in [each["lane"] for each in change["lanes"]]) == ("change", True)
    viewer.leaves.set()
    await watching


# --- who watches -------------------------------------------------------------------------------------------------


@pytest.fixture
async def scene() -> Scene:
    return await played("calm", steps=3)


async def step(scene: Scene) -> None:
    scene.live(2)
    await scene.console._live._look()
    await scene.console._live._tell()


async def test_a_viewer_gets_all_of_it_then_what_changes_and_the_end(scene: Scene) -> None:
    viewer = Viewer()
    watching = asyncio.create_task(viewer.watch(scene.console))
    await until(lambda: viewer.events)
    assert dict(viewer.sent[0]["headers"])[b"content-type"] == b"text/event-stream"
    for _ in range(2):
        known = len(viewer.events)
        await step(scene)
        await until(lambda known=known: len(viewer.events) > known)
    scene.console.drain()
    await watching
    (first, whole), (second, change), (third, _), (last, _) = viewer.events
    assert (first, second, third, last) == ("status", "change", "change", "end")
    assert set(whole) == set(Status.__struct_fields__)
    assert "credentials" in whole
    assert change["at"] > whole["at"]
    assert "peers" not in change or change["peers"] != whole["peers"]
    assert viewer.sent[-1]["more_body"] is False
    assert scene.console._live.viewers == 0


async def test_a_slow_viewer_is_owed_the_whole_once_and_holds_up_nobody(scene: Scene) -> None:
    slow, quick = Viewer(), Viewer()
    watching = [asyncio.create_task(each.watch(scene.console)) for each in (slow, quick)]
    await until(lambda: slow.events and quick.events)
    slow.reads.clear()
    for _ in range(5):
        known = len(quick.events)
        await step(scene)
        await until(lambda known=known: len(quick.events) > known)
    slow.reads.set()
    await step(scene)
    await until(lambda: len(slow.events) >= 3)
    assert [kind for kind, _ in quick.events[1:6]] == ["change"] * 5
    assert [kind for kind, _ in slow.events[:3]] == ["status", "change", "status"]
    for each in (slow, quick):
        each.leaves.set()
    await asyncio.gather(*watching)


async def test_no_more_than_so_many_may_watch_and_nobody_while_it_stops(scene: Scene) -> None:
    viewers = [Viewer() for _ in range(live.MOST_VIEWERS + 1)]
    watching = [asyncio.create_task(each.watch(scene.console)) for each in viewers]
    await until(lambda: all(each.sent for each in viewers))
    assert sorted(each.sent[0]["status"] for each in viewers) == [200] * live.MOST_VIEWERS + [503]
    for each in viewers:
        each.leaves.set()
    await asyncio.gather(*watching)
    assert scene.console._live.viewers == 0
    scene.console.drain()
    late = Viewer()
    await late.watch(scene.console)
    assert late.sent[0]["status"] == 503


async def test_it_looks_by_itself_and_more_often_while_somebody_watches(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "WATCHED_STEP_S", 0.01)
    monkeypatch.setattr(scene.console._live, "_clock", lambda: scene.now + asyncio.get_running_loop().time())
    looking = asyncio.create_task(scene.console.watch())
    viewer = Viewer()
    watching = asyncio.create_task(viewer.watch(scene.console))
    await until(lambda: len(viewer.events) > 3)
    viewer.leaves.set()
    await watching
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking


# --- who may see it ----------------------------------------------------------------------------------------------

TOKEN = "0123456789abcdef0123"


def basic(password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"anybody:{password}".encode())


async def asked(console: Console, path: str, *headers: tuple[bytes, bytes], host: bytes = b"127.0.0.1:1") -> Any:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    head = [(b"host", host), *headers]
    path, _, query = path.partition("?")
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": head}
    await console(scope, receive, send)
    return sent


@pytest.mark.parametrize("path", ["/", "/status.json", "/status/events", "/explain?id=x"])
async def test_a_browser_shows_the_token_as_a_password_and_programs_as_ever(path: str) -> None:
    scene = await played("empty", steps=1)
    scene.console.change_token(TOKEN.encode())
    for value, status_code in (
        (basic(TOKEN), 200),
        (f"Bearer {TOKEN}".encode(), 200),
        (basic("wrong"), 401),
        (basic(""), 401),
        (b"Basic !!!", 401),
        (b"Basic " + TOKEN.encode(), 401),
    ):
        answer = await asked(scene.console, path, (b"authorization", value), host=b"gateway.example.org")
        expected = 404 if path.startswith("/explain") and status_code == 200 else status_code
        assert answer[0]["status"] == expected, value
        challenges = [value for name, value in answer[0]["headers"] if name == b"www-authenticate"]
        assert [each.split()[0] for each in challenges] == ([b"Basic", b"Bearer"] if expected == 401 else [])
    assert (await asked(scene.console, path))[0]["status"] == 401
    assert (await asked(scene.console, "/metrics", (b"authorization", basic(TOKEN))))[0]["status"] == 401


@pytest.mark.parametrize("path", ["/", "/status.json", "/status/events", "/explain?id=x"])
async def test_without_a_token_no_page_from_elsewhere_may_ask(path: str) -> None:
    scene = await played("empty", steps=1)
    assert (await asked(scene.console, path, host=b"attacker.example.org:8081"))[0]["status"] == 403
    foreign = (b"origin", b"http://attacker.example.org")
    assert (await asked(scene.console, path, foreign))[0]["status"] == 403
    own = (b"origin", b"http://127.0.0.1:1")
    assert (await asked(scene.console, path, own))[0]["status"] in (200, 404)


async def test_what_is_asked_for_must_look_like_an_id() -> None:
    scene = await played("empty", steps=1)
    scene.console._explain = lambda asked: None  # type: ignore[assignment,return-value]  # it is never called
    for query in ("", "?", "?id=", "?id=a%20b", "?id=<x>", "?id=a&id=b", "?id=" + "a" * 129):
        (head, body) = await asked(scene.console, f"/explain{query}")
        assert (head["status"], b"X-Request-Id" in body["body"]) == (400, True)


# --- the page ----------------------------------------------------------------------------------------------------


def test_nothing_but_its_own_style_and_script_may_run_in_the_page() -> None:
    policy = dict(page.headers())[b"content-security-policy"].decode()
    html = page.page().decode()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert len(re.findall(r"'sha256-[A-Za-z0-9+/]{43}='", policy)) == 2
    assert len(re.findall(r"<script", html)) == len(re.findall(r"<style", html)) == 1
    assert not re.findall(r"(?i)\bstyle=|\bon\w+=|javascript:|https?://(?!www\.w3\.org/2000/svg)", html)
    script = html[html.index("<script>") :]
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)
    assert len(html) < 40_000
    assert HOSTILE not in html


def test_the_page_can_be_found_one_s_way_in_by_ear() -> None:
    html = page.page().decode()
    for landmark in ("<header", "<main", "<footer", '<html lang="en">', 'aria-live="polite"', "<noscript>"):
        assert landmark in html
    headings = re.findall(r'aria-labelledby="([^"]+)"', html)
    assert all(f'id="{each}"' in html for each in headings)
    assert all('scope="col"' in each for each in re.findall(r"<th\b[^>]*>", html.split("<script>")[0]))
