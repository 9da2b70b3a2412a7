"""How long a caller waits for its answer while the gateway does half of what it can do at most."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from bench import load, served
from bench.load import Requests
from bench.measuring import WARM, Scene
from bench.rows import Plan, Row

SHARE = 0.5
"""Of the rate that the row reached."""
CONNECTIONS = 64
"""As many requests may be without an answer at a time; what is due beyond them waits, and the wait counts."""
LATE_S = 0.002
"""A generator that is late by more is not to be believed."""


class Latency(Struct, frozen=True, kw_only=True):
    """Milliseconds from when a request was due to its answer, everything on disk (fsync) by then."""

    name: str
    title: str
    asked_per_s: float
    """Notifications; half of what the row reached."""
    requests: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    notes: Sequence[str]


async def measure(scene: Scene, plan: Plan, row: Row, *, seconds: float) -> Latency:
    """Send what the row has sent, at half of its rate, in even steps."""
    per_s = row.per_s * SHARE
    config = served.write_config(scene.land, dict.fromkeys(plan.wish.apps, (plan.wish.kind, scene.sink)))
    requests = Requests(plan.wish)
    async with served.running(config, core=scene.cores.gateway) as gateway:
        for count, rate in ((WARM, None), (int(per_s * seconds), per_s)):
            sent = await load.send(
                gateway.peer, requests, count, connections=CONNECTIONS, within_s=2 * seconds + 10, per_s=rate
            )
            await gateway.until_quiet()
        notes = [*gateway.faults()]
    if sent.late_s > LATE_S:
        notes.append(f"the load generator was late by {sent.late_s * 1000:.0f} ms (p99)")
    return Latency(
        name=plan.name,
        title=plan.title,
        asked_per_s=per_s,
        requests=len(sent.took_s),
        p50_ms=sent.percentile_ms(0.5),
        p99_ms=sent.percentile_ms(0.99),
        max_ms=sent.percentile_ms(1),
        notes=notes,
    )
