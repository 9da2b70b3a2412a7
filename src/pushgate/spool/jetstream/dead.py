"""What is remembered of dead pushkeys, in a bucket that all gateways share (ADR-8), under keyed hashes.

A gateway follows what is added there and keeps a filter of it (`Presence`), so that a living pushkey costs no question.
Until it has read all of it, every pushkey is asked for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress

import msgspec
import structlog
from msgspec import Struct

from pushgate.errors import SpoolUnavailable
from pushgate.model import Device
from pushgate.spool import KnownRejection
from pushgate.spool.jetstream import protocol
from pushgate.spool.jetstream.api import WRONG_SEQUENCE, ApiError, JetStream, sequence_of
from pushgate.spool.jetstream.layout import Layout, rfc3339, text_of, token
from pushgate.spool.jetstream.protocol import Message
from pushgate.spool.keyed import KeyedHash
from pushgate.spool.rejections import NAME_DIGITS, Presence, Rejection, Span

log = structlog.get_logger(__name__)

FOLLOW_EVERY_S = 1.0
SLACK_S = 300.0
"""How far clocks of gateways and of NATS may be apart."""
SHARDS = [f"{number:02x}" for number in range(256)]
_DELETED = {"KV-Operation": "DEL"}


class _Entry(Struct):
    """A dead pushkey as it stands in the bucket, as JSON."""

    reason: str
    since_ms: int | None
    at_ms: int


class _Known(Struct, frozen=True):
    name: bytes
    seq: int
    rejection: Rejection


_read = msgspec.json.Decoder(_Entry).decode
_write = msgspec.json.Encoder().encode


class Dead:
    """The verbs about dead pushkeys, and which fingerprints may be put again."""

    def __init__(
        self,
        js: JetStream,
        layout: Layout,
        *,
        name_of: KeyedHash,
        clock: Callable[[], float],
        remember_s: float,
        window_s: float,
    ) -> None:
        self._js = js
        self._layout = layout
        self._name_of = name_of
        self._clock = clock
        self._remember_s = remember_s
        self._window_s = window_s
        self._presence = Presence()
        self._has_all = False
        self._seen = 0
        """The last change of the bucket that was read."""
        self._again: dict[str, tuple[int, float]] = {}
        """Fingerprints that may be put again: the number of the entry that says so, and until when it counts."""
        self._following: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Follow no more."""
        if self._following is not None:
            self._following.cancel()
            with suppress(asyncio.CancelledError):
                await self._following

    # --- while notifications are taken

    async def among(self, devices: Sequence[Device]) -> frozenset[int]:
        """See `spool.Spool.rejected_among`."""
        if self._following is None:
            self._following = asyncio.create_task(self._follow_for_ever(), name="following the dead")
        if self._has_all and not self._presence:
            return frozenset()
        suspects: dict[str, list[tuple[int, bytes]]] = {}
        for position, device in enumerate(devices):
            name = self._name_of(device.app_id, device.pushkey)
            if not self._has_all or name in self._presence:
                suspects.setdefault(self._key(device.app_id, name), []).append((position, name))
        if not suspects:
            return frozenset()
        found = await self._js.last_of(self._layout.dead_bucket, list(suspects))
        dead: set[int] = set()
        for key, message in found.items():
            if (known := _known(message)) is None:
                continue
            for position, _ in suspects[key]:
                if known.rejection.lapsed(self._now_ms(), self._remember_s):
                    continue
                if known.rejection.undone_by(devices[position]):
                    await self._forget(key, known.seq)
                    dead -= {each for each, _ in suspects[key]}
                    break
                dead.add(position)
        return frozenset(dead)

    def id_of(self, fingerprint: bytes) -> str:
        """By what NATS knows repeats of it: another one after it was rejected."""
        text = fingerprint.hex()
        if (again := self._again.get(text)) is None:
            return text
        return f"{text}.{again[0]}"

    # --- while notifications are sent

    async def remember(self, device: Device, rejection: Rejection, *, fingerprint: bytes) -> None:
        """Write it down: the pushkey is dead, and a delivery with this fingerprint is no repeat."""
        name = self._name_of(device.app_id, device.pushkey)
        entry = _write(_Entry(rejection.reason, rejection.since_ms, rejection.at_ms))
        writing = [self._js.publish(self._key(device.app_id, name), entry)]
        if fingerprint and self._window_s:
            ttl = protocol.headers({"Nats-TTL": f"{int(2 * self._window_s) + 1}s"})
            writing.append(self._js.publish(self._layout.again(fingerprint), b"", header=ttl))
        stored = await asyncio.gather(*writing)
        self._presence.add(name)
        if len(stored) > 1:
            self._note_again(fingerprint.hex(), stored[1].seq)

    async def forget(self, app_id: str, *, since: float, prefix: str) -> int:
        """See `spool.Spool.forget_rejections`."""
        if (span := Span.of(prefix)) is None:
            return 0
        count = 0
        shard = prefix[:2].lower() if len(prefix) >= 2 else "*"
        subjects = self._layout.dead(shard, token(app_id), "*")
        async for known in self._known(subjects, since=since):
            if known.name in span and known.rejection.at_ms >= int(since * 1000):
                key = self._key(app_id, known.name)
                count += await self._forget(key, known.seq)
        return count

    # --- for whoever looks at them

    async def page(self, *, app_id: str, prefix: str, after: str, limit: int) -> Sequence[KnownRejection]:
        """See `spool.Spool.rejections`."""
        span = Span.of(prefix, after)
        told: list[KnownRejection] = []
        if span is None:
            return told
        app = token(app_id) if app_id else "*"
        first, last = span.first[:1].hex(), span.last[:1].hex()
        for shard in SHARDS:
            if len(told) >= limit:
                break
            if first <= shard <= last:
                subjects = self._layout.dead(shard, app, "*")
                found = [each async for each in self._known(subjects) if each.name in span]
                told += [each.rejection.known_as(each.name) for each in sorted(found, key=lambda each: each.name)]
        return told[:limit]

    async def count(self) -> Mapping[tuple[str, str], int]:
        """See `spool.Spool.count_rejections`."""
        counts: Counter[tuple[str, str]] = Counter()
        async for known in self._known(self._layout.dead("*", "*", "*")):
            counts[(known.rejection.app_id, known.rejection.reason)] += 1
        return counts

    # --- the bucket

    def _key(self, app_id: str, name: bytes) -> str:
        text = name.hex()
        return self._layout.dead(text[:2], token(app_id), text)

    async def _known(self, subjects: str, *, since: float = 0) -> AsyncIterator[_Known]:
        """Those of these keys that have not lapsed."""
        begin = rfc3339(since - SLACK_S) if since > SLACK_S else ""
        async for messages in self._js.all_of(self._layout.dead_bucket, subjects, since=begin):
            for message in messages:
                known = _known(message)
                if known is not None and not known.rejection.lapsed(self._now_ms(), self._remember_s):
                    yield known

    async def _forget(self, key: str, seq: int) -> int:
        """Forget one, unless it was told anew since it was read. Returns how many."""
        header = {**_DELETED, "Nats-TTL": "3600s", "Nats-Expected-Last-Subject-Sequence": str(seq)}
        try:
            await self._js.publish(key, b"", header=protocol.headers(header))
        except ApiError as no:
            if no.code not in WRONG_SEQUENCE:
                raise
            return 0
        return 1

    async def _follow_for_ever(self) -> None:
        trouble = False
        while True:
            try:
                await self._follow()
                trouble = False
            except SpoolUnavailable as fault:
                if not trouble:
                    log.warning("nats does not tell of dead pushkeys", fault=str(fault))
                trouble = True
            await asyncio.sleep(FOLLOW_EVERY_S)

    async def _follow(self) -> None:
        """Read what was added since it was read last."""
        layout = self._layout
        async for messages in self._js.all_of(layout.dead_bucket, layout.all_dead, seq=self._seen + 1):
            for message in messages:
                subject = message.value("Nats-Subject")
                seq = sequence_of(message)
                kind, _, name = subject.removeprefix(f"$KV.{layout.name}-dead.").partition(".")
                if kind == "again":
                    self._note_again(name, seq)
                elif len(name) >= NAME_DIGITS and not message.value("KV-Operation"):
                    with suppress(ValueError):
                        self._presence.add(bytes.fromhex(name[-NAME_DIGITS:]))
                self._seen = max(self._seen, seq)
        self._has_all = True

    def _note_again(self, fingerprint: str, seq: int) -> None:
        now = asyncio.get_running_loop().time()
        if seq > self._again.get(fingerprint, (0, 0.0))[0]:
            self._again.pop(fingerprint, None)
            self._again[fingerprint] = (seq, now + 2 * self._window_s)
        while self._again:
            first = next(iter(self._again))
            if self._again[first][1] > now:
                break
            del self._again[first]

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _known(message: Message) -> _Known | None:
    """What a message of the bucket says, or None where it says that something is gone, or nothing that can be read."""
    if message.value("KV-Operation"):
        return None
    parts = message.value("Nats-Subject").split(".")
    try:
        entry = _read(message.payload)
        name = bytes.fromhex(parts[-1])
        app_id = text_of(parts[-2])
    except (msgspec.DecodeError, ValueError, IndexError):
        return None
    return _Known(name, sequence_of(message), Rejection(app_id, entry.reason, entry.since_ms, entry.at_ms))
