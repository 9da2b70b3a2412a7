"""What the configuration says about one app of APNs, checked whole: files, shapes, what goes together."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from pushgate.errors import CredentialError
from pushgate.provider.fields import CaFile, Endpoint, OptionalFile, ProxyLoginFile, ProxyUrl, is_given
from pushgate.provider.key_files import ClientCertificate, read_client_certificate, read_signing_key
from pushgate.provider.shortening import json_cost

PAYLOAD_KEYS = frozenset(
    {
        "aps",
        "ciphertext",
        "time_message_encrypted",
        "key_identifier",
        "identifier",
        "event_id",
        "room_id",
        "type",
        "sender",
        "sender_display_name",
        "room_name",
        "room_alias",
        "content",
    }
)
"""Top-level keys of the payload that are ours: `forward_data` cannot name them."""

MAX_ALERT_BYTES = 1024
"""Of the configured texts together in JSON, so that 4096 bytes of payload always have room for the ciphertext."""

_BUNDLE_ID = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_TEN = re.compile(r"[A-Z0-9]{10}")


HOSTS = {"production": "api.push.apple.com", "sandbox": "api.sandbox.push.apple.com"}
"""Apple: "Sending notification requests to APNs"."""


class Alert(BaseModel, frozen=True):
    """The neutral text of a notification that only the app can read.

    The names are those of Apple's page "Generating a remote notification". It is the same for every notification
    of the app, so it tells nobody which service sent it (A_27611). The order of the fields is that of the checks.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True)

    subtitle: str = ""
    body: str = ""
    title_loc_key: str = ""
    title_loc_args: tuple[str, ...] = ()
    subtitle_loc_key: str = ""
    subtitle_loc_args: tuple[str, ...] = ()
    loc_key: str = ""
    loc_args: tuple[str, ...] = ()
    title: str = ""

    @field_validator("title_loc_args", "subtitle_loc_args", "loc_args")
    @classmethod
    def _arguments_go_with_their_key(cls, arguments: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        key = f"{info.field_name}".removesuffix("args") + "key"
        if arguments and not is_given(key, info):
            raise ValueError(f"does nothing without {key} -> set {key}, or take it out")
        return arguments

    @field_validator("title")
    @classmethod
    def _something_is_visible(cls, title: str, info: ValidationInfo) -> str:
        if not title and not any(is_given(name, info) for name in ("body", "title_loc_key", "loc_key")):
            mend = "set title, body, title_loc_key or loc_key: iOS decrypts nothing without a visible alert"
            raise ValueError(f"an alert without text -> {mend}")
        return title

    @field_validator("*")
    @classmethod
    def _texts_are_small(cls, value: str | tuple[str, ...], info: ValidationInfo) -> str | tuple[str, ...]:
        """Each is weighed with those before it that are without fault."""
        texts = [each for part in (value, *info.data.values()) for each in ([part] if isinstance(part, str) else part)]
        if value and sum(map(json_cost, texts)) > MAX_ALERT_BYTES:
            raise ValueError(f"with the other texts over {MAX_ALERT_BYTES} bytes -> shorten it, or the others")
        return value


class Settings(BaseModel, frozen=True):
    """One app: its bundle id, how we prove that we may push to it, and how its notifications look.

    The order of the fields is that of the checks. What is wrong with an app as a whole is told at `provider`, which
    has no faults of its own.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, hide_input_in_errors=True)

    bundle_id: str
    environment: Literal["production", "sandbox"] = "production"
    key_file: OptionalFile = None
    certificate_key_file: OptionalFile = None
    password_file: OptionalFile = None
    certificate_file: OptionalFile = None
    key_id: str = ""
    team_id: str = ""
    token_encoding: Literal["hex", "base64"] = "hex"  # noqa: S105 - not a password
    endpoint: Endpoint = ""
    ca_file: CaFile = None
    proxy: ProxyUrl = ""
    proxy_login_file: ProxyLoginFile = None
    alert: Alert = Alert(title="New notification")
    badge_includes_missed_calls: bool = False
    forward_data: tuple[str, ...] = ()
    max_in_flight: int = Field(default=1000, ge=1, le=100_000)
    max_connections: int = Field(default=4, ge=1, le=64)
    request_timeout_s: float = Field(default=10, gt=0, le=120)
    provider: Literal["apns"] = "apns"

    @field_validator("bundle_id")
    @classmethod
    def _bundle_id_has_its_shape(cls, bundle_id: str) -> str:
        if len(bundle_id) > 255 or not _BUNDLE_ID.fullmatch(bundle_id):
            raise ValueError("not a bundle id -> letters, digits, hyphens and dots, as in de.example.app")
        return bundle_id

    @field_validator("key_file")
    @classmethod
    def _key_can_sign(cls, path: Path | None) -> Path | None:
        if path is not None:
            _checked(lambda: read_signing_key(path))
        return path

    @field_validator("certificate_key_file", "password_file", mode="before")
    @classmethod
    def _goes_with_a_certificate(cls, path: object, info: ValidationInfo) -> object:
        if path and is_given("key_file", info):
            mend = "take it out, or name a certificate_file instead of key_file"
            raise ValueError(f"does nothing beside key_file -> {mend}")
        return path

    @field_validator("certificate_file")
    @classmethod
    def _certificate_can_be_shown(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and {"certificate_key_file", "password_file"} <= info.data.keys():
            key_path, password_path = info.data["certificate_key_file"], info.data["password_file"]
            _checked(lambda: read_client_certificate(path, key_path=key_path, password_path=password_path))
        return path

    @field_validator("key_id", "team_id")
    @classmethod
    def _ids_go_with_the_key(cls, value: str, info: ValidationInfo) -> str:
        has_key = is_given("key_file", info)
        if value and not has_key and is_given("certificate_file", info):
            mend = "take it out, or name a key_file instead of certificate_file"
            raise ValueError(f"does nothing beside certificate_file -> {mend}")
        if value and not _TEN.fullmatch(value):
            raise ValueError("not ten capital letters and digits -> copy it from Apple's developer account")
        if not value and has_key:
            raise ValueError("a key_file needs it -> copy it from Apple's developer account")
        return value

    @field_validator("forward_data")
    @classmethod
    def _forwarded_keys_are_free(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        taken = [name for name in names if name in PAYLOAD_KEYS or not name]
        if taken:
            raise ValueError(f"{', '.join(map(repr, taken))} cannot be forwarded -> take it out of the list")
        return names

    @field_validator("provider")
    @classmethod
    def _proves_itself_one_way(cls, provider: str, info: ValidationInfo) -> str:
        has_key = is_given("key_file", info)
        if has_key == is_given("certificate_file", info):
            fault = "both a key and a certificate" if has_key else "neither a key nor a certificate"
            mend = "set key_file with key_id and team_id, or certificate_file"
            raise ValueError(f"{fault} -> {mend}")
        return provider


def client_certificate(settings: Settings) -> ClientCertificate | None:
    """What the connections of an app show, None where it has a key instead. Raises CredentialError."""
    if settings.certificate_file is None:
        return None
    return read_client_certificate(
        settings.certificate_file,
        key_path=settings.certificate_key_file,
        password_path=settings.password_file,
    )


def _checked(read: Callable[[], object]) -> None:
    """Run a reader of key files for its faults."""
    try:
        read()
    except CredentialError as error:
        raise ValueError(str(error)) from error
