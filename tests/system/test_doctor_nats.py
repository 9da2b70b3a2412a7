"""`pushgate doctor` and a spool on NATS: real servers with each fault, and the next step for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pushgate.config import Settings, load
from pushgate.doctor import Check, Checkup, Finding, State
from pushgate.doctor import nats as doctor
from pushgate.spools import open_spool
from tests.nats_cluster import Nats, NatsCluster, nats_cluster
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

PASSWORD = "p-1b0f7d52"
LOGIN = f"authorization {{ user: push, password: {PASSWORD} }}"


class Clinic:
    """A configuration, and what the doctor says of it."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self.url = url
        self.nats: dict[str, str] = {}
        self.spool: dict[str, str] = {}

    def log_in(self, password: str = PASSWORD) -> None:
        (self._folder / "password").write_text(password)
        (self._folder / "password").chmod(0o600)
        self.nats |= {"user": '"push"', "password_file": f'"{self._folder / "password"}"'}

    def settings(self) -> Settings:
        lines = ["[management]", 'listen = ""', "[spool]", f'url = "{self.url}"']
        lines += [f"{key} = {each}" for key, each in self.spool.items()]
        lines += ["[spool.nats]", *(f"{key} = {each}" for key, each in self.nats.items())]
        (self._folder / "pushgate.toml").write_text("\n".join(lines))
        return load(self._folder / "pushgate.toml", environ={})

    async def examine(self) -> list[Finding]:
        """Everything about NATS. No secret is in it, and nothing that is not ok is without a step."""
        found = [
            each
            for each in await Checkup(self.settings(), offline=True).run()
            if each.check in (Check.SERVER, Check.STREAM)
        ]
        assert PASSWORD not in repr(found)
        for each in found:
            assert bool(each.next_step) == (each.state is not State.OK), each
        return found

    async def worst(self, state: State) -> Finding:
        """The only finding of this state; nothing is worse."""
        found = await self.examine()
        assert state is State.WRONG or all(each.state is not State.WRONG for each in found), found
        (one,) = [each for each in found if each.state is state]
        return one

    async def use(self) -> None:
        """Have a gateway make what it needs."""
        await (await open_spool(self.settings())).close()


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    with nats_cluster(tmp_path_factory.mktemp("nats")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def with_login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    with nats_cluster(tmp_path_factory.mktemp("nats"), more=LOGIN) as cluster:
        yield cluster


async def test_what_is_well_is_ok_before_the_first_start_and_after(with_login: NatsCluster, tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, with_login.url)
    clinic.log_in()
    clinic.nats["replicas"] = "1"
    await until_up(with_login, clinic)
    server, *streams = await clinic.examine()
    assert server.seen.endswith("lets us in and has JetStream")
    assert {(each.state, each.seen) for each in streams} == {(State.OK, "not there yet: the first start makes it")}, (
        "nothing was made by looking"
    )
    await clinic.use()
    found = await clinic.examine()
    assert {each.state for each in found} == {State.OK}
    assert [each.about for each in found[1:]] == [
        "stream pushgate",
        "stream KV_pushgate-dead",
        "stream KV_pushgate-state",
    ]


async def until_up(cluster: NatsCluster, clinic: Clinic) -> None:
    """A gateway waits for a server that starts; the doctor does not."""
    clinic.nats["name"] = '"first"'
    await clinic.use()
    del clinic.nats["name"]
    assert cluster.servers[0].is_running


async def test_nobody_there(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, f"nats://127.0.0.1:{free_port()}")
    found = await clinic.worst(State.WRONG)
    assert found.check is Check.SERVER
    assert "no NATS at 127.0.0.1" in found.seen
    assert "start it, or correct spool.url" in found.next_step


@pytest.mark.parametrize("password", ["wrong", ""])
async def test_a_wrong_password(password: str, with_login: NatsCluster, tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, with_login.url)
    if password:
        clinic.log_in(password)
    found = await clinic.worst(State.WRONG)
    assert "Authorization Violation" in found.seen
    assert "see the login in [spool.nats]" in found.next_step


async def test_jetstream_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nats, "jetstream", "")
    with nats_cluster(tmp_path / "nats") as cluster:
        clinic = Clinic(tmp_path, cluster.url)
        with pytest.raises(Exception, match="JetStream is on"):
            await open_spool(clinic.settings())
        found = await clinic.worst(State.WRONG)
        assert "JetStream is off" in found.seen
        assert "jetstream { store_dir" in found.next_step


