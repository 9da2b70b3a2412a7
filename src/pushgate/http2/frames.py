"""Frames as RFC 9113 §4 and §6 lay them out: bytes to frames and back. Knows no streams and does no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from struct import Struct as Layout
from typing import Final

import msgspec

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

ACK: Final = 0x01
END_STREAM: Final = 0x01
END_HEADERS: Final = 0x04
PADDED: Final = 0x08
PRIORITIZED: Final = 0x20

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES: Final = 16_384
"""The largest payload that we take: SETTINGS_MAX_FRAME_SIZE as it is when nothing is said (§6.5.2)."""
MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM_ID: Final = 2**31 - 1

_HEADER_BYTES: Final = 9
_HEADER: Final = Layout(">HBBBL")
_SETTING: Final = Layout(">HL")
_TWO_LONGS: Final = Layout(">LL")

pack_header: Final = _HEADER.pack
"""(length >> 8, length & 255, kind, flags, stream id) -> the nine bytes before a payload."""

Frame = tuple[int, int, int, bytes]
"""Kind, flags, stream id, payload."""


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (§7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    """What SETTINGS may say (§6.5.2). Unknown ones are ignored."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class PeerFault(Exception):  # noqa: N818 - what the peer did
    """The peer broke the protocol: the connection ends with this code. Stays inside this package."""

    def __init__(self, code: ErrorCode, what: str) -> None:
        super().__init__(f"{code.name}: {what}")
        self.code = code


class GoAway(msgspec.Struct, frozen=True):
    """The peer's last word on a connection (§6.8)."""

    last_stream_id: int
    code: int
    debug: bytes = b""

    @property
    def reason(self) -> str:
        """What the peer says about it: APNs sends `{"reason": "..."}`. Empty where nothing readable came."""
        try:
            return msgspec.json.decode(self.debug, type=_Reason).reason[:100]
        except (msgspec.DecodeError, UnicodeDecodeError):
            return ""


class _Reason(msgspec.Struct):
    reason: str


class FrameReader:
    """Cuts what arrives into frames. Never raises: a frame beyond `FRAME_BYTES` sets `is_oversized` and ends it."""

    __slots__ = ("_need", "_rest", "is_oversized")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._need = 0
        self.is_oversized = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete with `data`, in their order."""
        frames: list[Frame] = []
        if self.is_oversized:
            return frames
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return frames
            data = bytes(self._rest)
            self._rest.clear()
        unpack, at, end = _HEADER.unpack_from, 0, len(data)
        need = _HEADER_BYTES
        while end - at >= _HEADER_BYTES:
            high, low, kind, flags, stream_id = unpack(data, at)
            size = high << 8 | low
            if size > FRAME_BYTES:
                self.is_oversized = True
                return frames
            start = at + _HEADER_BYTES
            if end - start < size:
                need = _HEADER_BYTES + size
                break
            at = start + size
            frames.append((kind, flags, stream_id & 0x7FFFFFFF, data[start:at]))
        if at < end:
            self._rest += data[at:]
            self._need = need
        return frames


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return pack_header(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def settings(values: Mapping[Setting, int]) -> bytes:
    """A SETTINGS frame (§6.5)."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame (§6.9)."""
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """A RST_STREAM frame (§6.4)."""
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def goaway(code: ErrorCode) -> bytes:
    """A GOAWAY frame from a client: the peer never opened a stream, so the last one is 0 (§6.8)."""
    return frame(GOAWAY, 0, 0, _TWO_LONGS.pack(0, code))


def unpad(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without padding and without priority (§6.1, §6.2)."""
    before = after = 0
    if flags & PADDED:
        if not payload:
            raise PeerFault(ErrorCode.FRAME_SIZE_ERROR, "padded frame without a length")
        before, after = 1, payload[0]
    if flags & PRIORITIZED:
        before += 5
    if before + after > len(payload):
        raise PeerFault(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[before : len(payload) - after]


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """Key and value of every setting that this client has a use for, all valid (§6.5.2)."""
    if len(payload) % _SETTING.size:
        raise PeerFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of odd length")
    values: list[tuple[int, int]] = list(_SETTING.iter_unpack(payload))
    for key, value in values:
        if key == Setting.ENABLE_PUSH and value != 0:
            raise PeerFault(ErrorCode.PROTOCOL_ERROR, "server with ENABLE_PUSH")
        if key == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise PeerFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE too large")
        if key == Setting.MAX_FRAME_SIZE and not FRAME_BYTES <= value < 2**24:
            raise PeerFault(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of range")
    return values


def parse_goaway(payload: bytes) -> GoAway:
    """What a GOAWAY frame says. The debug data is kept as far as a reason could reach."""
    if len(payload) < _TWO_LONGS.size:
        raise PeerFault(ErrorCode.FRAME_SIZE_ERROR, "short GOAWAY")
    last, code = _TWO_LONGS.unpack_from(payload)
    return GoAway(last & 0x7FFFFFFF, code, payload[8:1032])


def parse_u32(payload: bytes, kind: str) -> int:
    """The one number of a RST_STREAM or WINDOW_UPDATE frame."""
    if len(payload) != 4:
        raise PeerFault(ErrorCode.FRAME_SIZE_ERROR, f"{kind} of wrong length")
    return int.from_bytes(payload, "big")


def code_name(code: int) -> str:
    """The name of an error code for a message; unknown codes are legal (§7)."""
    return ErrorCode(code).name if code in ErrorCode.__members__.values() else f"code {code}"
