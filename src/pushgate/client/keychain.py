"""The key chain of one registration: from its initial shared secret to the keys of the months.

    OKM = HKDF-SHA256(secret of the month before, no salt, info "YYYY-MM", 64 bytes)        A_27158-01, A_27170-01
    OKM[0:32] = secret of the month, OKM[32:64] = AES-256-GCM key of the month

A chain is walked month by month (A_27160): a skipped month would give other keys than the phone derives. It never
goes back, for the secrets of earlier months are gone. Backend and phone hold the same chain.
"""

from __future__ import annotations

import datetime
import hmac
import re
import secrets
import uuid
from collections.abc import Callable
from typing import Any, NoReturn, Self

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

from pushgate.client.errors import MonthError, SecretError, StateError

SECRET_BYTES = 32
"""Of an initial shared secret, of a month's secret and of a month's key."""

KEPT_MONTHS_BACK = 2
"""Keys older than this, counted from the newest, are forgotten (A_27180, A_27405)."""

MAX_ADVANCE_MONTHS = 120
"""Ten years: whoever asks for more has a wrong clock, and a chain cannot be walked back."""

_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
_STATE_VERSION = 1


class Secret:
    """32 secret bytes that do not print, and that neither pickle nor a JSON encoder takes along by accident."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        if len(value) != SECRET_BYTES:
            raise SecretError(f"a secret has {SECRET_BYTES} bytes, not {len(value)}")
        self._value = bytes(value)

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """From 64 hexadecimal digits, as registrations carry the initial shared secret."""
        try:
            return cls(bytes.fromhex(text))
        except ValueError as error:
            raise SecretError("a secret is written in hexadecimal digits") from error

    def reveal(self) -> bytes:
        """The bytes themselves. Whoever calls this answers for where they go."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not pickled: use KeyChain.export_secrets()")


class MonthKey(Struct, frozen=True, kw_only=True):
    """The AES-256-GCM key of one registration for one month."""

    key_identifier: str
    month: str
    """`YYYY-MM`."""
    key: Secret

    def __repr__(self) -> str:
        return f"MonthKey(month={self.month!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("month", self.month)]


class KeyChain(Struct, frozen=True, kw_only=True):
    """Where the chain of one registration stands: the newest month's secret and the keys that are still kept.

    Made by `begin` or `restore`, carried on by `advance`; each gives a new value and changes none.
    """

    keys: tuple[MonthKey, ...]
    """Of consecutive months, the newest last. Never empty, never more than the newest and two before it."""
    secret: Secret
    """The newest month's secret, from which the next month is derived."""

    @classmethod
    def begin(cls, iss: Secret | bytes, *, key_identifier: str, month: str) -> Self:
        """The first derivation (A_27157, A_27176): `month` is the one in which the ISS was created.

        The ISS itself is not kept (A_27375). Raises SecretError, MonthError.
        """
        origin = iss if isinstance(iss, Secret) else Secret(iss)
        secret, key = derive(origin, month)
        return cls(keys=(MonthKey(key_identifier=key_identifier, month=month, key=key),), secret=secret)

    @property
    def newest(self) -> MonthKey:
        """The key to seal with."""
        return self.keys[-1]

    def advance(self, to: str) -> Self:
        """The chain walked on to the month `to`, older keys forgotten; itself when it stands there already.

        Take `to` from your own clock, never from a message: nobody has signed the month that a message names.
        Raises MonthError for a month that has passed, or one more than ten years ahead.
        """
        steps = _ordinal(to) - _ordinal(self.newest.month)
        if steps < 0:
            raise MonthError(f"the chain stands at {self.newest.month} and does not go back to {to}")
        if steps > MAX_ADVANCE_MONTHS:
            raise MonthError(f"{to} is {steps} months ahead of the chain: is the clock right?")
        chain = self
        for _ in range(steps):
            chain = chain._next()
        return chain

    def export_secrets(self) -> bytes:
        """Everything needed to go on later, as JSON. UNPROTECTED: encrypt it before it is stored (A_27177)."""
        return msgspec.json.encode(
            _State(
                version=_STATE_VERSION,
                key_identifier=self.newest.key_identifier,
                secret=self.secret.reveal().hex(),
                keys={key.month: key.key.reveal().hex() for key in self.keys},
            )
        )

    @classmethod
    def restore(cls, state: bytes) -> Self:
        """A chain from what `export_secrets` gave. Raises StateError."""
        try:
            stored = msgspec.json.decode(state, type=_State)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StateError("this is not the state of a key chain") from error
        if stored.version != _STATE_VERSION:
            raise StateError(f"a state of version {stored.version} is not understood, only {_STATE_VERSION}")
        try:
            months = sorted(_ordinal(month) for month in stored.keys)
            secret = Secret.from_hex(stored.secret)
            keys = tuple(
                MonthKey(key_identifier=stored.key_identifier, month=month, key=Secret.from_hex(key))
                for month, key in sorted(stored.keys.items())
            )
        except (MonthError, SecretError) as error:
            raise StateError(f"damaged state of a key chain: {error}") from error
        if not months or months != list(range(months[0], months[0] + len(months))):
            raise StateError("damaged state of a key chain: months are missing")
        return cls(keys=keys[-KEPT_MONTHS_BACK - 1 :], secret=secret)

    def _next(self) -> Self:
        month = _written(_ordinal(self.newest.month) + 1)
        secret, key = derive(self.secret, month)
        kept = self.keys[-KEPT_MONTHS_BACK:]
        newest = MonthKey(key_identifier=self.newest.key_identifier, month=month, key=key)
        return type(self)(keys=(*kept, newest), secret=secret)

    def __repr__(self) -> str:
        return f"KeyChain(newest={self.newest.month!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("newest", self.newest.month)]


def derive(secret: Secret, month: str) -> tuple[Secret, Secret]:
    """One step of the chain: the secret and the key of `month`, from the ISS or the secret of the month before."""
    _ordinal(month)
    okm = HKDF(SHA256(), 2 * SECRET_BYTES, salt=None, info=month.encode("ascii")).derive(secret.reveal())
    return Secret(okm[:SECRET_BYTES]), Secret(okm[SECRET_BYTES:])


def new_iss(*, entropy: Callable[[int], bytes] = secrets.token_bytes) -> Secret:
    """A new initial shared secret (A_27174): one per registration and backend. `entropy` is for tests."""
    return Secret(entropy(SECRET_BYTES))


def new_key_identifier() -> str:
    """A random identifier for a new ISS. Never used for another one."""
    return str(uuid.uuid4())


def month_of(day: datetime.date) -> str:
    """The month of a day or moment, as its own time zone has it. German backends count in Europe/Berlin."""
    return f"{day.year:04d}-{day.month:02d}"


def check_month(month: str) -> str:
    """The month itself. Raises MonthError when it is not written YYYY-MM."""
    if not _MONTH.fullmatch(month):
        raise MonthError("a month is written YYYY-MM")
    return month


class _State(Struct, frozen=True, kw_only=True):
    """What is stored of a chain. Hexadecimal digits, keys by month."""

    version: int
    key_identifier: str
    secret: str
    keys: dict[str, str]

    def __repr__(self) -> str:
        return "_State(***)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


def _ordinal(month: str) -> int:
    year, number = check_month(month).split("-")
    return int(year) * 12 + int(number) - 1


def _written(ordinal: int) -> str:
    return f"{ordinal // 12:04d}-{ordinal % 12 + 1:02d}"
