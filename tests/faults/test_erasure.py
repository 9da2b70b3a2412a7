"""Nothing of a delivery is left in any file when it has ended, however it ended (A_27435, A_27757).

The files of the spool's folder are searched as they are, with the log and with what the process holds open and has
deleted, and so is every payload that something in them opens: for pushkeys, names and content, and for ciphertext as
base64 and as the bytes that it stands for.
"""

from __future__ import annotations

import asyncio
import base64
import random
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from pushgate.client import seal
from pushgate.emulator import ApnsEmulator, Fault, FcmEmulator, Step
from pushgate.emulator.certificates import APNS_KEY_ID, APNS_TEAM_ID
from pushgate.model import Device, EncryptedNotification, PlainNotification
from pushgate.spool.cipher import NO_KEYS, Keys, key_id
from pushgate.spool.sqlite import SqliteSpool
from pushgate.stage import APNS_APP_ID, FCM_APP_ID
from tests.faults.forensics import readable
from tests.faults.ledger import Ledger, Note
from tests.faults.table import Report
from tests.faults.tangle import SEED_MARK, KnownSeeds, Tangle
from tests.ports import free_port
from tests.processes import CHAIN, Run, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

Emulators = dict[str, ApnsEmulator | FcmEmulator]

SLICE_CHARS = 48
"""Of a ciphertext: a multiple of 4, so that it stands for whole bytes."""
TIDY_S = 20.0
"""After so long nothing may be left. The log is emptied after a quarter of a second without work, or after five."""
MAX_AGE_S = 8
SWEEP_S = 30.0
"""Between two looks for what is out of time."""


# --- what is looked for, and where


def sealed(app_id: str, pushkey: str) -> EncryptedNotification:
    return seal(f"message to {pushkey}", key=CHAIN.newest).for_device(Device(app_id, pushkey))


def plain(app_id: str, pushkey: str) -> PlainNotification:
    mark = secrets.token_hex(8)
    return PlainNotification(
        devices=(Device(app_id, pushkey),),
        event_id=f"$event-{mark}",
        room_id=f"!room-{mark}",
        room_name=f"Ward {mark}",
        sender=f"@doctor-{mark}:example.org",
        sender_display_name=f"Doctor {mark}",
        content={"body": f"laboratory result {mark}"},
    )


def marks_of(note: Note) -> set[bytes]:
    """What would betray this notification."""
    if isinstance(note, PlainNotification):
        texts = [note.event_id, note.room_id, note.room_name, note.sender, note.sender_display_name]
        texts += [device.pushkey for device in note.devices] + list((note.content or {}).values())
        return {text.encode() for text in texts if text}
    pieces = [note.ciphertext[start : start + SLICE_CHARS] for start in (0, 480, 1200)]
    return {note.device.pushkey.encode(), *(p.encode() for p in pieces), *(base64.b64decode(p) for p in pieces)}


def marks_of_all(notes: Iterable[Note]) -> set[bytes]:
    return {mark for note in notes for mark in marks_of(note)}


def contents(run: Run, keys: Sequence[bytes] = ()) -> bytes:
    """What can be read in any file of the spool's folder, in the log, and in what the process has open."""
    files = [each for each in spool_folder(run).iterdir() if each.is_file()]
    return readable([each.read_bytes() for each in (*files, run.log_file, *nameless(run))], keys=keys)


def nameless(run: Run) -> list[Path]:
    """Regular files that the process has open and that have no name any more."""
    opened = Path(f"/proc/{run.pid}/fd").iterdir() if run.is_running else ()
    deleted = []
    for each in opened:
        with suppress(FileNotFoundError):  # closed meanwhile
            if str(each.readlink()).endswith("(deleted)") and each.is_file():
                deleted.append(each)
    return deleted


def spool_folder(run: Run) -> Path:
    return run.stage.folder / "spool"


def found(run: Run, marks: Iterable[bytes], *, keys: Sequence[bytes] = ()) -> set[bytes]:
    everything = contents(run, keys)
    return {mark for mark in marks if mark in everything}


