"""The table of the spool: how keys are written, what is no key, and that none of them is ever shown."""

from __future__ import annotations

import errno
import os
import secrets
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from pushgate.config import Settings, load
from pushgate.config.faults import HIDDEN
from pushgate.config.spool_table import Spool
from pushgate.errors import ConfigError, ConfigFault, SpoolUnusable

KEY = bytes(range(100, 132)).replace(b"e", b"\xff").replace(b"f", b"\xfb")
"""Has "+" and "/" in base64."""
WAYS: list[Callable[[bytes], str]] = [
    lambda key: key.hex(),
    lambda key: key.hex().upper(),
    lambda key: b64encode(key).decode(),
    lambda key: urlsafe_b64encode(key).decode(),
    lambda key: urlsafe_b64encode(key).decode().rstrip("="),
    lambda key: f" {b64encode(key).decode()}\n",
]
NO_KEYS = [
    "x",
    KEY.hex()[:-1],
    KEY.hex() + "0",
    KEY.hex() + KEY.hex(),
    "g" * 64,
    b64encode(KEY[:-1]).decode(),
    b64encode(KEY + b"x").decode(),
    b64encode(KEY).decode() + "=",
    b64encode(KEY).decode()[:-2] + "!=",
    "ü" * 43,
    "é" * 64,
]
NOT_RANDOM = ["00" * 32, b64encode(b"password" * 4).decode(), bytes(15 * [1]).hex() + "02" * 17]


def keys_of(spool: Spool) -> list[bytes]:
    return [each.get_secret_value() for each in spool.encryption_keys()]


@pytest.fixture
def settle(tmp_path: Path) -> Callable[..., Settings]:
    """Loads a configuration whose spool has these keys, with files beside it and an environment."""

    def settled(spool: str, *, files: dict[str, str] | None = None, **environ: str) -> Settings:
        for name, text in (files or {}).items():
            (tmp_path / name).write_text(text)
        path = tmp_path / "pushgate.toml"
        path.write_text(f"[spool]\n{spool}")
        return load(path, environ=environ)

    return settled


@pytest.fixture
def faults(settle: Callable[..., Settings]) -> Callable[..., list[ConfigFault]]:
    def found(spool: str, *, files: dict[str, str] | None = None, **environ: str) -> list[ConfigFault]:
        with pytest.raises(ConfigError) as caught:
            settle(spool, files=files, **environ)
        return list(caught.value.faults)

    return found


@pytest.mark.parametrize("write", WAYS)
def test_a_key_can_be_written_in_several_ways(settle: Callable[..., Settings], write: Callable[[bytes], str]) -> None:
    assert keys_of(settle("", PUSHGATE_SPOOL__ENCRYPTION_KEY=write(KEY)).spool) == [KEY]
    named = settle('encryption_key_file = "k"', files={"k": write(KEY)}).spool
    assert keys_of(named) == [KEY]
    assert named.is_encrypted


def test_random_keys_are_taken(settle: Callable[..., Settings]) -> None:
    for _ in range(200):
        key = secrets.token_bytes(32)
        assert keys_of(Spool.model_construct(url="sqlite:spool.db")) == []
        assert keys_of(settle("", PUSHGATE_SPOOL__ENCRYPTION_KEY=b64encode(key).decode()).spool) == [key]


def test_a_file_of_keys_is_read_in_its_order(settle: Callable[..., Settings]) -> None:
    keys = [secrets.token_bytes(32) for _ in range(3)]
    text = f"# of this year\r\n{keys[0].hex()}\r\n\r\n{b64encode(keys[1]).decode()}  \n# the old one\n{keys[2].hex()}"
    assert keys_of(settle('encryption_key_file = "k"', files={"k": text}).spool) == keys


def test_without_a_key_nothing_is_encrypted(settle: Callable[..., Settings]) -> None:
    for spool in (settle("").spool, settle('encryption_key_file = ""', PUSHGATE_SPOOL__ENCRYPTION_KEY="").spool):
        assert not spool.is_encrypted
        assert spool.encryption_keys() == ()


