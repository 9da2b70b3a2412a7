"""What supervisor and cell say to each other, and cells among themselves. No pushkey is ever in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from pushgate.metrics.families import Family
from pushgate.spool.sharing import Changes

# --- from the supervisor to a cell


class Start(Struct, frozen=True, tag=True):
    """Be this cell. The file is the socket to listen on; a cell that only sends has none."""

    cell: int
    cells: int
    config_file: str
    config_text: bytes
    """What the file held when it was checked. Secrets are not in it, but for what somebody wrote there."""
    role: str
    is_left_over: bool
    """To send what waits in a file of before, and then to end."""
    has_file: bool


class Link(Struct, frozen=True, tag=True):
    """The file is a socket to this sibling."""

    cell: int
    has_file: bool = True


class Agreed(Struct, frozen=True, tag=True):
    """The key of the hashes that all cells use."""

    secret: bytes


class Drain(Struct, frozen=True, tag=True):
    """Take nothing more, let land what flies, end."""


class AskFamilies(Struct, frozen=True, tag=True):
    """Your metrics: `Families`."""


class AskRejections(Struct, frozen=True, tag=True):
    """See `spool.Spool.rejections`: a list of `KnownRejection`."""

    app_id: str
    prefix: str
    after: str
    limit: int


class AskCount(Struct, frozen=True, tag=True):
    """See `spool.Spool.count_rejections`: a list of (app_id, reason, count)."""


class AskForget(Struct, frozen=True, tag=True):
    """See `spool.Spool.forget_rejections`: how many."""

    lane: str
    since: float
    prefix: str


class AskExplain(Struct, frozen=True, tag=True):
    """What is known of this id: `journal.Explained`."""

    asked: str


class AskTakeOver(Struct, frozen=True, tag=True):
    """Run with this configuration from now on: what is wrong with it, as a list of (path, fault, mend)."""

    config_text: bytes


Question = AskFamilies | AskRejections | AskCount | AskForget | AskExplain | AskTakeOver


class Ask(Struct, frozen=True, tag=True):
    """Answer this, with `Told` under the same number."""

    number: int
    question: Question


ToCell = Start | Link | Agreed | Drain | Ask

# --- from a cell to the supervisor


class Found(Struct, frozen=True, tag=True):
    """The key of the hashes in the file of the cell, and whether anything is remembered under it."""

    secret: bytes
    is_binding: bool


class Serving(Struct, frozen=True, tag=True):
    """The cell takes requests, or sends what was left over."""


class Unready(Struct, frozen=True, tag=True):
    """Why it takes no notifications just now; empty where it does."""

    reason: str


class Told(Struct, frozen=True, tag=True):
    """The answer to a question, as msgpack; or why there is none."""

    number: int
    answer: bytes = b""
    fault: str = ""


class Stopped(Struct, frozen=True, tag=True):
    """The cell has drained, and left so many attempts to a successor. With what it counted, in the end."""

    cut_off: int
    families: Sequence[Family]


FromCell = Found | Serving | Unready | Told | Stopped

# --- from a cell to a sibling


class CatchUp(Struct, frozen=True, tag=True):
    """Tell what was remembered lately. `known_ms` is until when the asker knew of everything: 0 for never."""

    known_ms: int


class CaughtUp(Struct, frozen=True, tag=True):
    """That was all."""


class Forgo(Struct, frozen=True, tag=True):
    """Forget the rejections that were told until then: those that still count follow."""

    until_ms: int


class Tally(Struct, frozen=True, tag=True):
    """By lane, how many pushkeys this cell found alive and dead within the window of the breaker."""

    lanes: Mapping[str, tuple[int, int]]


class Requests(Struct, frozen=True, tag=True):
    """By caller, how many requests this cell has let in since it told last: of callers that have a limit."""

    callers: Mapping[str, int]


class BreakerOpened(Struct, frozen=True, tag=True):
    """So many pushkeys of the lane turn dead that the fault must be ours."""

    lane: str


ToSibling = Changes | CatchUp | CaughtUp | Forgo | Tally | Requests | BreakerOpened