async def until_gone(run: Run, marks: set[bytes], *, within_s: float = TIDY_S, keys: Sequence[bytes] = ()) -> None:
    """Fails where some of it can still be found after so long."""
    end = time.monotonic() + within_s
    while left := found(run, marks, keys=keys):
        assert time.monotonic() < end, f"{len(left)} of {len(marks)} marks are left"
        await asyncio.sleep(0.1)


def environ(folder: Path, **more: str) -> dict[str, str]:
    (folder / "spool").mkdir()
    return {"PUSHGATE_SPOOL__URL": f"sqlite:{folder}/spool/spool.db", **more}


async def send(ledger: Ledger, run: Run, notes: Sequence[Note]) -> None:
    """Each in a request of its own; all must be taken."""
    before = len(ledger.taken)
    async with run.client() as client:
        for note in notes:
            await ledger.send(client, [note])
    assert len(ledger.taken) == before + len(notes)


def some(kind: str, count: int = 3) -> list[Note]:
    """So many of each form for each provider. The pushkeys begin with the kind, four hexadecimal digits."""
    notes: list[Note] = []
    for _ in range(count):
        for make in (sealed, plain):
            notes.append(make(APNS_APP_ID, kind + secrets.token_hex(30)))
            notes.append(make(FCM_APP_ID, f"{kind}-fcm-{secrets.token_hex(30)}"))
    return notes


def pushkeys(notes: Iterable[Note]) -> list[str]:
    return [
        note.device.pushkey if isinstance(note, EncryptedNotification) else note.devices[0].pushkey for note in notes
    ]


# --- endings


async def test_what_was_accepted_rejected_or_buried_is_in_no_file(tmp_path: Path) -> None:
    refusal = {APNS_APP_ID: Step(status=400, reason="PayloadEmpty"), FCM_APP_ID: Step(status=400)}
    async with staged(tmp_path, environ=environ(tmp_path), drain_s=1) as run, Ledger(run) as ledger:
        accepted, dead, buried, waiting = some("acce"), some("dead"), some("b0b0"), some("aa17", 1)
        emulators: Emulators = {APNS_APP_ID: run.stage.apns, FCM_APP_ID: run.stage.fcm}
        for note, pushkey in zip((*buried, *waiting), pushkeys((*buried, *waiting)), strict=True):
            device = note.device if isinstance(note, EncryptedNotification) else note.devices[0]
            step = refusal[device.app_id] if note in buried else Step(fault=Fault.HANG, repeat=True)
            emulators[device.app_id].script(pushkey, [step])
        await run.start()
        await send(ledger, run, [*waiting, *accepted, *dead, *buried])
        ended = marks_of_all([*accepted, *dead, *buried])
        await until_gone(run, ended)
        metrics = await run.metrics()
        endings = {"accepted": accepted, "rejected": dead, "undeliverable": buried}
        for ending, notes in endings.items():
            counts = [metrics[f'pushgate_deliveries_total{{ending="{ending}",lane="{lane}"}}'] for lane in emulators]
            assert sum(counts) == len(notes), ending
        assert await run.end() == 0
        assert found(run, ended) == set(), "after the stop"
        assert found(run, marks_of_all(waiting)) >= {key.encode() for key in pushkeys(waiting)}, "this finds things"


