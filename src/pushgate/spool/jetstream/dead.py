"""What is remembered of dead pushkeys, in a bucket that all gateways share (ADR-8), under keyed hashes.

A gateway follows what is added there and keeps a filter of it (`Presence`), so that a living pushkey costs no question.
Until it has read all of it, every pushkey is asked for.

What is taken back must stay so: a pushkey that is wrongly remembered unsubscribes somebody. So whoever takes back waits
for what is just being written down. What NATS has not confirmed may be stored later, by a server that hung: its id is
used up for the word that it is gone, and then it is a repeat.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec
import structlog
from msgspec import Struct

from pushgate.errors import SpoolUnavailable
from pushgate.model import Device
from pushgate.spool import KnownRejection
from pushgate.spool.jetstream import protocol
from pushgate.spool.jetstream.again import Again
from pushgate.spool.jetstream.api import WRONG_SEQUENCE, ApiError, JetStream, sequence_of
from pushgate.spool.jetstream.lasting import for_ever
from pushgate.spool.jetstream.layout import Layout, rfc3339, text_of, token
from pushgate.spool.jetstream.protocol import Message
from pushgate.spool.keyed import KeyedHash
from pushgate.spool.rejections import NAME_DIGITS, Presence, Rejection, Span

log = structlog.get_logger(__name__)

AGAIN_S = 0.1
FOLLOW_EVERY_S = 1.0
SLACK_S = 300.0
"""How far clocks of gateways and of NATS may be apart."""
SHARDS = [f"{number:02x}" for number in range(256)]
TAKES_BACK_AGAIN_S = 2.0
"""What other workers were writing down when it was looked the first time is there by then."""
_DELETED = {"KV-Operation": "DEL", "Nats-TTL": "3600s"}


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


class _Pushkey(NamedTuple):
    """What is written down or taken back."""

    app_id: str
    name: bytes


class Dead:
    """The verbs about dead pushkeys."""

    def __init__(
        self,
        js: JetStream,
        layout: Layout,
        again: Again,
        *,
        name_of: KeyedHash,
        clock: Callable[[], float],
        remember_s: float,
        takes_back_again_s: float = TAKES_BACK_AGAIN_S,
    ) -> None:
        self._js = js
        self._layout = layout
        self._again = again
        self._name_of = name_of
        self._clock = clock
        self._remember_s = remember_s
        self._takes_back_again_s = takes_back_again_s
        self._presence = Presence()
        self.has_all = False
        """Whether everything that was there at the start has been read."""
        self._seen = 0
        """The last change of the bucket that was read."""
        self._writing: dict[_Pushkey, asyncio.Task[None]] = {}
        """What is being written down just now."""
        self._doubtful: dict[_Pushkey, str] = {}
        """What may be written down, now or later, and the id with which it was published."""
        self._nonce, self._numbers = secrets.token_hex(8), itertools.count()
        self._following: asyncio.Task[None] | None = None
        self._was_told = False
        """That what others have found dead is not known for now."""

    async def close(self) -> None:
        """Follow no more, and finish what is being written down."""
        if self._following is not None:
            self._following.cancel()
            with suppress(asyncio.CancelledError):
                await self._following
        if self._writing:
            await asyncio.wait(self._writing.values())

    # --- while notifications are taken

    def follow(self) -> None:
        """From now on read what is added, by whomever."""
        if self._following is None:
            following = for_ever(self._follow, work="following the dead")
            self._following = asyncio.create_task(following, name="following the dead")

    async def among(self, devices: Sequence[Device]) -> frozenset[int]:
        """See `spool.Spool.rejected_among`."""
        self.follow()
        if self.has_all and not self._presence:
            return frozenset()
        suspects: dict[str, list[tuple[int, bytes]]] = {}
        for position, device in enumerate(devices):
            name = self._name_of(device.app_id, device.pushkey)
            if not self.has_all or name in self._presence:
                suspects.setdefault(self._key(_Pushkey(device.app_id, name)), []).append((position, name))
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
                    await self._forget(_Pushkey(known.rejection.app_id, known.name), known.seq)
                    dead -= {each for each, _ in suspects[key]}
                    break
                dead.add(position)
        return frozenset(dead)

    # --- while notifications are sent

    async def remember(self, device: Device, rejection: Rejection) -> None:
        """Write it down: the pushkey is dead. Where that is not confirmed, it is done again, or `disbelieve`d."""
        pushkey = _Pushkey(device.app_id, self._name_of(device.app_id, device.pushkey))
        task = self._writing.get(pushkey)
        if task is None:
            task = asyncio.create_task(self._write(pushkey, rejection), name="writing down a dead pushkey")
            self._writing[pushkey] = task
            task.add_done_callback(lambda _: self._writing.pop(pushkey, None))
        await asyncio.shield(task)

    async def _write(self, pushkey: _Pushkey, rejection: Rejection) -> None:
        id_ = self._doubtful.setdefault(pushkey, f"{self._nonce}{next(self._numbers):x}")
        entry = _write(_Entry(rejection.reason, rejection.since_ms, rejection.at_ms))
        await self._js.publish(self._key(pushkey), entry, header=protocol.headers({"Nats-Msg-Id": id_}))
        self._doubtful.pop(pushkey, None)
        self._presence.add(pushkey.name)

    async def disbelieve(self, devices: Sequence[Device]) -> None:
        """What was to be written down of these and was not confirmed shall not stand there."""
        for device in devices if self._doubtful else ():
            await self._take_back_doubtful(_Pushkey(device.app_id, self._name_of(device.app_id, device.pushkey)))

    async def forget(self, app_id: str, *, since: float, prefix: str) -> int:
        """See `spool.Spool.forget_rejections`. With `since` it is looked twice, for other workers write down too."""
        if (span := Span.of(prefix)) is None:
            return 0
        count = await self._forget_all(app_id, span, since=since, prefix=prefix)
        if since:
            await asyncio.sleep(self._takes_back_again_s)
            count += await self._forget_all(app_id, span, since=since, prefix=prefix)
        return count

    async def _forget_all(self, app_id: str, span: Span, *, since: float, prefix: str) -> int:
        if writing := [task for pushkey, task in self._writing.items() if pushkey.app_id == app_id]:
            await asyncio.wait(writing)
        count = 0
        for pushkey in list(self._doubtful):
            if pushkey.app_id == app_id and pushkey.name in span:
                count += await self._take_back_doubtful(pushkey)
        shard = prefix[:2].lower() if len(prefix) >= 2 else "*"
        subjects = self._layout.dead(shard, token(app_id), "*")
        begin, until = _begin(since), asyncio.get_running_loop().time() + self._js.request_s
        while True:
            newest, read = await self._js.newest(self._layout.dead_bucket, subjects), 0
            async for messages in self._js.all_of(self._layout.dead_bucket, subjects, since=begin):
                read = sequence_of(messages[-1])
                for known in self._counting(messages):
                    if known.name in span and known.rejection.at_ms >= int(since * 1000):
                        count += await self._forget(_Pushkey(app_id, known.name), known.seq)
            if newest.seq <= read or newest.time[: len(begin) - 1] < begin[:-1]:
                return count
            if asyncio.get_running_loop().time() > until:
                raise SpoolUnavailable("the copies in NATS differ: not all of what is dead can be read")
            await asyncio.sleep(AGAIN_S)  # a copy that lags behind has answered

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

    def _key(self, pushkey: _Pushkey) -> str:
        text = pushkey.name.hex()
        return self._layout.dead(text[:2], token(pushkey.app_id), text)

    async def _known(self, subjects: str) -> AsyncIterator[_Known]:
        """Those of these keys that have not lapsed."""
        async for messages in self._js.all_of(self._layout.dead_bucket, subjects):
            for known in self._counting(messages):
                yield known

    def _counting(self, messages: Sequence[Message]) -> Iterator[_Known]:
        for message in messages:
            known = _known(message)
            if known is not None and not known.rejection.lapsed(self._now_ms(), self._remember_s):
                yield known

    async def _forget(self, pushkey: _Pushkey, seq: int) -> int:
        """Forget one, unless it was told anew since it was read. Returns how many."""
        header = {**_DELETED, "Nats-Expected-Last-Subject-Sequence": str(seq)}
        try:
            await self._js.publish(self._key(pushkey), b"", header=protocol.headers(header))
        except ApiError as no:
            if no.code not in WRONG_SEQUENCE:
                raise
            return 0
        return 1

    async def _take_back_doubtful(self, pushkey: _Pushkey) -> int:
        """Use up the id with which it was published, if it was. Returns how many stood there."""
        if (id_ := self._doubtful.get(pushkey)) is None:
            return 0
        header = protocol.headers({**_DELETED, "Nats-Msg-Id": id_})
        stored = await self._js.publish(self._key(pushkey), b"", header=header)
        count = await self._forget(pushkey, stored.seq) if stored.duplicate else 0
        if self._doubtful.get(pushkey) == id_:
            del self._doubtful[pushkey]
        return count

    async def _follow(self) -> None:
        try:
            await self._read_on()
            self._was_told = False
        except SpoolUnavailable as fault:
            if not self._was_told:
                log.warning("nats does not tell of dead pushkeys", fault=str(fault))
            self._was_told = True
        await asyncio.sleep(FOLLOW_EVERY_S)

    async def _read_on(self) -> None:
        """Read what was added since it was read last."""
        layout = self._layout
        async for messages in self._js.all_of(layout.dead_bucket, layout.all_dead, seq=self._seen + 1):
            for message in messages:
                subject = message.value("Nats-Subject")
                seq = sequence_of(message)
                kind, _, name = subject.removeprefix(f"$KV.{layout.name}-dead.").partition(".")
                if kind == "again":
                    self._again.note(name, seq)
                elif len(name) >= NAME_DIGITS and not message.value("KV-Operation"):
                    with suppress(ValueError):
                        self._presence.add(bytes.fromhex(name[-NAME_DIGITS:]))
                self._seen = max(self._seen, seq)
        self.has_all = True

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


def _begin(since: float) -> str:
    """From where on to read what was told since then, or nothing: from the beginning."""
    return rfc3339(since - SLACK_S) if since > SLACK_S else ""
