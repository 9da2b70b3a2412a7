"""reload: when it begins, what it refuses, and that it goes on whatever happens. With real files and no gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pushgate.config import Api, Client, Settings
from pushgate.config.changes import waiting_for_restart
from pushgate.config.files import digest, files_of
from pushgate.config.listen import Tls
from pushgate.config.settings import Pacing, Rejections
from pushgate.errors import ConfigError, ConfigFault, CredentialError
from pushgate.reload import Reload

FAULT = ConfigFault("apps.a.bundle_id", "not a bundle id", "copy it")


class Flag:
    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        self.value = value


class Stand:
    """A reload between a file that a test changes and what it is applied to."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.more: list[Path] = []
        self.flag = Flag()
        self.loads = 0
        self.load_fault: Exception | None = None
        self.apply_fault: Exception | None = None
        self.now = 1000.0
        self.applied = 0
        self.reload = Reload(
            load=self._load,
            apply=self._apply,
            files=lambda: [file, *self.more],
            refused=self.flag,
            look_every_s=0.01,
            monotonic=lambda: self.now,
        )

    def _load(self) -> Settings:
        self.loads += 1
        if self.load_fault is not None:
            raise self.load_fault
        return Settings()

    async def _apply(self, settings: Settings) -> None:
        if self.apply_fault is not None:
            raise self.apply_fault
        self.applied += 1

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not done():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def standing(folder: Path) -> AsyncIterator[Stand]:
    file = folder / "pushgate.toml"
    file.write_text("1")
    stand = Stand(file)
    running = asyncio.create_task(stand.reload.run())
    yield stand
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_nothing_happens_while_nothing_changes(tmp_path: Path) -> None:
    async with standing(tmp_path) as stand:
        await asyncio.sleep(0.1)
        assert stand.loads == 0


async def test_it_begins_when_asked_and_once(tmp_path: Path) -> None:
    async with standing(tmp_path) as stand:
        stand.reload.ask()
        await stand.until(lambda: stand.applied == 1)
        await asyncio.sleep(0.1)
        assert stand.loads == 1


@pytest.mark.parametrize("change", ["written", "replaced", "removed", "linked elsewhere"])
async def test_it_begins_when_a_file_is(tmp_path: Path, change: str) -> None:
    target = tmp_path / "v1"
    target.write_text("key")
    link = tmp_path / "key.p8"
    link.symlink_to(target)
    async with standing(tmp_path) as stand:
        stand.more.append(link)
        stand.reload.ask()
        await stand.until(lambda: stand.applied == 1)
        match change:
            case "written":
                target.write_text("other key")
            case "replaced":
                (tmp_path / "new").write_text("kez")
                (tmp_path / "new").replace(target)
            case "removed":
                link.unlink()
            case _:  # as volumes of secrets do
                (tmp_path / "v2").write_text("key")
                (tmp_path / "link").symlink_to(tmp_path / "v2")
                (tmp_path / "link").replace(link)
        await stand.until(lambda: stand.applied == 2)
        await asyncio.sleep(0.1)
        assert stand.loads == 2


@pytest.mark.parametrize(
    ("where", "fault", "told"),
    [
        ("load", ConfigError([FAULT, FAULT]), [("apps.a.bundle_id", "not a bundle id", "copy it")] * 2),
        ("apply", CredentialError("key.p8 expired -> renew it"), [("files", "key.p8 expired", "renew it")]),
        (
            "apply",
            OSError(2, "No such file or directory"),
            [("files", "[Errno 2] No such file or directory", "see that they belong together and can be read")],
        ),
    ],
)
async def test_what_is_refused_is_told_once_tried_again_and_told_anew_to_who_asks(
    tmp_path: Path, where: str, fault: Exception, told: list[tuple[str, str, str]]
) -> None:
    async with standing(tmp_path) as stand:
        setattr(stand, f"{where}_fault", fault)
        with capture_logs() as logs:
            stand.file.write_text("22")
            await stand.until(lambda: stand.flag.value == 1)
            stand.now += 11  # time to try again, without a change
            await stand.until(lambda: stand.loads == 2)
            await stand.until(lambda: len(logs) == len(told))
            assert [(line["at"], line["fault"], line["mend"]) for line in logs] == told
            assert {(line["event"], line["log_level"]) for line in logs} == {("configuration refused", "error")}
            stand.reload.ask()
            await stand.until(lambda: len(logs) == 2 * len(told))
            assert stand.applied == 0
            setattr(stand, f"{where}_fault", None)
            stand.now += 11
            await stand.until(lambda: stand.applied == 1)
            assert stand.flag.value == 0


async def test_a_bug_does_not_end_the_watching(tmp_path: Path) -> None:
    async with standing(tmp_path) as stand:
        stand.apply_fault = ZeroDivisionError("secret")
        with capture_logs() as logs:
            stand.reload.ask()
            await stand.until(lambda: bool(logs))
        assert logs == [{"event": "reload failed unexpectedly", "fault": "ZeroDivisionError", "log_level": "error"}]
        stand.apply_fault = None
        stand.file.write_text("333")
        await stand.until(lambda: stand.applied == 1)


def test_files_are_found_by_their_keys_and_their_digest_tells_what_they_hold(tmp_path: Path) -> None:
    key, other = tmp_path / "a.p8", tmp_path / "ca.pem"
    key.write_bytes(b"one")
    table = Tls.model_construct(None, cert_file=key, key_file=other, client_ca_file=None)  # files of no use
    assert set(files_of(table)) == {key, other}
    before = digest(table)
    assert digest(table) == before
    key.write_bytes(b"two")
    assert digest(table) != before
    key.write_bytes(b"one")
    assert digest(table) == before
    other.write_bytes(b"")
    assert digest(table) != before


def test_keys_that_wait_for_a_restart_are_named_and_no_others() -> None:
    before = Settings()
    after = Settings(
        api=Api(listen="127.0.0.1:9999", max_request_kb=300),
        delivery=Pacing(drain_s=3, retry_scale=0.5),
        rejections=Rejections(breaker_count=7, remember_s=9),
        clients=(Client(name="erp", san="erp.example.org"),),
    )
    assert sorted(waiting_for_restart(before, after)) == [
        "api.listen",
        "api.max_request_kb",
        "delivery.retry_scale",
        "rejections.remember_s",
    ]
    assert waiting_for_restart(before, before) == []


def test_callers_wait_too_where_the_way_to_know_them_does() -> None:
    before = Settings()
    after = before.model_copy(
        update={
            "api": before.api.model_copy(update={"auth": "mtls"}),
            "clients": (Client(name="erp", san="erp.example.org"),),
        }
    )
    assert waiting_for_restart(before, after) == ["api.auth", "clients"]
    tls = Tls.model_construct(None, cert_file=Path("a"), key_file=Path("b"), client_ca_file=None)
    with_tls = before.model_copy(update={"api": before.api.model_copy(update={"tls": tls})})
    assert waiting_for_restart(before, with_tls) == ["api.tls"]
    both = with_tls.model_copy(update={"api": with_tls.api.model_copy(update={"auth": "mtls"})})
    assert waiting_for_restart(before, both) == ["api.auth", "api.tls"]
    other_tls = tls.model_copy(update={"cert_file": Path("c")})
    other_auth = both.model_copy(update={"api": both.api.model_copy(update={"auth": "none", "tls": other_tls})})
    assert waiting_for_restart(both, other_auth) == ["api.auth", "api.tls"]
