"""Handshakes of every profile, again and again, by tickets of before, and bytes that are no handshake at all."""

from __future__ import annotations

import asyncio
import ssl
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from pushgate.callers import Entry, by_certificate
from pushgate.model import Caller
from tests.conformance.odd_callers import AUTHORITY, ENTRY, ERP
from tests.tls_server import WAYS, asking, client_tls, run_on, served

REFUSED = 0
PROFILES: Mapping[str, tuple[tuple[str, ...], int]] = {
    "1.2": (("-tls1_2",), 200),
    "1.3": (("-tls1_3",), 200),
    "1.1": (("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"), REFUSED),
    "1.0": (("-tls1", "-cipher", "DEFAULT@SECLEVEL=0"), REFUSED),
    "1.2 ChaCha20": (("-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"), 200),
    "1.2 without forward secrecy": (("-tls1_2", "-cipher", "AES256-GCM-SHA384"), REFUSED),
    "1.2 DHE": (("-tls1_2", "-cipher", "DHE-RSA-AES256-GCM-SHA384"), REFUSED),
    "1.2 CBC": (("-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA384"), REFUSED),
    "1.2 without encryption": (("-tls1_2", "-cipher", "NULL@SECLEVEL=0"), REFUSED),
    "1.2 without a certificate of ours": (("-tls1_2", "-cipher", "aNULL@SECLEVEL=0"), REFUSED),
    "1.3 AES-128": (("-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"), 200),
    "1.3 CCM": (("-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"), REFUSED),
    "1.3 P-256": (("-tls1_3", "-curves", "prime256v1"), 200),
    "1.3 P-384": (("-tls1_3", "-curves", "secp384r1"), 200),
    "a weak curve": (("-tls1_2", "-curves", "secp192r1"), REFUSED),
    "SHA-1": (("-tls1_2", "-sigalgs", "ECDSA+SHA1", "-cipher", "DEFAULT@SECLEVEL=0"), REFUSED),
    "h2 and http/1.1": (("-alpn", "h2,http/1.1"), 200),
    "small records": (("-maxfraglen", "512"), 200),
    "no tickets": (("-no_ticket",), 200),
    "a wildcard for a name": (("-servername", "*.example.net"), 200),
}


async def speak(port: int, leaf: tuple[Path, Path], *options: str, feed: Sequence[tuple[bytes, float]] = ()) -> str:
    """What `openssl s_client` tells, with these words (and pauses) on its standard input."""
    shown = ("-cert", str(leaf[0]), "-key", str(leaf[1]))
    talking = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", *shown, *options),
        stdin=PIPE,
        stdout=PIPE,
        stderr=STDOUT,
    )
    assert talking.stdin is not None
    ending = asyncio.get_running_loop().call_later(10, talking.kill)
    for words, pause_s in feed or [(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 0.0)]:
        if talking.returncode is None:
            talking.stdin.write(words)
            await asyncio.sleep(pause_s)
    assert talking.stdout is not None
    told = b""
    while b"HTTP/1.1 " not in told and (chunk := await talking.stdout.read(65536)):
        told += chunk
    if talking.returncode is None:
        with suppress(ProcessLookupError):
            talking.kill()
    ending.cancel()
    await talking.wait()
    return told.decode(errors="replace")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("way", WAYS)
