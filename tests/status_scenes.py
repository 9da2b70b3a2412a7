"""Scenes for the status page: an hour of a gateway's life, made of the real metrics, without a gateway.

`python -m tests.status_scenes SCENE` serves one on a free port and prints its address: to look at it.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable, Sequence

from pushgate.console import Console
from pushgate.listener import Listener
from pushgate.metrics import Metrics
from pushgate.metrics.families import Family

REASONS = {
    "apns": ["Unregistered", "BadDeviceToken", "InvalidProviderToken", "ServiceUnavailable", "TooManyRequests"],
    "fcm": ["UNREGISTERED", "QUOTA_EXCEEDED", "UNAVAILABLE", "timeout"],
}
HOSTILE = "<script>alert(1)</script>\n\"'&</td><img src=x onerror=alert(2)>"
HOUR_S = 3600
STEP_S = 10


class Scene:
    """A gateway that counts and has nothing to send. `now` is its clock; `pass_time` lets it live."""

    def __init__(self, lanes: Sequence[str], callers: Sequence[str], *, trouble: bool = False) -> None:
        self.now: float = math.floor(time.time()) - HOUR_S
        self.ahead_s = 0.0
        self.lanes = lanes
        self.callers = callers
        self.trouble = trouble
        self.unready: str | None = None
        self.metrics = Metrics(lanes, provider_of=lambda lane: "fcm" if "firebase" in lane else "apns", reasons=REASONS)
        self.metrics.add_callers(callers)
        self.metrics.add_peers(["api.push.apple.com:443", "fcm.googleapis.com:443"])
        self.metrics.started_at.set(self.now - 5 * 86400)
        self.metrics.certificate_ends_at.set(self.now + 41 * 86400)
        self.metrics.spool_bytes.set(38_400_000)
        self.metrics.memory_bytes.set(91_000_000)
        self.metrics.open_files.set(64)
        self.console = Console(unready=lambda: self.unready, collect=self.collect, clock=self.clock)

    def clock(self) -> float:
        return self.now

    async def collect(self) -> Sequence[Family]:
        return self.metrics.families()

    def live(self, seconds: float) -> None:
        """So much time passes."""
        self.now += seconds
        share = 1 / max(len(self.lanes), 1)
        busy = 1 + 0.45 * math.sin(self.now / 900) + 0.12 * math.sin(self.now / 37) + 0.06 * math.sin(self.now / 11)
        total = round(420 * seconds * busy)
        for n, caller in enumerate(self.callers[:5]):
            part = int(total * 1.25) // 2 ** (n + 1)
            self.metrics.requests[(caller, 200)].inc(part // 4)
            self.metrics.notifications[("notify/batch", caller, "success")].inc(part)
        if self.callers:
            self.metrics.requests[(self.callers[-1], 401)].inc(int(seconds / 10))
        waiting = {}
        for n, lane in enumerate(self.lanes):
            weight = share * (0.3 + 1.4 * (len(self.lanes) - n) * share)
            waiting[lane] = self._lane(n, lane, round(total * weight), seconds)
        self.metrics.backlog(waiting)
        self.metrics.cpu_seconds.inc(0.21 * seconds * busy)
        for _ in range(int(seconds)):
            self.metrics.count_commit(0.004 * busy, 90_000)
        for peer in ("api.push.apple.com:443", "fcm.googleapis.com:443"):
            self.metrics.lines.child(peer).set(2)
            self.metrics.streams.child(peer).set(int(17 * busy))
            self.metrics.line_events.child(peer, "opened").value = 14

    def _lane(self, n: int, lane: str, count: int, seconds: float) -> tuple[int, float]:
        ago = self.now % 86400
        metrics = self.metrics
        metrics.credentials_end_at.child(lane, "certificate" if n == 2 else "token").set(
            (self.now + 9 * 86400) if n == 2 else (self.now + 2700 if "firebase" in lane else 0)
        )
        metrics.most_in_flight.child(lane).set(1000)
        is_sick = self.trouble and n in (1, 3)
        if is_sick and n == 1:
            since = metrics.alarms[(lane, "credentials")]
            since.set(1)
            metrics.pause_s.child(lane).set(48)
            metrics.most_in_flight.child(lane).set(1)
            metrics.attempts[(lane, "deferred")].inc(int(seconds / 10) or 1)
            metrics.count_reason(lane, "deferred", "InvalidProviderToken")
            waiting = int(metrics.taken[lane].value - metrics.endings[(lane, "accepted")].value) + count
            metrics.taken[lane].inc(count)
            return waiting, min(waiting / 60, 4300.0)
        if is_sick and math.sin(self.now / 400) > 0.8:
            metrics.alarms[(lane, "quota")].set(1)
            metrics.count_reason(lane, "deferred", "QUOTA_EXCEEDED")
            metrics.attempts[(lane, "deferred")].inc(7)
        else:
            metrics.alarms[(lane, "quota")].set(0)
        dead = 1 if count and int(ago) % 70 < seconds else 0
        metrics.taken[lane].inc(count)
        metrics.attempts[(lane, "accepted")].inc(count - dead)
        metrics.endings[(lane, "accepted")].inc(count - dead)
        if dead:
            metrics.endings[(lane, "rejected")].inc()
            metrics.attempts[(lane, "rejected")].inc()
            metrics.count_reason(lane, "rejected", "UNREGISTERED" if "firebase" in lane else "Unregistered")
        for k in range(min(count, 40)):
            metrics.attempt_seconds[lane].observe(0.03 * (1 + n % 3) * math.exp(0.7 * math.sin(k * 12.9898 + n)))
        metrics.in_flight[lane].set(count % 37)
        waiting = round(count / seconds / 12 * (1.5 + math.sin(ago / 220 + n)))
        return waiting, waiting / 9


SCENES: dict[str, Callable[[], Scene]] = {
    "calm": lambda: Scene(
        ["org.example.app.apns", "org.example.app.firebase", "org.example.health.apns", "org.example.health.firebase"],
        ["erp", "chat", "mail", "(nobody)"],
    ),
    "trouble": lambda: Scene(
        ["org.example.app.apns", "org.example.beta.apns", "org.example.health.apns", "org.example.health.firebase"],
        ["erp", "chat", "mail", "(nobody)"],
        trouble=True,
    ),
    "hostile": lambda: Scene(
        ["org.example.fine.apns", HOSTILE, "x" * 65_536, "a\u202eb\x00c", "no-blank-to-break-at-" * 9],
        [HOSTILE, "y" * 65_536],
        trouble=True,
    ),
    "many": lambda: Scene(
        [f"org.example.app{n:04}.{'firebase' if n % 3 else 'apns'}" for n in range(1000)],
        [f"caller-{n}" for n in range(300)],
        trouble=True,
    ),
    "empty": lambda: Scene([], []),
}


async def played(name: str, *, steps: int = HOUR_S // STEP_S) -> Scene:
    """A scene after its hour."""
    scene = SCENES[name]()
    for _ in range(steps if len(scene.lanes) < 100 else 30):
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
