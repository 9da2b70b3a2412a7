"""Encryption at rest, seen from the file: what is in it, which keys it opens to, and what is refused."""

from __future__ import annotations

import asyncio
import resource
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from pushgate.errors import SpoolUnusable
from pushgate.model import Delivery, Device, PlainNotification
from pushgate.outcome import Rejected
from pushgate.spool import Lease
from pushgate.spool.cipher import NO_KEYS, Keys, key_id
from pushgate.spool.database import FORMAT
from pushgate.spool.sqlite import SqliteSpool

LANE = "de.example.app.apns"
MARKS = ("the swordfish swims at midnight", "pushkey-that-must-not-stay", "$event-of-nobody:example.org")
FIRST, SECOND, THIRD = (secrets.token_bytes(32) for _ in range(3))


def delivery(number: int, *, lane: str = LANE) -> Delivery:
    device = Device(app_id=lane, pushkey=f"{MARKS[1]}-{number}")
    now = time.time()
    notification = PlainNotification(devices=(device,), event_id=MARKS[2], content={"body": MARKS[0] * 20})
    return Delivery(id=str(number), device=device, notification=notification, accepted_at=now, expires_at=now + 86400)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder / "spool.db"


async def opened(path: Path, *keys: bytes) -> SqliteSpool:
    return await SqliteSpool.open(path, keys=Keys(keys) if keys else NO_KEYS)


async def put(path: Path, numbers: range, *keys: bytes) -> None:
    """What another run of the gateway left waiting."""
    spool = await opened(path, *keys)
    await spool.put([delivery(n) for n in numbers])
    await spool.close()


async def drain(spool: SqliteSpool) -> list[Lease]:
    leases: list[Lease] = []
    async with asyncio.timeout(10):
        while (backlog := await spool.backlog()).get(LANE) and backlog[LANE].waiting > len(leases):
            leases += await spool.lease(LANE, 1000)
    return leases


async def waiting(path: Path, *keys: bytes) -> list[int]:
    """The numbers of what waits and can be read."""
    spool = await opened(path, *keys)
    leases = await drain(spool)
    await spool.close()
    return sorted(int(lease.delivery.id) for lease in leases)


def in_copy(path: Path, statement: str) -> list[tuple[object, ...]]:
    """The spool itself lets nobody in."""
    copy = path.parent.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    connection = sqlite3.connect(shutil.copytree(path.parent, copy) / path.name)
    rows = connection.execute(statement).fetchall()
    connection.close()
    return rows


def keys_recorded(path: Path) -> set[object]:
    return {name for (name,) in in_copy(path, "SELECT name FROM secrets WHERE name <> 'hash'")}


async def test_nothing_personal_stands_in_any_file(path: Path) -> None:
    spool = await opened(path, FIRST)
    mark = spool.fingerprint(*MARKS)
    await spool.put([delivery(n) for n in range(50)])
    await spool.put([msgspec.structs.replace(delivery(50), fingerprint=mark)])
    leases = await drain(spool)
    await spool.reject(leases[0], Rejected("Unregistered"))
    await spool.nack(leases[1:2], delay_s=1000)
    stored = b"".join(each.read_bytes() for each in path.parent.iterdir())
    for mark_text in (*MARKS, FIRST.hex(), "body"):
        assert mark_text.encode() not in stored
    assert FIRST not in stored
    assert LANE.encode() in stored, "the name of the lane stands there, and it is no secret"
    for table, columns in (
        ("deliveries", {"id", "lane", "due_ms", "accepted_ms", "expires_ms", "attempt", "payload"}),
        ("seeds", {"chunk", "value"}),
        ("rejections", {"name", "app_id", "reason", "since_ms", "at_ms"}),
        ("repeats", {"id", "at_ms", "fingerprints"}),
        ("secrets", {"name", "value"}),
    ):
        assert {row[1] for row in in_copy(path, f"PRAGMA table_info({table})")} == columns, (
            "see ADR 4 before adding one"
        )
    await spool.close()


