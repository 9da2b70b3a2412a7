"""The container file, carried out by hand: each step in namespaces of its own, for there is no container engine here.

What the image would hold is built by the very `RUN` lines, on scratch copies of /etc, /opt and /var/lib. Then its
command runs as it would in a container: as PID 1, as its user, without a capability, on a root that is read-only but
for the spool's volume, /tmp and /dev/shm. Two things are others: the base image is this machine, and so is the network.

Only root may mount, so they are skipped for everybody else. CI is root, and a skip is a failure there.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
import yaml
from msgspec import Struct

from pushgate.client import PushGatewayClient
from pushgate.stage import Stage, set_stage
from tests.ports import free_port
from tests.processes import sealed

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
BASE_PYTHON = "/usr/bin/python3"
"""The base image's `python`: one that every user can reach."""
SEPARATED = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
LOOPBACK_UP = f"""{BASE_PYTHON} -c '
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH", b"lo", 0x49))  # SIOCSIFFLAGS: up
'"""
ARRIVED = """
import ssl, urllib.request
trust = ssl.create_default_context(cafile="ca.pem")
print(b"Rounds at nine" in urllib.request.urlopen("https://localhost:2197/devices", context=trust).read())
"""
SKIP = "needs root, unshare, setpriv, nsenter, and the system's python3 with venv"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class Instruction(Struct, frozen=True):
    word: str
    rest: str


class Image(Struct, frozen=True):
    """What has been built, as folders: each stands for the one of that name in the image."""

    opt: Path
    etc: Path
    var_lib: Path


