"""The load: notifications that differ each time, made from templates, counted, and each answer looked at.

Making a request copies a template with a few digits patched, so that the generator stays far from being the limit.
"""

from __future__ import annotations

import itertools
import secrets
import time
from array import array
from collections.abc import Iterator, Sequence
from enum import StrEnum

from msgspec import Struct

from pushgate.commands.load import (
    NUMBER,
    PUSHKEY_CHARS,
    Answer,
    AtOnce,
    Load,
    Peer,
    Schedule,
    Steady,
    Template,
    percentile,
    sealed_parts,
)

PATH_SEALED = "/push/v1/notifyEncrypted/batch"
PATH_PLAIN = "/push/v1/notify"
MONTH = "2026-11"
MARK = "0" * 48
"""What all pushkeys begin with: for the sink none is dead or busy then."""
FILLER = secrets.token_urlsafe(1404)
BATCH = 100
"""The most in one request (contract)."""


class Kind(StrEnum):
    """Whose notification it is, and how it is sent."""

    APNS = "apns"
    FCM = "fcm"
    PLAIN = "plain"
    """To APNs, by `/notify`."""
    HTTP2 = "http2"
    """To APNs, and no gateway before it."""


class Wish(Struct, frozen=True):
    """What requests are to look like: one of them has an item for each of so many apps, the first ones first."""

    apps: Sequence[str]
    batch: int = 1
    kind: Kind = Kind.APNS


def plain_part(app: str) -> bytes:
    """The body of one `/notify`, as a messenger's server sends it."""
    pushkey = MARK[: PUSHKEY_CHARS - len(NUMBER)].encode() + NUMBER
    return (
        b'{"notification":{"event_id":"$%b:example.org","room_id":"!ward3:example.org","type":"m.room.message",'
        b'"sender":"@erika:example.org","sender_display_name":"Erika","room_name":"Ward 3","prio":"high",'
        b'"content":{"msgtype":"m.text","body":"Rounds at nine %b"},"counts":{"unread":2},'
        b'"devices":[{"app_id":"%b","pushkey":"%b","pushkey_ts":1760000000}]}}'
        % (NUMBER, NUMBER, app.encode(), pushkey)
    )


def parts_of(wish: Wish) -> list[bytes]:
    """The body of its first request."""
    if wish.kind is Kind.PLAIN:
        return [plain_part(wish.apps[0])]
    apps = list(itertools.islice(itertools.cycle(wish.apps), wish.batch))
    return sealed_parts(apps, mark=MARK, filler=FILLER, month=MONTH)


class Requests:
    """A source of requests: no two notifications of it are the same, nor of two sources."""

    def __init__(self, wish: Wish) -> None:
        path = PATH_PLAIN if wish.kind is Kind.PLAIN else PATH_SEALED
        turns = range(0, max(len(wish.apps), wish.batch), wish.batch)
        wishes = [Wish(_rotated(wish.apps, turn), wish.batch, wish.kind) for turn in turns]
        self._templates = itertools.cycle([Template(path, host="localhost", parts=parts_of(each)) for each in wishes])
        self.batch = wish.batch
        self._number = secrets.randbits(40) << 20  # a spool may be kept from one source to the next

    def take(self, notifications: int, *, until: float) -> Iterator[bytes]:
        """The next ones, but none after that time (`perf_counter`): a slow gateway ends a row early, not never."""
        for _ in range(notifications // self.batch):
            if time.perf_counter() >= until:
                return
            yield next(self._templates).fill(self._number)
            self._number += self.batch


def _rotated(apps: Sequence[str], by: int) -> Sequence[str]:
    return [*apps[by:], *apps[:by]]


class Sent(Struct, frozen=True):
    """What was sent and taken."""

    notifications: int
    begin: float
    """By `perf_counter`."""
    took_s: Sequence[float]
    """From request to answer, in order of length."""
    late_s: float
    """How late the generator itself was, p99."""

    def percentile_ms(self, share: float) -> float:
        """Of the times to the answers."""
        return percentile(self.took_s, share) * 1000


class LoadError(Exception):
    """The load is not what was asked for: an answer that is not a success, or none."""


async def send(
    peer: Peer, requests: Requests, notifications: int, *, connections: int, within_s: float, per_s: float | None = None
) -> Sent:
    """Send so many, as fast as they are answered or so many a second. Raises `LoadError` unless all are taken."""
    took_s = array("d")
    begin = time.perf_counter()
    taken = 0

    def tell(answer: Answer | OSError, seconds: float) -> None:
        nonlocal taken
        if isinstance(answer, OSError) or answer.status != 200:
            raise LoadError(f"no success but {answer!r}")
        if not _is_success(answer.body, requests.batch):
            raise LoadError("not all of a request was taken")
        taken += requests.batch
        took_s.append(seconds)

    schedule: Schedule = AtOnce()
    if per_s is not None:
        schedule = Steady(per_s / requests.batch, begin=begin, until=begin + notifications / per_s)
    load = Load(peer, requests.take(notifications, until=begin + within_s), tell)
    lost = await load.run(schedule, connections=connections, within_s=within_s + 10)
    if lost:
        raise LoadError(f"{lost} requests had no answer")
    late_s = percentile(sorted(schedule.late_s), 0.99) if isinstance(schedule, Steady) else 0.0
    return Sent(taken, begin, sorted(took_s), late_s)


def _is_success(body: bytes, batch: int) -> bool:
    """Whether an answer says so of everything in it: that of `/notify` has no rejected pushkey."""
    return body == b'{"rejected":[]}' or body.count(b'"status":"success"') == batch
