"""The table of a caller: how its certificate is known, and what it may do.

A validator's error says "what is wrong -> how to mend it".
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from pushgate.forwarded import subject_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"(?![0-9.]+$)[a-z0-9_*-]+(\.[a-z0-9_*-]+)*")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+")
LEAST_RATE_PER_S = 1 / 86_400
"""One request a day."""


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if text and not _FINGERPRINT.fullmatch(digits):
        raise ValueError("not a SHA-256 fingerprint -> write its 64 hexadecimal digits")
    return digits


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        mend = "write 1 to 64 letters, digits and . _ -, as it shall stand in logs and metrics"
        raise ValueError(f"not a name -> {mend}")
    return name


def _san(san: str) -> str:
    if san and not _HOST.fullmatch(san) and not _URI.fullmatch(san):
        mend = "write the DNS name in lower case and ASCII (xn--…), or the URI, as in the certificate"
        raise ValueError(f"neither a DNS name nor a URI: no certificate would fit -> {mend}")
    return san


def _rate(rate_per_s: float) -> float:
    if 0 < rate_per_s < LEAST_RATE_PER_S:
        raise ValueError("less than one request a day -> set 0 for no limit, or take the client out")
    return rate_per_s


def _subject(subject: str) -> str:
    try:
        return subject_of(subject)
    except ValueError as error:
        mend = 'write it as in RFC 4514, for example "CN=erp.example.de,O=Example,C=DE"'
        raise ValueError(f"not the subject of a certificate -> {mend}") from error


def compared(key: str, text: str) -> str:
    """What tells who a client is, in the form that it is compared in. Raises ValueError for what is no such thing."""
    match key:
        case "subject":
            return _subject(text)
        case "sha256" | "spki_sha256":
            return _fingerprint(text)
        case _:
            return text


Fingerprint = Annotated[str, AfterValidator(_fingerprint)]


class Client(BaseModel, frozen=True):
    """One caller."""

    model_config = ConfigDict(extra="forbid", validate_default=True, hide_input_in_errors=True)

    name: Annotated[str, AfterValidator(_name)]
    san: Annotated[str, AfterValidator(_san)] = ""
    subject: Annotated[str, AfterValidator(_subject)] = ""
    sha256: Fingerprint = ""
    spki_sha256: Fingerprint = ""
    apps: tuple[str, ...] = ("*",)
    plain: bool = True
    rate_per_s: Annotated[float, AfterValidator(_rate)] = Field(default=0, ge=0, le=1_000_000)
    burst: int = Field(default=0, ge=0, le=1_000_000)

    @field_validator("burst")
    @classmethod
    def _burst_goes_with_a_rate(cls, burst: int, info: ValidationInfo) -> int:
        if burst and info.data.get("rate_per_s") == 0:
            raise ValueError("does nothing without rate_per_s -> set rate_per_s, or take it out")
        return burst

    @property
    def at_once(self) -> float:
        """How many requests it may make at once: one second's worth, and one at least, where nothing else is said."""
        return float(self.burst) or max(self.rate_per_s, 1.0)