class Container(Struct, frozen=True):
    """One that runs."""

    pid: int
    """Of the gateway, as this machine sees it."""
    process: asyncio.subprocess.Process
    log_file: Path
    environ: Mapping[str, str]

    async def run(self, *command: str) -> tuple[int, str]:
        """Run a command in it, as its user: exit code, and all that it says."""
        inside = ("nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--root")
        process = await asyncio.create_subprocess_exec(
            *(*inside, *as_the_user(self.environ), *command), stdout=PIPE, stderr=subprocess.STDOUT
        )
        async with asyncio.timeout(20):
            said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def until(self, *command: str, said: str) -> None:
        """Wait until a command does its work, and says this."""
        async with asyncio.timeout(30):
            while await self.run(*command) != (0, said):
                assert self.process.returncode is None, self.log_file.read_text()
                await asyncio.sleep(0.1)

    def status(self) -> dict[str, str]:
        """What the system says of the gateway."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: " ".join(value.split()) for name, _, value in (line.partition(":") for line in lines)}


# --- the container file


def stages() -> list[list[Instruction]]:
    """The instructions of each stage."""
    found: list[list[Instruction]] = []
    lines = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.append([])
        if word:
            found[-1].append(Instruction(word, rest.strip()))
    return found


def said(word: str) -> str:
    """What the last stage says of this word, once."""
    (found,) = (each.rest for each in stages()[-1] if each.word == word)
    return found


def environment_of_the_image() -> dict[str, str]:
    pairs = (pair.partition("=") for pair in shlex.split(said("ENV")))
    return {name: value.replace("$PATH", "/usr/bin:/bin") for name, _, value in pairs}


def as_the_user(environ: Mapping[str, str]) -> list[str]:
    """What is put before a command to run it as the image says, and as a container without privileges would."""
    user, group = said("USER").split(":")
    return [
        *("/usr/bin/env", "-i", f"--chdir={said('WORKDIR')}", *(f"{name}={each}" for name, each in environ.items())),
        *("/usr/bin/setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"),
        *("--bounding-set=-all", "--inh-caps=-all"),
    ]


def context(folder: Path) -> Path:
    """What the build gets to see: what `.dockerignore` lets through."""
    first, *rules = (ROOT / ".dockerignore").read_text().split()
    assert first == "*", "it names what comes in, and nothing else does"
    for rule in rules:
        if rule.startswith("!"):
            source = ROOT / rule[1:]
            if source.is_dir():
                shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder)
    return folder


# --- built


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    tools = all(map(shutil.which, ("unshare", "setpriv", "nsenter")))
    venv = subprocess.run([BASE_PYTHON, "-c", "import ensurepip, venv"], check=False).returncode == 0
    if os.geteuid() != 0 or not tools or not venv:
        pytest.skip(SKIP)
    folder = tmp_path_factory.mktemp("image")
    folder.chmod(0o755)
    built = Image(folder / "opt", folder / "etc", folder / "var-lib")
    for each in (built.opt, built.var_lib, folder / "build"):
        each.mkdir()
    shutil.copytree("/etc", built.etc, symlinks=True)
    (seen := folder / "context").mkdir()
    script = [
        *(f"mount --bind {source} {target}" for source, target in _mounts(built)),
        f"cd {folder / 'build'}",
        f'python() {{ {BASE_PYTHON} "$@"; }}',
        *(_step(each, context(seen) if not any(seen.iterdir()) else seen) for stage in stages() for each in stage),
    ]
    ran = subprocess.run(
        [*SEPARATED, "bash", "-euc", "\n".join(filter(None, script))], capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    yield built
    shutil.rmtree(folder)  # 100 MB


def _mounts(built: Image) -> list[tuple[Path, str]]:
    return [(built.opt, "/opt"), (built.etc, "/etc"), (built.var_lib, "/var/lib")]


def _step(instruction: Instruction, seen: Path) -> str:
    """A line of the script; empty for what is no step of the build."""
    if instruction.word == "RUN":
        return instruction.rest
    if instruction.word == "COPY" and not instruction.rest.startswith("--from"):
        *sources, target = instruction.rest.split()
        return f"cp -r {' '.join(str(seen / source) for source in sources)} {target}"
    return ""


# --- run


@asynccontextmanager
async def running(
    image: Image,
    folder: Path,
    *,
    spool: Path,
    config: Path | None = None,
    command: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    network: str = "",
) -> AsyncIterator[Container]:
    """The image with a command, its own where none is given.

    `spool` is the volume, `config` the folder that is /etc/pushgate. `network` is what of it is shared: nothing
    ("none"), that of another container (its process id), or all of this machine's.
    """
    (image.etc / "pushgate").mkdir(exist_ok=True)
    arguments = [*json.loads(said("ENTRYPOINT")), *(command or json.loads(said("CMD")))]
    variables = {**environment_of_the_image(), **(environ or {})}
    inside = [*as_the_user(variables), *arguments]
    steps = [LOOPBACK_UP] if network == "none" else []
    steps += [*_root(folder, image, spool, config), f"exec chroot . {shlex.join(inside)}"]
    joined = ["nsenter", f"--target={network}", "--net"] if network.isdigit() else []
    own = ["--net"] if network == "none" else []
    log_file = folder / "container.log"
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *joined, *SEPARATED, *own, "bash", "-euc", "\n".join(steps), stdin=DEVNULL, stdout=log, stderr=log
        )
    try:
        yield Container(await _started(process, log_file), process, log_file, variables)
    finally:
        # PID 1 there, and with it all that runs inside: to change the user has taken --kill-child from it
        for pid in (*_children(process), process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await process.wait()


def _children(process: asyncio.subprocess.Process) -> list[int]:
    try:
        return [*map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())]
    except OSError:
        return []


async def _started(process: asyncio.subprocess.Process, log_file: Path) -> int:
    """The process id of the image's program, once it has taken the place of the steps before it."""
    async with asyncio.timeout(30):
        while True:
            assert process.returncode is None, log_file.read_text()
            for pid in _children(process):
                with suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text() == "pushgate\n":
                        return pid
            await asyncio.sleep(0.02)


def _root(folder: Path, image: Image, spool: Path, config: Path | None) -> list[str]:
    """Steps that make a root like that of `docker run --read-only --tmpfs /tmp`, and go there."""
    (root := folder / "root").mkdir()
    links = [f"cp -P /{name} ." for name in ("bin", "sbin", "lib", "lib32", "lib64") if Path(f"/{name}").is_symlink()]
    readable = {"usr": "/usr", "opt": image.opt, "etc": image.etc, **({"etc/pushgate": config} if config else {})}
    place = said("VOLUME")[1:]
    return [
        f"mount -t tmpfs -o mode=755 root {root}",
        f"cd {root}",
        *links,
        f"mkdir -p usr opt etc tmp proc dev {place}",
        *(f"mount --bind {source} {target}" for target, source in readable.items()),
        *(f"mount -o remount,ro,bind {target}" for target in readable),
        f"mount --bind {spool} {place}",
        "mount -t tmpfs -o mode=1777 tmp tmp",
        "mount -t proc proc proc",
        "mount --rbind /dev dev",
        "mount -o remount,ro .",
    ]


def owned(folder: Path) -> Path:
    """The same folder, and what is in it, as the image's user has it."""
    user, group = map(int, said("USER").split(":"))
    for each in (folder, *folder.iterdir()):
        os.chown(each, user, group)
    return folder


