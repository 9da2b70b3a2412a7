"""What both emulators share: temper, devices, scripts, counts, and the control pages that show and change them.

GET    /devices            token -> what it got; GET /devices/<token> for one; DELETE forgets all, and the counts
GET    /counts             what happened so far
POST   /script             {token: [step, ...]}, "*" for every other token; DELETE forgets every script
POST   /temper             {"temper": "strict" | "accept-all" | "scripted"}
POST   /kill, /revive      {"tokens": [...]}
POST   /connection         the fields of ConnectionRules, the others get their defaults; living connections are told
POST   /door               {"door": "closed" | "deaf" | "mute" | "garbage", "for_s": 5}: breaks every connection off;
                           new ones find the door so for some seconds
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Annotated, Protocol
from urllib.parse import unquote

import msgspec
from msgspec import Meta, Struct

from pushgate.emulator.devices import Devices, Received
from pushgate.emulator.exchange import Answer, ConnectionRules, Door, Fault, Request, json_answer
from pushgate.emulator.script import Scripts, Step, Temper

MAX_COUNT_NAMES = 1000
"""Names of counts above this (scripts can invent reasons) are counted together as "other"."""
LONGEST_OUTAGE_S = 86_400


class Entrance(Protocol):
    """What the pages need of a `Listener`."""

    def tell_rules(self) -> None:
        """Tell living connections of new rules."""
        ...

    def shut_for(self, door: Door, seconds: float) -> None:
        """Set the door in a moment, and open it after so many seconds."""
        ...


class _DoorBody(Struct, forbid_unknown_fields=True):
    door: Door
    for_s: Annotated[float, Meta(gt=0, le=LONGEST_OUTAGE_S)]


class _TemperBody(Struct, forbid_unknown_fields=True):
    temper: Temper


class _TokensBody(Struct, forbid_unknown_fields=True):
    tokens: list[str]


class Backstage:
    """The state of one emulator, and its control pages."""

    def __init__(
        self,
        *,
        temper: Temper,
        dead_prefix: str,
        rules: ConnectionRules,
        entrance: Entrance,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.temper = temper
        self._rules = rules
        self._entrance = entrance
        self.devices = Devices(dead_prefix=dead_prefix)
        self.scripts = Scripts()
        self.counts: Counter[str] = Counter()
        self.clock = clock
        self._changes: Mapping[tuple[str, str], Callable[[bytes], None]] = {
            ("POST", "/script"): self._put_scripts,
            ("DELETE", "/script"): lambda _: self.scripts.clear(),
            ("POST", "/temper"): self._put_temper,
            ("POST", "/kill"): self._kill,
            ("POST", "/revive"): self._revive,
            ("POST", "/connection"): self._put_rules,
            ("POST", "/door"): self._put_door,
            ("DELETE", "/devices"): lambda _: self._forget(),
        }

    @property
    def rules(self) -> ConnectionRules:
        """Limits and faults of connections. Living ones are told of new rules at once."""
        return self._rules

    @rules.setter
    def rules(self, rules: ConnectionRules) -> None:
        self._rules = rules
        self._entrance.tell_rules()

    def count(self, name: str) -> None:
        """One more of `name`."""
        if name not in self.counts and len(self.counts) >= MAX_COUNT_NAMES:
            name = "other"
        self.counts[name] += 1

    def count_answer(self, answer: Answer) -> None:
        """One more accepted or refused request, by its status or its fault."""
        if answer.fault is not Fault.NONE:
            self.count("refused")
            self.count(f"fault.{answer.fault.value}")
            return
        self.count("accepted" if answer.status == 200 else "refused")
        self.count(f"status.{answer.status}")

    def deliver(self, token: str, received: Received) -> None:
        """The device got it."""
        self.devices.put(token, received)
        self.count("delivered")

    def control(self, request: Request) -> Answer | None:
        """The answer of a control page, or None where the path is none of them."""
        path = request.path.partition("?")[0]
        if request.method == "GET" and path == "/counts":
            return json_answer(200, dict(self.counts))
        if request.method == "GET" and path == "/devices":
            return json_answer(200, self.devices.inboxes())
        if request.method == "GET" and path.startswith("/devices/"):
            return json_answer(200, self.devices.inbox(unquote(path.removeprefix("/devices/"))))
        change = self._changes.get((request.method, path))
        if change is not None:
            return self._change(change, request)
        if path == "/counts" or path in {known for _, known in self._changes}:
            return json_answer(405, {"error": "method not allowed"})
        return None

    def _change(self, change: Callable[[bytes], None], request: Request) -> Answer:
        if request.body_bytes > len(request.body):
            return json_answer(413, {"error": f"more than {len(request.body)} bytes"})
        try:
            change(request.body)
        except (msgspec.DecodeError, ValueError) as error:
            return json_answer(400, {"error": str(error)})
        return json_answer(200, {})

    def _put_scripts(self, body: bytes) -> None:
        for token, steps in msgspec.json.decode(body, type=dict[str, list[Step]]).items():
            self.scripts.put(token, steps)

    def _put_temper(self, body: bytes) -> None:
        self.temper = msgspec.json.decode(body, type=_TemperBody).temper

    def _kill(self, body: bytes) -> None:
        self.devices.kill(msgspec.json.decode(body, type=_TokensBody).tokens, at=self.clock())

    def _revive(self, body: bytes) -> None:
        self.devices.revive(msgspec.json.decode(body, type=_TokensBody).tokens)

    def _put_rules(self, body: bytes) -> None:
        self.rules = msgspec.json.decode(body, type=ConnectionRules)

    def _put_door(self, body: bytes) -> None:
        wanted = msgspec.json.decode(body, type=_DoorBody)
        self._entrance.shut_for(wanted.door, wanted.for_s)

    def _forget(self) -> None:
        self.devices.forget()
        self.counts.clear()
