"""What a check gives: which one it was, about what, its state, what was seen, and the next step where it is not ok."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

MAX_WORDS_CHARS = 200


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """It works, and somebody should look at it."""
    WRONG = "wrong"
    """Notifications do not go through, or will not for long."""
    NOT_CHECKED = "not checked"


class Check(StrEnum):
    """What is looked at."""

    CONFIGURATION = "configuration"
    CLOCK = "clock"
    PERMISSIONS = "permissions"
    KEYS = "keys"
    CERTIFICATE = "certificate"
    CHAIN = "chain"
    AUTHORITIES = "authorities"
    REVOCATION = "revocation"
    FOLDER = "spool folder"
    SPACE = "spool space"
    FILE_SYSTEM = "file system"
    FILE = "spool file"
    LOCK = "spool lock"
    SERVER = "nats server"
    STREAM = "nats stream"
    LISTEN = "port"
    GATEWAY = "gateway"
    CREDENTIALS = "credentials"
    TOPIC = "topic"
    NAME = "name"
    CONNECTION = "connection"
    TLS = "tls"
    TOKEN = "token"  # noqa: S105 - a word
    PROVIDER = "provider"
    TRACES = "traces"


class Finding(Struct, frozen=True):
    """One line of the answer."""

    check: Check
    about: str
    """A key of the configuration, a host or an app."""
    state: State
    seen: str
    next_step: str = ""
    """Empty only where all is well."""


def ok(check: Check, about: str, seen: str) -> Finding:
    """All is well."""
    return Finding(check, about, State.OK, seen)


def warning(check: Check, about: str, seen: str, *, next_step: str) -> Finding:
    """It works, and somebody should look at it."""
    return Finding(check, about, State.WARNING, seen, next_step)


def wrong(check: Check, about: str, seen: str, *, next_step: str) -> Finding:
    """It does not work."""
    return Finding(check, about, State.WRONG, seen, next_step)


def not_checked(check: Check, about: str, seen: str, *, next_step: str) -> Finding:
    """It could not be looked at."""
    return Finding(check, about, State.NOT_CHECKED, seen, next_step)


def said(words: str) -> str:
    """What a stranger says, fit to be shown: one line, not long, nothing that a terminal obeys."""
    shown = "".join(char if char.isprintable() else "?" for char in words[: MAX_WORDS_CHARS + 1])
    return shown if len(shown) <= MAX_WORDS_CHARS else f"{shown[:MAX_WORDS_CHARS]}…"
