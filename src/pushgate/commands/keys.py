"""`pushgate keys`: make a key chain, walk it on, seal with it, open with it. For trials, and to look into a fault."""

from __future__ import annotations

import base64
import functools
import json as json_text
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ParamSpec
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cyclopts import App, Parameter

from pushgate import cli
from pushgate.client import (
    KeyChain,
    MessageError,
    MonthError,
    Sealed,
    SealingError,
    Secret,
    SecretError,
    StateError,
    month_of,
    new_iss,
    new_key_identifier,
    open_sealed,
)
from pushgate.client import seal as seal_message
from pushgate.errors import PushgateError

ISS_VARIABLE = "PUSHGATE_ISS"
TIME_ZONE = "Europe/Berlin"
"""Whose months count: that of the German backends (A_27158-01)."""

_SEALED_FIELDS = ("ciphertext", "time_message_encrypted", "key_identifier")
_P = ParamSpec("_P")
_Keychain = Annotated[Path, Parameter(help="The file that `pushgate keys new` made.")]
_Json = Annotated[bool, Parameter(help="Answer as one line of JSON.")]

app = App(
    name="keys",
    help="Make a key chain, walk it on, seal and open messages with it."
    "\n\nA key chain belongs to one registration: its phone and its backend derive the same key for each month. Begin"
    " with `pushgate keys new --out phone.json`, then `pushgate send --sealed --keychain phone.json …`."
    "\n\nThe file holds keys and is not encrypted (mode 0600). That is right for trials; a backend keeps its chains"
    " encrypted and seals with `pushgate.client`.",
    default_parameter=Parameter(negative=(), show_default=False),
)


class Obstacle(PushgateError):  # noqa: N818 - what stands in the way
    """A command cannot go on: what is wrong, the next step, and the exit code. Holds no key and no content."""

    def __init__(self, fault: str, *, mend: str, code: int = cli.USAGE) -> None:
        super().__init__(fault)
        self.mend = mend
        self.code = code

    def tell(self) -> int:
        """Print it for people and return the exit code."""
        print(f"{self}\n  -> {self.mend}", file=sys.stderr)
        return self.code