@pytest.mark.parametrize("text", NO_KEYS + NOT_RANDOM)
def test_what_is_no_key_is_a_fault_that_does_not_repeat_it(faults: Callable[..., list[ConfigFault]], text: str) -> None:
    (from_environment,) = faults("", PUSHGATE_SPOOL__ENCRYPTION_KEY=text)
    (from_file,) = faults('encryption_key_file = "k"', files={"k": f"{KEY.hex()}\n{text}\n"})
    assert from_environment.path == "spool.encryption_key"
    assert from_file.path == "spool.encryption_key_file"
    assert "k, line 2: not " in from_file.fault
    what = "not random" if text in NOT_RANDOM else "not a key of 32 bytes"
    for fault in (from_environment, from_file):
        assert what in fault.fault
        assert "openssl rand -hex 32" in fault.mend
        assert len(text) == 1 or text not in str(fault)


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_a_file_without_a_key_is_a_fault(faults: Callable[..., list[ConfigFault]], text: str) -> None:
    (fault,) = faults('encryption_key_file = "k"', files={"k": text})
    assert "no key in" in fault.fault
    assert fault.mend.startswith("make one: openssl rand -hex 32 > ")


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_of_keys_that_cannot_be_read_is_a_fault(faults: Callable[..., list[ConfigFault]], name: str) -> None:
    (fault,) = faults(f'encryption_key_file = "{name}"')
    assert fault.path == "spool.encryption_key_file"
    assert "cannot read" in fault.fault


@pytest.mark.parametrize("write", WAYS[:-1])
def test_a_key_in_place_of_its_file_is_not_shown(
    faults: Callable[..., list[ConfigFault]], write: Callable[[bytes], str]
) -> None:
    (fault,) = faults(f'encryption_key_file = "{write(KEY)}"')
    assert HIDDEN in fault.fault
    assert write(KEY)[:20] not in str(fault)


@pytest.mark.parametrize("folder", ["data/inner", "data"])
def test_a_folder_that_may_not_be_searched_is_a_fault(
    faults: Callable[..., list[ConfigFault]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    real = Path.stat

    def stat(path: Path, **how: bool) -> os.stat_result:
        if tmp_path / "data" in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, **how)

    (tmp_path / "data").mkdir()
    monkeypatch.setattr(Path, "stat", stat)
    (fault,) = faults(f'url = "sqlite:{folder}/spool.db"')
    assert (fault.path, fault.fault) == (
        "spool.url",
        f"{tmp_path / folder} cannot be searched (Permission denied)",
    )
    assert "chown" in fault.mend


def test_a_name_that_no_file_can_have_is_a_fault(faults: Callable[..., list[ConfigFault]]) -> None:
    (fault,) = faults(f'url = "sqlite:{"x" * 300}"')
    assert fault.path == "spool.url"
    assert fault.fault.endswith("cannot be (File name too long)")


@pytest.mark.parametrize("key", ["max_mb", "max_waiting"])
@pytest.mark.parametrize("value", ["-1", "0.5", "99999999999", '"1"', "true"])
def test_a_limit_is_a_whole_number(faults: Callable[..., list[ConfigFault]], key: str, value: str) -> None:
    (fault,) = faults(f"{key} = {value}")
    assert fault.path == f"spool.{key}"
    assert fault.fault in ("out of range", "of the wrong type")


def test_keys_show_in_nothing_that_settings_print(settle: Callable[..., Settings]) -> None:
    settings = settle("", PUSHGATE_SPOOL__ENCRYPTION_KEY=KEY.hex())
    dumped = f"{settings!r} {settings} {settings.spool!r} {settings.describe()} {settings.model_dump()}"
    dumped += f"{settings.model_dump_json()} {settings.spool.encryption_keys()!r}"
    for shown in (KEY.hex(), repr(KEY)[2:12], b64encode(KEY).decode()):
        assert shown not in dumped
    with pytest.raises(ValidationError) as caught:
        Spool.model_validate({"url": "memory:", "encryption_key": KEY.hex()})
    assert KEY.hex() not in str(caught.value)
    assert settings == settle("", PUSHGATE_SPOOL__ENCRYPTION_KEY=KEY.hex())
    assert settings != settle("", PUSHGATE_SPOOL__ENCRYPTION_KEY=secrets.token_hex(32))


@pytest.mark.parametrize("now", [None, "", "too short"])
def test_a_file_of_keys_that_has_become_unusable_keeps_the_gateway_from_starting(
    settle: Callable[..., Settings], tmp_path: Path, now: str | None
) -> None:
    spool = settle('encryption_key_file = "k"', files={"k": KEY.hex()}).spool
    if now is None:
        (tmp_path / "k").unlink()
    else:
        (tmp_path / "k").write_text(now)
    with pytest.raises(SpoolUnusable, match=r"spool\.encryption_key_file: "):
        spool.encryption_keys()
