"""The pages about rejections: what is asked for, what is answered. Names are keyed hashes; nobody gets a pushkey."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Protocol, Self
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from pushgate.errors import RequestError
from pushgate.spool import KnownRejection

MOST_AT_ONCE = 1000
LATEST_S = 1e11
"""Unix seconds beyond this are nonsense, or milliseconds."""

_DIGITS = re.compile(r"[0-9a-fA-F]{0,32}")


class Rejections(Protocol):
    """The part of a spool that these pages need; a running gateway's is reached by `console.remote`."""

    async def rejections(
        self, *, app_id: str = "", prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[KnownRejection]:
        """See `spool.Spool.rejections`."""
        ...

    async def count_rejections(self) -> Mapping[tuple[str, str], int]:
        """See `spool.Spool.count_rejections`."""
        ...

    async def forget_rejections(self, lane: str, *, since: float = 0, prefix: str = "") -> int:
        """See `spool.Spool.forget_rejections`."""
        ...


class Page(Struct, frozen=True):
    """Some of them in the order of names. `next` is the name to go on behind, where there are more."""

    rejections: Sequence[KnownRejection]
    next: str | None


class Count(Struct, frozen=True):
    """How many an app has of a reason."""

    app_id: str
    reason: str
    count: int


class Counts(Struct, frozen=True):
    """How many there are."""

    rejections: Sequence[Count]
    total: int

    @classmethod
    def of(cls, counts: Mapping[tuple[str, str], int], app_id: str = "") -> Self:
        """Those of one app, or of all."""
        ordered = [Count(*key, count) for key, count in sorted(counts.items()) if app_id in ("", key[0])]
        return cls(ordered, sum(each.count for each in ordered))


class Forget(Struct, frozen=True, forbid_unknown_fields=True):
    """What to forget. One of `prefix` and `since` must be said: `"since": 0` means all of the app."""

    app: Annotated[str, Meta(min_length=1, max_length=64)]
    prefix: Annotated[str, Meta(pattern="^[0-9a-fA-F]{0,32}$")] | UnsetType = UNSET
    since: Annotated[float, Meta(ge=0, le=LATEST_S)] | UnsetType = UNSET


class Forgotten(Struct, frozen=True):
    """How many were forgotten."""

    app_id: str
    forgotten: int


class Pages:
    """The pages over one spool. Raises `RequestError` 400, and what the spool raises."""

    def __init__(self, rejections: Rejections) -> None:
        self._rejections = rejections

    async def listed(self, query_string: bytes) -> Page:
        """`app`, `prefix`, `after` and `limit`, each once at most."""
        asked = _query(query_string)
        prefix, after = asked.get("prefix", ""), asked.get("after", "")
        limit = asked.get("limit", str(MOST_AT_ONCE))
        if not (_DIGITS.fullmatch(prefix) and _DIGITS.fullmatch(after)):
            raise RequestError(400, "prefix and after: up to 32 hexadecimal digits.")
        if not re.fullmatch(r"[0-9]{1,4}", limit) or not 1 <= int(limit) <= MOST_AT_ONCE:
            raise RequestError(400, f"limit: a number from 1 to {MOST_AT_ONCE}.")
        most = int(limit)
        found = await self._rejections.rejections(
            app_id=asked.get("app", ""), prefix=prefix.lower(), after=after.lower(), limit=most + 1
        )
        return Page(found[:most], found[most - 1].name if len(found) > most else None)

    async def counted(self) -> Counts:
        """All of them, by app and reason."""
        return Counts.of(await self._rejections.count_rejections())

    async def forget(self, body: bytes) -> Forgotten:
        """What the body says, as JSON."""
        try:
            asked = msgspec.json.decode(body, type=Forget)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Not what the decoder says: that may quote the body.
            text = '{"app": text, "prefix": up to 32 hexadecimal digits, "since": unix seconds}'
            raise RequestError(400, f"The body must be {text}.") from None
        if asked.prefix is UNSET and asked.since is UNSET:
            raise RequestError(400, 'Say "prefix" or "since": {"since": 0} means all of the app.')
        prefix = "" if asked.prefix is UNSET else asked.prefix.lower()
        since = 0.0 if asked.since is UNSET else asked.since
        count = await self._rejections.forget_rejections(asked.app, since=since, prefix=prefix)
        return Forgotten(asked.app, count)


def _query(query_string: bytes) -> Mapping[str, str]:
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query_string))
    except ValueError:
        raise RequestError(400, "The query cannot be read: write ?app=…&limit=….") from None
    asked = dict(pairs)
    if len(asked) != len(pairs) or not asked.keys() <= {"app", "prefix", "after", "limit"}:
        raise RequestError(400, "The query takes app, prefix, after and limit, each once.")
    return asked
