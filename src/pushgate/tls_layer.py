"""TLS by pyOpenSSL between a plain transport and a protocol, as event loops do it by `ssl`. Server side only."""

from __future__ import annotations

import asyncio
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from pushgate import tls
from pushgate.tls import UNREADABLE, Failed, Shaken

RECORD_BYTES = 16_384
"""At most so much comes out of one record (RFC 8446 §5.1)."""


class Layer(asyncio.Protocol):
    """One connection: bytes of TLS on one side, what they mean on the other."""

    def __init__(self, context: SSL.Context, guest: asyncio.Protocol, *, app_data: object) -> None:
        """`guest` is connected once the handshake has come about."""
        loop = asyncio.get_running_loop()
        self.met: asyncio.Future[Shaken | Failed] = loop.create_future()
        """What came of the handshake; whether it was a resumption, pyOpenSSL cannot tell."""
        self._guest = guest
        self._tls = SSL.Connection(context, None)
        self._tls.set_app_data(app_data)
        self._tls.set_accept_state()
        self._plain: asyncio.Transport
        self._secure = _Secure(self)
        self._is_closing = False
        self._is_paused = False
        self._timer = loop.call_later(tls.HANDSHAKE_WITHIN_S, self.abort)

    # --- what the plain transport says

    def connection_made(self, transport: Any) -> None:
        self._plain = transport

    def data_received(self, data: bytes) -> None:
        self._tls.bio_write(data)
        if not self.met.done():
            self._shake()
        if self.met.done():
            self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        if not self.met.done():
            self.met.set_result(Failed())
        elif isinstance(self.met.result(), Shaken):
            self._is_closing = True
            self._guest.connection_lost(exc)

    def pause_writing(self) -> None:
        if self.met.done():
            self._guest.pause_writing()

    def resume_writing(self) -> None:
        if self.met.done():
            self._guest.resume_writing()

    # --- what the guest wants, by way of its transport

    def write(self, data: bytes) -> None:
        """Encrypt and send."""
        if data and not self._is_closing:
            self._tls.sendall(data)
            self._flush()

    def close(self) -> None:
        """Say that it is over, and wait for the other side to say so, for a while.

        What it sends meanwhile is read and dropped: left unread it would pile up here.
        """
        if self._is_closing:
            return
        self._is_closing = True
        self._tls.shutdown()
        self._flush()
        self._is_paused = False
        self._plain.resume_reading()
        loop = asyncio.get_running_loop()
        loop.call_soon(self._read)
        self._timer = loop.call_later(tls.CLOSE_WITHIN_S, self.abort)

    def abort(self) -> None:
        """End it now."""
        self._is_closing = True
        self._plain.abort()

    def pause(self) -> None:
        """Read nothing for a while."""
        if not self._is_closing:
            self._is_paused = True
            self._plain.pause_reading()

    def resume(self) -> None:
        """Read again, beginning with what is here already: more may come when all of that was taken."""
        if self._is_paused:
            self._is_paused = False
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._read()
        if not self._is_paused and not self._plain.is_closing():
            self._plain.resume_reading()

    @property
    def plain(self) -> asyncio.Transport:
        """The transport below."""
        return self._plain

    @property
    def connection(self) -> SSL.Connection:
        """pyOpenSSL's side of it."""
        return self._tls

    @property
    def is_closing(self) -> bool:
        """Whether nothing more is sent."""
        return self._is_closing

    # --- TLS

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            self._flush()
            return
        except SSL.Error as error:
            self._flush()  # the alert
            self.met.set_result(Failed(_reason(error)))
            self._plain.close()
            return
        self._timer.cancel()
        self._flush()
        self.met.set_result(Shaken(is_resumed=False))
        self._guest.connection_made(self._secure)

    def _read(self) -> None:
        while not self._is_paused and not self._plain.is_closing():
            try:
                data = self._tls.recv(RECORD_BYTES)
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                self.close()
                self._timer.cancel()
                self._plain.close()
                return
            except SSL.Error:
                self.abort()
                return
            if not self._is_closing:
                self._guest.data_received(data)
        self._flush()

    def _flush(self) -> None:
        """Send what TLS has to say."""
        while True:
            try:
                self._plain.write(self._tls.bio_read(4 * RECORD_BYTES))
            except SSL.WantReadError:
                return


class _Secure(asyncio.Transport):
    """What the guest sees of the connection."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self._layer = layer

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return _Peer(self._layer.connection)
        return (
            self._layer.connection.get_context()
            if name == "sslcontext"
            else self._layer.plain.get_extra_info(name, default)
        )

    def write(self, data: Any) -> None:
        self._layer.write(bytes(data))

    def close(self) -> None:
        self._layer.close()

    def abort(self) -> None:
        self._layer.abort()

    def is_closing(self) -> bool:
        return self._layer.is_closing

    def pause_reading(self) -> None:
        self._layer.pause()

    def resume_reading(self) -> None:
        self._layer.resume()


class _Peer:
    """The part of `ssl.SSLObject` that is asked for the caller's certificate."""

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection

    def getpeercert(self, *, binary_form: bool) -> bytes | None:
        """The certificate (DER), or None where none was shown, or one that only OpenSSL can read."""
        assert binary_form
        try:
            shown = self._connection.get_peer_certificate(as_cryptography=True)
        except UNREADABLE:
            return None
        return None if shown is None else shown.public_bytes(Encoding.DER)


def _reason(error: SSL.Error) -> str:
    """OpenSSL's last word; empty where the other side went away."""
    told = error.args[0] if error.args else ()
    return str(told[-1][2]) if isinstance(told, list) and told else ""
