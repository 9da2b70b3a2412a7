"""Scenes for the status page: an hour of a gateway's life, made of the real metrics, without a gateway.

Whatever comes in goes out, waits or ends; what waits is on disk and in flight; counters began with the process. So the
page adds up. `python -m tests.status_scenes SCENE` serves one on a free port and prints its address: to look at it.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from pushgate.console import Console
from pushgate.listener import Listener
from pushgate.metrics import Metrics
from pushgate.metrics.families import Family

REASONS = {
    "apns": ["Unregistered", "BadDeviceToken", "InvalidProviderToken", "ServiceUnavailable", "TooManyRequests"],
    "fcm": ["UNREGISTERED", "QUOTA_EXCEEDED", "UNAVAILABLE", "timeout", "connect"],
}
HOSTILE = "<script>alert(1)</script>\n\"'&</td><img src=x onerror=alert(2)>"
HOUR_S = 3600
STEP_S = 10
UP_S = 5 * 86_400
DELIVERY_BYTES = 2_400
EMPTY_SPOOL_BYTES = 1_300_000
"""A file whose write-ahead log was folded in."""
DEAD_OF = 400
"""One of so many pushkeys turns out dead."""
LATENCY_S = 0.06


class Trouble(Struct, frozen=True):
    """What happens to one lane: how long before the end of the hour it begins, and when it ends, if it does."""

    reason: str
    begins_s: float
    ends_s: float = -math.inf
    alarm: str = ""
    """Set at once; but `outage` when the lane has failed for some minutes. None: attempts only fail."""
    lets_through: float = 0.0
    """The part of what comes in that gets out meanwhile."""
    first_pause_s: float = 30
    longest_pause_s: float = 1800


KEY = Trouble("InvalidProviderToken", 23.5 * 60, alarm="credentials")
QUOTA = Trouble("QUOTA_EXCEEDED", 44 * 60, 36 * 60, alarm="quota", lets_through=0.8, first_pause_s=20)
NO_WAY = Trouble("connect", 150, first_pause_s=1, longest_pause_s=300)
OUTAGE = Trouble("connect", 14 * 60, alarm="outage", first_pause_s=1, longest_pause_s=60)
OUTAGE_AFTER_S = 255


class Play(Struct):
    """One lane: what comes in each second on average, and what has not gone out yet."""

    per_s: float
    trouble: Trouble | None
    held: float = 0.0
    attempts: int = 0
    """Made in vain since its trouble began."""


class Scene:
    """A gateway that counts and has nothing to send. `now` is its clock; `live` lets it live."""

    def __init__(
        self,
        lanes: Sequence[str],
        callers: Sequence[str],
        *,
        per_s: float = 240.0,
        troubles: Mapping[int, Trouble] | None = None,
    ) -> None:
        """`per_s` is what comes in for all lanes, `troubles` befall those at these places."""
        self.now: float = math.floor(time.time()) - HOUR_S
        self._hour_ends = self.now + HOUR_S
        self.lanes = lanes
        self.callers = callers
        self.unready: str | None = None
        self.metrics = Metrics(lanes, provider_of=_provider_of, reasons=REASONS)
        self.metrics.add_callers(callers)
        self.console = Console(unready=lambda: self.unready, collect=self.collect, clock=lambda: self.now)
        self._owed: dict[str, float] = defaultdict(float)
        weights = [0.6**n + 0.02 for n in range(len(lanes))]
        befallen = troubles or {}
        self._plays = {
            lane: Play(per_s * weight / sum(weights), befallen.get(n))
            for n, (lane, weight) in enumerate(zip(lanes, weights, strict=True))
        }
        self._peers = {"api.push.apple.com:443": "apns", "fcm.googleapis.com:443": "fcm"} if lanes else {}
        self._begin()

    async def collect(self) -> Sequence[Family]:
        return self.metrics.families()

    def _begin(self) -> None:
        """What was counted in the days before."""
        metrics, began = self.metrics, self.now - UP_S
        metrics.started_at.set(began)
        metrics.memory_bytes.set(91_000_000)
        metrics.open_files.set(24 + 10 * len(self._peers))
        metrics.limit_spool(5_000_000, share_of_app=0.5, mb=8192)
        metrics.ready.set(1)
        metrics.add_peers(self._peers)
        if self.lanes:
            metrics.certificate_ends_at.set(self.now + 41 * 86_400)
            metrics.repeats.inc(312)
        for peer in self._peers:
            metrics.line_events.child(peer, "opened").inc(14)
        for n, (lane, play) in enumerate(self._plays.items()):
            self._end_well(lane, round(play.per_s * UP_S))
            if n == 2 and any(each.trouble for each in self._plays.values()):
                metrics.lanes[lane].credential_ends("certificate", self.now + 9.2 * 86_400)
        self._notify(sum(round(play.per_s * UP_S) for play in self._plays.values()), UP_S)

    def live(self, seconds: float) -> None:
        """So much time passes."""
        self.now += seconds
        busy = 1 + 0.3 * math.sin(self.now / 900) + 0.07 * math.sin(self.now / 37) + 0.04 * math.sin(self.now / 11)
        came, waiting = 0, {}
        for n, (lane, play) in enumerate(self._plays.items()):
            count = self._whole(f"to {lane}", play.per_s * busy * seconds)
            came += count
            waiting[lane] = self._lane(n, lane, play, count, busy=busy, seconds=seconds)
        self._notify(came, seconds)
        metrics = self.metrics
        metrics.backlog(waiting)
        held = sum(count for count, _ in waiting.values())
        metrics.spool_bytes.set(EMPTY_SPOOL_BYTES + held * DELIVERY_BYTES)
        metrics.cpu_seconds.inc((0.004 + came / seconds * 0.0009) * seconds)
        for _ in range(min(came, int(seconds * 12))):
            metrics.count_commit(0.004 * busy, 90_000)
        for peer, provider in self._peers.items():
            plays = {lane: play for lane, play in self._plays.items() if _provider_of(lane) == provider}
            in_vain = sum(play.attempts for play in plays.values() if play.trouble and play.trouble.reason == "connect")
            metrics.lines.child(peer).set(0 if in_vain else 2)
            metrics.line_events.child(peer, "failed").value = in_vain
            metrics.streams.child(peer).set(sum(metrics.lanes[lane].in_flight for lane in plays))

    def _notify(self, count: int, seconds: float) -> None:
        """So many notifications came in: most of them from the first caller, most of the rest from the next."""
        metrics, left = self.metrics, count
        known = [each for each in self.callers if each != "(nobody)"][:5]
        for n, caller in enumerate(known):
            part = left if n == len(known) - 1 else int(left * 0.63)
            left -= part
            metrics.requests[(caller, 200)].inc(self._whole(f"of {caller}", part / 4))
            metrics.notifications[("notify/batch", caller, "success")].inc(part)
        if "(nobody)" in self.callers:
            metrics.requests[("(nobody)", 401)].inc(self._whole("(nobody)", seconds / 2000))

    def _lane(self, n: int, lane: str, play: Play, came: int, *, busy: float, seconds: float) -> tuple[int, float]:
        """What waits afterwards, and the age of the oldest."""
        metrics = self.metrics
        if _provider_of(lane) == "fcm":
            metrics.lanes[lane].credential_ends("token", self._hour_ends + 2700)
        rate = play.per_s * busy
        share = self._share_that_gets_out(lane, play)
        out = round(min(play.held + came, rate * seconds * share if math.isfinite(share) else math.inf))
        play.held += came - out
        metrics.lanes[lane].taken += came
        self._end_well(lane, out, counts_taken=False)
        for k in range(min(out, 40)):
            metrics.lanes[lane].seconds.observe(LATENCY_S * (1 + n % 3) / 2 * math.exp(0.7 * math.sin(k * 12.9 + n)))
        flying = 0 if share == 0 else round(min(out / seconds * LATENCY_S * (1 + n % 3), out))
        metrics.lanes[lane].in_flight = flying
        age_s = play.held / rate if share else self._failed_for_s(play.trouble)
        return round(play.held) + flying, age_s if play.held else min(LATENCY_S * flying, 0.2)

    def _share_that_gets_out(self, lane: str, play: Play) -> float:
        """Of what comes in; more where all that waits may go."""
        trouble, metrics = play.trouble, self.metrics
        metrics.lanes[lane].most_in_flight = 1000
        if trouble is None:
            return math.inf
        for alarm in ("credentials", "quota", "outage"):
            metrics.lanes[lane].alarm(alarm, stands=False)
        metrics.lanes[lane].pause_s = 0
        for_s = self._failed_for_s(trouble)
        if for_s <= 0:
            return math.inf
        if self.now >= self._hour_ends - trouble.ends_s:
            return 1.6
        self._fail(lane, play, trouble, for_s)
        return trouble.lets_through

    def _failed_for_s(self, trouble: Trouble | None) -> float:
        return 0.0 if trouble is None else self.now - (self._hour_ends - trouble.begins_s)

    def _fail(self, lane: str, play: Play, trouble: Trouble, for_s: float) -> None:
        """The attempts that were due so far, what they came to, and when the next is."""
        metrics, at, due = self.metrics, 0.0, 1
        while (pause_s := min(trouble.first_pause_s * 2 ** (due - 1), trouble.longest_pause_s)) + at <= for_s:
            at, due = at + pause_s, due + 1
        if due > play.attempts:
            for _ in range(due - play.attempts):
                metrics.count_reason(lane, "deferred", trouble.reason)
            metrics.lanes[lane].count_outcome("deferred", due - play.attempts)
            play.attempts = due
        is_alarmed = bool(trouble.alarm) and (trouble.alarm != "outage" or for_s >= OUTAGE_AFTER_S)
        if is_alarmed:
            metrics.lanes[lane].alarm(trouble.alarm, stands=True)
            metrics.lanes[lane].pause_s = at + pause_s - for_s
            metrics.lanes[lane].most_in_flight = 500 if trouble.alarm == "quota" else 1
        if trouble.alarm in ("", "outage"):
            metrics.lanes[lane].failures_in_a_row = due
            metrics.lanes[lane].failing_s = for_s

    def _end_well(self, lane: str, count: int, *, counts_taken: bool = True) -> None:
        """So many were accepted, but for the few whose pushkey is dead."""
        metrics = self.metrics
        dead = min(self._whole(f"dead {lane}", count / DEAD_OF), count)
        if counts_taken:
            metrics.lanes[lane].taken += count
        for outcome, part in (("accepted", count - dead), ("rejected", dead)):
            metrics.lanes[lane].count_outcome(outcome, part)
            metrics.lanes[lane].count_ending(outcome, part)
        word = "UNREGISTERED" if _provider_of(lane) == "fcm" else "Unregistered"
        if dead:
            metrics.count_reason(lane, "rejected", word)
            metrics._lane_reasons.child(lane, "rejected", word).inc(dead - 1)

    def _whole(self, what: str, more: float) -> int:
        """As many whole ones as have come together of it."""
        self._owed[what] += more
        whole = int(self._owed[what])
        self._owed[what] -= whole
        return whole


def _provider_of(lane: str) -> str:
    return "fcm" if "firebase" in lane else "apns"


CALLERS = ("erp", "chat", "mail", "(nobody)")
SCENES: dict[str, Callable[[], Scene]] = {
    "calm": lambda: Scene(
        ["org.example.health.firebase", "org.example.health.apns", "org.example.app.apns", "org.example.app.firebase"],
        CALLERS,
    ),
    "trouble": lambda: Scene(
        ["org.example.health.firebase", "org.example.health.apns", "org.example.app.apns"],
        CALLERS,
        troubles={0: QUOTA, 1: KEY},
    ),
    "silent": lambda: Scene(
        ["org.example.health.firebase", "org.example.health.apns"], ["erp"], per_s=0.03, troubles={0: NO_WAY}
    ),
    "outage": lambda: Scene(
        ["org.example.health.firebase", "org.example.health.apns"], CALLERS, per_s=20, troubles={0: OUTAGE}
    ),
    "hostile": lambda: Scene(
        ["org.example.fine.apns", HOSTILE, "x" * 65_536, "a\u202eb\x00c", "no-blank-to-break-at-" * 9],
        [HOSTILE, "y" * 65_536],
        troubles={1: KEY},
    ),
    "many": lambda: Scene(
        [f"org.example.app{n:04}.{'firebase' if n % 3 else 'apns'}" for n in range(1000)],
        [f"caller-{n}" for n in range(300)],
        troubles={1: KEY, 4: QUOTA, 7: NO_WAY},
    ),
    "empty": lambda: Scene([], []),
}


async def played(name: str, *, steps: int = HOUR_S // STEP_S) -> Scene:
    """A scene after its hour, or the last steps of it."""
    scene = SCENES[name]()
    steps = steps if len(scene.lanes) < 100 else 30
    scene.now += HOUR_S - steps * STEP_S
    for _ in range(steps):
        scene.live(STEP_S)
        await scene.console._live._look()
    return scene


async def serve(name: str, *, started: Callable[[int], None]) -> None:
    """Serve a scene that goes on, until cancelled."""
    scene = await played(name)
    listener = Listener(scene.console, address="127.0.0.1:0")
    began = time.monotonic() - scene.now

    async def go_on() -> None:
        while True:
            await asyncio.sleep(0.5)
            scene.live(time.monotonic() - began - scene.now)

    started(listener.port)
    await asyncio.gather(listener.serve(), scene.console.watch(), go_on())


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], started=lambda port: print(port, flush=True)))
