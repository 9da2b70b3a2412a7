"""The demo: a real gateway between real (emulated) providers and a service that sends through all three endpoints.

Every message has an expectation: what the phone must have got, or that the service was told of a dead pushkey. What is
compared is what arrived at the emulators over TLS and HTTP/2; sealed messages are opened with the phone's key.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast

from msgspec import Struct

from pushgate.client import (
    Counts,
    Device,
    KeyChain,
    PlainNotification,
    Prio,
    PushGatewayClient,
    Sealed,
    month_of,
    new_iss,
    new_key_identifier,
    open_sealed,
    seal,
)
from pushgate.config import load
from pushgate.emulator import Received
from pushgate.gateway import Gateway, Ports
from pushgate.stage import APNS_APP_ID, FCM_APP_ID, Stage

ARRIVES_WITHIN_S = 10.0


class Phone(Struct, frozen=True):
    """A phone with the app on it: its owner, its pushkey, and the keys that open what is sealed for it."""

    name: str
    device: Device
    chain: KeyChain


class Seen(Struct, frozen=True):
    """One line of the demo: what was sent where, what was expected, what came of it."""

    who: str
    endpoint: str
    expected: str
    got: str

    @property
    def is_right(self) -> bool:
        """Whether that is what was expected."""
        return self.expected == self.got


@asynccontextmanager
async def running_gateway(stage: Stage) -> AsyncIterator[Ports]:
    """A gateway with the stage's own configuration, until the context ends."""
    settings = load(stage.config_file, environ={})
    stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
    running = asyncio.create_task(Gateway(settings).run(stop=stop, started=listening.set_result))
    await asyncio.wait((running, listening), return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    try:
        yield cast(Ports, listening.result())
    finally:
        stop.set()
        await running


def gateway_url(ports: Ports) -> str:
    """Where the service sends to."""
    return f"https://localhost:{ports.api}/push/v1/"


def new_phone(name: str, *, app_id: str, pushkey: str) -> Phone:
    """A phone that has just registered: its app has drawn a secret and a key identifier."""
    chain = KeyChain.begin(new_iss(), key_identifier=new_key_identifier(), month=month_of(datetime.now(UTC).date()))
    return Phone(name, Device(app_id, pushkey, pushkey_ts=int(datetime.now(UTC).timestamp())), chain)


class Demo:
    """One performance."""

    def __init__(self, stage: Stage, client: PushGatewayClient) -> None:
        self._stage = stage
        self._client = client
        self.alice = new_phone("Alice's iPhone", app_id=APNS_APP_ID, pushkey=secrets.token_hex(32))
        self.bob = new_phone("Bob's Android", app_id=FCM_APP_ID, pushkey=f"fcm-{secrets.token_urlsafe(48)}")
        self.carol = new_phone("Carol's old iPhone", app_id=APNS_APP_ID, pushkey="dead" + secrets.token_hex(30))
        self._arrived = {phone.device.pushkey: 0 for phone in (self.alice, self.bob, self.carol)}

    async def play(self) -> Sequence[Seen]:
        """Send everything, and tell what came of it, in order."""
        return [
            *await self._one_plain_to_two_phones(),
            *await self._a_plain_batch(),
            *await self._a_sealed_batch(),
            *await self._a_dead_pushkey(),
        ]

    async def _one_plain_to_two_phones(self) -> Sequence[Seen]:
        note = PlainNotification(
            devices=(self.alice.device, self.bob.device),
            event_id="$1:example.org",
            room_id="!ward3:example.org",
            type="m.room.message",
            sender="@erika:example.org",
            sender_display_name="Erika",
            room_name="Ward 3",
            content={"msgtype": "m.text", "body": "Rounds at nine"},
            counts=Counts(unread=2),
        )
        await self._client.notify(note)
        return [
            await self._seen(phone, "notify", "plain, high: Rounds at nine [badge 2]")
            for phone in (self.alice, self.bob)
        ]

    async def _a_plain_batch(self) -> Sequence[Seen]:
        badge = PlainNotification(devices=(self.alice.device,), counts=Counts(unread=5))
        quiet = PlainNotification(
            devices=(self.bob.device,),
            event_id="$2:example.org",
            room_id="!ward3:example.org",
            content={"msgtype": "m.text", "body": "Nothing urgent"},
            prio=Prio.LOW,
        )
        await self._client.notify_batch([badge, quiet])
        return [
            await self._seen(self.alice, "notify/batch", "badge only: [badge 5]"),
            await self._seen(self.bob, "notify/batch", "plain, low: Nothing urgent"),
        ]

    async def _a_sealed_batch(self) -> Sequence[Seen]:
        texts = {self.alice.name: '{"ChannelId":"erp.task.activate"}', self.bob.name: '{"ChannelId":"xds.put"}'}
        phones = (self.alice, self.bob)
        await self._client.notify_encrypted_batch(
            [seal(texts[phone.name], key=phone.chain.newest).for_device(phone.device) for phone in phones]
        )
        return [
            await self._seen(phone, "notifyEncrypted/batch", f"sealed, high: {texts[phone.name]}") for phone in phones
        ]

    async def _a_dead_pushkey(self) -> Sequence[Seen]:
        """The first time nobody knows yet; when the provider has said so, the service is told."""
        results = []
        for _ in range(2):
            sealed = seal("for nobody", key=self.carol.chain.newest).for_device(self.carol.device)
            answer = await self._client.notify_encrypted_batch([sealed])
            (item,) = answer.results
            results.append(f"{item.status}, rejected: {len(item.rejected)}")
            await self._until(lambda: self._stage.apns.counts.get("status.410", 0) > 0)
            await asyncio.sleep(0.2)  # until the gateway has written it down
        expected = ("success, rejected: 0", "failed, rejected: 1")
        return [
            Seen(self.carol.name, f"notifyEncrypted/batch, {turn} time", wanted, got)
            for turn, wanted, got in zip(("first", "second"), expected, results, strict=True)
        ]

    async def _seen(self, phone: Phone, endpoint: str, expected: str) -> Seen:
        """What the phone got next, within some seconds."""
        pushkey = phone.device.pushkey
        position = self._arrived[pushkey]
        self._arrived[pushkey] += 1
        if not await self._until(lambda: len(self._inbox(phone)) > position):
            return Seen(phone.name, endpoint, expected, "nothing")
        return Seen(phone.name, endpoint, expected, read(phone, self._inbox(phone)[position]))

    def _inbox(self, phone: Phone) -> Sequence[Received]:
        emulator = self._stage.apns if phone.device.app_id == APNS_APP_ID else self._stage.fcm
        return emulator.devices().get(phone.device.pushkey, ())

    async def _until(self, done: Callable[[], bool]) -> bool:
        try:
            async with asyncio.timeout(ARRIVES_WITHIN_S):
                while not done():  # noqa: ASYNC110 - the emulators stand for other machines: they are looked at
                    await asyncio.sleep(0.02)
        except TimeoutError:
            return False
        return True


def read(phone: Phone, received: Received) -> str:
    """What the owner of the phone would notice, in one line."""
    payload = cast(Mapping[str, Any], received.payload)
    if phone.device.app_id == APNS_APP_ID:
        data, badge = payload, payload["aps"].get("badge")
        prio = {"10": "high", "5": "low"}[received.headers["apns-priority"]]
    else:
        data, badge = payload["data"], payload["data"].get("unread")
        prio = {"HIGH": "high", "NORMAL": "low"}[payload["android"]["priority"]]
    suffix = "" if badge is None else f" [badge {badge}]"
    if "ciphertext" in data:
        names = ("ciphertext", "time_message_encrypted", "key_identifier")
        sealed = Sealed(**{name: data[name] for name in names})
        return f"sealed, {prio}: {open_sealed(sealed, keys=phone.chain.keys).decode()}{suffix}"
    content = data.get("content")
    if content is None:
        return f"badge only:{suffix}"
    text = (json.loads(content) if isinstance(content, str) else content)["body"]
    return f"plain, {prio}: {text}{suffix}"
