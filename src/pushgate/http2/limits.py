"""How much one connection takes and how long it waits: the numbers of this package, with unit and reason."""

from __future__ import annotations

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True):
    """What a connection allows its peer. The defaults suit many small POSTs with small answers."""

    max_streams: int = 1000
    """Requests in flight at most, whatever the peer announces (it may announce no limit at all)."""
    answer_bytes: int = 64 * 1024
    """Body of one answer, padding included. Beyond it the stream is reset and the body is cut here."""
    header_block_bytes: int = 32 * 1024
    """One header block, compressed and over all its CONTINUATION frames. Beyond it the connection ends."""
    receive_window_bytes: int = 16 * 1024 * 1024
    """The connection's receive window (RFC 9113 §6.9). A stream gets twice `answer_bytes`, so it never stalls."""
    patience_frames: int = 1000
    """Frames without use (PING, SETTINGS, empty, stray, ...) taken in `patience_s` while nothing else moves."""
    patience_s: float = 10.0
    quiet_s: float = 5.0
    """With answers due and nothing received for this long, a PING asks whether the peer is still there."""
    ack_s: float = 5.0
    """Without a sign of life for this long after a PING the connection is given up."""
    idle_ping_s: float = 3600.0
    """Without requests, a PING this often (Apple: after one hour of idling)."""
    linger_s: float = 1.0
    """How long the closing of TLS may take after the last answer."""
