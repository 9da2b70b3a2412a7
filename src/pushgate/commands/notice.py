"""What `pushgate send` is told: the gateway, the phone and the notification, and what these amount to."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter, validators

from pushgate.client import Counts, Device, EncryptedNotification, MessageError, PlainNotification, Prio, seal
from pushgate.commands.keys import Obstacle, current, read_keychain

PUSHKEY_VARIABLE = "PUSHGATE_PUSHKEY"
TEST_TEXT = "Test notification from pushgate"
MAX_UNREAD = 2**31 - 1

_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


@Parameter(name="*", group=Group.create_ordered("Gateway"))
@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Where to send to, and who says so."""

    url: Annotated[
        str,
        Parameter(help="Its address. It ends in /push/v1/."),
    ] = "http://127.0.0.1:8080/push/v1/"
    cert_file: Annotated[Path | None, Parameter(help="The certificate it knows you by (PEM).")] = None
    key_file: Annotated[Path | None, Parameter(help="Its key (PEM), where that is another file.")] = None
    ca_file: Annotated[
        Path | None, Parameter(help="Whom to trust as a gateway (PEM). Default: whom this system trusts.")
    ] = None
    timeout_s: Annotated[
        float, Parameter(help="How long to wait for the answer.", validator=validators.Number(gt=0))
    ] = 10


@Parameter(name="*", group=Group.create_ordered("Phone"))
@dataclass(frozen=True, kw_only=True)
class Phone:
    """Whom to wake."""

    app_id: Annotated[str, Parameter(help="The app, as the gateway's configuration calls it in [apps].")]
    pushkey_file: Annotated[Path | None, Parameter(help="A file with the pushkey in it.")] = None
    pushkey: Annotated[
        str | None,
        Parameter(help="The pushkey itself; others see it in the process list. Default: PUSHGATE_PUSHKEY."),
    ] = field(default=None, repr=False)


@Parameter(name="*", group=Group.create_ordered("Notification"))
@dataclass(frozen=True, kw_only=True)
class Notice:
    """What to say. None: not said, so that contradictions can be told."""

    text: Annotated[
        str | None, Parameter(help=f"The message: `content` when plain, sealed otherwise. Default: {TEST_TEXT}.")
    ] = None
    title: Annotated[str | None, Parameter(help="A plain one's title: `room_name`.")] = None
    unread: Annotated[
        int | None, Parameter(help="The number on the app's badge.", validator=validators.Number(gte=0, lte=MAX_UNREAD))
    ] = None
    badge_only: Annotated[_Flag, Parameter(help="Nothing but the number. Needs --unread.")] = False
    low: Annotated[_Flag, Parameter(help="Low priority: the phone may take its time.")] = False
    sealed: Annotated[_Flag, Parameter(help="Seal the text, so that only the phone can read it.")] = False
    keychain: Annotated[
        Path | None, Parameter(help="The key chain to seal with: a file that `pushgate keys new` made.")
    ] = None


def pushkey_of(phone: Phone) -> str:
    """From the flag, the file or the environment. Raises `Obstacle`."""
    if phone.pushkey is not None and phone.pushkey_file is not None:
        raise Obstacle("--pushkey and --pushkey-file contradict each other", mend="give one of them")
    if phone.pushkey_file is not None:
        try:
            pushkey = phone.pushkey_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            fault = f"cannot read {phone.pushkey_file}: {reason}"
            raise Obstacle(fault, mend="give a text file with the pushkey in it") from None
    else:
        pushkey = os.environ.get(PUSHKEY_VARIABLE, "") if phone.pushkey is None else phone.pushkey
    if not pushkey:
        mend = f"put it in a file and give --pushkey-file, or set {PUSHKEY_VARIABLE}"
        raise Obstacle("there is no pushkey", mend=mend)
    return pushkey


def notification_of(notice: Notice, device: Device) -> PlainNotification | EncryptedNotification:
    """What the options ask for. Raises `Obstacle`."""
    _check(notice)
    text = TEST_TEXT if notice.text is None else notice.text
    prio = Prio.LOW if notice.low else Prio.HIGH
    counts = None if notice.unread is None else Counts(unread=notice.unread)
    if notice.keychain is not None:
        chain = current(read_keychain(notice.keychain), keychain=notice.keychain)
        try:
            return seal(text, key=chain.newest).for_device(device, prio=prio, counts=counts)
        except MessageError as error:
            raise Obstacle(f"--text: {error}", mend="give a shorter one, in UTF-8") from error
    if notice.badge_only:
        return PlainNotification(devices=(device,), counts=counts, prio=prio)
    return PlainNotification(
        devices=(device,),
        event_id=f"$test-{uuid.uuid4()}",
        room_id="!test:pushgate.invalid",
        type="m.room.message",
        room_name=notice.title,
        content={"msgtype": "m.text", "body": text},
        counts=counts,
        prio=prio,
    )


def _check(notice: Notice) -> None:
    """Raises `Obstacle` where the options contradict each other: nothing may go out in another way than meant."""
    has_words = notice.text is not None or notice.title is not None
    for is_wrong, fault, mend in (
        (notice.sealed and notice.keychain is None, "--sealed needs --keychain", "pushgate keys new --out FILE"),
        (notice.keychain is not None and not notice.sealed, "--keychain without --sealed", "say --sealed too"),
        (notice.sealed and notice.badge_only, "a badge is not sealed", "leave out --badge-only or --sealed"),
        (notice.sealed and notice.title is not None, "a sealed one has no title", "put it in --text"),
        (notice.badge_only and notice.unread is None, "--badge-only needs a number", "say --unread 3"),
        (notice.badge_only and has_words, "--badge-only shows no text", "leave out --text and --title"),
    ):
        if is_wrong:
            raise Obstacle(fault, mend=mend)
