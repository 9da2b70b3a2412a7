"""The table of a spool on NATS: how to get in, and how what is kept there is called and copied."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from pushgate.provider.fields import CaFile, OptionalFile, is_given

PORT = 4222
SCHEME = "nats://"
LOGINS = ("user", "token_file", "nkey_file", "creds_file")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_SERVER = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?))(?::([0-9]{1,5}))?")


def servers(url: str) -> tuple[tuple[str, int], ...]:
    """Host and port of each server in `nats://host:port,host:port`. Raises ValueError, which does not repeat it."""
    found = []
    for text in url.removeprefix(SCHEME).split(","):
        server = _SERVER.fullmatch(text.strip())
        port = int(server[4] or PORT) if server else 0
        if server is None or not 0 < port < 65536:
            login = ": a login belongs into [spool.nats]" if "@" in text else ""
            raise ValueError(f'not a server{login} -> write "nats://a.example.org:4222,b.example.org:4222"')
        found.append((server[1] or server[2], port))
    return tuple(found)


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("not a name -> write 1 to 32 letters, digits, _ and -")
    return name


def _replicas(count: int) -> int:
    if count not in (0, 1, 3, 5):
        raise ValueError("not a number of copies -> write 1, 3 or 5, or 0 for as many as fit")
    return count


class Nats(BaseModel, frozen=True):
    """How a spool on NATS is reached and kept."""

    model_config = ConfigDict(extra="forbid", validate_default=True, hide_input_in_errors=True)

    name: Annotated[str, AfterValidator(_name)] = "pushgate"
    replicas: Annotated[int, AfterValidator(_replicas)] = 0
    manage: bool = True
    ack_wait_s: float = Field(default=30, ge=1, le=3600)
    user: str = ""
    password_file: OptionalFile = None
    token_file: OptionalFile = None
    nkey_file: OptionalFile = None
    creds_file: OptionalFile = None
    tls: Literal["no", "yes", "first"] = "no"
    ca_file: CaFile = None
    cert_file: OptionalFile = None
    key_file: OptionalFile = None

    @field_validator("password_file", "creds_file")
    @classmethod
    def _one_login(cls, given: object, info: ValidationInfo) -> object:
        if info.field_name == "password_file":
            if given is None and info.data.get("user"):
                raise ValueError("missing -> name the file with the password of spool.nats.user")
            if given is not None and not is_given("user", info):
                raise ValueError("does nothing without a user -> set spool.nats.user")
            return given
        logins = [each for each in LOGINS if (given if each == "creds_file" else info.data.get(each))]
        if len(logins) > 1:
            raise ValueError(f"several logins: {', '.join(logins)} -> take all but one out")
        return given

    @field_validator("ca_file", "cert_file", "key_file")
    @classmethod
    def _files_go_with_tls(cls, given: object, info: ValidationInfo) -> object:
        if given is not None and info.data.get("tls") == "no":
            raise ValueError('does nothing without TLS -> set spool.nats.tls = "yes"')
        if info.field_name == "key_file" and (given is None) != (not is_given("cert_file", info)):
            raise ValueError("cert_file and key_file go together -> name both, or none")
        return given
