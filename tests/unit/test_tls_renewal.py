"""RenewedTls: keys for tickets and remembered sessions go now and then, and only ever for the same files."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from pushgate.tls import MOST_SESSIONS, TICKET_KEYS_S, TRY_AGAIN_S, Failed, Files, RenewedTls, Shaken


class Made:
    def __init__(self) -> None:
        self.sessions = 0
        self.shaken = 0

    async def shake(self, accepted: socket.socket, guest: asyncio.Protocol) -> Shaken | Failed:
        self.shaken += 1
        return Shaken(is_resumed=False)


class Stand:
    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "cert.pem"
        self.certificate.write_text("certificate")
        (folder / "ca.pem").write_text("authority")
        self.now = 1000.0
        self.made: list[Made] = []
        self.fault: OSError | None = None
        files = Files([(self.certificate, self.certificate)], folder / "ca.pem", folder / "ca.pem")
        self.tls = RenewedTls(self._make, files, monotonic=lambda: self.now)

    def _make(self) -> Made:
        if self.fault is not None:
            raise self.fault
        self.made.append(Made())
        return self.made[-1]

    async def shake(self) -> None:
        with socket.socket() as one:
            assert await self.tls.shake(one, asyncio.Protocol()) == Shaken(is_resumed=False)


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


async def test_it_lasts_for_its_time_and_is_made_anew(stand: Stand) -> None:
    await stand.shake()
    stand.now += TICKET_KEYS_S - 1
    await stand.shake()
    assert [each.shaken for each in stand.made] == [2]
    stand.now += 1
    await stand.shake()
    await stand.shake()
    assert [each.shaken for each in stand.made] == [2, 2]


async def test_it_remembers_so_many_sessions_and_no_more(stand: Stand) -> None:
    stand.made[0].sessions = MOST_SESSIONS - 1
    await stand.shake()
    assert (len(stand.made), stand.tls.sessions) == (1, MOST_SESSIONS - 1)
    stand.made[0].sessions = MOST_SESSIONS
    await stand.shake()
    assert (len(stand.made), stand.tls.sessions) == (2, 0)


@pytest.mark.parametrize("change", ["changed", "gone", "no use"])
async def test_files_that_are_not_the_same_any_more_are_left_to_the_reload(stand: Stand, change: str) -> None:
    match change:
        case "changed":
            stand.certificate.write_text("another")
        case "gone":
            stand.certificate.unlink()
        case _:
            stand.fault = OSError("no use")
    stand.now += TICKET_KEYS_S
    await stand.shake()
    assert [each.shaken for each in stand.made] == [1]
    stand.fault = None
    stand.certificate.write_text("certificate")
    await stand.shake()
    assert len(stand.made) == 1, "files are not read at each handshake"
    stand.now += TRY_AGAIN_S
    await stand.shake()
    assert [each.shaken for each in stand.made] == [2, 1]
