"""Nothing of a patient and no credential leaves the gateway but to the provider: whatever happens, however it is run.

Each test drives a real process with secrets that are known, and searches everything that it wrote, showed or answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pushgate import cli
from pushgate.config import Settings
from pushgate.config.keys import keys_of
from pushgate.emulator import Step
from pushgate.stage import APNS_APP_ID, FCM_APP_ID
from tests.leak_launcher import PLANTED
from tests.leak_stage import Observed, observed
from tests.leak_surroundings import ANSWERS, ECHOED, MIRRORED, OLD, PROXIED, WRONG, echoing
from tests.leaks import Trail, secret
from tests.processes import pushgate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

WITHIN_S = 40.0


@pytest.fixture
def trail(capsys: pytest.CaptureFixture[str]) -> Any:
    """Searches; at the end it has found nothing, and says how much it has looked at."""
    trail = Trail()
    yield trail
    with capsys.disabled():
        print(f"\n{trail.told}")
    assert trail.leaks == []


async def until(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    try:
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"waited in vain: {what()}") from None


async def talk(this: Observed) -> None:
    """Every kind of request: good ones, refused ones, and those with secrets where nobody expects them."""
    patient, key, words = this.patient, this.patient.pushkeys, this.patient.words
    apns, fcm = patient.device(APNS_APP_ID, "apns"), patient.device(FCM_APP_ID, "fcm")
    path, asked = "/push/v1/notify", ("apns", "fcm")
    assert await this.ask("POST", path, asked=asked, json={"notification": patient.plain(apns, fcm)}) == 200
    assert await this.notify("apns") == 200
    assert await this.notify("fcm", app_id=FCM_APP_ID) == 200
    for app_id in (WRONG, OLD, PROXIED, MIRRORED, ECHOED):
        assert await this.notify("elsewhere", app_id=app_id) == 200
    assert await this.notify(*(f"apns {name}" for name in ANSWERS)) == 200
    assert await this.notify(*(f"fcm {name}" for name in ANSWERS), app_id=FCM_APP_ID) == 200

    impossible = patient.device(APNS_APP_ID, "fcm impossible" if "fcm impossible" in key else "fcm")
    stranger = patient.device("org.example.unknown", "unknown")
    late = patient.sealed(apns, time_message_encrypted=patient.words["key"])
    await this.ask("POST", path, json={"notification": patient.plain(impossible, event_id="$1")})
    await this.ask("POST", path, json={"notification": patient.plain(stranger, event_id="$2")})
    items = [{"id": name, "notification": each} for name, each in (("a", patient.sealed(impossible)), ("b", late))]
    await this.ask("POST", f"{path}Encrypted/batch", json={"notifications": items})
    await this.ask("POST", f"{path}Encrypted/batch", json={"notifications": [items[0]] * 2})
    await this.ask("POST", f"{path}Encrypted/batch", json={"notifications": items * 60})
    large = patient.plain(apns, content={"x": patient.words["content"] * 4000})
    await this.ask("POST", f"{path}/batch", json={"notifications": [{"id": "a", "notification": large}]})
    await this.ask("POST", path, json={"notification": large})
    whole = json.dumps({"notification": patient.plain(apns, fcm)})
    for wrong in (whole[:-20], whole + "}", whole.replace('"high"', "7"), whole.replace('"devices"', '"devises"')):
        await this.ask("POST", path, content=wrong.encode())
    await this.ask("POST", path, content=whole.encode("utf-16"))
    await this.ask("POST", path, content=json.dumps(key["apns"]).encode())
    await this.ask("POST", path, json={"notification": patient.plain({"app_id": APNS_APP_ID, "pushkey": [key["fcm"]]})})
    await this.ask("POST", path, json={key["apns"]: patient.plain(apns)})
    await this.ask("POST", path, content=b"{" * 100_000 + key["apns"].encode())
    await this.ask("POST", f"/{key['apns']}?{key['fcm']}", json={"notification": patient.plain(apns)})
    await this.ask(key["apns"][:10].upper(), path)
    headers = {"content-type": f"text/{key['apns']}", "cookie": key["fcm"], "authorization": f"Bearer {key['fcm']}"}
    await this.ask("POST", path, content=whole.encode(), headers=headers)
    await this.ask("POST", path, content=whole.encode(), headers={"content-encoding": key["apns"]})
    await this.ask("POST", path, content=b"x" * 2_000_000 + key["apns"].encode())
    for marked in (
        key["apns"],
        f"x-{key['apns']}",
        f"{key['apns'].upper()}.apns",
        f"cQ7x:APA91b{key['fcm']}",
        words["name"] * 9,
    ):
        await this.ask(
            "POST", path, content=whole[:-20].encode(), headers={"x-request-id": marked, "traceparent": marked}
        )
        await this.ask("GET", f"/{marked}", headers={"x-request-id": marked, "tracestate": marked})
    await this.ask("GET", "/push/v1/openapi.json")
    await this.ask("GET", "/push/v1/docs")


def all_was_met(this: Observed) -> bool:
    """Whether both providers have given each of their answers, and Apple has refused the wrong key."""
    wanted = {f"status.{name}" for name in ANSWERS if name.isdigit()}
    wanted |= {f"fault.{name.replace(' ', '-')}" for name in ANSWERS if not name.isdigit()}
    stage = this.stage
    return (
        all(wanted <= counts.keys() for counts in (stage.apns.counts, stage.fcm.counts))
        and this.patient.pushkeys["apns"] in stage.apns.devices()
        and this.patient.pushkeys["fcm"] in stage.fcm.devices()
    )


async def refuse_configurations(this: Observed) -> None:
    """A running gateway is given files with faults, each with a secret in the fault."""
    config, key_file = this.stage.config_file, this.stage.landscape.apns_key_file
    good, good_key = config.read_text(), key_file.read_text()
    account = this.folder / "service-account.json"
    good_account = account.read_text()
    pushkey = this.patient.pushkeys["apns"]
    flat = good_key.replace("\n", "\\n")
    wrong: list[tuple[Path, str, str]] = [
        (config, good, good + f'\nsecret = "{pushkey}"\n'),
        (config, good, good + f'\n"{pushkey}\n{pushkey}" = \n'),
        (config, good, good.replace(f'key_file = "{key_file.name}"', f'key_file = "{flat}"')),
        (config, good, good.replace('proxy_login_file = "proxy.login"', f'proxy_login_file = "{pushkey}"')),
        (key_file, good_key, good_key.replace("=", "", 1)[:-40]),
        (key_file, good_key, good_key.replace("PRIVATE", "PUBLIC")),
        (account, good_account, good_account[:-30]),
        (account, good_account, good_account.replace("PRIVATE KEY", "KEY")),
        (account, good_account, good_account.replace("https://", "http://")),
    ]
    for path, good_text, text in wrong:
        path.write_text(text)
        before = this.output.count("configuration refused")
        assert this.process is not None
        this.process.send_signal(signal.SIGHUP)
        await until(lambda before=before: this.output.count("configuration refused") > before, lambda: this.output)  # type: ignore[misc] # mypy takes a default for a parameter
        path.write_text(good_text)


@pytest.mark.parametrize(
    ("level", "form"),
    [("debug", "json"), ("debug", "console"), ("info", "json"), ("warning", "console"), ("error", "json")],
)
async def test_whatever_happens_nothing_is_told(tmp_path: Path, trail: Trail, level: str, form: str) -> None:
    async with observed(tmp_path, trail) as this:
        await this.start(f"{level} {form}", environ={"PUSHGATE_LOG__LEVEL": level, "PUSHGATE_LOG__FORMAT": form})
        await this.until_serving()
        await talk(this)
        await until(lambda: all_was_met(this), lambda: (this.stage.apns.counts, this.stage.fcm.counts, this.output))
        assert await this.notify(*(f"apns {name}" for name in ANSWERS)) == 200
        await this.look_around()
        await refuse_configurations(this)
        this.look()
        assert await this.end() == 0
        assert list((this.folder / "tmp").iterdir()) == [], "no file is left, and none for the secrets of TLS"
    assert len(trail.paths) > 60
    assert trail.paths[f"{level} {form}: events of the status page"] > 1000
    assert sum(" GET /explain?id=" in path for path in trail.paths) > 30
    for app_id in (WRONG, ECHOED, MIRRORED):
        assert f"lane={app_id}" in this.output or f'"lane": "{app_id}"' in this.output
    assert "Traceback" not in this.output


DEBUG = {
    "PYTHONDEVMODE": "1",
    "PYTHONASYNCIODEBUG": "1",
    "PYTHONTRACEMALLOC": "5",
    "PYTHONWARNINGS": "always",
    "GOOGLE_SDK_PYTHON_LOGGING_SCOPE": "google",
    "PUSHGATE_LOG__LEVEL": "debug",
}


async def test_python_in_debug_mode_tells_nothing(tmp_path: Path, trail: Trail) -> None:
    async with observed(tmp_path, trail) as this:
        await this.start("debug mode", environ=DEBUG)
        await this.until_serving()
        await talk(this)
        await until(lambda: all_was_met(this), lambda: this.output)
        assert await this.end() == 0


# --- faults of our own

SOFT = {"wire": 500, "request": 500} | dict.fromkeys(("provider", "answer", "lane", "task", "settling", "loop"), 200)
EVENTS = (
    "request failed unexpectedly",
    "sending failed unexpectedly",
    "answer not understood",
    "attempt was not settled",
    "settling failed unexpectedly",
    "reload failed unexpectedly",
    "status cannot be read",
    "Exception in callback",
    "Task exception was never retrieved",
    "exception ignored",
    "crashed",
    "(a text with values)",
)


def plan(this: Observed, *spots: str) -> Path:
    """What a launched gateway breaks at. Its exceptions say everything."""
    patient = this.patient
    pushkeys = {spot: patient.pushkeys.get(spot, "always") for spot in spots}
    text = json.dumps([*patient.words.values(), *patient.pushkeys.values(), patient.ciphertext])
    text += this.stage.landscape.apns_key_file.read_text() + (this.folder / "proxy.login").read_text()
    path = this.folder / "plan.json"
    path.write_text(json.dumps({"spots": pushkeys, "text": text}))
    this.inputs.add(path)
    return path


@pytest.mark.parametrize(("form", "environ"), [("json", {}), ("console", DEBUG)], ids=["", "debug mode"])
async def test_faults_of_our_own_are_named_without_what_they_say(
    tmp_path: Path, trail: Trail, form: str, environ: dict[str, str]
) -> None:
    async with observed(tmp_path, trail) as this:
        broken = plan(this, *SOFT, "spool", "reload", "metrics", "token")
        for spot in ("answer", "lane", "task"):
            this.stage.apns.script(this.patient.pushkeys[spot], [echoing(Step(500), this.patient, spot)])
        await this.start("faults", environ={**environ, "PUSHGATE_LOG__FORMAT": form}, plan=broken)
        await this.until_serving()
        for spot, status in SOFT.items():
            assert await this.notify(spot) == status, spot
        assert await this.notify("spool") in (200, 500, 503)
        assert await this.notify("apns") == 200
        assert await this.notify("fcm", app_id=FCM_APP_ID) == 200
        await this.look_around()
        assert this.process is not None
        this.process.send_signal(signal.SIGHUP)
        await until(lambda: all(event in this.output for event in EVENTS), lambda: this.output)
        misread = {'"lane"' in line or "lane=" in line for line in this.lines("answer not understood")}
        assert misread == {True, False}, "by the lane, and by the provider"
        this.look()
        assert await this.end() == 0
    assert "Traceback" not in this.output


@pytest.mark.parametrize("spot", ["load", "main", "start", "spool thread", "abort"])
async def test_a_crash_is_named_without_what_it_says(tmp_path: Path, trail: Trail, spot: str) -> None:
    async with observed(tmp_path, trail) as this:
        await this.start(f"crash: {spot}", environ={"PYTHONFAULTHANDLER": "1"}, plan=plan(this, spot))
        if spot == "spool thread":
            await this.until_serving()
            asking = asyncio.create_task(this.notify("apns"))
            await until(lambda: "crashed" in this.output, lambda: this.output)
            assert await this.end(signal.SIGKILL) == -signal.SIGKILL
            await asyncio.gather(asking, return_exceptions=True)
            return
        assert this.process is not None
        async with asyncio.timeout(WITHIN_S):
            await this.process.wait()
        code = await this.end()
    assert code == (-signal.SIGABRT if spot == "abort" else 1)
    words = {"abort": "Fatal Python error: Aborted", "load": "pushgate failed unexpectedly: RuntimeError"}
    assert words.get(spot, "crashed") in this.output


# --- commands

WORDS = tuple(name for name in cli.app if not name.startswith("-"))


async def test_commands_tell_nothing_of_what_stands_in_the_wrong_place(tmp_path: Path, trail: Trail) -> None:
    async with observed(tmp_path, trail) as this:
        pushkey, good = this.patient.pushkeys["apns"], this.stage.config_file.read_text()
        key = this.stage.landscape.apns_key_file.read_text()
        flat = key.replace("\n", "\\n")
        files = {
            "a text everywhere": everywhere(f'"{pushkey}"'),
            "a key everywhere": everywhere(f'"{flat}"'),
            "a list everywhere": everywhere(f'["{pushkey}"]'),
            "a table everywhere": everywhere(f'{{ x = "{pushkey}" }}'),
            "broken in the middle": good + f'[apps."x"]\npassword = "{pushkey}\n',
            "broken key": good + f"\n{pushkey} {pushkey}\n",
            "not text": good + "\n\udcff" + pushkey,
            "nothing but a key": key,
            "good": good,
        }
        for name, text in files.items():
            path = this.folder / "checked.toml"
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
            this.inputs.add(path)
            checks = (("check-config",), ("check-config", "--json"), ("doctor", "--offline"), ("explain", "x"))
            for check in checks:
                code, out, err = await pushgate(*check, "--config", str(path))
                trail.look(f"{check} {name}", out + err)
                assert "Traceback" not in out + err
                assert (code == 2) == (name != "good"), out + err
            code, out, err = await pushgate("health", "--config", str(path))
            trail.look(f"health {name}", out + err)
            assert code in (1, 2), out + err
        environ = {f"PUSHGATE_{'__'.join(path).upper()}": pushkey for path in paths() if "<name>" not in path}
        commands: list[tuple[str, ...]] = [
            ("check-config",),
            ("check-config", "--json"),
            ("serve",),
            ("doctor", "--json"),
            ("health",),
            ("explain", "x"),
        ]
        for command in commands:
            _, out, err = await pushgate(*command, "--config", str(this.stage.config_file), environ=environ)
            trail.look(f"{command} with an environment of secrets", out + err)
            assert "Traceback" not in out + err
        for word in WORDS:
            code, out, err = await pushgate(word, "--help", environ=environ)
            trail.look(f"{word} --help", out + err)
            assert code == 0
        code, out, err = await pushgate("schema", environ=environ)
        trail.look("schema", out + err)
        assert code == 0
    assert {"serve", "doctor", "init", "schema", "explain", "health", "bench"} <= {*WORDS}


def paths() -> list[tuple[str, ...]]:
    """Of every key of a configuration that is not in a list."""
    return sorted({key.path for key in keys_of(Settings) if "[]" not in key.path})


def everywhere(value: str) -> str:
    """A configuration in which every key has this value."""
    lines = []
    for path in paths():
        name = "apns" if path[0] == "apps" else ""
        lines.append(".".join(f'"{name}"' if part == "<name>" else part for part in path) + f" = {value}")
    return "\n".join(lines) + "\n"


async def test_doctor_and_explain_repeat_nothing_that_providers_say(tmp_path: Path, trail: Trail) -> None:
    """Of providers, proxies and token endpoints some repeat all that they hear, tokens and logins too."""
    async with observed(tmp_path, trail) as this:
        await this.start("doctor")
        await this.until_serving()
        this.stage.apns.kill(this.patient.pushkeys["apns"])
        assert await this.notify("apns") == 200
        assert await this.notify("fcm", app_id=FCM_APP_ID) == 200
        await until(lambda: "pushkey is dead" in this.output, lambda: this.output)
        for phase in ("running", "stopped"):
            for command in (("doctor",), ("doctor", "--json"), ("doctor", "--offline")):
                code, out, err = await pushgate(*command, "--config", str(this.stage.config_file), environ=this.environ)
                trail.look(f"{command} {phase}", out + err)
                assert code == 1, out + err
                for app_id in (WRONG, OLD, PROXIED, MIRRORED, ECHOED):
                    assert app_id in out
            for asked in (*this.request_ids, this.patient.pushkeys["apns"]):
                for more in ((), ("--json",)):
                    command = ("explain", asked, "--config", str(this.stage.config_file), *more)
                    code, out, err = await pushgate(*command, environ=this.environ)
                    trail.look(f"{command} {phase}", out + err)
                    assert code == (0 if phase == "running" and asked in this.request_ids else 1), out + err
            if phase == "running":
                assert await this.end() == 0


async def test_init_repeats_nothing_of_the_keys_that_it_finds(tmp_path: Path, trail: Trail) -> None:
    async with observed(tmp_path, trail) as this:
        key = (this.folder / "wrong.p8").read_text()
        account = (this.folder / "service-account.json").read_text()
        flat = key.replace("\n", " ")
        found = {
            "good": {"AuthKey_WRONGKEY01.p8": key, "service-account.json": account},
            "cut": {"AuthKey_WRONGKEY01.p8": key[:-60], "service-account.json": account},
            "no account": {"AuthKey_WRONGKEY01.p8": key, "service-account.json": account[:-40]},
            "a key as the account": {"service-account.json": json.dumps({"project_id": flat, "private_key": key})},
        }
        apple = ("--apns", "org.wrong", "--apns-team", "WRONGTEAM1")
        for name, files in found.items():
            folder = tmp_path / "init" / name
            folder.mkdir(parents=True)
            for file, text in files.items():
                (folder / file).write_text(text)
            for flags in (
                ("--dev-ca", "--caller", "erp", *apple),
                ("--apns-key", flat, *apple),
                ("--fcm-credentials", flat),
            ):
                code, out, err = await pushgate("init", str(folder), *flags)
                trail.look(f"init {name} {flags[0]}", out + err)
                assert "Traceback" not in out + err
                assert code == (0 if flags[0] == "--dev-ca" and name in ("good", "no account") else 2), out + err
            made = list(folder.glob("tls/*"))  # new keys, and they begin as all of their kind do
            trail.look_into(f"init {name}", folder, but=[*made, *(folder / file for file in files)])


async def test_rejections_are_listed_without_the_pushkeys(tmp_path: Path, trail: Trail) -> None:
    async with observed(tmp_path, trail) as this:
        config = ("--config", str(this.stage.config_file))
        await this.start("rejections")
        await this.until_serving()
        assert await this.notify("apns 410") == 200
        assert await this.notify("fcm", app_id=FCM_APP_ID) == 200
        this.stage.apns.kill(this.patient.pushkeys["apns"])
        assert await this.notify("apns") == 200
        await until(lambda: "pushkey is dead" in this.output, lambda: this.output)
        assert await this.notify("apns") == 200
        for phase in ("online", "offline"):
            for arguments in (("list",), ("list", "--json"), ("count",), ("forget", "--app", APNS_APP_ID, "--all")):
                _, out, err = await pushgate("rejections", *arguments, *config, environ=this.environ)
                trail.look(f"rejections {arguments} {phase}", out + err)
            if phase == "online":
                assert await this.end() == 0


# --- the test itself


async def test_leaks_that_are_planted_are_found(tmp_path: Path) -> None:
    trail, plants = Trail(), [f"plant {name}" for name in PLANTED]
    async with observed(tmp_path, trail) as this:
        await this.start("planted", plan=plan(this, *plants))
        await this.until_serving()
        for each in plants:
            await this.notify(each)
        this.look()
        await this.end()
    assert {leak.secret for leak in trail.leaks} == {f"patient: pushkey {each}" for each in plants}


def test_every_form_of_a_secret_is_found_and_nothing_else() -> None:
    value = "Erika Müller-" + os.urandom(20).hex()
    trail = Trail(secret("x", value))
    trail.look("clean", os.urandom(100_000))
    trail.look_at_answer("an answer", json.dumps({"results": [{"rejected": [value]}]}).encode(), asked={"x"})
    assert trail.leaks == []
    trail.look_at_answer("an answer", json.dumps({"results": [{"error": value}]}).encode(), asked={"x"})
    trail.look_at_answer("an answer", json.dumps({"results": [{"rejected": [value]}]}).encode())
    assert len(trail.leaks) == 2
