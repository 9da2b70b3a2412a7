"""The exception tree. An exception means that we could not do the work; a provider's no is an `outcome` instead.

    PushgateError
    ├── RequestError            what a caller sent is answered with this status and body
    ├── ConfigError             the configuration has these faults, each with its place and the way to mend it
    ├── CredentialError         a provider's credentials cannot be read or refreshed
    ├── SpoolError
    │   ├── SpoolUnavailable    cannot take or give anything right now: callers get 503
    │   │   └── SpoolFull       takes nothing more until something has left it; gives and ends as always
    │   └── SpoolUnusable       not ours, of another version, or damaged: refuse to start
    └── Http2Error
        ├── NotSent             the peer has certainly not acted on the request: send it elsewhere
        └── Unanswered          the peer may have acted on it: a repeat may double it

No message of any of them holds a pushkey, content, a ciphertext or a credential.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct


class PushgateError(Exception):
    """The root of everything that pushgate raises itself."""


class RequestError(PushgateError):
    """What a caller sent is answered with `status` and `{"error": error, "details": details}`."""

    def __init__(
        self,
        status: int,
        error: str,
        *,
        details: Mapping[str, object] | None = None,
        retry_after_s: int | None = None,
        ends_connection: bool = False,
    ) -> None:
        """`ends_connection`: what follows on it could not be told from the rest of this request."""
        super().__init__(f"{status} {error}")
        self.status = status
        self.error = error
        self.details = details
        self.retry_after_s = retry_after_s
        self.ends_connection = ends_connection


class ConfigFault(Struct, frozen=True):
    """One fault of a configuration: where, what, and how to mend it."""

    path: str
    fault: str
    mend: str

    def __str__(self) -> str:
        return f"{self.path}: {self.fault} -> {self.mend}"


class ConfigError(PushgateError):
    """The configuration cannot be used. Holds every fault that was found, not only the first."""

    def __init__(self, faults: Sequence[ConfigFault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = tuple(faults)


class CredentialError(PushgateError):
    """A provider's credentials cannot be read or refreshed."""


class SpoolError(PushgateError):
    """The spool cannot do what was asked."""


class SpoolUnavailable(SpoolError):  # noqa: N818 - a state, not a mistake
    """Nothing can be put or leased right now (disk full, locked, closed). What is inside is safe."""


class SpoolFull(SpoolUnavailable):
    """So much waits that no more is taken. Nothing of what was to be put was stored."""


class SpoolUnusable(SpoolError):  # noqa: N818 - a state, not a mistake
    """The spool is not ours, of another version, or damaged. Nothing of it was changed."""


class Http2Error(PushgateError):
    """A request over HTTP/2 has no answer."""


class NotSent(Http2Error):  # noqa: N818 - what happened to the request
    """The peer has certainly not acted on the request (RFC 9113 §8.7): sending it elsewhere doubles nothing."""


class Unanswered(Http2Error):  # noqa: N818 - what happened to the request
    """The request went out, the answer did not come. The peer may have acted on it."""