def volume(folder: Path) -> Path:
    """A fresh one: Docker gives it the owner and mode of the image's folder that it covers."""
    (made := folder / "volume").mkdir(mode=0o700)
    return owned(made)


async def test_the_image_takes_and_hands_over_on_a_root_that_is_read_only(image: Image, tmp_path: Path) -> None:
    (folder := tmp_path / "stage").mkdir()
    spool = volume(tmp_path)
    port, management_port = free_port(), free_port()
    async with set_stage(folder, port=port, management_port=management_port) as stage:
        config = owned(Path(shutil.copytree(folder, tmp_path / "config")))
        environ = {"PUSHGATE_SPOOL__URL": f"sqlite:{said('VOLUME')}/spool.db"}
        async with running(image, tmp_path, spool=spool, config=config, environ=environ) as container:
            check = json.loads(said("HEALTHCHECK").partition("CMD ")[2])
            await container.until(*check, said="live\n")
            assert await container.run(*check, "--ready") == (0, "ready\n")
            await _is_shut_in(container)
            await _takes_and_hands_over(stage, port)
            os.kill(container.pid, getattr(signal, said("STOPSIGNAL")))
            async with asyncio.timeout(30):
                assert await container.process.wait() == 0, container.log_file.read_text()
    assert {path.name for path in spool.iterdir()} >= {"spool.db"}


async def _takes_and_hands_over(stage: Stage, port: int) -> None:
    async with PushGatewayClient(
        f"https://localhost:{port}/push/v1/",
        cert_file=str(stage.caller_cert_file),
        key_file=str(stage.caller_key_file),
        ca_file=str(stage.ca_file),
    ) as client:
        batch = [sealed(1), sealed(2)]
        answer = await client.notify_encrypted_batch(batch)
        assert [result.status for result in answer.results] == ["success", "success"]
        async with asyncio.timeout(20):
            while {*stage.apns.devices(), *stage.fcm.devices()} != {each.device.pushkey for each in batch}:
                await asyncio.sleep(0.05)


def looks_of_the_page() -> list[list[str]]:
    """What "Look after it" has run beside the gateway."""
    page = (ROOT / "docs" / "how-to" / "run-in-a-container.md").read_text()
    return [shlex.split(each) for each in re.findall(r"^docker .* exec gateway (pushgate .*)$", page, re.M)]


async def test_what_the_page_asks_inside_is_answered_with_the_port_open_for_the_status_page(
    image: Image, tmp_path: Path
) -> None:
    """By its volume, its mounted folder and the variables of compose.status.yaml, as `docker exec` has them too."""
    (folder := tmp_path / "stage").mkdir()
    spool, port, management_port = volume(tmp_path), free_port(), free_port()
    status = yaml.safe_load((ROOT / "deploy" / "compose.status.yaml").read_text())["services"]["gateway"]
    environ = {name: each.replace("8081", str(management_port)) for name, each in status["environment"].items()}
    environ |= {"PUSHGATE_SPOOL__URL": f"sqlite:{said('VOLUME')}/spool.db"}
    async with set_stage(folder, port=port, management_port=management_port) as stage:
        (folder / environ["PUSHGATE_MANAGEMENT__TOKEN_FILE"]).write_text(f"{'7' * 64}\n")
        config = owned(Path(shutil.copytree(folder, tmp_path / "config")))
        async with running(image, tmp_path, spool=spool, config=config, environ=environ) as container:
            health, doctor, explain, rejections = looks_of_the_page()
            await container.until(*health, said="ready\n")
            request = await _sent(stage, port)
            explain[explain.index("complaint-7")] = request
            async with asyncio.timeout(20):
                while "accepted by the provider" not in (told := await container.run(*explain))[1]:
                    assert told[0] == 0, told
                    await asyncio.sleep(0.05)
            code, told_by_doctor = await container.run(*doctor)
            assert (code, "wrong " not in told_by_doctor) == (0, True), told_by_doctor
            assert "takes notifications" in told_by_doctor
            assert (await container.run(*rejections))[0] == 0
            page = f"http://127.0.0.1:{management_port}/status.json"
            async with httpx.AsyncClient(trust_env=False) as browser:
                assert (await browser.get(page)).status_code == 401
                assert (await browser.get(page, auth=("anybody", "7" * 64))).status_code == 200


async def _sent(stage: Stage, port: int) -> str:
    """The id of a request that was taken."""
    async with PushGatewayClient(
        f"https://localhost:{port}/push/v1/",
        cert_file=str(stage.caller_cert_file),
        key_file=str(stage.caller_key_file),
        ca_file=str(stage.ca_file),
    ) as client:
        (request,) = (await client.notify_encrypted_batch([sealed(1)])).request_ids
        return request