@pytest.mark.fault(
    "kill -9 before the log is tidied",
    how="killed as soon as the providers have everything, started anew: then nothing of it may be left in any file",
)
async def test_kill_9_leaves_nothing_once_all_is_sent(tmp_path: Path, table: Report) -> None:
    async with staged(tmp_path, environ=environ(tmp_path)) as run, Ledger(run) as ledger:
        notes = some("acce", 5)
        marks = marks_of_all(notes)
        await run.start()
        await send(ledger, run, notes[: len(notes) // 2])
        for emulator in (run.stage.apns, run.stage.fcm):
            emulator.script("*", [Step(delay_s=5, repeat=True)])  # so that some are settled and some are not
        await send(ledger, run, notes[len(notes) // 2 :])
        with ledger.fault():
            await run.kill()
        assert found(run, marks), "the kill leaves something"
        for emulator in (run.stage.apns, run.stage.fcm):
            emulator.script("*", [])
        await run.start()
        verdict = await ledger.settle()
        await until_gone(run, marks)
        assert await run.end() == 0
        assert found(run, marks) == set()
    table(verdict, twice_at_most=len(notes), because="what was in flight", remark="searched for in all files")


# --- time is up

CREDENTIALS, IN_FLIGHT, OUTAGE, BREAKER, REMOVED = APNS_APP_ID, FCM_APP_ID, "outage", "breaker", "removed"
"""The lanes of the test, by what holds them up."""

MORE = """
[rejections]
breaker_count = 3
"""

APP = """
[apps.{app}]
provider = "apns"
bundle_id = "org.example.health"
key_file = "AuthKey_{key_id}.p8"
key_id = "{key_id}"
team_id = "{team_id}"
endpoint = "https://localhost:{port}"
ca_file = "ca.pem"
"""


def app(name: str, port: int) -> str:
    return APP.format(app=name, port=port, key_id=APNS_KEY_ID, team_id=APNS_TEAM_ID)


@pytest.mark.fault(
    "time is up in lanes that are held up",
    how="credentials refused, outage, breaker open, in flight without an answer, app not configured any more",
)
async def test_what_is_out_of_time_is_erased_whatever_holds_up_its_lane(tmp_path: Path, table: Report) -> None:
    settings = environ(tmp_path, PUSHGATE_SPOOL__MAX_AGE_S=str(MAX_AGE_S))
    async with (
        staged(tmp_path, more=MORE, environ=settings, retry_scale=0.05, drain_s=0.1) as run,
        Ledger(run, may_expire=True) as ledger,
    ):
        config = run.stage.config_file
        config.write_text(config.read_text() + app(BREAKER, run.stage.apns.port) + app(OUTAGE, free_port()))
        as_it_stays = config.read_text()
        config.write_text(as_it_stays + app(REMOVED, free_port()))
        held = {lane: waiting_in(lane) for lane in (CREDENTIALS, IN_FLIGHT, OUTAGE, BREAKER, REMOVED)}
        for pushkey in pushkeys(held[CREDENTIALS]):
            run.stage.apns.script(pushkey, [Step(status=403, reason="InvalidProviderToken", repeat=True)])
        run.stage.fcm.script("*", [Step(fault=Fault.HANG, repeat=True)])
        await run.start()
        await send(ledger, run, [note for notes in held.values() for note in notes])
        sent_at = time.monotonic()
        await run.end()
        config.write_text(as_it_stays)
        await run.start()
        for lane, alarm in ((CREDENTIALS, "credentials"), (OUTAGE, "outage"), (BREAKER, "mass_rejection")):
            await until_paused(run, lane, alarm)
        assert time.monotonic() - sent_at < MAX_AGE_S, "too slow a machine for this test"
        for lane, notes in held.items():
            assert found(run, marks_of_all(notes)), f"{lane}: not even waiting"
        gone_after_s = {}
        for lane, notes in held.items():
            await until_gone(run, marks_of_all(notes), within_s=MAX_AGE_S + SWEEP_S + TIDY_S)
            gone_after_s[lane] = time.monotonic() - sent_at
        expired = {str(event["lane"]) for event in run.events("out of time")}
        assert expired == held.keys()
        verdict = await ledger.settle(within_s=5)
        assert await run.end() == 0
    print(gone_after_s)
    late_s = max(gone_after_s.values()) - MAX_AGE_S
    table(
        verdict,
        twice_at_most=0,
        because="nothing arrives",
        remark=f"{verdict.expired} were out of time; the last was gone from all files {late_s:.0f} s after its end",
    )


def waiting_in(lane: str) -> list[Note]:
    """Enough to pause the lane and to leave some behind that nobody has leased."""
    prefix = {BREAKER: "dead", FCM_APP_ID: "fcm-"}.get(lane, "aa17")
    return [make(lane, prefix + secrets.token_hex(30)) for _ in range(15) for make in (sealed, plain)]


async def until_paused(run: Run, lane: str, alarm: str) -> None:
    async with asyncio.timeout(20):
        while not any(event["lane"] == lane and event["why"] == alarm for event in run.events("lane pauses")):
            await asyncio.sleep(0.05)


# --- sealed on disk


@pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "encrypted"])
async def test_with_a_key_not_even_what_waits_can_be_read(tmp_path: Path, is_encrypted: bool) -> None:
    key = secrets.token_hex(32)
    settings = environ(tmp_path, **({"PUSHGATE_SPOOL__ENCRYPTION_KEY": key} if is_encrypted else {}))
    async with staged(tmp_path, environ=settings, drain_s=0.1) as run, Ledger(run) as ledger:
        for emulator in (run.stage.apns, run.stage.fcm):
            emulator.script("*", [Step(fault=Fault.HANG, repeat=True)])
        notes = some("aa17", 10)
        marks = marks_of_all(notes)
        await run.start()
        await send(ledger, run, notes)
        assert bool(found(run, marks)) is not is_encrypted, "in the log of the database"
        await asyncio.sleep(2)  # tidied
        assert bool(found(run, marks)) is not is_encrypted, "in the database"
        await run.kill()
        assert bool(found(run, marks)) is not is_encrypted, "after a kill"
        assert found(run, marks, keys=[bytes.fromhex(key)]), "the key and the files open it"
        secret = {key.encode(), bytes.fromhex(key), base64.b64encode(bytes.fromhex(key))}
        assert found(run, secret) == set()
        for emulator in (run.stage.apns, run.stage.fcm):
            emulator.script("*", [])
        await run.start()
        verdict = await ledger.settle()
        assert (verdict.lost, verdict.arrived) == (0, len(notes))
        await until_gone(run, marks, keys=[bytes.fromhex(key)])
        assert await run.end() == 0


# --- what SQLite leaves in pages that stay

ROWS = 2000


def all_files(folder: Path) -> list[bytes]:
    return [each.read_bytes() for each in folder.iterdir()]


async def until_tidied(path: Path) -> None:
    async with asyncio.timeout(20):
        while path.with_name(f"{path.name}-wal").stat().st_size:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("keys", [NO_KEYS, Keys((secrets.token_bytes(32),))], ids=["without a key", "with a key"])
@pytest.mark.parametrize("number", range(4))
async def test_what_ends_beside_what_waits_can_be_opened_by_nobody(tmp_path: Path, number: int, keys: Keys) -> None:
    """SQLite moves rows between pages that stay, and their old copies too: of what has ended, no seed may be left."""
    chance = random.Random(number)
    path = tmp_path / "spool.db"
    spool = await SqliteSpool.open(path, memory_rows=1, keys=keys)
    await spool.close()  # the key of its hashes is not a seed
    seeds = KnownSeeds(chance)
    spool = await SqliteSpool.open(path, memory_rows=ROWS * 2, keys=keys, entropy=seeds)
    tangle = Tangle(spool, chance)
    await tangle.put(ROWS)
    for _ in range(4):
        await tangle.end(ROWS // 8)
        await tangle.put(ROWS // 16)
    await spool.sweep()  # now all that waits has a row of its own
    await until_tidied(path)
    idle = all_files(tmp_path)
    await spool.close()
    for files in (idle, all_files(tmp_path)):
        raw = b"\n".join(files)
        left = set(re.findall(SEED_MARK + rb".{12}", raw, re.DOTALL))
        assert (len(left), left - set(seeds.given)) == (len(tangle.waiting), set()), "one for each that waits"
        assert b"KEY-" not in raw
        pushkeys = {key.decode() for key in re.findall(rb"KEY-[0-9a-f]{48}", readable(files, keys=keys.values))}
        assert pushkeys == tangle.waiting
        assert keys == NO_KEYS or b"KEY-" not in readable(files)
    print(f"{raw.count(key_id(keys.values[0] if keys.values else b''))} payloads, {len(tangle.waiting)} waiting")
