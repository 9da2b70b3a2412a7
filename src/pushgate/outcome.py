"""How one attempt to hand a delivery to its provider ended: Accepted, Rejected, Deferred or Undeliverable."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Accepted(Struct, frozen=True):
    """The provider took it. (Never "delivered": whether the phone got it, nobody tells.)"""


class Rejected(Struct, frozen=True):
    """The provider itself says that this pushkey is dead. The only outcome that may cost a registration."""

    reason: str
    """The provider's own word, e.g. `Unregistered`."""
    since_ms: int | None = None
    """Since when it is dead, in unix milliseconds, where the provider says so (APNs 410)."""


class Cause(StrEnum):
    """Why an attempt has to be made again: it decides how long to wait and who is held up meanwhile."""

    CONNECTION = "connection"
    """No answer: refused, reset, timed out. The delivery waits a little; the lane goes on."""
    PROVIDER = "provider"
    """A 5xx answer. The delivery waits as the provider asks for (APNs: 15 min, FCM: from 10 s)."""
    QUOTA = "quota"
    """Too much from this project or key: the whole lane waits, as long as Retry-After says."""
    DEVICE = "device"
    """Too much to this one device: only this delivery waits."""
    CREDENTIALS = "credentials"
    """Our key, certificate, topic or project: the whole lane waits and somebody must mend it."""
    MASS_REJECTION = "mass_rejection"
    """So many pushkeys of the lane were called dead that the fault must be ours: none of it is believed for now."""


class Deferred(Struct, frozen=True):
    """Not now. The delivery is kept and tried again until its time is up."""

    cause: Cause
    reason: str
    """The provider's own word or what went wrong, without anything of the notification in it."""
    retry_after_s: float | None = None
    """How long the provider asks to wait, where it does (Retry-After, both forms)."""


class Undeliverable(Struct, frozen=True):
    """Will never be taken as it is, but the pushkey may be fine: buried, never rejected."""

    reason: str


Outcome = Accepted | Rejected | Deferred | Undeliverable
