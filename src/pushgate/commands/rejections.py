"""`pushgate rejections`: what is remembered of dead pushkeys: look at it, count it, forget it after a mistake."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self, TypeVar

import msgspec
import rich
from cyclopts import App, Parameter, validators
from msgspec import Struct
from rich.table import Table
from rich.text import Text

from pushgate import cli, logs
from pushgate.cells.at_rest import AtRest
from pushgate.commands.check_config import load_or_explain
from pushgate.commands.keys import Obstacle, explained
from pushgate.config import Settings
from pushgate.config.listen import parse_listen
from pushgate.console.rejections import LATEST_S, MOST_AT_ONCE, Counts, Forgotten, Rejections
from pushgate.console.remote import NoAnswer, NobodyThere, RemoteRejections
from pushgate.errors import ConfigError, SpoolError
from pushgate.spool import KnownRejection, Spool
from pushgate.spools import open_spool

SHOWN_DIGITS = 12
MAX_APP_ID_CHARS = 64
MOST_COUNTED = 10_000
"""How many of a prefix are counted beyond those that are shown."""

_T = TypeVar("_T")
_Config = Annotated[Path, Parameter(help="The configuration (TOML) of the gateway.")]
_App = Annotated[str | None, Parameter(help="Only those of this app, as the configuration calls it in [apps].")]
_Prefix = Annotated[
    str | None, Parameter(help="Only those whose name begins with these hexadecimal digits, as `list` shows them.")
]
_Json = Annotated[bool, Parameter(help="Answer as one line of JSON.")]

app = App(
    name="rejections",
    help="Look at what the gateway remembers of dead pushkeys, and forget it after a mistake."
    "\n\nA pushkey that its provider has called dead is remembered as a keyed hash, its name here: the pushkey itself"
    " is nowhere. Works on a running gateway (over its management port) and on one that is stopped (on its spool)."
    "\n\nAfter an hour with the wrong key: `pushgate rejections forget --config pushgate.toml --app org.example.apns"
    " --since 2026-01-31T09:00`.",
    default_parameter=Parameter(negative=(), show_default=False),
)


class _Shown(Struct, frozen=True):
    """A rejection as it is shown, the times in ISO 8601."""

    name: str
    app_id: str
    reason: str
    since: str | None
    told_at: str

    @classmethod
    def of(cls, known: KnownRejection) -> Self:
        since = None if known.since is None else _iso(known.since)
        return cls(known.name, known.app_id, known.reason, since, _iso(known.told_at))


class _Listed(Struct, frozen=True):
    rejections: Sequence[_Shown]
    more: int


@app.command(name="list", sort_key=1)
@explained
def list_rejections(
    *,
    config: _Config,
    app_id: Annotated[_App, Parameter(name="--app")] = None,
    prefix: _Prefix = None,
    limit: Annotated[
        int, Parameter(help="How many at most.", show_default=True, validator=validators.Number(gte=1, lte=100_000))
    ] = 100,
    json: _Json = False,
) -> int:
    """List what is remembered, in the order of names, and how many more there are.

    A table on a terminal, else a line for each with tabs between: name, app, reason, dead since, told at. Times are in
    UTC; "dead since" is empty where the provider did not say it.

    `pushgate rejections list --config pushgate.toml --app org.example.apns --limit 20`
    """
    of_app, digits = _app_id(app_id), _digits(prefix)

    async def look(book: Rejections) -> _Listed:
        found = await _read(book, of_app, digits, limit)
        more = await _how_many_more(book, of_app, digits, found) if len(found) == limit else 0
        return _Listed([_Shown.of(each) for each in found], more)

    def show(listed: _Listed) -> None:
        _show(listed.rejections)
        if listed.more:
            at_least = "at least " if digits and listed.more >= MOST_COUNTED else ""
            _note(f"{at_least}{listed.more} more: --limit shows them")
        if not listed.rejections:
            _note("nothing is remembered" + (" of these" if of_app or digits else ""))
            _note_unknown(of_app, settings)

    settings = _settings(config)
    return _answer(_work(settings, look), show, json=json)


@app.command(sort_key=2)
@explained
def forget(
    *,
    config: _Config,
    app_id: Annotated[str, Parameter(name="--app", help="The app, as the configuration calls it in [apps].")],
    prefix: _Prefix = None,
    since: Annotated[
        str | None, Parameter(help="Only what was told from then on: 2026-01-31T09:00 (UTC), or unix seconds.")
    ] = None,
    everything: Annotated[bool, Parameter(name="--all", help="All of this app.")] = False,
    yes: Annotated[bool, Parameter(help="Do not ask.")] = False,
    json: _Json = False,
) -> int:
    """Forget that pushkeys are dead: the next notification to them is sent, and the provider asked anew.

    Needs one of --prefix, --since and --all; --prefix and --since together mean both. On a terminal it asks first.
    What is really dead is learned again with the next notification to it.

    `pushgate rejections forget --config pushgate.toml --app org.example.apns --since 2026-01-31T09:00`
    """
    of_app, digits, moment = _app_id(app_id), _digits(prefix), _moment(since)
    _check_said(everything=everything, part=bool(digits) or since is not None)

    async def forget_them(book: Rejections) -> Forgotten:
        return Forgotten(of_app, await book.forget_rejections(of_app, since=moment, prefix=digits))

    def show(done: Forgotten) -> None:
        print(f"{done.forgotten} forgotten")
        if not done.forgotten:
            _note_unknown(of_app, settings)

    settings = _settings(config)
    if not yes and not _agreed(of_app, digits, None if since is None else moment):
        raise Obstacle("nothing was forgotten", mend="answer y, or say --yes", code=cli.FAILED)
    return _answer(_work(settings, forget_them), show, json=json)


@app.command(sort_key=3)
@explained
def count(*, config: _Config, app_id: Annotated[_App, Parameter(name="--app")] = None, json: _Json = False) -> int:
    """Count what is remembered, by app and reason, with the total.

    `pushgate rejections count --config pushgate.toml`
    """
    of_app = _app_id(app_id)

    async def look(book: Rejections) -> Counts:
        return Counts.of(await book.count_rejections(), of_app)

    def show(counts: Counts) -> None:
        for each in counts.rejections:
            print(each.count, each.app_id, each.reason, sep="\t")
        print(counts.total, "total", sep="\t")

    return _answer(_work(_settings(config), look), show, json=json)


def _answer(answer: _T, show: Callable[[_T], None], *, json: bool) -> int:
    if json:
        print(msgspec.json.encode(answer).decode())
    else:
        show(answer)
    return cli.DONE


# --- where it is remembered --------------------------------------------------------------------------------------


class _Unusable(Obstacle):
    """The configuration has faults, and they were printed."""

    def tell(self) -> int:
        return self.code


def _settings(config: Path) -> Settings:
    """Raises `Obstacle`."""
    settings = load_or_explain(config)
    if settings is None:
        raise _Unusable("the configuration has faults", mend="mend them")
    return settings


def _work(settings: Settings, task: Callable[[Rejections], Awaitable[_T]]) -> _T:
    """Do it where the rejections are. Raises `Obstacle`."""
    logs.configure(level="error", form="console")
    try:
        return asyncio.run(_where_they_are(settings, task))
    except (NoAnswer, NobodyThere) as fault:
        mend = f"is {settings.management.listen} the management.listen of this gateway? Its log may say more"
        raise Obstacle(str(fault), mend=mend, code=cli.FAILED) from fault
    except SpoolError as fault:
        told, _, mend = str(fault).partition(" -> ")
        raise Obstacle(told, mend=mend or "see its disk and its rights", code=cli.FAILED) from fault


async def _where_they_are(settings: Settings, task: Callable[[Rejections], Awaitable[_T]]) -> _T:
    """At the gateway that runs, or in the spool where none runs. Raises `Obstacle`."""
    address = settings.management.listen
    if address and parse_listen(address).port:
        async with RemoteRejections(address, token=_token(settings)) as remote:
            try:
                await remote.rejections(limit=1)
            except NobodyThere:
                pass
            else:
                return await task(remote)
    spool = await _open(settings, f"no gateway answers at {address}" if address else "management.listen is off")
    try:
        return await task(spool)
    finally:
        await spool.close()


def _token(settings: Settings) -> bytes:
    """What the management port wants to be shown. Raises `Obstacle`."""
    try:
        return settings.management.token()
    except ConfigError as error:
        (fault,) = error.faults
        raise Obstacle(f"{fault.path}: {fault.fault}", mend=fault.mend) from error


async def _open(settings: Settings, silence: str) -> Spool | AtRest:
    """The spool of a gateway that is stopped, or one that is shared anyway. Raises `Obstacle`."""
    if settings.spool.is_shared:
        return await open_spool(settings)
    path = settings.spool.sqlite_path
    if path is None:
        mend = "a spool in memory is gone with its gateway: ask one that runs, with management.listen set"
        raise Obstacle(f"{silence}, and the spool is in memory", mend=mend, code=cli.FAILED)
    if not path.exists():
        mend = "nothing is remembered before the first start; is this the right configuration?"
        raise Obstacle(f"{silence}, and there is no spool {path}", mend=mend, code=cli.FAILED)
    try:
        return await AtRest.open(settings)
    except SpoolError as fault:
        if not _is_locked(fault):
            raise
        mend = (
            "a gateway runs on it whose management port is another one, or off: correct management.listen"
            " (PUSHGATE_MANAGEMENT__LISTEN) to its port, or stop that gateway and run this again"
        )
        raise Obstacle(f"{path}: another process is using it, and {silence}", mend=mend, code=cli.FAILED) from fault


def _is_locked(fault: SpoolError) -> bool:
    cause = fault.__cause__
    return isinstance(cause, sqlite3.Error) and cause.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


# --- what is asked for -------------------------------------------------------------------------------------------


async def _read(book: Rejections, app_id: str, prefix: str, limit: int, after: str = "") -> list[KnownRejection]:
    """As many as there are, page by page, at most `limit`."""
    found: list[KnownRejection] = []
    while len(found) < limit:
        most = min(limit - len(found), MOST_AT_ONCE)
        page = await book.rejections(app_id=app_id, prefix=prefix, after=after, limit=most)
        found += page
        if len(page) < most:
            break
        after = page[-1].name
    return found


async def _how_many_more(book: Rejections, app_id: str, prefix: str, shown: Sequence[KnownRejection]) -> int:
    """Beyond those that are shown; of a prefix `MOST_COUNTED` at most."""
    if prefix:
        return len(await _read(book, app_id, prefix, MOST_COUNTED, shown[-1].name))
    counts = await book.count_rejections()
    return max(sum(number for (name, _), number in counts.items() if app_id in ("", name)) - len(shown), 0)


def _app_id(app_id: str | None) -> str:
    """Empty: of every app. Raises `Obstacle`."""
    if app_id is None:
        return ""
    if not (1 <= len(app_id) <= MAX_APP_ID_CHARS and app_id.isprintable()):
        raise Obstacle("--app: no app_id", mend="write it as the configuration does in [apps]")
    return app_id


def _check_said(*, everything: bool, part: bool) -> None:
    """Raises `Obstacle` where it is not said, or said twice, what to forget."""
    if everything and part:
        raise Obstacle("--all contradicts --prefix and --since", mend="say what you mean: all of it, or a part")
    if not (everything or part):
        mend = "--since TIME after a mistake, --prefix DIGITS for single ones, --all for every one of the app"
        raise Obstacle("it is not said which ones", mend=mend)


def _digits(prefix: str | None) -> str:
    """What a name begins with, in lower case. Raises `Obstacle` without repeating it: it may be a pushkey."""
    if prefix is not None and not re.fullmatch(r"[0-9A-Fa-f]{1,32}", prefix):
        mend = "copy the first digits of a name from `pushgate rejections list`; a pushkey is not a name"
        raise Obstacle("--prefix: 1 to 32 hexadecimal digits", mend=mend)
    return (prefix or "").lower()


def _moment(since: str | None) -> float:
    """Unix seconds. Raises `Obstacle`."""
    if since is None:
        return 0.0
    mend = "write 2026-01-31, 2026-01-31T09:00 or 2026-01-31T10:00+01:00, or unix seconds; without an offset it is UTC"
    try:
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", since) and not re.fullmatch(r"[0-9]{8}", since):
            moment = float(since)
        else:
            told = datetime.fromisoformat(since)
            moment = (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise Obstacle("--since: not a time", mend=mend) from None
    if not 0 <= moment <= min(time.time(), LATEST_S):
        raise Obstacle("--since: not a time that has passed", mend=mend)
    return moment


def _agreed(app_id: str, prefix: str, since: float | None) -> bool:
    """Whether somebody at a terminal says so; nobody is asked where there is none."""
    if not sys.stdin.isatty():
        return True
    which = [f"of {app_id}", *([f"with a name that begins with {prefix}"] if prefix else [])]
    which += [f"told since {_iso(since)}"] if since is not None else []
    print(f"Forget all rejections {', '.join(which)}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


# --- how it is shown ---------------------------------------------------------------------------------------------


def _show(found: Sequence[_Shown]) -> None:
    table = Table("name", "app", "reason", "dead since", "told at", box=None, header_style="bold", pad_edge=False)
    on_terminal = sys.stdout.isatty()
    for each in found:
        cells = (each.app_id, each.reason, each.since or "", each.told_at)
        if on_terminal:
            table.add_row(*(Text(cell, overflow="fold") for cell in (each.name[:SHOWN_DIGITS], *cells)))
        else:
            print(each.name, *cells, sep="\t")
    if table.row_count:
        rich.print(table)


def _iso(moment: float) -> str:
    """Unix seconds as ISO 8601 in UTC."""
    return f"{datetime.fromtimestamp(int(moment), UTC):%Y-%m-%dT%H:%M:%SZ}"


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _note_unknown(app_id: str, settings: Settings) -> None:
    if app_id and app_id not in settings.apps:
        _note(f"no app {app_id!r} is configured: there are {', '.join(settings.apps) or 'none'}")
