"""Who may read the files that hold secrets: nobody but the user of the gateway should.

A group in which nobody else is, as systemd's unit and Kubernetes have it, is as good as the user.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from pushgate.doctor.finding import Check, Finding, ok, warning, wrong

SECRETS = frozenset(
    {
        "key_file",
        "second_key_file",
        "certificate_key_file",
        "password_file",
        "credentials_file",
        "proxy_login_file",
        "token_file",
        "encryption_key_file",
        "headers_file",
    }
)
"""Keys of the configuration that name a secret, always. `certificate_file` does where the key stands in it too."""
_PRIVATE = b"PRIVATE KEY-----"


def of_table(table: BaseModel, at: str) -> Iterator[Finding]:
    """A finding for each secret file that a table and the tables in it name."""
    for key in type(table).model_fields:
        value = getattr(table, key)
        if isinstance(value, BaseModel):
            yield from of_table(value, f"{at}.{key}")
        elif isinstance(value, Path):
            yield from _of_file(value, key, f"{at}.{key}")


def _of_file(path: Path, key: str, about: str) -> Iterator[Finding]:
    try:
        if key in SECRETS or (key == "certificate_file" and _holds_a_key(path)):
            status = path.stat()
            yield judge(path, about, status.st_mode, own_group=_is_of_one(status.st_gid))
    except OSError as error:
        seen = f"cannot read {path} ({error.strerror})"
        yield wrong(Check.PERMISSIONS, about, seen, next_step="make it readable for the user that runs pushgate")


def judge(path: Path, about: str, mode: int, *, own_group: bool = False) -> Finding:
    """What the mode of a secret file says. `own_group`: nobody but this user is in its group."""
    bits = stat.S_IMODE(mode)
    if own_group and bits & 0o070 and not bits & 0o037:
        return ok(Check.PERMISSIONS, about, f"only its owner and this user's own group can read {path} ({bits:04o})")
    if not bits & 0o077:
        return ok(Check.PERMISSIONS, about, f"only its owner can read {path} ({bits:04o})")
    who = "everybody on this machine" if bits & 0o007 else "its group"
    mend = f"chmod 600 {path}, owned by the user that runs pushgate"
    return warning(Check.PERMISSIONS, about, f"{who} can use {path} ({bits:04o})", next_step=mend)


def _is_of_one(group: int) -> bool:
    """Whether this process is in the group, and no other user but root is known to be."""
    if group not in (os.getegid(), *os.getgroups()) or os.geteuid() == 0:
        return False
    try:
        members = {*grp.getgrgid(group).gr_mem}
    except KeyError:  # a group without a name has no members that are known
        members = set()
    users = {each.pw_uid for each in pwd.getpwall() if each.pw_gid == group or each.pw_name in members}
    return users <= {0, os.geteuid()}


def _holds_a_key(path: Path) -> bool:
    """PKCS #12 does, PEM says so."""
    content = path.read_bytes()
    return b"-----BEGIN " not in content or _PRIVATE in content
