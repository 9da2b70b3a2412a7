"""Where things lie in NATS: a stream for deliveries, a bucket for the dead, a bucket for what all gateways share.

Made and changed by the gateways themselves, or only looked at (`spool.nats.manage = false`). In subjects and keys stand
app_ids and keyed hashes, never a pushkey.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from msgspec import Struct

from pushgate.errors import SpoolUnavailable, SpoolUnusable
from pushgate.spool.jetstream import protocol
from pushgate.spool.jetstream.api import FULL_BYTES, NOT_FOUND, WRONG_SEQUENCE, ApiError, JetStream, patiently
from pushgate.spool.jetstream.cluster import Cluster
from pushgate.spool.limits import Limits

log = structlog.get_logger(__name__)

OLDEST_SERVER = (2, 11)
"""From there on: TTL of single messages, direct get of many."""
FORMAT = "1"
NS = 1_000_000_000
AGAIN_WITHIN_S = 10
"""So long a message that is published again is known, where repeats are not looked for."""
HASH_KEY = "sha256-key"
FIXED = ("retention", "storage", "subjects")
"""What of a stream cannot be changed."""
_PLAIN = re.compile(r"[A-Za-z0-9_-]")
_CODED = re.compile(r"=([0-9A-F]{2})")
_NO_STORAGE = frozenset({10047, 10028, 10023, FULL_BYTES})
TOO_FEW_PEERS = 10005
_NOT_ENOUGH_SERVERS = frozenset({TOO_FEW_PEERS, 10074})


def token(text: str) -> str:
    """A text as one part of a subject: letters, digits, _ and - as they are, any other byte as =XX."""
    return "".join(c if _PLAIN.match(c) else "".join(f"={byte:02X}" for byte in c.encode()) for c in text)


def text_of(token: str) -> str:
    """The text of such a part."""
    raw = _CODED.sub(lambda found: chr(int(found[1], 16)), token)
    return raw.encode("latin-1", "replace").decode("utf-8", "replace")


class Layout(Struct, frozen=True):
    """Names."""

    name: str

    def lane(self, app_id: str) -> str:
        """The subject of a lane."""
        return f"{self.name}.q.{token(app_id)}"

    def wake(self, lane: str) -> str:
        """Where whoever puts says that a lane that was empty has something, or with * of all lanes."""
        return f"{self.name}.wake.{lane if lane == '*' else token(lane)}"

    @property
    def lanes(self) -> str:
        """The subjects of all lanes."""
        return f"{self.name}.q.*"

    def counts(self, state: Mapping[str, Any]) -> dict[str, int]:
        """How much waits, by lane, from the state of the stream with its subjects."""
        subjects: Mapping[str, int] = state.get("subjects") or {}
        skip = len(self.lane(""))
        return {text_of(subject[skip:]): int(count) for subject, count in subjects.items()}

    @property
    def dead_bucket(self) -> str:
        """The stream of the bucket of dead pushkeys."""
        return f"KV_{self.name}-dead"

    @property
    def state_bucket(self) -> str:
        """The stream of the bucket of what gateways share."""
        return f"KV_{self.name}-state"

    def dead(self, shard: str, app: str, name: str) -> str:
        """The key of a dead pushkey, or with * of many: sharded by the first two digits of its name."""
        return f"$KV.{self.name}-dead.dead.{shard}.{app}.{name}"

    def again(self, fingerprint: bytes) -> str:
        """The key that says that a fingerprint may be put again."""
        return f"$KV.{self.name}-dead.again.{fingerprint.hex()}"

    @property
    def all_dead(self) -> str:
        """Every key of that bucket."""
        return f"$KV.{self.name}-dead.>"

    def state(self, key: str) -> str:
        """A key of the other bucket."""
        return f"$KV.{self.name}-state.{key}"


class Wanted(Struct, frozen=True):
    """What the configuration asks of the stream."""

    max_age_s: float
    window_s: float
    remember_s: float
    limits: Limits


def stream_config(layout: Layout, wanted: Wanted) -> dict[str, Any]:
    """The stream of deliveries, but for its replicas."""
    limits = wanted.limits
    max_age_s = max(wanted.max_age_s, wanted.window_s, 1)
    return {
        "name": layout.name,
        "description": "deliveries of pushgate",
        "subjects": [layout.lanes],
        "retention": "workqueue",
        "storage": "file",
        "discard": "new",
        "max_age": int(max_age_s * NS),
        "duplicate_window": int((wanted.window_s or min(AGAIN_WITHIN_S, max_age_s)) * NS),
        "max_msgs": limits.max_waiting or -1,
        "max_bytes": limits.max_bytes or -1,
        "allow_direct": True,
    }


def bucket_config(stream: str, what: str, *, max_age_s: float) -> dict[str, Any]:
    """A bucket (ADR-8), but for its replicas."""
    return {
        "name": stream,
        "description": what,
        "subjects": [f"$KV.{stream.removeprefix('KV_')}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_age": int(max_age_s * NS),
        "duplicate_window": 120 * NS if not max_age_s else min(120, max(int(max_age_s), 1)) * NS,
        "max_msgs_per_subject": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "deny_delete": True,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "allow_msg_ttl": True,
    }


def configs(layout: Layout, wanted: Wanted) -> Sequence[dict[str, Any]]:
    """The stream and both buckets, as they should be."""
    return [
        stream_config(layout, wanted),
        bucket_config(layout.dead_bucket, "dead pushkeys of pushgate, hashed", max_age_s=wanted.remember_s),
        bucket_config(layout.state_bucket, "what gateways of pushgate share", max_age_s=0),
    ]


class Builder:
    """Sees to it that everything is there and as it should be. All raise `SpoolUnusable`, which says what to do."""

    def __init__(self, js: JetStream, cluster: Cluster, layout: Layout) -> None:
        self._js = js
        self._cluster = cluster
        self._layout = layout
        self._until = 0.0

    async def build(self, wanted: Wanted) -> None:
        """The stream and both buckets."""
        self._until = asyncio.get_running_loop().time() + self._cluster.patience_s
        if (version := self._js.link.version) < OLDEST_SERVER:
            old = ".".join(map(str, version)) or "of no version"
            raise SpoolUnusable(f"NATS is {old} -> pushgate needs 2.11 or later")
        for config in configs(self._layout, wanted):
            await self._settle(config)

    async def _settle(self, config: dict[str, Any]) -> None:
        name = config["name"]
        try:
            there = (await self._ask(f"STREAM.INFO.{name}"))["config"]
        except ApiError as no:
            if no.code not in NOT_FOUND:
                raise _unusable(name, no) from no
            await self._create(config)
            return
        if (found := (there.get("metadata") or {}).get("pushgate", FORMAT)) != FORMAT:
            raise SpoolUnusable(f"stream {name} in NATS is of format {found} -> use the pushgate that made it")
        differing = differences(config, there, replicas=self._cluster.replicas)
        if not differing:
            return
        told = ", ".join(f"{key} is {there.get(key)} instead of {value}" for key, value in differing.items())
        if fixed := [key for key in differing if key in FIXED]:
            raise SpoolUnusable(
                f"stream {name} in NATS is not ours: {told} -> set another spool.nats.name, or remove it ({fixed[0]} "
                "cannot be changed)"
            )
        if not self._cluster.manage:
            raise SpoolUnusable(f"stream {name} in NATS: {told} -> change it there, or set spool.nats.manage = true")
        try:
            await self._ask(f"STREAM.UPDATE.{name}", **{**there, **differing})
        except ApiError as no:
            raise _unusable(name, no) from no
        log.info("nats stream changed", stream=name, keys=sorted(differing))

    async def _create(self, config: dict[str, Any]) -> None:
        name = config["name"]
        if not self._cluster.manage:
            raise SpoolUnusable(f"no stream {name} in NATS -> make it there, or set spool.nats.manage = true")
        for replicas in [self._cluster.replicas] if self._cluster.replicas else [3, 1]:
            try:
                await self._create_with(config, replicas)
            except ApiError as no:
                if self._cluster.replicas or replicas == 1 or no.code not in _NOT_ENOUGH_SERVERS:
                    raise _unusable(name, no) from no
            else:
                log.info("nats stream made", stream=name, replicas=replicas)
                if replicas == 1 and not self._cluster.replicas:
                    log.warning("nats keeps one copy only", stream=name)
                return

    async def _create_with(self, config: Mapping[str, Any], replicas: int) -> None:
        """So many copies, as soon as there are so many servers: those of a cluster that starts come one by one."""
        name, metadata = config["name"], {"pushgate": FORMAT}
        while True:
            try:
                await self._ask(f"STREAM.CREATE.{name}", **config, num_replicas=replicas, metadata=metadata)
            except ApiError as no:
                if no.code != TOO_FEW_PEERS or asyncio.get_running_loop().time() > self._until:
                    raise
                await asyncio.sleep(0.5)
            else:
                return

    async def _ask(self, what: str, **content: Any) -> dict[str, Any]:
        """Patiently: while servers start there is no leader."""

        async def once() -> dict[str, Any]:
            return await self._js.ask(what, **content)

        try:
            asked: dict[str, Any] = await patiently(once, until=self._until)
        except ApiError:
            raise
        except SpoolUnavailable as fault:
            if asyncio.get_running_loop().time() < self._until:
                return await self._ask(what, **content)
            raise SpoolUnusable(f"NATS JetStream: {fault} -> see that most servers of the cluster run") from fault
        return asked

    async def shared_key(self, make: Callable[[], bytes]) -> bytes:
        """The key of the hashes: whoever comes first makes it, everybody has the same."""
        layout = self._layout
        subject = layout.state(HASH_KEY)
        header = protocol.headers({"Nats-Expected-Last-Subject-Sequence": "0"})

        async def once() -> None:
            await self._js.publish(subject, make(), header=header)

        try:
            await patiently(once, until=self._until)  # a stream that was just made may have no leader yet
        except ApiError as no:
            if no.code not in WRONG_SEQUENCE:
                raise _unusable(layout.state_bucket, no) from no
        while True:
            if (found := await self._js.last(layout.state_bucket, subject)) is not None:
                return found.payload
            if asyncio.get_running_loop().time() > self._until:  # a copy that is asked may lag behind
                raise SpoolUnusable(f"no {HASH_KEY} in {layout.state_bucket} -> see that NATS is well")
            await asyncio.sleep(0.05)


def differences(wanted: Mapping[str, Any], there: Mapping[str, Any], *, replicas: int) -> dict[str, Any]:
    """What of a stream is not as it should be, with how it should be."""
    differing = {
        key: value for key, value in wanted.items() if key not in ("name", "description") and there.get(key) != value
    }
    if replicas and there.get("num_replicas") != replicas:
        differing["num_replicas"] = replicas
    return differing


def _unusable(name: str, no: ApiError) -> SpoolUnusable:
    if no.code in _NO_STORAGE:
        mend = "lower spool.max_mb, or give JetStream more storage (max_file_store, limits of the account)"
    elif no.code in _NOT_ENOUGH_SERVERS:
        mend = "lower spool.nats.replicas, or start more servers"
    elif no.code == 503:
        mend = "see that JetStream is on and most servers of the cluster run"
    else:
        mend = "see the server's log, and what our user may do"
    return SpoolUnusable(f"stream {name} in NATS: {no.text} ({no.code}) -> {mend}")


def rfc3339(unix_s: float) -> str:
    """A time as JetStream wants it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(unix_s, 0)))
