"""Accept notifications: known rejections out, one delivery for each live device, on disk, then the verdicts.

When `accept` returns, every delivery that a verdict counts as taken is durable (or a repeat of one that was). The
sender's duty ends there and ours begins.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pushgate.errors import RequestError, SpoolFull
from pushgate.metrics import Metrics
from pushgate.model import Caller, Delivery, Device, EncryptedNotification, Notification
from pushgate.request_id import CURRENT
from pushgate.tracing import Tracing
from pushgate.wire import INVALID_FORMAT, Verdict

Refuse = Callable[[Delivery], str | None]
"""Why a delivery could never be sent by its provider, or None."""

SHOWN_APP_ID_CHARS = 64
SHOWN_FAULTS = 5
FEW_DEVICES = 16
MAX_FAN_OUT_BYTES = 16 << 20
"""What the notifications of one request may become on disk, each once for every device, where devices are many."""
IDS_AHEAD = 256
_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")


class Sink(Protocol):
    """The part of a spool that taking in needs."""

    async def put(self, deliveries: Sequence[Delivery]) -> int:
        """See `spool.Spool.put`."""
        ...

    async def rejected_among(self, devices: Sequence[Device]) -> frozenset[int]:
        """See `spool.Spool.rejected_among`."""
        ...

    def fingerprint(self, *parts: str) -> bytes:
        """See `spool.Spool.fingerprint`."""
        ...

    def is_crowded(self, lane: str) -> bool:
        """See `spool.Spool.is_crowded`."""
        ...


class App(Struct, frozen=True):
    """What taking in must know of an app."""

    refuse: Refuse
    forward_data: frozenset[str] = frozenset()
    """The keys of `device.data` that its provider is to get. All others are left out at once."""


class Intake:
    """Takes notifications for the apps that are configured."""

    def __init__(
        self,
        store: Sink,
        *,
        apps: Mapping[str, App],
        metrics: Metrics,
        clock: Callable[[], float],
        max_age_s: float,
        look_for_repeats: bool,
        tracing: Tracing | None = None,
    ) -> None:
        self._store = store
        self.apps = apps
        """What can be sent to. May be replaced at any time: each request goes by what stood there when it came."""
        self._metrics = metrics
        self._clock = clock
        self._max_age_s = max_age_s
        self._look_for_repeats = look_for_repeats
        self._tracing = tracing

    async def accept(self, notifications: Sequence[Notification], caller: Caller) -> list[Verdict]:
        """One verdict for each notification, in order. Raises `SpoolUnavailable` when nothing could be stored."""
        apps = self.apps
        tallies = [_Tally() for _ in notifications]
        wanted: list[tuple[_Tally, Notification, Device]] = []
        room_bytes = MAX_FAN_OUT_BYTES
        usual: dict[tuple[str, str], bool] = {}
        for tally, notification in zip(tallies, notifications, strict=True):
            if isinstance(notification, EncryptedNotification):
                kind = (notification.device.app_id, notification.time_message_encrypted)
                if (is_fine := usual.get(kind)) is None:
                    is_fine = usual[kind] = self._is_fine(*kind, caller, apps)
                if is_fine:
                    wanted.append((tally, notification, notification.device))
                    continue
            devices = self._reachable(tally, notification, caller, apps)
            if len(devices) > FEW_DEVICES:
                if (size := len(devices) * _size_without_devices(notification)) > room_bytes:
                    self._fault(tally, "refused", "too large for so many devices: send it in several requests")
                    continue
                room_bytes -= size
            wanted += [(tally, notification, device) for device in devices]
        dead = await self._store.rejected_among([device for _, _, device in wanted]) if wanted else frozenset()
        deliveries = self._fan_out(wanted, dead, apps)
        if deliveries:
            if self._tracing is None:
                repeats = await self._store.put(deliveries)
            else:
                repeats = await self._tracing.put(self._store, deliveries)
            if repeats:
                self._metrics.repeats.inc(repeats)
            self._put_down(deliveries, repeats)
        return [tally.verdict() for tally in tallies]

    def _put_down(self, deliveries: Sequence[Delivery], repeats: int) -> None:
        """Count what was taken, and leave its ids with the request that is being answered."""
        ids: Sequence[str]
        lanes: Sequence[str]
        if len(deliveries) == 1:  # as most are; a comprehension costs more than the rest
            ids, lanes = (deliveries[0].id,), (deliveries[0].device.app_id,)
        else:
            ids, lanes = [each.id for each in deliveries], [each.device.app_id for each in deliveries]
        self._metrics.count_taken(lanes)
        if (entry := CURRENT.get()) is not None:
            entry.ids, entry.lanes, entry.repeats = ids, lanes, repeats

    def _is_fine(self, app_id: str, month: str, caller: Caller, apps: Mapping[str, App]) -> bool:
        """Whether nothing keeps a sealed notification from its device: what `_reachable` looks at for each."""
        is_clear = app_id in apps and caller.may_send_to(app_id) and _MONTH.fullmatch(month) is not None
        return is_clear and not (len(apps) > 1 and self._store.is_crowded(app_id))

    def _reachable(
        self, tally: _Tally, notification: Notification, caller: Caller, apps: Mapping[str, App]
    ) -> Sequence[Device]:
        """The devices of it that can be sent to at all. What is wrong with the others goes into the tally."""
        if isinstance(notification, EncryptedNotification):
            if not _MONTH.fullmatch(notification.time_message_encrypted):
                self._fault(tally, "bad_month", "time_message_encrypted is not YYYY-MM")
                return ()
            devices: Sequence[Device] = (notification.device,)
        else:
            devices = notification.devices
            if len(devices) > 1:
                devices = tuple({(device.app_id, device.pushkey): device for device in devices}.values())
            elif not devices:
                self._fault(tally, "no_devices", "no devices")
        known = [device for device in devices if device.app_id in apps]
        if len(known) != len(devices):
            for device in devices:
                if device.app_id not in apps:
                    self._fault(tally, "unknown_app", f"unknown app_id {_shown(device.app_id)}")
        allowed = [device for device in known if caller.may_send_to(device.app_id)]
        if len(allowed) != len(known):
            for device in known:
                if not caller.may_send_to(device.app_id):
                    self._fault(
                        tally,
                        "app_not_allowed",
                        f"app_id {_shown(device.app_id)} is not allowed for this caller",
                    )
        if len(apps) > 1 and (crowded := {each.app_id for each in allowed if self._store.is_crowded(each.app_id)}):
            for app_id in crowded:
                self._fault(tally, "crowded", f"too many wait for app_id {_shown(app_id)}: try again later")
            tally.crowded = True
            return [device for device in allowed if device.app_id not in crowded]
        return allowed

    def _fan_out(
        self,
        wanted: Sequence[tuple[_Tally, Notification, Device]],
        dead: Collection[int],
        apps: Mapping[str, App],
    ) -> list[Delivery]:
        """One delivery for each live device that its provider does not refuse beforehand."""
        now = self._clock()
        expires_at = now + self._max_age_s
        deliveries = []
        ids = new_ids(len(wanted))
        for position, (tally, notification, device) in enumerate(wanted):
            if position in dead:
                tally.rejected.append(device.pushkey)
                continue
            app = apps[device.app_id]
            kept = device if device.data is device.tweaks is None else needed_of(device, app.forward_data)
            delivery = Delivery(
                id=ids[position],
                device=kept,
                notification=only_for(kept, notification),
                accepted_at=now,
                expires_at=expires_at,
                fingerprint=self._fingerprint(notification, device),
            )
            if (refusal := app.refuse(delivery)) is not None:
                self._fault(tally, "refused", f"app_id {_shown(device.app_id)}: {refusal}")
                continue
            tally.taken += 1
            deliveries.append(delivery)
        return deliveries

    def _fingerprint(self, notification: Notification, device: Device) -> bytes:
        if not self._look_for_repeats:
            return b""
        if isinstance(notification, EncryptedNotification):
            return self._store.fingerprint("sealed", notification.ciphertext, device.app_id, device.pushkey)
        if notification.event_id is None or notification.event_id == "":
            return b""
        return self._store.fingerprint("plain", notification.event_id, device.app_id, device.pushkey)

    def _fault(self, tally: _Tally, kind: str, text: str) -> None:
        tally.faults.append(text)
        self._metrics.faults[(kind,)].inc()


class _Tally:
    """What has become of one notification so far."""

    __slots__ = ("crowded", "faults", "rejected", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self.rejected: list[str] = []
        self.faults: list[str] = []
        self.crowded = False

    def verdict(self) -> Verdict:
        if self.taken and not self.rejected and not self.faults:
            return _TAKEN_ONE if self.taken == 1 else Verdict(self.taken)
        faults = [*dict.fromkeys(self.faults)]
        if not self.taken and self.rejected:
            faults.insert(0, "the pushkey is dead")
        if (more := len(faults) - SHOWN_FAULTS) > 0:
            faults[SHOWN_FAULTS:] = [f"and {more} more"]
        return Verdict(self.taken, tuple(self.rejected), "; ".join(faults) or None, self.crowded)


_TAKEN_ONE = Verdict(1)


def answer_notify(verdict: Verdict) -> Verdict:
    """`/notify` has no place for a fault of one device: a 400 when nothing could be taken and nobody is known dead.

    Raises `SpoolFull` instead where a later request may be taken.
    """
    if verdict.crowded and not verdict.taken and not verdict.rejected:
        raise SpoolFull(verdict.error)
    if not verdict.taken and not verdict.rejected and verdict.error not in (None, "no devices"):
        raise RequestError(400, INVALID_FORMAT, details={"path": "$.notification.devices", "reason": verdict.error})
    return verdict


def needed_of(device: Device, forward_data: Collection[str]) -> Device:
    """The device without what nobody will send: tweaks, and data that its app does not forward."""
    if device.data is None and device.tweaks is None:
        return device
    data = {name: value for name, value in (device.data or {}).items() if name in forward_data}
    return Device(device.app_id, device.pushkey, device.pushkey_ts, data or None)


def only_for(device: Device, notification: Notification) -> Notification:
    """The same notification, naming this device alone: a delivery never carries another device's pushkey."""
    if isinstance(notification, EncryptedNotification):
        return notification if notification.device is device else replace(notification, device=device)
    if len(notification.devices) == 1 and notification.devices[0] is device:
        return notification
    return replace(notification, devices=(device,))


