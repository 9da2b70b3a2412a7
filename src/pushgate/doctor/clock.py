"""What the answers of others tell of this machine's clock. Providers refuse tokens that were made at another time."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parsedate_to_datetime

from msgspec import Struct

from pushgate.doctor.finding import Check, Finding, not_checked, ok, wrong

MOST_SKEW_S = 60
ABOUT = "this machine"
_MEND = "let the clock be set by NTP: timedatectl, or chronyc tracking"


class Heard(Struct, frozen=True):
    """A `Date` that came with an answer, and what our clock said then."""

    host: str
    date: str
    at: float
    """In unix seconds."""

    def skew_s(self) -> float | None:
        """How far our clock is ahead, in seconds; None where the date cannot be read."""
        try:
            return self.at - parsedate_to_datetime(self.date).timestamp()
        except (ValueError, OverflowError):
            return None


def judge(heard: Sequence[Heard], *, trusted_by: Sequence[str]) -> Finding:
    """The worst that was heard; else what follows from a token of ours that was taken (by `trusted_by`)."""
    known = [(skew, each.host) for each in heard if (skew := each.skew_s()) is not None]
    if known:
        skew, host = max(known, key=lambda pair: abs(pair[0]))
        if abs(skew) <= MOST_SKEW_S:
            return ok(Check.CLOCK, ABOUT, f"within {max(2, abs(round(skew)))} s of the clock of {host}")
        way = "ahead of" if skew > 0 else "behind"
        seen = f"{abs(round(skew))} s {way} the clock of {host}: Apple and Google refuse tokens of another time"
        return wrong(Check.CLOCK, ABOUT, seen, next_step=_MEND)
    if trusted_by:
        seen = f"no answer had a Date, but {trusted_by[0]} takes a token of this clock: less than an hour off"
        return ok(Check.CLOCK, ABOUT, seen)
    return not_checked(Check.CLOCK, ABOUT, "no answer had a Date", next_step=f"compare it yourself. {_MEND}")
