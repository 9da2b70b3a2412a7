"""Who may read the files that hold secrets: nobody but the user of the gateway should."""

from __future__ import annotations

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
            yield judge(path, about, path.stat().st_mode)
    except OSError as error:
        seen = f"cannot read {path} ({error.strerror})"
        yield wrong(Check.PERMISSIONS, about, seen, next_step="make it readable for the user that runs pushgate")


def judge(path: Path, about: str, mode: int) -> Finding:
    """What the mode of a secret file says."""
    bits = stat.S_IMODE(mode)
    if not bits & 0o077:
        return ok(Check.PERMISSIONS, about, f"only its owner can read {path} ({bits:04o})")
    who = "everybody on this machine" if bits & 0o007 else "its group"
    mend = f"chmod 600 {path}, owned by the user that runs pushgate"
    return warning(Check.PERMISSIONS, about, f"{who} can use {path} ({bits:04o})", next_step=mend)


def _holds_a_key(path: Path) -> bool:
    """PKCS #12 does, PEM says so."""
    content = path.read_bytes()
    return b"-----BEGIN " not in content or _PRIVATE in content
