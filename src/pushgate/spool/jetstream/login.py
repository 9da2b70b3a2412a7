"""How we prove who we are to NATS: user and password, a token, a seed (nkey), or a credentials file (JWT and seed).

Source: docs.nats.io, "NKeys", "Decentralized JWT Authentication"; ADR-14 (keys in base32 with CRC-16 behind them).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from pushgate.errors import SpoolUnusable

_SEED, _USER = 18 << 3, 20 << 3
"""Prefix bytes: they make seeds begin with S and public keys of users with U."""
_SECTION = re.compile(r"-+BEGIN ([A-Z ]+)-+\s+(\S+)\s+-+END [A-Z ]+-+")


class Login(Struct, frozen=True):
    """What stands in the configuration. Files are read anew for each connection: they may be renewed."""

    user: str = ""
    password_file: Path | None = None
    token_file: Path | None = None
    nkey_file: Path | None = None
    creds_file: Path | None = None

    def proof(self, nonce: str) -> Mapping[str, str]:
        """What goes into CONNECT. Raises `SpoolUnusable` where a file is of no use."""
        if self.creds_file is not None:
            sections = dict(_SECTION.findall(_read(self.creds_file)))
            if not {"NATS USER JWT", "USER NKEY SEED"} <= sections.keys():
                raise SpoolUnusable(f"{self.creds_file}: no user JWT with its seed -> make it with nsc generate creds")
            seed = _key(sections["USER NKEY SEED"], self.creds_file)
            return {"jwt": sections["NATS USER JWT"], "sig": _signed(seed, nonce)}
        if self.nkey_file is not None:
            seed = _key(_read(self.nkey_file).strip(), self.nkey_file)
            return {"nkey": _public(seed), "sig": _signed(seed, nonce)}
        if self.token_file is not None:
            return {"auth_token": _read(self.token_file).strip()}
        if self.user:
            return {"user": self.user, "pass": _read(self.password_file).strip() if self.password_file else ""}
        return {}


def connect_line(login: Login, *, nonce: str, name: str, tls: bool) -> bytes:
    """The CONNECT command."""
    told: dict[str, Any] = {
        "verbose": False,
        "pedantic": False,
        "tls_required": tls,
        "lang": "python-pushgate",
        "version": "1",
        "protocol": 1,
        "headers": True,
        "no_responders": True,
        "echo": False,
        "name": name,
        **login.proof(nonce),
    }
    return b"CONNECT " + json.dumps(told).encode() + b"\r\n"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError) as fault:
        kind = getattr(fault, "strerror", None) or "not text"
        raise SpoolUnusable(f"{path}: cannot read it ({kind}) -> correct the path, or make it readable") from None


def _key(seed: str, path: Path) -> Ed25519PrivateKey:
    """The key of a user's seed: two prefix bytes, 32 bytes, CRC-16/XMODEM."""
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    is_seed = len(raw) == 36 and raw[0] & 0xF8 == _SEED
    if not is_seed or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        raise SpoolUnusable(f"{path}: not a seed -> it holds one line that begins with SU (nk -gen user)")
    return Ed25519PrivateKey.from_private_bytes(raw[2:34])


def _public(key: Ed25519PrivateKey) -> str:
    raw = bytes([_USER]) + key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def _signed(key: Ed25519PrivateKey, nonce: str) -> str:
    return base64.urlsafe_b64encode(key.sign(nonce.encode())).decode().rstrip("=")
