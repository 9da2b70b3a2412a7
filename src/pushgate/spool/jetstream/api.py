"""JetStream's requests and answers, as far as the spool needs them.

Sources: nats-architecture-and-design ADR-8 (buckets), -13 (pulls), -31 (direct get), -43 (TTL of messages); error
codes: nats-server, `server/errors.json`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from pushgate.errors import SpoolUnavailable
from pushgate.spool.jetstream.link import Link, NoAnswer
from pushgate.spool.jetstream.protocol import Message

NOT_FOUND = frozenset({10059, 10014, 10037})
"""No such stream, consumer or message."""
GONE = frozenset({10037, 10043, 10057})
"""No message with this number."""
FULL_MESSAGES, FULL_BYTES = 10077, 10076
BUSY = frozenset({10158, 10167, 10008, 10009})
"""A moment later it may work: the same id is just being stored, too many requests at once, no leader."""
WRONG_SEQUENCE = frozenset({10071, 10164})
T = TypeVar("T")

PAGE = 500
COPY_S = 1.0
"""So long a copy has to answer before another one may be asked."""
NO_RESPONDERS = 503
NOBODY = frozenset({NO_RESPONDERS, 10008, 10009})
"""No leader that could answer."""
LEAVE_AFTER_S = 9.0
"""About what a cluster needs for a new leader. A server that cannot store anything for so long is left."""
LOST = -1
"""The connection was, before the answer came."""


class ApiError(SpoolUnavailable):
    """JetStream says no."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"NATS JetStream: {text} ({code})")
        self.code = code
        self.text = text


class Refusal(Struct):
    """Why something is not stored."""

    err_code: int = 0
    code: int = 0
    description: str = ""


class Stored(Struct):
    """What a stream says of a message that was published."""

    seq: int = 0
    duplicate: bool = False
    error: Refusal | None = None

    @property
    def is_open(self) -> bool:
        """Whether it may be stored when it is tried again, or is already: nobody knows."""
        return self.error is not None and (self.error.err_code in BUSY or self.error.err_code in (LOST, NO_RESPONDERS))


_stored = msgspec.json.Decoder(Stored).decode
_lost = Stored(error=Refusal(LOST, 0, "the connection to NATS was lost"))
_nobody = Stored(error=Refusal(NO_RESPONDERS, NO_RESPONDERS, "no leader, or no such stream"))
_odd = Stored(error=Refusal(-2, 0, "not an answer of a stream"))


class Newest(Struct, frozen=True):
    """The newest message of some subjects, as the leader knows it."""

    seq: int = 0
    """0 where there is none."""
    time: str = ""
    """When it was stored (RFC 3339)."""


class Published:
    """Messages that were published at the same time: done when each has its answer."""

    def __init__(self, link: Link, count: int) -> None:
        self._link = link
        self._left = count
        self.answers: list[Stored | None] = [None] * count
        self._replies: list[str] = []
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, position: int, subject: str, payload: bytes, header: bytes) -> None:
        """Publish one of them. Raises `SpoolUnavailable` when there is no connection."""

        def answered(message: Message | None) -> None:
            if self.answers[position] is None:
                self.answers[position] = _read(message)
                self._left -= 1
                if not self._left and not self._done.done():
                    self._done.set_result(None)

        reply = self._link.expect(answered)
        self._replies.append(reply)
        self._link.send(subject, payload, reply=reply, header=header)

    async def wait(self, within_s: float) -> None:
        """Until all have their answers, at most so long."""
        try:
            async with asyncio.timeout(within_s):
                await self._done
        except TimeoutError:
            pass
        finally:
            self.forget()

    def forget(self) -> None:
        """Answers that have not come are of no use any more."""
        for position, reply in enumerate(self._replies):
            if self.answers[position] is None:
                self._link.forget(reply)


def _read(message: Message | None) -> Stored:
    if message is None:
        return _lost
    if message.status == NO_RESPONDERS:
        return _nobody
    try:
        return _stored(message.payload)
    except msgspec.DecodeError:
        return _odd


