"""What was chosen: from flags, from what lies in the folder, and from answers where somebody sits at a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from pushgate.errors import PushgateError
from pushgate.setup.found import STAGE, Found, Unusable, emulated_apps, key_id_of, look, project_of

PLAIN_LISTEN, TLS_LISTEN = "127.0.0.1:8080", "127.0.0.1:8443"
DEFAULT_CALLER = "backend"
_CALLER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_APPLE_ID = re.compile(r"[A-Z0-9]{10}")
_EVERYWHERE = ("0.0.0.0:", "[::]:")
Asker = Callable[[str, str], str]
"""Asks a question with a default, which is what an empty answer means."""


class Missing(PushgateError):  # noqa: N818 - what stands in the way
    """Nobody is there to be asked, and these flags are missing, each with its reason."""

    def __init__(self, flags: list[str]) -> None:
        super().__init__("\n".join(flags))
        self.flags = flags


class Answers(Struct, frozen=True, kw_only=True):
    """What the flags say. None and empty: nothing."""

    listen: str = ""
    dev_ca: bool = False
    hosts: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()
    cert_file: Path | None = None
    key_file: Path | None = None
    client_ca_file: Path | None = None
    bundle_id: str = ""
    signing_key: Path | None = None
    key_id: str = ""
    team_id: str = ""
    sandbox: bool = False
    apns_app: str = ""
    project_id: str = ""
    account: Path | None = None
    fcm_app: str = ""
    demo_apps: Path | None = None

    @property
    def is_about_apple(self) -> bool:
        """Whether any of them speaks of an app of APNs."""
        return bool(self.bundle_id or self.signing_key or self.team_id or self.key_id or self.apns_app)

    @property
    def is_about_google(self) -> bool:
        """Whether any of them speaks of an app of FCM."""
        return bool(self.project_id or self.account or self.fcm_app)

    @property
    def names_an_app(self) -> bool:
        """Whether it is said which apps there are: then nobody is asked for others."""
        return self.is_about_apple or self.is_about_google or self.demo_apps is not None


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be written."""

    listen: str
    dev_ca: bool
    hosts: tuple[str, ...]
    callers: tuple[str, ...]
    """Whose certificates are known, by a name in them."""
    cert_file: Path | None
    key_file: Path | None
    client_ca_file: Path | None
    apps: Mapping[str, Mapping[str, Any]]
    """By app_id, with keys as the configuration calls them. Files are absolute paths, or as they were given."""
    notes: tuple[str, ...] = ()
    """What somebody should know about it."""

    @property
    def is_mutual(self) -> bool:
        """Whether callers show certificates."""
        return self.dev_ca or self.client_ca_file is not None


def choose(folder: Path, given: Answers, *, ask: Asker | None) -> Plan:
    """The plan for a folder. `ask` is None where nobody is there. Raises `Missing` and `Unusable`."""
    found, notes = look(folder), list[str]()
    apps: dict[str, Mapping[str, Any]] = {}
    if given.demo_apps is not None:
        apps |= emulated_apps(given.demo_apps)
    missing: list[str] = []
    for part in (_apns, _fcm):
        try:
            apps |= dict(part(given, found, ask, notes))
        except Missing as these:
            missing += these.flags
    if not apps and not missing and ask is not None and not given.names_an_app:
        apps |= _stage(ask)
    if not apps and not missing:
        missing.append("--apns BUNDLE_ID, --fcm PROJECT_ID or --demo-apps FOLDER: no app is named")
    own = [given.cert_file, given.key_file, given.client_ca_file]
    missing += _missing_of_callers(given, own, is_asked=ask is not None)
    if missing:
        raise Missing(missing)
    dev_ca = given.dev_ca or (ask is not None and not any(own) and _dev_ca_wanted(ask))
    is_tls = dev_ca or any(own)
    if dev_ca and given.listen.startswith(_EVERYWHERE) and not given.hosts:
        notes.append("the server's certificate is for this machine only: --host NAME adds a name that callers use")
    return Plan(
        listen=given.listen or (TLS_LISTEN if is_tls else PLAIN_LISTEN),
        dev_ca=dev_ca,
        hosts=given.hosts,
        callers=given.callers or ((DEFAULT_CALLER,) if dev_ca else ()),
        cert_file=given.cert_file,
        key_file=given.key_file,
        client_ca_file=given.client_ca_file,
        apps=apps,
        notes=tuple(notes),
    )


def _missing_of_callers(given: Answers, own: Sequence[Path | None], *, is_asked: bool) -> Iterator[str]:
    """Flags about callers that lack others. Raises `Unusable`."""
    if any(own) and not all(own):
        yield "--cert-file, --key-file and --client-ca-file belong together"
    if any(own) and given.dev_ca:
        raise Unusable("--dev-ca contradicts --cert-file -> give the certificates that you have, or have some made")
    if given.callers and not is_asked and not (given.dev_ca or any(own)):
        yield "--dev-ca, or --cert-file with its companions: --caller is about client certificates"
    if bad := next((each for each in given.callers if not _CALLER.fullmatch(each)), None):
        raise Unusable(f"--caller: {bad!a} is no name -> write 1 to 64 letters, digits and . _ -")


def _dev_ca_wanted(ask: Asker) -> bool:
    question = "Make a development CA, so that callers prove who they are (mutual TLS)? [Y/n]"
    return _yes(ask, question, "y")


