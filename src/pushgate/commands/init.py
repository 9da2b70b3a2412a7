"""`pushgate init`: a first configuration for what lies in a folder, and a development CA where one is wanted."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from pushgate import cli
from pushgate.commands.keys import Obstacle, explained
from pushgate.errors import ConfigError
from pushgate.setup import Answers, Asker, Missing, Plan, Written, choose, write
from pushgate.setup.authority import FOLDER
from pushgate.setup.found import Unusable
from pushgate.setup.writing import in_the_way

DEMO_PUSHKEY = f"{0xA1:064x}"
"""Of a phone at the emulators."""
_Text = str | None
_Several = tuple[str, ...] | None


@Parameter(name="*", show_default=False, group=Group.create_ordered("Callers"))
@dataclass(frozen=True, kw_only=True)
class Callers:
    """Where callers reach the gateway, and how they prove who they are."""

    listen: Annotated[
        _Text, Parameter(help="host:port for callers. Default: 127.0.0.1:8443 with TLS, 127.0.0.1:8080 without.")
    ] = None
    dev_ca: Annotated[
        bool,
        Parameter(help="Make a development CA, a server's certificate and one for each caller, for mutual TLS."),
    ] = False
    host: Annotated[
        _Several, Parameter(help="With --dev-ca: a further name or address of the gateway. May be given again.")
    ] = None
    caller: Annotated[
        _Several,
        Parameter(help="A caller: a name that stands in its certificate. May be given again. With --dev-ca: backend."),
    ] = None
    cert_file: Annotated[Path | None, Parameter(help="Instead of --dev-ca: the server's certificate (PEM).")] = None
    key_file: Annotated[Path | None, Parameter(help="Its private key (PEM).")] = None
    client_ca_file: Annotated[Path | None, Parameter(help="Who issues the callers' certificates (PEM).")] = None


@Parameter(name="*", show_default=False, group=Group.create_ordered("Apple"))
@dataclass(frozen=True, kw_only=True)
class Apple:
    """An app of APNs."""

    apns: Annotated[_Text, Parameter(help="Its bundle id, as in org.example.app.")] = None
    apns_key: Annotated[
        Path | None, Parameter(help="The signing key, AuthKey_….p8. Default: the one that lies in DIR.")
    ] = None
    apns_key_id: Annotated[_Text, Parameter(help="The key's id. Default: what stands in the name of its file.")] = None
    apns_team: Annotated[_Text, Parameter(help="The team's id, in Apple's account under Membership.")] = None
    apns_sandbox: Annotated[bool, Parameter(help="For builds from Xcode.")] = False
    apns_app: Annotated[_Text, Parameter(help="The app_id that callers send. Default: the bundle id and .apns.")] = None


@Parameter(name="*", show_default=False, group=Group.create_ordered("Google"))
@dataclass(frozen=True, kw_only=True)
class Google:
    """An app of FCM."""

    fcm: Annotated[_Text, Parameter(help="The id of its Firebase project. Default: that of the service account.")] = (
        None
    )
    fcm_credentials: Annotated[
        Path | None,
        Parameter(help="The key file of a service account. Default: that of the project, where it lies in DIR."),
    ] = None
    fcm_app: Annotated[
        _Text, Parameter(help="The app_id that callers send. Default: the project and .app.firebase.")
    ] = None


@explained
def init(
    folder: Annotated[Path, Parameter(name="DIR", help="Where to write pushgate.toml.")] = Path(),
    /,
    *,
    callers: Callers = Callers(),
    apple: Apple = Apple(),
    google: Google = Google(),
    demo_apps: Annotated[
        Path | None,
        Parameter(help="The apps of `pushgate emulate --folder FOLDER`: for a trial without Apple and Google."),
    ] = None,
    force: Annotated[bool, Parameter(help="Overwrite what is there, the development CA and its keys too.")] = False,
) -> int:
    """Write a first configuration, commented, with what was chosen and nothing else.

    On a terminal it asks for what the flags do not say. Put AuthKey_….p8 of Apple or the key file of Google's
    service account into DIR beforehand: they are found, with the key's id or the project. The configuration is loaded
    before it is written, and nothing is overwritten without --force.

    Without questions: `pushgate init gateway --dev-ca --apns org.example.app --apns-team TEAM123456`. The next
    commands are printed at the end.
    """
    if not force and (there := in_the_way(folder)):
        raise _in_the_way(there)
    ask = _ask if sys.stdin.isatty() else None
    plan, written = _made(folder, _answers(callers, apple, google, demo_apps), ask, is_forced=force)
    _tell(plan, written)
    return cli.DONE


def _made(folder: Path, given: Answers, ask: Asker | None, *, is_forced: bool) -> tuple[Plan, Written]:
    """What was chosen, and written. Raises `Obstacle`."""
    try:
        plan = choose(folder, given, ask=ask)
        if not is_forced and (there := in_the_way(folder, plan)):
            raise _in_the_way(there)
        return plan, write(folder, plan, now=datetime.now(UTC))
    except Missing as missing:
        lines = "\n".join(f"  {each}" for each in missing.flags)
        mend = (
            "give them, or run this on a terminal to be asked"
            if ask is None
            else "run it again and answer, or give them; for a trial first: pushgate emulate --folder FOLDER"
        )
        raise Obstacle(f"missing:\n{lines}", mend=mend) from missing
    except Unusable as fault:
        told, _, mend = str(fault).partition(" -> ")
        raise Obstacle(told, mend=mend or "correct it") from fault
    except ConfigError as error:
        told = "\n".join(f"  {each.path}: {each.fault} -> {each.mend}" for each in error.faults)
        raise Obstacle(f"nothing was written, for it could not be used:\n{told}", mend="correct it") from error
    except OSError as error:
        raise Obstacle(f"cannot write in {folder}: {error.strerror}", mend="see its rights", code=cli.FAILED) from error


def _in_the_way(there: Sequence[Path]) -> Obstacle:
    named = ", ".join(map(str, there))
    return Obstacle(f"{named} is there already", mend="name another folder, or say --force to overwrite it")


def _answers(callers: Callers, apple: Apple, google: Google, demo_apps: Path | None) -> Answers:
    return Answers(
        listen=callers.listen or "",
        dev_ca=callers.dev_ca,
        hosts=callers.host or (),
        callers=callers.caller or (),
        cert_file=callers.cert_file,
        key_file=callers.key_file,
        client_ca_file=callers.client_ca_file,
        bundle_id=apple.apns or "",
        signing_key=apple.apns_key,
        key_id=apple.apns_key_id or "",
        team_id=apple.apns_team or "",
        sandbox=apple.apns_sandbox,
        apns_app=apple.apns_app or "",
        project_id=google.fcm or "",
        account=google.fcm_credentials,
        fcm_app=google.fcm_app or "",
        demo_apps=demo_apps,
    )


def _ask(question: str, default: str) -> str:
    """What somebody at the terminal says. Raises `Obstacle` at the end of the input."""
    print(f"{question} ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise Obstacle("\nno answer", mend="give the flags instead: pushgate init --help")
    return line.strip() or default


# --- what comes next


def _tell(plan: Plan, written: Written) -> None:
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)
    print("written:", *(f"  {each}" for each in written.files), sep="\n")
    config = shlex.quote(str(written.config_file))
    print("\nNext:")
    for command in ("check-config", "doctor", "serve"):
        print(f"  pushgate {command} --config {config}")
    app_id, app = next(iter(plan.apps.items()))
    is_demo = "endpoint" in app
    told = "the emulators take any pushkey" if is_demo else "KEY_FILE holds a phone's pushkey"
    pushkey = f"--pushkey {DEMO_PUSHKEY}" if is_demo else "--pushkey-file KEY_FILE"
    print(f"\nThen, while it serves, one test notification ({told}):")
    print(f"  pushgate send {_way(plan, written, curl=False)} --app-id {shlex.quote(app_id)} {pushkey}")
    print("\nWhat became of it (send prints the REQUEST id):")
    print(f"  pushgate explain REQUEST --config {config}")
    if is_demo:
        trust = shlex.quote(str(app["ca_file"]))
        print(f"\nWhat the phone got:\n  curl --cacert {trust} {app['endpoint']}/devices/{DEMO_PUSHKEY}")
    devices = [{"app_id": app_id, "pushkey": DEMO_PUSHKEY if is_demo else "PUSHKEY"}]
    body = shlex.quote(json.dumps({"notification": {"prio": "high", "counts": {"unread": 1}, "devices": devices}}))
    print("\nThe same by hand:")
    print(f"  curl {_way(plan, written, curl=True)}notify -H 'Content-Type: application/json' -d {body}")


def _way(plan: Plan, written: Written, *, curl: bool) -> str:
    """The flags that lead to the gateway, its address the last of them."""
    host, _, port = plan.listen.rpartition(":")
    known = host if host not in ("0.0.0.0", "[::]", "127.0.0.1") else "localhost"  # noqa: S104 - compared with
    url = f"http{'s' if plan.is_mutual else ''}://{known}:{port}/push/v1/"
    flags: dict[str, str] = {}
    if plan.dev_ca:
        tls, caller = written.config_file.parent / FOLDER, f"caller-{plan.callers[0]}"
        files = (tls / "ca.pem", tls / f"{caller}.pem", tls / f"{caller}.key")
        names = ("--cacert", "--cert", "--key") if curl else ("--ca-file", "--cert-file", "--key-file")
        flags = {name: str(path) for name, path in zip(names, files, strict=True)}
    said = " ".join(f"{name} {shlex.quote(path)}" for name, path in flags.items())
    return " ".join(filter(None, (said, url if curl else f"--url {url}")))