class JetStream:
    """Requests to JetStream over a link. All raise `SpoolUnavailable` when there is no answer, `ApiError` for a no."""

    def __init__(self, link: Link, *, request_s: float) -> None:
        self.link = link
        self.request_s = request_s
        self._fails_since: float | None = None
        """Since when nothing was stored, although it was tried."""

    async def ask(self, what: str, **content: Any) -> dict[str, Any]:
        """A request of the API."""
        try:
            return await self._ask(what, content)
        except SpoolUnavailable as fault:
            if not isinstance(fault, ApiError) or fault.code in NOBODY:
                self.fails()
            raise

    def works(self) -> None:
        """Something was stored, or refused by somebody who could have stored it."""
        self._fails_since = None

    def fails(self) -> None:
        """A server that is cut off from the others stays connected to us, and is of no use: look for another one.

        It answers questions for a while as if it still led. So only what is stored shows that all is well.
        """
        now = asyncio.get_running_loop().time()
        if self._fails_since is None:
            self._fails_since = now
        elif now - self._fails_since > LEAVE_AFTER_S:
            self._fails_since = None
            self.link.move_on()

    async def _ask(self, what: str, content: Mapping[str, Any]) -> dict[str, Any]:
        payload = json.dumps(content).encode() if content else b""
        answer = await self.link.request(f"$JS.API.{what}", payload, within_s=self.request_s)
        if answer.status == NO_RESPONDERS:
            raise ApiError(NO_RESPONDERS, "JetStream is not available to us")
        try:
            told = json.loads(answer.payload)
        except ValueError:
            raise SpoolUnavailable("NATS gave an answer that is not JSON") from None
        if not isinstance(told, dict):
            raise SpoolUnavailable("NATS gave an answer that is no object")
        if error := told.get("error"):
            raise ApiError(int(error.get("err_code", 0)), str(error.get("description", "")))
        return told

    async def publish(self, subject: str, payload: bytes, *, header: bytes = b"") -> Stored:
        """Publish one message and wait until it is stored. Raises `ApiError` when it was not."""
        published = Published(self.link, 1)
        try:
            published.send(0, subject, payload, header)
            await published.wait(self.request_s)
        finally:
            published.forget()
        stored = published.answers[0]
        if stored is None or stored.is_open:
            self.fails()
        else:
            self.works()
        if stored is None:
            raise SpoolUnavailable("NATS does not answer in time")
        if stored.error is not None:
            raise ApiError(stored.error.err_code, stored.error.description)
        return stored

    async def erase(self, stream: str, numbers: Sequence[int]) -> None:
        """Take messages out of a stream, whoever has them. Those that are gone already are no fault."""
        asking = [self.ask(f"STREAM.MSG.DELETE.{stream}", seq=number, no_erase=True) for number in numbers]
        for found in await asyncio.gather(*asking, return_exceptions=True):
            if isinstance(found, BaseException) and not (isinstance(found, ApiError) and found.code in GONE):
                raise found

    async def last(self, stream: str, subject: str) -> Message | None:
        """The last message of a subject."""
        subject = f"$JS.API.DIRECT.GET.{stream}.{subject}"
        return _found(await self._of_any_copy(lambda within_s: self.link.request(subject, within_s=within_s)))

    async def newest(self, stream: str, subjects: str) -> Newest:
        """The newest message of these subjects. Asks the leader: any copy answers the other questions, and may lag."""
        try:
            message = (await self.ask(f"STREAM.MSG.GET.{stream}", last_by_subj=subjects)).get("message") or {}
        except ApiError as no:
            if no.code not in NOT_FOUND:
                raise
            return Newest()
        return Newest(int(message.get("seq", 0)), str(message.get("time", "")))

    async def first(self, stream: str, subject: str) -> Message | None:
        """The oldest message of a subject."""
        asked = json.dumps({"seq": 1, "next_by_subj": subject}).encode()
        where = f"$JS.API.DIRECT.GET.{stream}"
        return _found(await self._of_any_copy(lambda within_s: self.link.request(where, asked, within_s=within_s)))

    async def last_of(self, stream: str, subjects: Sequence[str]) -> Mapping[str, Message]:
        """The last message of each of these subjects, where there is one."""
        found: dict[str, Message] = {}
        for begin in range(0, len(subjects), PAGE):
            portion = subjects[begin : begin + PAGE]
            if len(portion) == 1:
                one = await self.last(stream, portion[0])
                messages = [] if one is None else [one]
            else:
                messages = await self._get(stream, {"multi_last": list(portion)})
            found |= {each.value("Nats-Subject"): each for each in messages}
        return found

    async def all_of(
        self, stream: str, subjects: str, *, seq: int = 1, since: str = ""
    ) -> AsyncIterator[Sequence[Message]]:
        """Every message of these subjects from a number on, or stored since then (RFC 3339), in portions."""
        start: dict[str, Any] = {"start_time": since} if since else {"seq": seq}
        while True:
            messages = await self._get(stream, {**start, "next_by_subj": subjects, "batch": PAGE})
            if messages:
                yield messages
            if len(messages) < PAGE:
                return
            start = {"seq": sequence_of(messages[-1]) + 1}

    async def _get(self, stream: str, what: Mapping[str, Any]) -> list[Message]:
        where, asked = f"$JS.API.DIRECT.GET.{stream}", json.dumps(what).encode()

        async def once(within_s: float) -> list[Message]:
            messages: list[Message] = []

            def more(message: Message) -> bool:
                messages.append(message)
                return message.status == 0

            await self.link.gather(where, asked, more=more, within_s=within_s)
            return messages

        *messages, end = await self._of_any_copy(once)
        if end.status not in (204, 404):
            raise ApiError(end.status, end.told or "no leader, or no such stream")
        return messages

    async def _of_any_copy(self, ask: Callable[[float], Awaitable[T]]) -> T:
        """What any copy of a stream answers. One that was cut off lately is asked too, and says nothing: ask again."""
        loop = asyncio.get_running_loop()
        until, within_s = loop.time() + self.request_s, COPY_S
        while True:
            try:
                return await ask(within_s)
            except NoAnswer:
                if loop.time() >= until:
                    raise
            within_s = min(2 * within_s, max(until - loop.time(), COPY_S))


def sequence_of(message: Message) -> int:
    """The number of a message that was got directly."""
    return int(message.value("Nats-Sequence") or 0)


def stored_at(message: Message) -> float:
    """When a message that was got directly was stored, in unix seconds."""
    return datetime.fromisoformat(message.value("Nats-Time-Stamp")).timestamp()


def _found(answer: Message) -> Message | None:
    match answer.status:
        case 0:
            return answer
        case 404:
            return None
        case status:
            raise ApiError(status, answer.told or "no leader, or no such stream")


async def patiently(attempt: Callable[[], Any], *, until: float) -> Any:
    """What an attempt gives, tried again while JetStream has no leader just now, until then (of the loop's clock)."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return await attempt()
        except ApiError as no:
            if no.code not in BUSY | {NO_RESPONDERS} or loop.time() >= until:
                raise
        await asyncio.sleep(0.25)