def _size_without_devices(notification: Notification) -> int:
    """Bytes of a notification on disk, but for its device."""
    if isinstance(notification, EncryptedNotification):
        return len(notification.ciphertext)
    return len(msgspec.msgpack.encode(replace(notification, devices=())))


def new_ids(count: int) -> Sequence[str]:
    """So many random UUIDs (version 4, RFC 9562 §5.4) in canonical lower case."""
    if len(_ids_ahead) < count:
        _ids_ahead.extend(_drawn_ids(count + IDS_AHEAD))
    left = len(_ids_ahead) - count
    ids = _ids_ahead[left:]
    del _ids_ahead[left:]
    return ids


def _drawn_ids(count: int) -> Sequence[str]:
    drawn = bytearray(secrets.token_bytes(16 * count))
    drawn[6::16] = drawn[6::16].translate(_VERSION_4)
    drawn[8::16] = drawn[8::16].translate(_VARIANT)
    digits = drawn.hex()
    return [
        f"{digits[i : i + 8]}-{digits[i + 8 : i + 12]}-{digits[i + 12 : i + 16]}-{digits[i + 16 : i + 20]}"
        f"-{digits[i + 20 : i + 32]}"
        for i in range(0, 32 * count, 32)
    ]


_ids_ahead: list[str] = []
"""Drawn and not given: to draw one alone costs as much as to draw four of many."""
_VERSION_4 = bytes(byte & 0x0F | 0x40 for byte in range(256))
_VARIANT = bytes(byte & 0x3F | 0x80 for byte in range(256))


def _shown(app_id: str) -> str:
    """An app_id as an answer may repeat it: quoted, printable, bounded."""
    return ascii(app_id if len(app_id) <= SHOWN_APP_ID_CHARS else app_id[:SHOWN_APP_ID_CHARS] + "…")
