"""How one lane is run, and how it fares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from pushgate import retry
from pushgate.breaker import BreakerLimits
from pushgate.flights import Attempt
from pushgate.model import Delivery
from pushgate.outcome import Cause, Deferred, Outcome, Rejected
from pushgate.settling import TROUBLE_S


class Sender(Protocol):
    """The part of a provider that sending needs."""

    @property
    def waiting(self) -> int:
        """See `provider.Provider.waiting`."""
        ...

    def start(self, delivery: Delivery, tell: Callable[[Outcome], None]) -> Attempt:
        """See `provider.Provider.start`."""
        ...


class LaneSettings(Struct, frozen=True):
    """How one lane is run."""

    sender: Sender
    policy: retry.Policy
    max_in_flight: int
    breaker: BreakerLimits = BreakerLimits()


class Standing(Struct, frozen=True):
    """How a lane fares: what flies, how much it dares at once, how long it still pauses, whether rejections count.

    And how many attempts have failed since the provider's last proper answer, and how long the first of them is ago.
    """

    in_flight: int
    dares: int
    pause_s: float
    breaker_is_open: bool
    failures_in_a_row: int
    failing_s: float


def of_old_settings(outcome: Outcome) -> Outcome:
    """What an answer to a request with settings that were replaced is worth: no fault of theirs holds it up longer."""
    match outcome:
        case Rejected(reason=reason) | Deferred(cause=Cause.CREDENTIALS | Cause.MASS_REJECTION, reason=reason):
            return Deferred(Cause.CREDENTIALS, reason, retry_after_s=TROUBLE_S)
        case _:
            return outcome