def test_each_profile_of_a_handshake_comes_in_or_does_not(
    tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {}

    async def test() -> None:
        async with served(tmp_path, AUTHORITY, clients=[ENTRY], way=way) as made:
            files = ERP.write(tmp_path, "caller")
            for name, (options, status) in PROFILES.items():
                told = await speak(made.port, files, *options)
                if ("HTTP/1.1 200" in told) is not (status == 200):
                    wrong[name] = told

    run_on(way, test())
    assert wrong == {}
    with capsys.disabled():
        print(f"\nprofiles of handshakes by {way}: {len(PROFILES)}")


@pytest.mark.parametrize("way", WAYS)
def test_nobody_shakes_hands_again_and_nothing_is_taken_before_the_handshake(tmp_path: Path, way: str) -> None:
    ask = (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 0.0)

    async def test() -> None:
        async with served(tmp_path, AUTHORITY, clients=[ENTRY], way=way) as made:
            files = ERP.write(tmp_path, "caller")
            again = await speak(made.port, files, "-tls1_2", feed=[(b"", 0.3), (b"R\n", 0.3), ask])
            assert "RENEGOTIATING" in again
            assert "no renegotiation" in again
            assert made.seen == []
            keys = await speak(made.port, files, "-tls1_3", feed=[(b"", 0.3), *[(b"K\n", 0.01)] * 20, ask])
            assert "HTTP/1.1 200" in keys
            early = await speak(made.port, files, "-tls1_3", "-ign_eof")
            assert "Max Early Data: 0" in early

    run_on(way, test())


def hello(tls: ssl.SSLContext) -> bytes:
    """What a caller says first."""
    said = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        tls.wrap_bio(ssl.MemoryBIO(), said, server_hostname="localhost").do_handshake()
    return said.read()


def broken(good: bytes, chance: Random, number: int) -> bytes:
    """Something that is almost a first word, or not at all."""
    match number % 6:
        case 0:
            changed = bytearray(good)
            for _ in range(3):
                changed[chance.randrange(len(good))] = chance.randrange(256)
            return bytes(changed)
        case 1:
            return good[: chance.randrange(len(good))]
        case 2:
            return chance.randbytes(chance.randrange(1, 4000))
        case 3:
            return good + chance.randbytes(200)
        case 4:
            return b"\x16\x03\x01\xff\xff" + chance.randbytes(70_000)
        case _:
            return b"\x14\x03\x03\x00\x01\x01" * 2000


@pytest.mark.timeout(60)
@pytest.mark.parametrize("way", WAYS)
def test_no_bytes_of_a_stranger_are_a_fault_or_leave_a_place_taken(tmp_path: Path, way: str) -> None:
    """300 of them, half closed or aborted or silent afterwards, at any moment of a handshake."""
    faults: list[object] = []
    chance = Random(7)

    async def one(port: int, sent: bytes, *, half_closed: bool, aborted: bool) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(OSError, TimeoutError):
            writer.write(sent)
            await asyncio.sleep(chance.random() * 0.05)
            if half_closed:
                writer.write_eof()
            async with asyncio.timeout(0.01 if aborted else 0.3):
                while await reader.read(65_536):
                    pass
        writer.transport.abort()

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
        async with served(tmp_path, AUTHORITY, clients=[ENTRY], way=way) as made:
            caller = client_tls(AUTHORITY, ERP, tmp_path)
            good = hello(caller)
            for begin in range(0, 300, 30):
                numbers = range(begin, begin + 30)
                sent = [(broken(good, chance, number), number % 2 == 0, number % 5 == 0) for number in numbers]
                await asyncio.gather(*(one(made.port, words, half_closed=h, aborted=a) for words, h, a in sent))
            async with asyncio.timeout(5):
                while len(made.listener._server.places):
                    await asyncio.sleep(0.02)
            assert made.events.count("handshake") == 0
            assert made.events.count("handshake_failed") == made.events.count("accepted") == 300
            assert (await asking(made.port, caller))[:2] == (200, "erp")

    run_on(way, test())
    assert faults == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_a_ticket_is_worth_nothing_once_its_caller_was_taken_out(
    tmp_path: Path, way: str, version: ssl.TLSVersion
) -> None:
    other = Entry(Caller("other"), san="other.example.org")

    async def test() -> None:
        async with served(tmp_path, AUTHORITY, clients=[ENTRY, other], way=way) as made:
            tls = client_tls(AUTHORITY, ERP, tmp_path, version=version)
            *answer, ticket = await asking(made.port, tls)
            assert answer == [200, "erp"]
            made.identify = by_certificate([other])
            assert (await asking(made.port, tls, ticket))[0] == 401
            assert made.events[-1] == "resumption"

    run_on(way, test())