def _stage(ask: Asker) -> Mapping[str, Mapping[str, Any]]:
    """The apps of emulators, where there are no others. Raises `Unusable`."""
    question = "For a trial without either: FOLDER of `pushgate emulate --folder FOLDER`, empty for none:"
    folder = _path(_until(ask, question, lambda text: "" if _in(text, STAGE).is_file() else f"No {STAGE} is in it"))
    return {} if folder is None else emulated_apps(folder)


# --- Apple


def _apns(given: Answers, found: Found, ask: Asker | None, notes: list[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    bundle_id, in_sandbox = given.bundle_id, given.sandbox
    if not given.names_an_app and ask is not None:
        named = f" (for {found.signing_keys[0].name})" if found.signing_keys else ""
        bundle_id = ask(f"Bundle id of the app on Apple's platforms{named}, empty for none:", "")
        in_sandbox = bool(bundle_id) and _yes(ask, "Is it built by Xcode for trials (sandbox)? [y/N]", "n")
    if not bundle_id and not given.is_about_apple:
        if found.signing_keys and not given.demo_apps:
            notes.append(f"{found.signing_keys[0].name} is not used: --apns BUNDLE_ID uses it")
        return
    missing = []
    bundle_id = bundle_id or _asked(ask, "Bundle id of the app on Apple's platforms:")
    if not bundle_id:
        missing.append("--apns BUNDLE_ID: the app's bundle id, as in org.example.app")
    key = (
        given.signing_key
        or _only(found.signing_keys)
        or _path(_until(ask, "The signing key, AuthKey_<key id>.p8:", _no_file))
    )
    key_id = given.key_id or _key_id(key, ask, notes)
    if key is None:
        there = f"; there are {', '.join(each.name for each in found.signing_keys)}" if found.signing_keys else ""
        missing.append(f"--apns-key FILE: the signing key, AuthKey_<key id>.p8{there}")
    elif not key_id:
        missing.append(f"--apns-key-id ID: it does not stand in the name of {key.name}")
    question = "Team id (ten letters and digits, in Apple's account under Membership):"
    team_id = given.team_id or _until(ask, question, _no_apple_id)
    if not team_id:
        missing.append("--apns-team ID: the team's id, in Apple's account under Membership")
    if missing:
        raise Missing(missing)
    table = {"provider": "apns", "bundle_id": bundle_id, "environment": "sandbox" if in_sandbox else "production"}
    yield given.apns_app or f"{bundle_id}.apns", {**table, "key_file": str(key), "key_id": key_id, "team_id": team_id}


def _key_id(key: Path | None, ask: Asker | None, notes: list[str]) -> str:
    if key is None:
        return ""
    if key_id := key_id_of(key):
        notes.append(f"the key id is {key_id}: it stands in the name of {key.name}")
        return key_id
    return _until(ask, "Key id (ten letters and digits, in Apple's list of keys):", _no_apple_id)


def _asked(ask: Asker | None, question: str) -> str:
    return "" if ask is None else ask(question, "")


def _until(ask: Asker | None, question: str, fault: Callable[[str], str]) -> str:
    """An answer that can be used, asked for until there is one; empty ends it too. `fault` tells what is wrong."""
    answer = _asked(ask, question)
    while answer and (told := fault(answer)):
        answer = _asked(ask, f"{told}. {question}")
    return answer


def _no_file(text: str) -> str:
    return "" if _in(text).is_file() else "There is no such file"


def _no_apple_id(text: str) -> str:
    return "" if _APPLE_ID.fullmatch(text) else "These are not ten capital letters and digits"


def _in(text: str, *names: str) -> Path:
    return Path(text).expanduser().joinpath(*names)


def _yes(ask: Asker, question: str, default: str) -> bool:
    return ask(question, default).lower() in ("y", "yes")


def _only(paths: tuple[Path, ...]) -> Path | None:
    return paths[0] if len(paths) == 1 else None


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


# --- Google


def _fcm(given: Answers, found: Found, ask: Asker | None, notes: list[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    project, account = given.project_id, given.account
    known = dict(found.accounts)
    if not given.names_an_app and ask is not None:
        project, account = _asked_for_project(ask, known)
    if not project and not given.is_about_google and account is None:
        if known and not given.names_an_app and ask is None:
            notes.append(f"{next(iter(known)).name} is not used: --fcm PROJECT_ID uses it")
        return
    account = account or next((path for path, of in known.items() if of == project), None)
    project = project or (project_of(account) if account else "")
    if not project:
        raise Missing(["--fcm PROJECT_ID: the id of the Firebase project"])
    if account is None:
        notes.append("FCM with application default credentials: GOOGLE_APPLICATION_CREDENTIALS, or the machine's own")
    table = {"provider": "fcm", "project_id": project}
    yield given.fcm_app or f"{project}.app.firebase", table | ({"credentials_file": str(account)} if account else {})


def _asked_for_project(ask: Asker, known: Mapping[Path, str]) -> tuple[str, Path | None]:
    if len(known) == 1:
        ((path, project),) = known.items()
        return (project, path) if _yes(ask, f"Use {path.name} for FCM, project {project}? [Y/n]", "y") else ("", None)
    project = ask("Id of the Firebase project of the app on Android, empty for none:", "")
    if not project or project in known.values():
        return project, None
    question = "Key file of its service account, empty for application default credentials:"
    return project, _path(_until(ask, question, _no_file))
