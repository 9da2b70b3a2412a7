"""`pushgate rejections` as an operator uses it: on a gateway that runs, on its spool when it does not."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from msgspec import Struct

from pushgate import cli
from pushgate.client import PushGatewayClient
from pushgate.console.remote import NoAnswer, NobodyThere
from pushgate.errors import SpoolUnavailable
from pushgate.model import Delivery, Device, PlainNotification
from pushgate.outcome import Rejected
from pushgate.spool import KnownRejection
from pushgate.spool.sqlite import SqliteSpool
from pushgate.stage import APNS_APP_ID, FCM_APP_ID
from tests.ports import free_port
from tests.processes import Run, pushgate, staged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "dead-pushkeys.md"
MARK = "dead5ec7e7"
"""In every pushkey of these tests: dead at the emulators, and in no output."""


def phones(count: int, app_id: str = APNS_APP_ID) -> list[Device]:
    return [Device(app_id, f"{MARK}{number:054x}") for number in range(count)]


async def learn_that_all_are_dead(client: PushGatewayClient, devices: Sequence[Device]) -> None:
    """Notify them until the gateway says that they are dead."""
    note = PlainNotification(devices=tuple(devices), event_id=f"$first-{devices[0].app_id}")
    assert not (await client.notify(note)).rejected
    number = 0
    async with asyncio.timeout(30):
        while len(await rejected_of(client, devices, f"$again-{number}")) < len(devices):
            number += 1
            await asyncio.sleep(0.1)


async def rejected_of(client: PushGatewayClient, devices: Sequence[Device], event_id: str) -> Sequence[str]:
    return (await client.notify(PlainNotification(devices=tuple(devices), event_id=event_id))).rejected


async def asked(run: Run, *arguments: str) -> tuple[int, str, str]:
    """`pushgate rejections` on this gateway's configuration. No pushkey is in what it says."""
    verb, *options = arguments
    code, out, err = await pushgate("rejections", verb, "--config", str(run.stage.config_file), *options)
    assert MARK not in out + err
    assert "Traceback" not in out + err
    return code, out, err


