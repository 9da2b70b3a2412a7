"""Secrets that a test gives to the gateway, and the search for them in all that the gateway writes or answers.

A secret is looked for as it is, cut short, in pieces, and in the ways in which programs write text and bytes: base64 at
every offset, hexadecimal, percent signs, JSON, repr.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from msgspec import Struct

PIECE_CHARS = 16
CUT_CHARS = 12
"""`reprlib` leaves so many characters of a long text at either end."""
LEAST_BYTES = 8
"""What is shorter could stand anywhere by chance."""


class Secret(Struct, frozen=True):
    """Something that nobody but its owner may ever read, and all the forms in which it would be known."""

    name: str
    forms: frozenset[bytes]


class Leak(Struct, frozen=True):
    """A secret, and where it was found."""

    path: str
    secret: str
    around: str


def secret(name: str, value: str | bytes) -> Secret:
    """A secret of one value. Long ones are known by each of their pieces."""
    raw = value.encode() if isinstance(value, str) else value
    ends = (raw[:CUT_CHARS], raw[-CUT_CHARS:]) if len(raw) > CUT_CHARS + 4 else ()
    pieces = [raw[at : at + PIECE_CHARS] for at in range(0, len(raw), PIECE_CHARS)]
    known = [raw, *ends, *(piece for piece in pieces if len(piece) == PIECE_CHARS)]
    forms = {form for each in known for form in _spelled(each)}
    return Secret(name, frozenset(form for form in forms if len(form) >= LEAST_BYTES))


def pem_secret(name: str, pem: str | bytes) -> Secret:
    """A private key: its lines in PEM, and its bytes."""
    text = pem.decode() if isinstance(pem, bytes) else pem
    lines = [line for line in text.splitlines() if line and not line.startswith("-----")]
    return Secret(name, secret(name, "".join(lines)).forms | secret(name, base64.b64decode("".join(lines))).forms)


def _spelled(value: bytes) -> Iterator[bytes]:
    yield value
    yield value.hex().encode()
    yield value.hex().upper().encode()
    yield repr(value)[2:-1].encode()
    yield quote(value, safe="").encode()
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + value).rstrip(b"=")
        begin = (0, 2, 3)[shift]  # what is mixed with the bytes before is not the value's alone
        end = len(encoded) - (1 if (shift + len(value)) % 3 else 0)
        yield encoded[begin:end]
        yield encoded[begin:end].replace(b"+", b"-").replace(b"/", b"_")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return
    yield json.dumps(text)[1:-1].encode()


class Trail:
    """Searches one blob after the other, and keeps what it found and how much it has looked at."""

    def __init__(self, *wanted: Secret) -> None:
        self.wanted: dict[str, Secret] = {each.name: each for each in wanted}
        self.leaks: list[Leak] = []
        self.paths: dict[str, int] = {}
        """Where it has looked, and how many bytes there were."""

    def add(self, *more: Secret) -> None:
        """Look for these too from now on."""
        self.wanted |= {each.name: each for each in more}

    def look(self, path: str, blob: str | bytes, *, may_hold: Collection[str] = ()) -> None:
        """Search what was found at this path for every secret but those that may stand there."""
        raw = blob.encode("utf-8", "surrogateescape") if isinstance(blob, str) else blob
        self.paths[path] = self.paths.get(path, 0) + len(raw)
        for name, each in self.wanted.items():
            if name in may_hold:
                continue
            found = next((form for form in each.forms if form in raw), None)
            if found is not None:
                at = raw.index(found)
                around = raw[max(0, at - 60) : at + len(found) + 60].decode("utf-8", "replace")
                self.leaks.append(Leak(path, name, around))

    def look_into(self, path: str, folder: Path, *, but: Collection[Path] = ()) -> None:
        """Search the names of all files below a folder, and what is in them, but for those that are inputs."""
        left_out = {each.resolve() for each in but}
        for file in sorted(folder.rglob("*")):
            self.look(f"{path}: names of files", str(file.relative_to(folder)))
            if file.is_file() and file.resolve() not in left_out:
                self.look(f"{path}: {file.relative_to(folder)}", file.read_bytes())

    def look_at_process(self, path: str, pid: int) -> None:
        """Search what every user of the machine can see of a process, and what root can: names, arguments, files."""
        own = Path("/proc") / str(pid)
        self.look(f"{path}: command line", (own / "cmdline").read_bytes())
        self.look(f"{path}: environment", (own / "environ").read_bytes())
        self.look(f"{path}: names of threads", b"\n".join(each.read_bytes() for each in own.glob("task/*/comm")))
        links = []
        for each in own.glob("fd/*"):
            try:
                links.append(str(each.readlink()))
            except FileNotFoundError:
                continue  # closed meanwhile
        self.look(f"{path}: open files", "\n".join(links))

    def look_at_answer(self, path: str, body: bytes, *, asked: Collection[str] = ()) -> None:
        """Search an answer to a caller. Pushkeys that it `asked` about may stand in `rejected`, and nowhere else."""
        try:
            told: Any = json.loads(body)
        except ValueError:
            self.look(path, body)
            return
        rejected = list(_taken_out(told))
        self.look(path, json.dumps(told))
        self.look(f"{path}: rejected", json.dumps(rejected), may_hold=asked)

    @property
    def told(self) -> str:
        """How much was searched for what."""
        forms = sum(len(each.forms) for each in self.wanted.values())
        size = sum(self.paths.values())
        return f"{len(self.wanted)} secrets ({forms} forms) x {len(self.paths)} paths ({size} bytes)"


def _taken_out(told: Any) -> Iterator[Any]:
    """Take every list `rejected` out of an answer."""
    if isinstance(told, dict):
        if "rejected" in told:
            yield told.pop("rejected")
        for each in told.values():
            yield from _taken_out(each)
    elif isinstance(told, list):
        for each in told:
            yield from _taken_out(each)


class Patient(Struct, frozen=True):
    """Somebody whose notifications must be nobody's business: each value is made for one test."""

    name: str
    words: Mapping[str, str]
    pushkeys: Mapping[str, str]
    ciphertext: str

    @classmethod
    def new(cls, name: str, *kinds: str) -> Patient:
        """With a pushkey of each kind: of FCM where the kind begins so, else of APNs."""
        fields = ("event", "room", "sender", "name", "room_name", "room_alias", "content", "data", "identifier", "key")
        words = {field: f"{field}.{secrets.token_urlsafe(18)}" for field in fields}
        pushkeys = {
            kind: secrets.token_urlsafe(90) if kind.startswith("fcm") else secrets.token_hex(32) for kind in kinds
        }
        ciphertext = base64.b64encode(secrets.token_bytes(1053)).decode()
        return cls(name, words, pushkeys, ciphertext)

    @property
    def secrets(self) -> list[Secret]:
        found = [secret(f"{self.name}: {field}", word) for field, word in self.words.items()]
        found += [secret(f"{self.name}: pushkey {kind}", pushkey) for kind, pushkey in self.pushkeys.items()]
        found.append(secret(f"{self.name}: ciphertext", self.ciphertext))
        found.append(secret(f"{self.name}: sealed bytes", base64.b64decode(self.ciphertext)))
        return found

    def asked(self, *kinds: str) -> set[str]:
        """The names of the secrets that are these pushkeys."""
        return {f"{self.name}: pushkey {kind}" for kind in kinds}

    def device(self, app_id: str, kind: str, **more: Any) -> dict[str, Any]:
        own = {"pushkey_ts": 1634025600, "data": {"private": self.words["data"]}, "tweaks": {"sound": "x"}}
        return {"app_id": app_id, "pushkey": self.pushkeys[kind], **own, **more}

    def plain(self, *devices: dict[str, Any], **more: Any) -> dict[str, Any]:
        words = self.words
        return {
            "event_id": words["event"],
            "room_id": words["room"],
            "type": "m.room.message",
            "sender": words["sender"],
            "sender_display_name": words["name"],
            "room_name": words["room_name"],
            "room_alias": words["room_alias"],
            "content": {"msgtype": "m.text", "body": words["content"], "app": {"private": words["data"]}},
            "counts": {"unread": 2},
            "prio": "high",
            "devices": list(devices),
            **more,
        }

    def sealed(self, device: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "ciphertext": self.ciphertext,
            "time_message_encrypted": "2026-11",
            "key_identifier": self.words["key"],
            "identifier": self.words["identifier"],
            "prio": "high",
            "device": device,
            **more,
        }