def replicas_unmade(clinic: Clinic) -> None:
    clinic.nats |= {"replicas": "3", "name": '"none"'}


def manage_unmade(clinic: Clinic) -> None:
    clinic.nats |= {"manage": "false", "name": '"none"'}


def replicas(clinic: Clinic) -> None:
    clinic.nats["replicas"] = "3"


def max_waiting(clinic: Clinic) -> None:
    clinic.spool["max_waiting"] = "77"


def max_waiting_unmanaged(clinic: Clinic) -> None:
    clinic.spool["max_waiting"] = "77"
    clinic.nats["manage"] = "false"


def one_copy(clinic: Clinic) -> None:
    clinic.nats["replicas"] = "0"


@pytest.mark.parametrize(
    ("change", "state", "count", "seen", "step"),
    [
        (replicas_unmade, State.WRONG, 3, "replicas is 3, and 1 server runs", "start more servers"),
        (manage_unmade, State.WRONG, 3, "not there", "set spool.nats.manage = true"),
        (replicas, State.WRONG, 3, "replicas is 3, and 1 server runs", "lower spool.nats.replicas"),
        (max_waiting, State.WARNING, 1, "max_msgs is 5000000 instead of 77", "the next start changes it"),
        (max_waiting_unmanaged, State.WRONG, 1, "max_msgs is 5000000 instead of 77", "change it there"),
        (one_copy, State.WARNING, 3, "one copy only", "three servers"),
    ],
)
async def test_a_stream_that_is_not_as_it_should_be(
    change: Callable[[Clinic], None],
    state: State,
    count: int,
    seen: str,
    step: str,
    open_to_all: NatsCluster,
    tmp_path: Path,
) -> None:
    clinic = Clinic(tmp_path, open_to_all.url)
    clinic.nats["replicas"] = "1"
    await clinic.use()
    change(clinic)
    found = [each for each in await clinic.examine() if each.state is state]
    assert len(found) == count
    for each in found:
        assert seen in each.seen
        assert step in each.next_step


async def test_a_stream_of_somebody_else(open_to_all: NatsCluster, tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, open_to_all.url)
    clinic.nats["replicas"] = "1"
    await clinic.use()
    await open_to_all.ask("STREAM.CREATE.theirs", name="theirs", subjects=["orders.*"])
    clinic.nats["name"] = '"theirs"'
    found = await clinic.worst(State.WRONG)
    assert "subjects is ['orders.*']" in found.seen
    assert "another spool.nats.name" in found.next_step


async def test_one_of_three_is_down(tmp_path: Path) -> None:
    with nats_cluster(tmp_path / "nats", size=3) as cluster:
        await cluster.until_ready()
        clinic = Clinic(tmp_path, cluster.url)
        clinic.nats["replicas"] = "3"
        await clinic.use()
        assert {each.state for each in await clinic.examine()} == {State.OK}
        cluster.servers[2].kill()
        found = await clinic.examine()
        (down,) = [each for each in found if each.check is Check.SERVER and each.state is not State.OK]
        assert (down.state, down.about) == (State.WARNING, str(cluster.servers[2].server))
        cluster.servers[1].kill()
        checks: set[Check] = set()
        async with asyncio.timeout(40):  # the one that is left may lead a stream, and notice only later
            while checks != {Check.SERVER, Check.STREAM}:
                wrong = [each for each in await clinic.examine() if each.state is State.WRONG]
                assert {str(each.server) for each in cluster.servers[1:]} <= {each.about for each in wrong}
                checks = {each.check for each in wrong}


async def test_an_old_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_to_all: NatsCluster) -> None:
    monkeypatch.setattr(doctor, "OLDEST_SERVER", (99, 0))
    found = await Clinic(tmp_path, open_to_all.url).worst(State.WRONG)
    assert "NATS is 2." in found.seen
    assert "install 2.11 or later" in found.next_step