async def test_what_was_put_before_a_key_was_given_is_read_and_what_comes_after_is_sealed_with_it(path: Path) -> None:
    await put(path, range(3))
    await put(path, range(3, 6), FIRST)
    sealed_by = in_copy(path, "SELECT substr(payload, 1, 4) FROM deliveries ORDER BY id")
    assert sealed_by == [(key_id(b""),)] * 3 + [(key_id(FIRST),)] * 3
    assert await waiting(path, FIRST) == list(range(6))
    assert in_copy(path, "PRAGMA user_version") == [(FORMAT,)]


async def test_keys_rotate_without_a_loss(path: Path) -> None:
    await put(path, range(3), FIRST)
    await put(path, range(3, 6), SECOND, FIRST)
    await put(path, range(6, 9), THIRD, SECOND, FIRST)
    assert await waiting(path, SECOND, FIRST, THIRD) == list(range(9))
    assert keys_recorded(path) == {f"key {key_id(each).hex()}" for each in (FIRST, SECOND, THIRD)}
    spool = await opened(path, THIRD, SECOND, FIRST)
    await spool.ack([lease for lease in await drain(spool) if int(lease.delivery.id) < 3])
    await spool.close()
    assert await waiting(path, THIRD, SECOND) == list(range(3, 9)), "the first is not needed any more"
    assert keys_recorded(path) == {f"key {key_id(each).hex()}" for each in (SECOND, THIRD)}
    with pytest.raises(SpoolUnusable, match=key_id(SECOND).hex()):
        await opened(path, THIRD)


@pytest.mark.parametrize("given", [(), (SECOND,), (SECOND, THIRD)])
async def test_what_no_given_key_opens_keeps_the_spool_from_opening_and_stays(
    path: Path, given: tuple[bytes, ...]
) -> None:
    await put(path, range(3), FIRST)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(SpoolUnusable) as caught:
            await opened(path, *given)
        text = str(caught.value)
        assert f"{path}: deliveries wait that were sealed with a key that is not given" in text
        assert key_id(FIRST).hex() in text
        assert "encryption_key_file" in text.split(" -> ")[1]
        assert all(each.hex() not in text for each in (FIRST, SECOND, THIRD))
    assert path.read_bytes() == before
    assert await waiting(path, *given, FIRST) == [0, 1, 2]


