"""What the configuration says of the spool reaches it: limits and keys."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import pytest

from pushgate.config import Settings, load
from pushgate.errors import SpoolFull, SpoolUnusable
from pushgate.model import Delivery, Device, PlainNotification
from pushgate.spools import open_spool

LANE = "de.example.app.apns"
MARK = "the swordfish swims at midnight"


def delivery(number: int, *, size: int = 100) -> Delivery:
    device = Device(app_id=LANE, pushkey=f"pushkey-{number}")
    notification = PlainNotification(devices=(device,), content={"body": (MARK * size)[:size]})
    now = time.time()
    return Delivery(id=str(number), device=device, notification=notification, accepted_at=now, expires_at=now + 86400)


def settings(folder: Path, spool: str, **environ: str) -> Settings:
    (folder / "pushgate.toml").write_text(f"[spool]\n{spool}\n")
    return load(folder / "pushgate.toml", environ=environ)


@pytest.mark.parametrize("url", ["memory:", "sqlite:spool.db"])
async def test_both_limits_are_those_of_the_configuration(tmp_path: Path, url: str) -> None:
    spool = await open_spool(settings(tmp_path, f'url = "{url}"\nmax_waiting = 3\nmax_mb = 1'))
    await spool.put([delivery(1), delivery(2)])
    with pytest.raises(SpoolFull, match=r"spool\.max_waiting is 3"):
        await spool.put([delivery(3), delivery(4)])
    with pytest.raises(SpoolFull, match=r"spool\.max_mb is 1 MB"):
        await spool.put([delivery(3, size=1 << 20)])
    await spool.put([delivery(3)])
    await spool.close()


async def test_the_keys_are_those_of_the_configuration(tmp_path: Path) -> None:
    first, second = secrets.token_hex(32), secrets.token_hex(32)
    spool = await open_spool(settings(tmp_path, "", PUSHGATE_SPOOL__ENCRYPTION_KEY=first))
    await spool.put([delivery(1)])
    assert MARK.encode() not in b"".join(each.read_bytes() for each in tmp_path.iterdir())
    await spool.close()
    (tmp_path / "keys").write_text(f"{second}\n")
    with pytest.raises(SpoolUnusable, match="sealed with a key that is not given"):
        await open_spool(settings(tmp_path, 'encryption_key_file = "keys"'))
    (tmp_path / "keys").write_text(f"{second}\n{first}\n")
    spool = await open_spool(settings(tmp_path, 'encryption_key_file = "keys"'))
    assert [lease.delivery.id for lease in await spool.lease(LANE, 5)] == ["1"]
    await spool.close()
