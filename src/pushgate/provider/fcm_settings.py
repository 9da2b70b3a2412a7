"""What the configuration says about one app of FCM, checked whole: files, shapes, what goes together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from pushgate.errors import CredentialError
from pushgate.provider.fields import CaFile, Endpoint, OptionalFile, ProxyLoginFile, ProxyUrl
from pushgate.provider.key_files import read_service_account

DATA_KEYS = frozenset(
    {
        "ciphertext",
        "time_message_encrypted",
        "key_identifier",
        "identifier",
        "unread",
        "missed_calls",
        "event_id",
        "room_id",
        "type",
        "sender",
        "sender_display_name",
        "room_name",
        "room_alias",
        "content",
        "prio",
    }
)
"""Keys of the data message that are ours: `forward_data` cannot name them, nor anything with `content_`."""

RESERVED_KEYS = frozenset({"from", "message_type", "collapse_key", "gcm"})
RESERVED_PREFIXES = ("google", "gcm.")
"""FCM refuses them in `data` (FCM: projects.messages, `data`; the pages differ, so all of them)."""

_PROJECT_ID = re.compile(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")


HOST = "fcm.googleapis.com"


class Settings(BaseModel, frozen=True):
    """One app: its Firebase project, how we prove that we may push to it, and how its data looks.

    The order of the fields is that of the checks.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, hide_input_in_errors=True)

    provider: Literal["fcm"] = "fcm"
    project_id: str
    allow_other_project: bool = False
    credentials_file: OptionalFile = None
    endpoint: Endpoint = ""
    ca_file: CaFile = None
    proxy: ProxyUrl = ""
    proxy_login_file: ProxyLoginFile = None
    flatten_content: bool = False
    forward_data: tuple[str, ...] = ()
    max_in_flight: int = Field(default=1000, ge=1, le=100_000)
    max_connections: int = Field(default=4, ge=1, le=64)
    request_timeout_s: float = Field(default=10, gt=0, le=120)

    @field_validator("project_id")
    @classmethod
    def _project_id_has_its_shape(cls, project_id: str) -> str:
        if not _PROJECT_ID.fullmatch(project_id):
            mend = "copy the project id (not the name or number) from the Firebase console"
            raise ValueError(f"not a project id -> {mend}")
        return project_id

    @field_validator("credentials_file")
    @classmethod
    def _account_belongs_to_the_project(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        """Fields that are at fault themselves are not in `info.data`: the account is not compared with them."""
        may_be_other = info.data.get("allow_other_project")
        if path is None:
            if may_be_other:
                mend = "name the key file of a service account, or take allow_other_project out"
                raise ValueError(f"not set, so allow_other_project does nothing -> {mend}")
            return None
        try:
            account = read_service_account(path)
        except CredentialError as error:
            raise ValueError(str(error)) from error
        project_id = info.data.get("project_id", account.project_id)
        if account.project_id != project_id and may_be_other is False:
            mend = "name the key file of this project, or set allow_other_project = true"
            raise ValueError(f"the service account belongs to another project -> {mend}")
        return path

    @field_validator("forward_data")
    @classmethod
    def _forwarded_keys_are_free(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        ours = DATA_KEYS | RESERVED_KEYS
        prefixes = (*RESERVED_PREFIXES, "content_")
        taken = [name for name in names if not name or name in ours or name.startswith(prefixes)]
        if taken:
            raise ValueError(f"{', '.join(map(repr, taken))} cannot be forwarded -> take it out of the list")
        return names
