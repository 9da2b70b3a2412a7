"""Header blocks (RFC 7541) without shared state: requests are encoded by hand, answers decoded when asked for."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from hpack.exceptions import HPACKError
from hpack.hpack import Decoder
from hpack.table import HeaderTable
from msgspec import Struct
from msgspec.structs import force_setattr

TABLE_SIZE_ZERO: Final = b"\x20"
"""The dynamic table size update to 0 (§6.3) that begins the first block of a connection."""

_WITHOUT_INDEXING: Final = 0x00
_NEVER_INDEXED: Final = 0x10
_NAME: Final = re.compile(r":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE: Final = re.compile(r"(?:[!-~\x80-\U0010FFFF](?:[ -~\x80-\U0010FFFF]*[!-~\x80-\U0010FFFF])?)?")
_OF_CONNECTIONS: Final = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
"""Names that have no place in HTTP/2 (RFC 9113 §8.2.2)."""
_INDEX_OF_NAME: Final = {
    name.decode(): index
    for index, (name, _) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))
    if name.decode() not in _OF_CONNECTIONS
}
_INDEXED: Final = {
    (name.decode(), value.decode()): bytes([0x80 | index])
    for index, (name, value) in enumerate(HeaderTable.STATIC_TABLE, 1)
}
_STATUS_BYTES: Final = {0x80 | index: int(HeaderTable.STATIC_TABLE[index - 1][1]) for index in range(8, 15)}
"""The seven statuses that are one byte (RFC 7541, appendix A)."""
_STATUS_NAMES: Final = frozenset(kind | index for kind in (0x00, 0x10, 0x40) for index in range(8, 15))
"""First bytes of a literal whose name is `:status`."""


class Undecodable(Exception):  # noqa: N818 - what the block is
    """A header block breaks RFC 7541. Stays inside this package."""


class Malformed(Exception):  # noqa: N818 - what the answer is
    """A header block is sound but no answer (RFC 9113 §8.1.1). Stays inside this package."""


class Response(Struct, frozen=True, gc=False):
    """A peer's answer to one request."""

    status: int
    body: bytes
    """Cut at `Limits.answer_bytes`."""
    block: bytes = b""
    """The header block as it came."""
    decoded: Mapping[str, str] | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields by lower-case name, without `:status`; repeated ones are joined by a comma.

        Decoded at the first access. Of a 2xx answer whose block is broken behind its status nothing can be told:
        the mapping is empty. (Blocks of other answers were checked on arrival.)
        """
        fields = self.decoded
        if fields is None:
            try:
                fields = decode_headers(self.block)
            except (Undecodable, Malformed):
                fields = MappingProxyType({})
            force_setattr(self, "decoded", fields)
        return fields

    def __repr__(self) -> str:
        return f"Response(status={self.status}, body_bytes={len(self.body)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("status", self.status), ("body_bytes", len(self.body))]


def encode_headers(headers: Sequence[tuple[str, str]], *, never_indexed: Collection[str] = ()) -> bytes:
    """A header block of static-table indexes and literals without indexing, in the order given.

    Names in `never_indexed` get the never-indexed form (RFC 7541 §7.1.3), so that no hop compresses them. Nothing
    enters a dynamic table, therefore blocks can be made beforehand, used on any connection and concatenated.
    Raises ValueError, without the value in it, for what must not be in a header (RFC 9113 §8.2.1, §8.2.2).
    """
    parts: list[bytes] = []
    for name, value in headers:
        never = name in never_indexed
        indexed = None if never else _INDEXED.get((name, value))
        if indexed is not None:
            parts.append(indexed)
            continue
        if _VALUE.fullmatch(value) is None:
            raise ValueError(f"header {name[:50]!r}: control characters or outer blanks in the value")
        try:
            text = value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"header {name[:50]!r}: not text") from None
        size = len(text)
        length = _BYTES[size] if size < 0x7F else _integer(size, 0x7F, 0)
        parts += (_name(name, _NEVER_INDEXED if never else _WITHOUT_INDEXING), length, text)
    return b"".join(parts)


def read_status(block: bytes) -> int:
    """The `:status` of an answer: from its first bytes, where the peer writes it as most do, else decoded.

    Raises Undecodable or Malformed.
    """
    at = 1 if block[:1] == TABLE_SIZE_ZERO else 0
    first = block[at] if at < len(block) else 0
    status = _STATUS_BYTES.get(first)
    if status is not None:
        return status
    if first in _STATUS_NAMES and block[at + 1 : at + 2] == b"\x03":
        return _number(block[at + 2 : at + 5])
    fields = _decode(block)
    if not fields or fields[0][0] != b":status":
        raise Malformed("no status")
    return _number(fields[0][1])


def decode_headers(block: bytes) -> Mapping[str, str]:
    """The fields of an answer without its status. Raises Undecodable, or Malformed (RFC 9113 §8.2, §8.3.2)."""
    fields = _decode(block)
    if not fields or fields[0][0] != b":status":
        raise Malformed("no status")
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields[1:]:
        name, value = raw_name.decode("utf-8", "replace"), raw_value.decode("utf-8", "backslashreplace")
        if _NAME.fullmatch(name) is None or name[0] == ":" or not _BROKEN_VALUE.isdisjoint(value):
            raise Malformed("broken header field")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return MappingProxyType(headers)


_BROKEN_VALUE: Final = frozenset("\0\r\n")


def _decode(block: bytes) -> list[tuple[bytes, bytes]]:
    """Every field of a block, by a decoder whose dynamic table stays empty: our SETTINGS allow none."""
    decoder = Decoder()
    decoder.header_table_size = decoder.max_allowed_table_size = 0
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except HPACKError as error:
        raise Undecodable(type(error).__name__) from error


def _number(digits: bytes) -> int:
    if len(digits) != 3 or not digits.isdigit() or digits < b"100":
        raise Malformed("status is no status")
    return int(digits)


@lru_cache(maxsize=256)
def _name(name: str, form: int) -> bytes:
    """The beginning of a literal field: its form and its name."""
    index = _INDEX_OF_NAME.get(name)
    if index is not None:
        return _integer(index, 0x0F, form)
    if _NAME.fullmatch(name) is None or name[0] == ":" or name in _OF_CONNECTIONS:
        raise ValueError(f"no header name in HTTP/2: {name[:50]!r}")
    return bytes([form]) + _integer(len(name), 0x7F, 0) + name.encode()


def _integer(number: int, prefix: int, form: int) -> bytes:
    """A number in the low bits of `prefix` and as many bytes more as it takes (RFC 7541 §5.1)."""
    if number < prefix:
        return _BYTES[form | number]
    out = bytearray([form | prefix])
    number -= prefix
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


_BYTES: Final = tuple(bytes([number]) for number in range(256))
