"""The client protocol of NATS: bytes to messages, and what goes out. No socket, no clock.

Source: docs.nats.io, "Client Protocol" and ADR-4 (headers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

MOST_LINE_BYTES = 1 << 20
"""An INFO line names every server of a cluster."""
MOST_MESSAGE_BYTES = 64 << 20
"""The largest `max_payload` that a server can be given."""
PING, PONG = b"PING\r\n", b"PONG\r\n"
_STATUS = b"NATS/1.0 "
_HEADER = b"NATS/1.0\r\n"


class BadProtocol(Exception):  # noqa: N818 - what it is
    """The peer does not speak NATS."""


class Message(NamedTuple):
    """What came on a subscription."""

    subject: str
    reply: str
    header: bytes
    payload: bytes

    def __repr__(self) -> str:
        """Without what is in it."""
        return f"Message({self.subject!r}, {len(self.payload)} bytes)"

    @property
    def status(self) -> int:
        """What the server says in place of a message (ADR-4), or 0 for a message."""
        if self.header.startswith(_STATUS):
            code = self.header[9:12]
            return int(code) if code.isdigit() else -1
        return 0

    @property
    def told(self) -> str:
        """The words behind the status."""
        line, _, _ = self.header.partition(b"\r\n")
        return line[13:].decode("ascii", "replace")

    def value(self, name: str) -> str:
        """A header, or nothing."""
        mark = b"\r\n" + name.encode() + b":"
        begin = self.header.find(mark)
        if begin < 0:
            return ""
        begin += len(mark)
        return self.header[begin : self.header.index(b"\r\n", begin)].strip().decode("utf-8", "replace")


class Receiver(Protocol):
    """Who is told what has come."""

    def told_info(self, info: bytes) -> None:
        """What the server says of itself, as JSON."""
        ...

    def told_error(self, text: str) -> None:
        """The server complains."""
        ...

    def pinged(self) -> None:
        """It wants a PONG."""
        ...

    def ponged(self) -> None:
        """It answered a PING."""
        ...


class Parser:
    """Bytes in any portions to what they say."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.handlers: dict[bytes, Callable[[Message], None]] = {}
        """Who gets the messages of a subscription, by its number."""
        self._rest = b""
        self._needed = 0
        """So many bytes are worth looking at again."""

    def feed(self, data: bytes) -> None:
        """Tell what has come. Raises `BadProtocol`."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = self._rest
        at = self._parse(data)
        self._rest = data[at:] if at else data
        if self._needed <= 0 and len(self._rest) > MOST_LINE_BYTES:
            raise BadProtocol("a line without an end")

    def _parse(self, data: bytes) -> int:
        """Returns up to where it was understood."""
        at = 0
        self._needed = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            begin = end + 2
            first = data[at : at + 1]
            if first in (b"M", b"H"):
                words = data[at:end].split()
                with_header = first == b"H"
                if not 4 <= len(words) - with_header <= 5:
                    raise BadProtocol("not a message")
                try:
                    size = int(words[-1])
                    header_size = int(words[-2]) if with_header else 0
                except ValueError:
                    raise BadProtocol("not a message") from None
                if not 0 <= header_size <= size <= MOST_MESSAGE_BYTES:
                    raise BadProtocol("a message of an impossible size")
                if len(data) < begin + size + 2:
                    self._needed = begin - at + size + 2
                    return at
                if (handler := self.handlers.get(words[2])) is not None:
                    body = begin + header_size
                    reply = words[3] if len(words) - with_header == 5 else b""
                    handler(Message(words[1].decode(), reply.decode(), data[begin:body], data[body : begin + size]))
                at = begin + size + 2
            else:
                self._control(data[at:end])
                at = begin
        return at

    def _control(self, line: bytes) -> None:
        verb, _, rest = line.partition(b" ")
        match verb.upper():
            case b"PING":
                self._receiver.pinged()
            case b"PONG":
                self._receiver.ponged()
            case b"+OK":
                pass
            case b"INFO":
                self._receiver.told_info(rest)
            case b"-ERR":
                self._receiver.told_error(rest.strip(b" '").decode("utf-8", "replace"))
            case _:
                raise BadProtocol("neither a message nor a command")


def publish(subject: str, payload: bytes, *, reply: str = "", header: bytes = b"") -> bytes:
    """A message as it goes out. `header` is one that `headers` has made."""
    if header:
        size = len(header)
        return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (
            subject.encode(),
            reply.encode(),
            size,
            size + len(payload),
            header,
            payload,
        )
    return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(payload), payload)


def headers(values: Mapping[str, str]) -> bytes:
    """A block of headers. Names and values are ours: nothing of a caller is in them."""
    return (
        _HEADER
        + b"".join([b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in values.items()])
        + b"\r\n"
    )


def unsubscribe(number: bytes) -> bytes:
    """Ask for no more of them."""
    return b"UNSUB %b\r\n" % number


def subscribe(subject: str, number: bytes) -> bytes:
    """Ask for the messages of a subject."""
    return b"SUB %b %b\r\n" % (subject.encode(), number)
