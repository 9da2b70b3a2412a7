"""tls_layer: what it makes of the plain transport's words and of the guest's, without a socket."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("OpenSSL", reason="pyOpenSSL is not installed")

from pushgate import tls as pushgate_tls
from pushgate.any_purpose import AnyPurposeTls, _Found
from pushgate.tls import Failed, Files, Shaken
from pushgate.tls_layer import Layer
from tests.certificates import Authority

AUTHORITY = Authority()
OURS = AUTHORITY.issue("localhost")


class Plain:
    """The plain transport below."""

    def __init__(self) -> None:
        self.sent = b""
        self.calls: list[str] = []

    def write(self, data: bytes) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return "close" in self.calls or "abort" in self.calls

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"peername": ("192.0.2.1", 7)}.get(name, default)

    def __getattr__(self, name: str) -> Any:
        return lambda: self.calls.append(name)


class Guest(asyncio.Protocol):
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.got = b""
        self.transport: Any = None
        self.pause_after = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data
        if self.pause_after and len(self.got) >= self.pause_after:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("connection_lost")

    def pause_writing(self) -> None:
        self.calls.append("pause_writing")

    def resume_writing(self) -> None:
        self.calls.append("resume_writing")


class Stand:
    """A layer between a guest and a caller in memory."""

    def __init__(self, folder: Path) -> None:
        (folder / "ca.pem").write_bytes(AUTHORITY.pem)
        ours = AnyPurposeTls(Files([OURS.write(folder, "server")], folder / "ca.pem"))
        self.plain, self.guest = Plain(), Guest()
        self.layer = Layer(ours._context, self.guest, app_data=_Found())
        self.layer.connection_made(self.plain)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        trust = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
        self.caller = trust.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def carry(self) -> None:
        """Everything that one side has sent to the other."""
        while self.plain.sent or self._outgoing.pending:
            self._incoming.write(self.plain.sent)
            self.plain.sent = b""
            with suppress(ssl.SSLWantReadError):
                self.caller.do_handshake()
            if self._outgoing.pending:
                self.layer.data_received(self._outgoing.read())

    def shake(self) -> None:
        with suppress(ssl.SSLWantReadError):
            self.caller.do_handshake()
        self.carry()
        assert isinstance(self.layer.met.result(), Shaken)

    def send(self, data: bytes) -> bytes:
        self.caller.write(data)
        return self._outgoing.read()


@pytest.fixture
async def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


async def test_what_the_plain_transport_says_of_writing_goes_on_to_the_guest(stand: Stand) -> None:
    stand.layer.pause_writing()
    stand.layer.resume_writing()
    assert stand.guest.calls == [], "there is no guest yet"
    stand.shake()
    stand.layer.pause_writing()
    stand.layer.resume_writing()
    assert stand.guest.calls == ["pause_writing", "resume_writing"]
    assert stand.guest.transport.get_extra_info("peername") == ("192.0.2.1", 7)
    assert stand.guest.transport.get_extra_info("sslcontext") is not None
    assert stand.guest.transport.get_extra_info("ssl_object").getpeercert(binary_form=True) is None


async def test_who_pauses_gets_nothing_more_and_all_of_it_later(stand: Stand) -> None:
    stand.shake()
    stand.guest.pause_after = 1
    stand.layer.data_received(stand.send(b"a" * 10) + stand.send(b"b" * 10) + stand.send(b"c" * 10))
    assert stand.guest.got == b"a" * 10
    assert stand.plain.calls == ["pause_reading"]
    stand.guest.pause_after = 0
    stand.guest.transport.resume_reading()
    stand.guest.transport.resume_reading()
    await asyncio.sleep(0.01)
    assert stand.guest.got == b"a" * 10 + b"b" * 10 + b"c" * 10
    assert stand.plain.calls == ["pause_reading", "resume_reading"]


async def test_who_takes_little_at_a_time_is_not_sent_more_before_it_has_taken_all(stand: Stand) -> None:
    """Else what came before would pile up here, with each little more of it."""
    stand.shake()
    stand.guest.pause_after = 1
    stand.layer.data_received(stand.send(b"a" * 10) + stand.send(b"b" * 10) + stand.send(b"c" * 10))
    for taken in (b"a" * 10 + b"b" * 10, b"a" * 10 + b"b" * 10 + b"c" * 10):
        stand.guest.transport.resume_reading()
        await asyncio.sleep(0.01)
        assert stand.guest.got == taken
        assert set(stand.plain.calls) == {"pause_reading"}
    stand.guest.transport.resume_reading()
    await asyncio.sleep(0.01)
    assert stand.plain.calls[-1] == "resume_reading"


async def test_the_end_is_said_and_nothing_is_sent_behind_it(stand: Stand) -> None:
    stand.shake()
    stand.guest.transport.write(b"last words")
    stand.guest.transport.close()
    stand.guest.transport.close()
    stand.guest.transport.write(b"more")
    assert stand.guest.transport.is_closing()
    stand._incoming.write(stand.plain.sent)
    assert stand.caller.read(100) == b"last words"
    assert stand.caller.read(100) == b"", "its end"
    stand.layer.data_received(stand.send(b"not for anybody"))
    assert stand.guest.got == b""
    assert "close" not in stand.plain.calls
    with suppress(ssl.SSLWantReadError):
        stand.caller.unwrap()
    stand.layer.data_received(stand._outgoing.read())
    assert stand.plain.calls[-1] == "close"
    stand.layer.connection_lost(None)
    assert stand.guest.calls == ["connection_lost"]


async def test_what_comes_behind_the_end_is_dropped_though_the_guest_had_paused(stand: Stand) -> None:
    """It would pile up undecrypted otherwise: as much as somebody can send until the connection is ended."""
    stand.shake()
    stand.guest.pause_after = 1
    stand.layer.data_received(stand.send(b"a") + stand.send(b"b"))
    assert stand.plain.calls == ["pause_reading"]
    stand.guest.transport.close()
    stand.guest.transport.pause_reading()
    assert stand.plain.calls == ["pause_reading", "resume_reading"]
    for _ in range(20):
        stand.layer.data_received(stand.send(b"x" * 10_000))
    assert stand.guest.got == b"a"
    stand._incoming.write(stand.plain.sent)
    with suppress(ssl.SSLWantReadError):
        stand.caller.unwrap()
    stand.layer.data_received(stand._outgoing.read())
    assert stand.plain.calls[-1] == "close", "the other side's word was read behind all that"


async def test_who_never_says_the_end_is_ended(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushgate_tls, "CLOSE_WITHIN_S", 0.05)
    stand.shake()
    stand.guest.transport.close()
    await asyncio.sleep(0.1)
    assert stand.plain.calls[-1] == "abort"


async def test_what_is_no_tls_ends_the_connection(stand: Stand) -> None:
    stand.shake()
    stand.layer.data_received(b"\x17\x03\x03\x00\x20" + b"garbage." * 4)
    assert stand.plain.calls[-1] == "abort"
    assert stand.guest.got == b""


async def test_a_handshake_that_is_none_gets_an_alert(stand: Stand) -> None:
    stand.layer.data_received(b"\x16\x03\x01\x00\x05hello")
    met = stand.layer.met.result()
    assert isinstance(met, Failed)
    assert met.reason
    assert stand.plain.sent.startswith(b"\x15")  # alert
    assert stand.plain.calls == ["close"]
    stand.layer.data_received(b"more of it")
    stand.layer.connection_lost(None)
    assert stand.guest.transport is None
    assert stand.guest.calls == []


async def test_who_goes_away_in_the_handshake_has_failed(stand: Stand) -> None:
    stand.layer.connection_lost(None)
    assert stand.layer.met.result() == Failed()
    assert stand.guest.calls == []


async def test_a_key_that_is_not_the_certificates_is_an_os_error(tmp_path: Path) -> None:
    certificate, _ = OURS.write(tmp_path, "server")
    _, key = AUTHORITY.issue("localhost").write(tmp_path, "other")
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    with pytest.raises(OSError, match="see that they belong together"):
        AnyPurposeTls(Files([(certificate, key)], tmp_path / "ca.pem"))