@asynccontextmanager
async def a_gateway(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    """One whose management port is known to the command too."""
    monkeypatch.setenv("PUSHGATE_MANAGEMENT__LISTEN", f"127.0.0.1:{free_port()}")
    async with staged(folder) as run:
        yield run


# --- real processes ----------------------------------------------------------------------------------------------


async def test_a_running_gateway_tells_counts_and_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_gateway(tmp_path, monkeypatch) as run:
        await run.start()
        apple, google = phones(7), [Device(FCM_APP_ID, f"{MARK}-fcm-{number}") for number in range(2)]
        async with run.client() as client:
            await learn_that_all_are_dead(client, apple)
            await learn_that_all_are_dead(client, google)

            code, out, err = await asked(run, "list", "--app", APNS_APP_ID, "--limit", "5")
            rows = [line.split("\t") for line in out.splitlines()]
            assert (code, len(rows), err) == (0, 5, "note: 2 more: --limit shows them\n")
            assert [row[1:3] for row in rows] == [[APNS_APP_ID, "Unregistered"]] * 5
            assert rows == sorted(rows)
            assert datetime.now(UTC) - datetime.fromisoformat(rows[0][4]) < timedelta(minutes=5)

            code, out, _ = await asked(run, "count")
            assert (code, out.splitlines()) == (
                0,
                [f"2\t{FCM_APP_ID}\tUNREGISTERED", f"7\t{APNS_APP_ID}\tUnregistered", "9\ttotal"],
            )

            name = rows[0][0]
            code, out, _ = await asked(run, "forget", "--app", APNS_APP_ID, "--prefix", name.upper(), "--json")
            assert (code, json.loads(out)) == (0, {"app_id": APNS_APP_ID, "forgotten": 1})
            assert len(await rejected_of(client, apple, "$one-less")) == 6

            code, out, _ = await asked(run, "forget", "--app", FCM_APP_ID, "--all")
            assert (code, out) == (0, "2 forgotten\n")
            assert await rejected_of(client, google, "$none") == ()
        assert await run.end(signal.SIGTERM) == 0
    assert len(run.events("rejections forgotten")) == 2
    assert MARK.encode() not in run.log


async def test_a_gateway_that_is_stopped_has_its_spool_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_gateway(tmp_path, monkeypatch) as run:
        await run.start()
        apple = phones(3)
        async with run.client() as client:
            await learn_that_all_are_dead(client, apple)
        running = await asked(run, "list", "--json")
        assert await run.end(signal.SIGTERM) == 0
        assert await asked(run, "list", "--json") == running
        assert [each["reason"] for each in json.loads(running[1])["rejections"]] == ["Unregistered"] * 3
        since = f"{datetime.now(UTC) - timedelta(hours=1):%Y-%m-%dT%H:%M}"
        assert (await asked(run, "forget", "--app", APNS_APP_ID, "--since", since))[1] == "3 forgotten\n"
        assert (await asked(run, "count"))[1] == "0\ttotal\n"
        await run.start()
        async with run.client() as client:
            assert await rejected_of(client, apple, "$after") == ()


async def test_a_running_gateway_that_cannot_be_asked_is_not_got_round(tmp_path: Path) -> None:
    async with staged(tmp_path) as run:
        await run.start()
        for listen in ("", "127.0.0.1:0", f"127.0.0.1:{free_port()}"):
            code, out, err = await pushgate(
                *("rejections", "count", "--config", str(run.stage.config_file)),
                environ={"PUSHGATE_MANAGEMENT__LISTEN": listen},
            )
            assert (code, out) == (1, "")
            assert "spool.db: another process is using it" in err
            assert "correct management.listen" in err
        assert (await run.ready())[0] == 200


async def test_a_page_in_a_browser_and_a_stranger_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_gateway(tmp_path, monkeypatch) as run:
        await run.start()
        async with httpx.AsyncClient(base_url=run.management, trust_env=False) as http:
            everything = {"app": APNS_APP_ID, "since": 0}
            assert (await http.post("/rejections/forget", json=everything)).json()["forgotten"] == 0
            for headers in ({"Origin": "http://localhost"}, {"Host": "attacker.example.org"}, {"Via": "1.1 x"}):
                assert (await http.post("/rejections/forget", json=everything, headers=headers)).status_code == 403
                assert (await http.get("/rejections", headers=headers)).status_code == 403
            text = await http.post("/rejections/forget", content=json.dumps(everything))
            assert text.status_code == 415
            long = await http.post("/rejections/forget", json={"app": "x" * 100_000})
            assert long.status_code == 413
            assert (await http.get("/health/live")).status_code == 200


async def test_on_a_terminal_it_is_a_table_and_asks_before_it_forgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_gateway(tmp_path, monkeypatch) as run:
        spool = await SqliteSpool.open(tmp_path / "spool.db")
        await spool.close()
        arguments = ("rejections", "forget", "--config", str(run.stage.config_file), "--app", APNS_APP_ID, "--all")
        for answer, said in ((b"n\n", "nothing was forgotten"), (b"y\n", "0 forgotten")):
            shown = await asyncio.to_thread(on_a_terminal, arguments, answer)
            assert f"Forget all rejections of {APNS_APP_ID}? [y/N]" in shown
            assert said in shown
        assert "Forget" not in await asyncio.to_thread(on_a_terminal, (*arguments, "--yes"), b"")


def on_a_terminal(arguments: Sequence[str], answer: bytes) -> str:
    """What a command shows to somebody who types this."""
    ours, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "pushgate", *arguments], stdin=its, stdout=its, stderr=its, start_new_session=True
    ) as running:
        os.close(its)
        os.write(ours, answer)
        shown = b""
        with suppress(OSError):  # it has ended
            while chunk := os.read(ours, 4096):
                shown += chunk
        running.wait(timeout=30)
    os.close(ours)
    return shown.decode()


async def test_every_block_of_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text()
    blocks = [block.split("\n") for block in re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.M | re.S)]
    count, listing, forgetting = (line.strip() for block in blocks for line in block if line.strip())
    async with a_gateway(tmp_path, monkeypatch) as run:
        await run.start()
        async with run.client() as client:
            await learn_that_all_are_dead(client, phones(3))

        async def shell(line: str) -> str:
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            process = await asyncio.create_subprocess_exec(
                *("bash", "-c", line), cwd=tmp_path, env={**os.environ, "PATH": path}, stdout=subprocess.PIPE
            )
            out, _ = await process.communicate()
            assert process.returncode == 0
            return out.decode()

        assert (await shell(count)).endswith("3\ttotal\n")
        assert (await shell(listing)).count("\n") == 3
        assert await shell(forgetting) == "3 forgotten\n"


# --- in this process ---------------------------------------------------------------------------------------------

CONFIGURATION = """\
[management]
listen = "{listen}"
[spool]
url = "{spool}"
"""


class Ran(Struct, frozen=True):
    code: int
    out: str
    err: str