async def test_the_trial_of_compose_does_what_the_page_says(image: Image, tmp_path: Path) -> None:
    """Its two services, their commands, checks and variables, one network between them, then the page's `send`."""
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    emulators, trial = services["emulators"], services["trial"]
    page = (ROOT / "docs" / "how-to" / "run-in-a-container.md").read_text()
    (send,) = re.findall(r"exec trial +(pushgate send .*?)\ndocker", page.replace("\\\n", ""), re.S)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    spool = volume(tmp_path)
    async with running(image, tmp_path / "a", spool=spool, command=emulators["command"], network="none") as providers:
        await providers.until(*emulators["healthcheck"]["test"][1:], said="")
        async with running(
            image,
            tmp_path / "b",
            spool=spool,
            command=trial["command"],
            environ=trial["environment"],
            network=str(providers.pid),
        ) as gateway:
            await gateway.until(*trial["healthcheck"]["test"][1:], said="ready\n")
            code, answer = await gateway.run(*shlex.split(send))
            assert (code, answer.startswith("taken")) == (0, True), answer
            await gateway.until("python", "-c", ARRIVED, said="True\n")


async def _is_shut_in(container: Container) -> None:
    """It is who the image says, may do nothing, is PID 1, and writes to its volume alone."""
    status = container.status()
    user, group = said("USER").split(":")
    assert status["Uid"].split() == [user] * 4
    assert (status["Gid"].split(), status["Groups"]) == ([group] * 4, "")
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["NSpid"].split()[-1]) == ("1", "1")
    for path in ("/x", "/usr/x", "/etc/pushgate/x", "/opt/pushgate/x"):
        assert "Read-only file system" in (await container.run("touch", path))[1]
    assert (await container.run("touch", f"{said('VOLUME')}/x", "/tmp/x"))[0] == 0
    code, told = await container.run("ls", "-A", "/tmp")
    assert (code, told) == (0, "x\n"), "the gateway itself leaves nothing there"


async def test_a_faulty_configuration_ends_it_with_every_fault_told(image: Image, tmp_path: Path) -> None:
    (config := tmp_path / "config").mkdir()
    (config / "pushgate.toml").write_text("[delivery]\ndrain_s = -1\nno_key = 1\n")
    async with running(image, tmp_path, spool=volume(tmp_path), config=owned(config)) as container:
        async with asyncio.timeout(20):
            assert await container.process.wait() == 2
    told = container.log_file.read_text()
    assert re.search(r"delivery\.drain_s\n +out of range", told)
    assert "delivery.no_key\n    unknown key" in told


def test_nothing_that_builds_stays_in_the_image(image: Image) -> None:
    (packages,) = (image.opt / "pushgate" / "lib").glob("python*/site-packages")
    stays = {re.split(r"-\d", each.name)[0].lower().replace("_", "-") for each in packages.glob("*.dist-info")}
    (uninstalled,) = re.findall(r"uninstall --yes ([^&]+)", " ".join(each.rest for each in stages()[0]))
    assert {"pushgate", "uvicorn", "pydantic"} <= stays
    assert {"opentelemetry-proto", "pyopenssl"} <= stays, "no pip is left to add what a setting needs"
    assert stays.isdisjoint(uninstalled.split())
    assert not (packages / "tests").exists()
    assert [*packages.glob("pushgate/__pycache__/cli.*.pyc")], "compiled, for nobody can write there later"


def test_the_stages_are_as_small_and_as_shut_as_they_look() -> None:
    first, last = stages()
    assert [each.rest for each in last if each.word == "COPY"] == ["--from=build /opt/pushgate /opt/pushgate"]
    assert first[0].rest.removesuffix(" AS build") == last[0].rest, "the same Python, for the environment names it"
    assert "--require-hashes" in "".join(each.rest for each in first)
    words = [each.word for each in last]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert {"VOLUME", "HEALTHCHECK", "STOPSIGNAL"} <= set(words)
    assert "0" not in said("USER").split(":")


def test_what_the_build_copies_comes_through_the_ignore_file(tmp_path: Path) -> None:
    seen = {each.name for each in context(tmp_path).iterdir()}
    copied: Sequence[str] = [
        source.rstrip("/") for each in stages()[0] if each.word == "COPY" for source in each.rest.split()[:-1]
    ]
    assert set(copied) == seen