async def test_a_key_that_cannot_be_written_down_seals_nothing(path: Path) -> None:
    await put(path, range(2))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(SpoolUnusable, match=r"spool\.db: .* -> "):
            await opened(path, FIRST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert await waiting(path) == [0, 1]


@pytest.mark.parametrize("given", [(), (SECOND,)])
async def test_where_nothing_waits_any_key_or_none_will_do(path: Path, given: tuple[bytes, ...]) -> None:
    spool = await opened(path, FIRST)
    await spool.put([delivery(n) for n in range(3)])
    await spool.ack(await drain(spool))
    await spool.close()
    await put(path, range(10, 12), *given)
    assert keys_recorded(path) == {f"key {key_id(each).hex()}" for each in given}
    assert await waiting(path, *given) == [10, 11]


async def test_a_key_whose_rows_are_gone_is_not_missed_although_others_wait(path: Path) -> None:
    await put(path, range(2))
    await put(path, range(2, 4), FIRST)
    await put(path, range(4, 6), SECOND, FIRST)
    spool = await opened(path, SECOND, FIRST)
    await spool.ack([lease for lease in await drain(spool) if int(lease.delivery.id) in (2, 3)])
    await spool.close()
    assert await waiting(path, SECOND) == [0, 1, 4, 5], "an older plain one waits still"
    assert await waiting(path, SECOND) == [0, 1, 4, 5]


async def test_a_key_that_seals_again_is_looked_for_again(path: Path) -> None:
    await put(path, range(2), FIRST)
    await put(path, range(2, 4), SECOND, FIRST)
    await put(path, range(4, 6), FIRST, SECOND)
    with pytest.raises(SpoolUnusable, match=key_id(FIRST).hex()):
        await opened(path, SECOND)
    spool = await opened(path, FIRST, SECOND)
    await spool.ack([lease for lease in await drain(spool) if int(lease.delivery.id) < 4])
    await spool.close()
    with pytest.raises(SpoolUnusable, match=key_id(FIRST).hex()):
        await opened(path, SECOND)
    assert await waiting(path, FIRST) == [4, 5]


async def test_ids_that_begin_anew_are_no_trouble(path: Path) -> None:
    """The rows of a key may stand behind the last row of an older one, and in front of it."""
    await put(path, range(10), FIRST)
    spool = await opened(path, SECOND, FIRST)
    await spool.ack([lease for lease in await drain(spool) if lease.delivery.id != "0"])
    await spool.close()
    await put(path, range(20, 23), SECOND, FIRST)
    with pytest.raises(SpoolUnusable, match=key_id(FIRST).hex()):
        await opened(path, SECOND)
    spool = await opened(path, SECOND, FIRST)
    await spool.ack([lease for lease in await drain(spool) if lease.delivery.id == "0"])
    await spool.close()
    assert await waiting(path, SECOND) == [20, 21, 22]


async def test_what_a_crash_leaves_is_read_by_the_successor(path: Path) -> None:
    spool = await opened(path, FIRST)
    await spool.put([delivery(n) for n in range(5)])
    crashed = shutil.copytree(path.parent, path.parent.with_name("crashed")) / path.name
    await spool.put([delivery(n) for n in range(5, 8)])
    await spool.close()
    with pytest.raises(SpoolUnusable, match=key_id(FIRST).hex()):
        await opened(crashed, SECOND)
    assert await waiting(crashed, SECOND, FIRST) == list(range(5))


def flip_last_byte(payload: bytes) -> bytes:
    return payload[:-1] + bytes([payload[-1] ^ 1])


@pytest.mark.parametrize("damage", [flip_last_byte, lambda row: row[:10], lambda row: b"????" + row[4:]])
async def test_a_damaged_row_holds_nobody_up_and_is_kept_until_its_time_is_up(
    path: Path, damage: Callable[[bytes], bytes]
) -> None:
    await put(path, range(3), FIRST)
    with sqlite3.connect(path) as other:
        (row,) = other.execute("SELECT payload FROM deliveries WHERE id = 2").fetchone()
        other.execute("UPDATE deliveries SET payload = ? WHERE id = 2", (damage(row),))
    other.close()
    with capture_logs() as logs:
        spool = await opened(path, FIRST)
        assert [lease.delivery.id for lease in await spool.lease(LANE, 10)] == ["0", "2"]
    errors = [(log["lane"], log["row"]) for log in logs if "cannot be read" in log["event"]]
    assert errors == [(LANE, 2)]
    assert (await spool.backlog())[LANE].waiting == 3
    await spool.close()


async def test_a_row_that_was_moved_to_another_lane_is_not_sent_there(path: Path) -> None:
    await put(path, range(1), FIRST)
    with sqlite3.connect(path) as other:
        other.execute("UPDATE deliveries SET lane = 'another'")
    other.close()
    spool = await opened(path, FIRST)
    await spool.put([delivery(7, lane="another")])
    assert [lease.delivery.id for lease in await spool.lease("another", 10)] == ["7"]
    await spool.close()


async def test_keys_show_in_nothing_that_a_spool_prints(path: Path) -> None:
    spool = await opened(path, FIRST)
    await spool.put([delivery(1)])
    leases = await drain(spool)
    shown = f"{spool!r} {vars(spool)!r} {leases[0]!r} {spool._cipher!r}"
    assert FIRST.hex() not in shown
    assert repr(FIRST)[2:-1] not in shown
    await spool.close()