class Here(Struct, frozen=True):
    """The command in this process, with a spool of its own and no gateway."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str, listen: str = "", spool: str = "sqlite:spool.db") -> Ran:
        config = self.folder / "pushgate.toml"
        config.write_text(CONFIGURATION.format(listen=listen, spool=spool))
        verb, *options = arguments
        code = cli.run(["rejections", verb, "--config", str(config), *options])
        out, err = self.capsys.readouterr()
        assert MARK not in out + err
        return Ran(code, out, err)

    def remember(self, count: int, *, app_id: str = APNS_APP_ID) -> None:
        """So many are dead, since an hour where it is an odd one."""

        async def work() -> None:
            spool = await SqliteSpool.open(self.folder / "spool.db")
            try:
                await remember(spool, count, app_id)
            finally:
                await spool.close()

        asyncio.run(work())


async def remember(spool: SqliteSpool, count: int, app_id: str) -> None:
    now = time.time()
    note = PlainNotification(devices=())
    await spool.put(
        [
            Delivery(id=str(n), device=device, notification=note, accepted_at=now, expires_at=now + 3600)
            for n, device in enumerate(phones(count, app_id))
        ]
    )
    left = count
    while left:
        for lease in await spool.lease(app_id, left):
            since_ms = int((now - 3600) * 1000) if int(lease.delivery.id) % 2 else None
            await spool.reject(lease, Rejected("Unregistered", since_ms))
            left -= 1


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setattr("pushgate.logs.configure", lambda **_: None)  # it would stay for the tests after these
    return Here(tmp_path, capsys)


def test_what_is_listed_says_how_many_more_there_are(here: Here) -> None:
    here.remember(30)
    here.remember(2, app_id=FCM_APP_ID)
    assert here.run("list").out.count("\n") == 32
    assert here.run("list", "--limit", "32").err == ""
    assert here.run("list", "--limit", "31").err == "note: 1 more: --limit shows them\n"
    assert here.run("list", "--limit", "1", "--app", APNS_APP_ID).err == "note: 29 more: --limit shows them\n"
    rows = [line.split("\t") for line in here.run("list", "--app", APNS_APP_ID).out.splitlines()]
    assert sorted({row[3] != "" for row in rows}) == [False, True]
    digit = rows[0][0][0]
    alike = sum(row[0].startswith(digit) for row in rows)
    ran = here.run("list", "--app", APNS_APP_ID, "--prefix", digit, "--limit", "1", "--json")
    told = json.loads(ran.out)
    assert (len(told["rejections"]), told["more"]) == (1, alike - 1)
    assert told["rejections"][0].keys() == {"name", "app_id", "reason", "since", "told_at"}


def test_many_of_a_prefix_are_counted_only_so_far(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushgate.commands.rejections.MOST_COUNTED", 10)
    monkeypatch.setattr("pushgate.commands.rejections.MOST_AT_ONCE", 4)
    here.remember(300)
    ran = here.run("list", "--prefix", "0", "--limit", "1")
    assert ran.err == "note: at least 10 more: --limit shows them\n"
    assert here.run("list", "--limit", "100").out.count("\n") == 100


def test_forgetting_what_was_told_lately_leaves_the_rest(here: Here) -> None:
    here.remember(3)
    time.sleep(1 - time.time() % 1)
    begun = int(time.time())
    here.remember(2)
    here.remember(1, app_id=FCM_APP_ID)
    for since in ("2020-01-31", "20200131", "2020-01-31T09:00+01:00", "1580000000.5"):
        here.run("forget", "--app", "org.example.other", "--since", since)
    assert here.run("count").out.splitlines()[-1] == "4\ttotal"
    assert here.run("forget", "--app", APNS_APP_ID, "--since", str(begun)).code == 0
    assert here.run("count").out.splitlines()[-1] == "2\ttotal"  # who was told before, and the other app
    assert here.run("forget", "--app", APNS_APP_ID, "--since", "2020-01-31T09:00").code == 0
    assert json.loads(here.run("count", "--json").out) == {
        "rejections": [{"app_id": FCM_APP_ID, "reason": "Unregistered", "count": 1}],
        "total": 1,
    }
    assert here.run("count", "--app", APNS_APP_ID).out == "0\ttotal\n"


def test_nothing_found_is_said_with_the_apps_there_are(here: Here) -> None:
    here.remember(1)
    nothing = here.run("list", "--app", "org.example.typo")
    assert nothing.out == ""
    assert nothing.err == (
        "note: nothing is remembered of these\nnote: no app 'org.example.typo' is configured: there are none\n"
    )
    assert "is configured" in here.run("forget", "--app", "org.example.typo", "--all").err
    here.run("forget", "--app", APNS_APP_ID, "--all")
    assert here.run("list").err == "note: nothing is remembered\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--prefix", f"{MARK}{7:054x}"], "--prefix: 1 to 32 hexadecimal digits\n  -> copy the first digits"),
        (["list", "--prefix", ""], "--prefix: 1 to 32"),
        (["list", "--prefix", "xyz"], "a pushkey is not a name"),
        (["list", "--limit", "0"], "Must be >= 1"),
        (["list", "--app", ""], "--app: no app_id"),
        (["count", "--app", "x" * 65], "--app: no app_id"),
        (["forget", "--app", "\udcff", "--all"], "--app: no app_id"),
        (["forget", "--all"], "--app"),
        (["forget", "--app", "a"], "it is not said which ones\n  -> --since TIME after a mistake"),
        (["forget", "--app", "a", "--all", "--since", "0"], "--all contradicts"),
        (["forget", "--app", "a", "--all", "--prefix", "a"], "--all contradicts"),
        (["forget", "--app", "a", "--since", "yesterday"], "--since: not a time\n  -> write 2026-01-31, "),
        (["forget", "--app", "a", "--since", "2026-13-31"], "--since: not a time"),
        (["forget", "--app", "a", "--since", "1e400"], "--since: not a time"),
        (["forget", "--app", "a", "--since", "9999-12-31"], "--since: not a time that has passed"),
        (["forget", "--app", "a", "--since", str(10**13)], "--since: not a time that has passed"),
        (["forget", "--app", "a", "--since", "1960-01-31"], "--since: not a time that has passed"),
        (["forget", "--app", "a", "--since", "0001-01-01T00:00+23:59"], "--since: not a time"),
    ],
)
def test_wrong_usage_is_told_with_the_next_step(here: Here, arguments: list[str], said: str) -> None:
    here.remember(1)
    ran = here.run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert here.run("count").out.endswith("1\ttotal\n")


def test_a_configuration_with_faults_is_told_and_nothing_is_tried(here: Here) -> None:
    ran = here.run("list", listen="nonsense")
    assert (ran.code, ran.out, "management.listen" in ran.err) == (2, "", True)


@pytest.mark.parametrize(
    ("spool", "said"),
    [
        ("memory:", "management.listen is off, and the spool is in memory\n  -> a spool in memory is gone with"),
        ("sqlite:none.db", "none.db\n  -> nothing is remembered before the first start"),
        ("sqlite:pushgate.toml", "pushgate.toml: it is not a spool but another kind of file\n  -> name another file"),
    ],
)
def test_where_there_is_no_spool_it_says_so_and_makes_none(here: Here, spool: str, said: str) -> None:
    for verb in ("list", "count"):
        ran = here.run(verb, spool=spool)
        assert (ran.code, ran.out) == (1, "")
        assert said in ran.err
    assert [each.name for each in here.folder.iterdir()] == ["pushgate.toml"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (NobodyThere("it is gone"), "it is gone\n  -> is 127.0.0.1:8081 the management.listen of this gateway?"),
        (NoAnswer("that is no gateway"), "that is no gateway\n  -> is 127.0.0.1:8081 the management.listen"),
        (SpoolUnavailable("spool.db: no space left -> make some"), "spool.db: no space left\n  -> make some\n"),
        (SpoolUnavailable("spool.db: odd"), "spool.db: odd\n  -> see its disk and its rights\n"),
    ],
)
def test_what_fails_on_the_way_is_told(here: Here, fault: Exception, said: str) -> None:
    class Failing:
        async def rejections(self, **_: object) -> Sequence[KnownRejection]:
            return []

        async def count_rejections(self) -> object:
            raise fault

    ran = run_against(here, Failing(), "127.0.0.1:8081", "count")
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err


def run_against(here: Here, there: object, address: str, verb: str) -> Ran:
    """The command, where this is what answers at the management port."""

    @asynccontextmanager
    async def reached(_: str, *, token: bytes) -> AsyncIterator[object]:
        assert not token
        yield there

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pushgate.commands.rejections.RemoteRejections", reached)
        return here.run(verb, listen=address)


def test_on_a_terminal_names_are_short(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.remember(2)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    name = here.run("list").out.partition("\t")[0]
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("rich._console", None)
    monkeypatch.setattr(sys, "stdout", terminal)
    here.run("list")
    shown = terminal.getvalue()
    assert name[:12] in shown
    assert name[:13] not in shown
    assert "dead since" in shown
