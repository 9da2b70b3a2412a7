"""The providers: who is asked to wake a phone. A few files each; the same functions in `apns.py` and `fcm.py`.

Settings                            what the configuration says about one app of this provider
build_request(delivery, ...)        pure: the delivery as the provider wants it
classify(status, headers, body)     pure: the provider's answer as an Outcome
start(delivery, tell)               the two above with http2 between them
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog
from msgspec import Struct

from pushgate.model import Delivery
from pushgate.outcome import Cause, Deferred, Outcome


class ProviderRequest(Struct, frozen=True, gc=False):
    """What goes to a provider: an encoded header block (RFC 7541) and the body."""

    head: bytes
    body: bytes

    def __repr__(self) -> str:
        return f"ProviderRequest(body_bytes={len(self.body)})"


log = structlog.get_logger(__name__)

INTERNAL = "internal"
"""The reason of an outcome that is our own bug."""

Tell = Callable[[Outcome], None]
"""Where the outcome of an attempt goes, once."""


class Attempt(Protocol):
    """An attempt that was started."""

    def cancel(self) -> None:
        """Nobody waits for its outcome: it is not told. No effect once it was."""
        ...


class _Nothing:
    """An attempt that ended where it began."""

    def cancel(self) -> None:
        """There is nothing to cancel."""


NOTHING: Attempt = _Nothing()


def judged(tell: Tell, judge: Callable[[], None]) -> None:
    """Have an answer judged by something that tells the outcome. A bug of ours must not cost a delivery."""
    try:
        judge()
    except Exception as fault:  # noqa: BLE001 - the delivery is tried again
        mistaken(tell, fault)


def mistaken(tell: Tell, fault: Exception) -> None:
    """Tell that a bug of ours has ended an attempt: the delivery is tried again."""
    log.error("answer not understood", fault=type(fault).__name__)
    tell(Deferred(Cause.CONNECTION, INTERNAL))


class Provider(Protocol):
    """One app's way to its provider."""

    def refuse(self, delivery: Delivery) -> str | None:
        """Why this delivery could never be sent (a pushkey of impossible shape, too large), or None.

        Asked before it is accepted, so that the caller learns at once. Never names the pushkey.
        """
        ...

    @property
    def waiting(self) -> int:
        """How many attempts were started and wait for a free stream. More would only wait behind them."""
        ...

    def start(self, delivery: Delivery, tell: Tell) -> Attempt:
        """Make one attempt and tell its outcome, perhaps before this returns.

        Never raises for anything that the provider or the network does. A callback and no coroutine: a task for each
        attempt costs as much as all the rest of it.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and tasks. Nothing is in flight any more."""
        ...
