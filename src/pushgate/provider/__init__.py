"""The providers: who is asked to wake a phone. A few files each; the same functions in `apns.py` and `fcm.py`.

Settings                            what the configuration says about one app of this provider
build_request(delivery, ...)        pure: the delivery as the provider wants it
classify(status, headers, body)     pure: the provider's answer as an Outcome
send(delivery)                      the two above with http2 between them
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from pushgate.model import Delivery
from pushgate.outcome import Outcome


class ProviderRequest(Struct, frozen=True):
    """What goes to a provider: an encoded header block (RFC 7541) and the body."""

    head: bytes
    body: bytes

    def __repr__(self) -> str:
        return f"ProviderRequest(body_bytes={len(self.body)})"


class Provider(Protocol):
    """One app's way to its provider."""

    def refuse(self, delivery: Delivery) -> str | None:
        """Why this delivery could never be sent (a pushkey of impossible shape, too large), or None.

        Asked before it is accepted, so that the caller learns at once. Never names the pushkey.
        """
        ...

    async def send(self, delivery: Delivery) -> Outcome:
        """Make one attempt. Never raises for anything that the provider or the network does."""
        ...

    async def close(self) -> None:
        """Let go of connections and tasks. Nothing is in flight any more."""
        ...
