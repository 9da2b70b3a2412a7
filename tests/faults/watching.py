"""Watch the emulators: what arrived at them and when, and which pushkeys they called dead. Nothing is forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import msgspec
import pytest

from pushgate.emulator import ApnsEmulator, ConnectionRules, Fault, FcmEmulator, Received
from pushgate.emulator.exchange import Answer, Peer, Request, Session

MARK_CHARS = 32
"""So much of a ciphertext tells it from every other: 12 random bytes are its first 16 characters."""

CALLED_DEAD = frozenset(
    {
        (400, "BadDeviceToken"),
        (400, "DeviceTokenNotForTopic"),
        (410, "Unregistered"),
        (410, "ExpiredToken"),
        (404, "UNREGISTERED"),
        (403, "SENDER_ID_MISMATCH"),
    }
)
"""The providers' words for a dead pushkey, from their documentation and not from the gateway's code."""

Key = tuple[str, str]
"""One delivery as both ends know it: pushkey, and the mark of its notification."""


def mark_of(fields: Mapping[str, Any]) -> str:
    """By what a notification is known: its event_id, or the beginning of its ciphertext."""
    ciphertext = fields.get("ciphertext")
    return str(fields.get("event_id", "")) if ciphertext is None else str(ciphertext)[:MARK_CHARS]


class Watch:
    """What happened at the emulators, by the test's own clock. Use it with `with`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._patches = ExitStack()
        self.arrivals: dict[Key, list[float]] = {}
        """When each delivery reached a device; more than once where it was sent twice."""
        self.last_arrival = -1.0
        self.dead: dict[str, float] = {}
        """When a provider first called a pushkey dead."""

    def add(self, *emulators: ApnsEmulator | FcmEmulator) -> None:
        """Watch these too. Connections that are open already are not watched for dead pushkeys."""
        for emulator in emulators:
            patch = self._patches.enter_context(pytest.MonkeyPatch.context())
            self._watch_deliveries(emulator, patch)
            self._watch_answers(emulator, patch)

    def arrived(self, pushkey: str, fields: Mapping[str, Any]) -> None:
        """A device got the notification with these fields."""
        self.last_arrival = self._clock()
        self.arrivals.setdefault((pushkey, mark_of(fields)), []).append(self.last_arrival)

    def called_dead(self, pushkey: str) -> None:
        """A provider said that this pushkey is dead."""
        self.dead.setdefault(pushkey, self._clock())

    def _watch_deliveries(self, emulator: ApnsEmulator | FcmEmulator, patch: pytest.MonkeyPatch) -> None:
        original = emulator._backstage.deliver

        def deliver(token: str, received: Received) -> None:
            original(token, received)
            fields = received.payload
            assert isinstance(fields, dict)
            self.arrived(token, fields.get("data", {}) if isinstance(emulator, FcmEmulator) else fields)

        patch.setattr(emulator._backstage, "deliver", deliver)

    def _watch_answers(self, emulator: ApnsEmulator | FcmEmulator, patch: pytest.MonkeyPatch) -> None:
        original = open_session_of(emulator)
        patch.setattr(emulator.listener, "_open_session", lambda peer: _Watched(original(peer), self.called_dead))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patches.close()


class _Watched:
    """A session of an emulator that tells of dead pushkeys."""

    def __init__(self, session: Session, called_dead: Callable[[str], None]) -> None:
        self._session = session
        self._called_dead = called_dead

    @property
    def rules(self) -> ConnectionRules:
        return self._session.rules

    @property
    def max_streams(self) -> int:
        return self._session.max_streams

    def answer(self, request: Request) -> Answer:
        answer = self._session.answer(request)
        if answer.fault is Fault.NONE and calls_dead(answer.status, answer.body):
            self._called_dead(pushkey_of(request))
        return answer


def calls_dead(status: int, body: bytes) -> bool:
    """Whether this answer is a provider's word that the pushkey is dead."""
    if status not in (400, 403, 404, 410):
        return False
    try:
        said = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return False
    if not isinstance(said, dict):
        return False
    if "reason" in said:
        return isinstance(said["reason"], str) and (status, said["reason"]) in CALLED_DEAD
    details = said.get("error", {}).get("details", [])
    codes = {(status, each.get("errorCode")) for each in details}
    fields = {violation.get("field") for each in details for violation in each.get("fieldViolations", [])}
    return bool(codes & CALLED_DEAD) or "message.token" in fields


def pushkey_of(request: Request) -> str:
    """The device that a request is for: in APNs' path, in FCM's body."""
    if request.path.startswith("/3/device/"):
        return request.path.removeprefix("/3/device/")
    return str(msgspec.json.decode(request.body)["message"]["token"])


def open_session_of(emulator: ApnsEmulator | FcmEmulator) -> Callable[[Peer], Session]:
    """How the emulator makes its sessions now."""
    return emulator.listener._open_session