def explained(command: Callable[_P, int]) -> Callable[_P, int]:
    """The same command, which tells an obstacle instead of raising it."""

    @functools.wraps(command)
    def telling(*args: _P.args, **kwargs: _P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except Obstacle as obstacle:
            return obstacle.tell()

    return telling


@app.command(sort_key=1)
@explained
def new(
    *,
    out: Annotated[Path, Parameter(help="Where to write the chain. Nobody but you can read that file.")],
    month: Annotated[
        str | None, Parameter(help="The month in which the ISS was made, YYYY-MM. Default: this month in Berlin.")
    ] = None,
    iss_file: Annotated[
        Path | None,
        Parameter(
            help="An ISS that exists already: a file with its 64 hexadecimal digits. Default: what the environment"
            " variable PUSHGATE_ISS holds, else a new random one."
        ),
    ] = None,
    key_identifier: Annotated[
        str | None, Parameter(help="What the phone calls this ISS. Default: a new random one.")
    ] = None,
    show_iss: Annotated[
        bool,
        Parameter(help="Print the ISS, so that it can be given to the phone's side. It is not kept anywhere else."),
    ] = False,
    force: Annotated[
        bool, Parameter(help="Overwrite the file. What was sealed with the old chain stays shut.")
    ] = False,
    json: _Json = False,
) -> int:
    """Begin a key chain from an initial shared secret (ISS), a new one or your own.

    The ISS is forgotten, only the month's secret and key are written. Phone and backend must begin with the same ISS,
    month and key identifier.
    """
    given = _given_iss(iss_file)
    iss = new_iss() if given is None else given
    try:
        chain = KeyChain.begin(
            iss,
            key_identifier=key_identifier or new_key_identifier(),
            month=this_month(datetime.now(UTC)) if month is None else month,
        )
    except MonthError as error:
        raise Obstacle(f"--month: {error}", mend="write it like 2026-01") from error
    _write(out, chain, replace=force)
    if given is not None and not (key_identifier and month):
        _note("the phone must know this chain by the same key identifier and month: see --key-identifier and --month")
    if show_iss:
        _note("the ISS opens whatever is sealed for this registration from now on: show it to the phone's side only")
    facts = {"key_identifier": chain.newest.key_identifier, "month": chain.newest.month, "keychain": str(out)}
    _answer(facts | ({"iss": iss.reveal().hex()} if show_iss else {}), json=json)
    return cli.DONE


@app.command(sort_key=2)
@explained
def advance(
    *,
    keychain: _Keychain,
    to: Annotated[
        str | None, Parameter(help="The month to walk to, YYYY-MM. Default: this month in Berlin, if it is ahead.")
    ] = None,
    json: _Json = False,
) -> int:
    """Walk a chain on, month by month, and forget keys that are older than two months.

    There is no way back: the secrets of months that have passed are gone.
    """
    chain = read_keychain(keychain)
    try:
        walked = chain.advance(max(this_month(datetime.now(UTC)), chain.newest.month) if to is None else to)
    except MonthError as error:
        raise Obstacle(f"{keychain}: {error}", mend="give --to a month like 2026-01, not before the chain's") from error
    if walked != chain:
        _write(keychain, walked, replace=True)
    kept = [key.month for key in walked.keys]
    facts = {"key_identifier": walked.newest.key_identifier, "month": walked.newest.month, "kept": kept}
    _answer(facts, json=json)
    return cli.DONE


@app.command(sort_key=3)
@explained
def seal(
    *,
    keychain: _Keychain,
    text: Annotated[
        str | None, Parameter(help="The message, at most 1018 bytes. Default: stdin, without a line break at its end.")
    ] = None,
) -> int:
    """Seal a message with the key of this month and print the fields of a sealed notification as JSON."""
    key = current(read_keychain(keychain), keychain=keychain).newest
    message = _read_stdin("the message").removesuffix(b"\n") if text is None else text
    try:
        sealed = seal_message(message, key=key)
    except MessageError as error:
        raise Obstacle(str(error), mend="give a shorter message, as text in UTF-8") from error
    print(json_text.dumps({name: getattr(sealed, name) for name in _SEALED_FIELDS}))
    return cli.DONE


@app.command(name="open", sort_key=4)
@explained
def open_messages(
    file: Annotated[Path | None, Parameter(help="What to look into. Default: stdin.")] = None,
    /,
    *,
    keychain: _Keychain,
    json: Annotated[bool, Parameter(help="Answer as JSON, a line for each message.")] = False,
) -> int:
    """Open sealed messages and print them, each on a line.

    Takes any JSON with sealed messages in it: what `pushgate keys seal` printed, the payload that a phone got, a
    request to a gateway, or the page /devices of an emulator. All of them are opened, in their order.
    """
    chain = read_keychain(keychain)
    keys = (*chain.keys, *_walked(chain).keys)
    found = list(_sealed_in(_read_json(file)))
    if not found:
        fields = " and ".join((", ".join(_SEALED_FIELDS[:-1]), _SEALED_FIELDS[-1]))
        raise Obstacle("there is no sealed message in it", mend=f"give JSON with {fields}", code=cli.FAILED)
    code = cli.DONE
    for sealed in found:
        try:
            message = open_sealed(sealed, keys=keys)
        except SealingError as error:
            mend = f"is {keychain} the chain it was sealed with? `pushgate keys advance` brings it to this month"
            code = Obstacle(f"cannot open it: {error}", mend=mend, code=cli.FAILED).tell()
        else:
            line = _as_json(message, sealed).encode() if json else message
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()
    return code


# --- chains in files ---------------------------------------------------------------------------------------------


def read_keychain(path: Path) -> KeyChain:
    """The chain in a file. Raises `Obstacle`; warns when others can read the file."""
    try:
        state = path.read_bytes()
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise Obstacle(f"no such file: {path}", mend=f"make one: pushgate keys new --out {path}") from error
    except OSError as error:
        raise Obstacle(f"cannot read {path}: {error.strerror}", mend="correct the path, or make it readable") from error
    try:
        chain = KeyChain.restore(state)
    except StateError as error:
        raise Obstacle(f"{path}: {error}", mend="give the file that `pushgate keys new` made") from error
    if mode & 0o077:
        _note(f"others can read the keys in {path}: chmod 600 {path}")
    return chain


def current(chain: KeyChain, *, keychain: Path) -> KeyChain:
    """The chain walked on to this month, in memory only; says so when the file stands at an older one."""
    walked = _walked(chain)
    if walked != chain:
        _note(
            f"{keychain} stands at {chain.newest.month}, sealed with the key of {walked.newest.month}: "
            f"`pushgate keys advance --keychain {keychain}` brings the file there too"
        )
    return walked


def this_month(now: datetime) -> str:
    """The month in Berlin; that of UTC, one or two hours late, on a machine without time zone data."""
    try:
        return month_of(now.astimezone(ZoneInfo(TIME_ZONE)))
    except ZoneInfoNotFoundError:
        return month_of(now.astimezone(UTC))


def _walked(chain: KeyChain) -> KeyChain:
    """The chain at this month, or where it is when that is ahead: a phone may have begun it in a later month."""
    try:
        return chain.advance(max(this_month(datetime.now(UTC)), chain.newest.month))
    except MonthError as error:
        raise Obstacle(str(error), mend="correct the clock, or make a new chain") from error


def _write(path: Path, chain: KeyChain, *, replace: bool) -> None:
    """Write the chain for its owner only: to a new file, or in place of what is there. Raises `Obstacle`."""
    target = path.resolve()
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}") if replace else target
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(chain.export_secrets() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if replace:
                fresh.replace(target)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    except FileExistsError as error:
        mend = "name another file; --force overwrites it, and what was sealed with its keys stays shut"
        raise Obstacle(f"{path} exists already", mend=mend) from error
    except OSError as error:
        fault = f"cannot write {path}: {error.strerror}"
        raise Obstacle(fault, mend="name a file in a directory that you can write to", code=cli.FAILED) from error


def _given_iss(iss_file: Path | None) -> Secret | None:
    """The ISS from a file or the environment, or None where neither has one. Raises `Obstacle`."""
    try:
        text = os.environ.get(ISS_VARIABLE) if iss_file is None else iss_file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise Obstacle(f"cannot read {iss_file}: {reason}", mend="give a file with 64 hexadecimal digits") from None
    if text is None:
        return None
    try:
        return Secret.from_hex(text.strip())
    except SecretError as error:
        where = ISS_VARIABLE if iss_file is None else iss_file
        raise Obstacle(f"{where} holds no ISS: {error}", mend="an ISS is 64 hexadecimal digits") from error


# --- messages in JSON --------------------------------------------------------------------------------------------


def _sealed_in(document: object) -> Iterator[Sealed]:
    """Every sealed message in a JSON document, in order, wherever it stands."""
    waiting = [document]
    while waiting:
        match waiting.pop():
            case {"ciphertext": str(text), "time_message_encrypted": str(month), "key_identifier": str(key)}:
                yield Sealed(ciphertext=text, time_message_encrypted=month, key_identifier=key)
            case dict() as fields:
                waiting.extend(reversed(fields.values()))
            case list() as items:
                waiting.extend(reversed(items))


def _read_json(file: Path | None) -> object:
    """A JSON document. Raises `Obstacle`."""
    try:
        content = _read_stdin("the JSON") if file is None else file.read_bytes()
    except OSError as error:
        raise Obstacle(f"cannot read {file}: {error.strerror}", mend="correct the path, or make it readable") from error
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Without its cause: that may quote the input.
        where = "stdin" if file is None else file
        raise Obstacle(f"{where} is not JSON", mend="give what `pushgate keys seal` prints, or a payload") from None


def _read_stdin(what: str) -> bytes:
    if sys.stdin.isatty():
        _note(f"reading {what} from the terminal; Ctrl-D ends it")
    return sys.stdin.buffer.read()


def _as_json(message: bytes, sealed: Sealed) -> str:
    try:
        said = {"message": message.decode()}
    except UnicodeDecodeError:
        said = {"message_base64": base64.b64encode(message).decode()}
    months = {"time_message_encrypted": sealed.time_message_encrypted, "key_identifier": sealed.key_identifier}
    return json_text.dumps(said | months, ensure_ascii=False)


def _answer(facts: Mapping[str, Sequence[str]], *, json: bool) -> None:
    if json:
        print(json_text.dumps(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value if isinstance(value, str) else ', '.join(value)}")


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
