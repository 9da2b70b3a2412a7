"""The status page: one document with its style and its script inside, which a browser is told to trust and no other.

It asks nobody but this port, and what it is told goes into the page as text, never as HTML.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

_ASSETS = Path(__file__).parent / "assets"


@cache
def page() -> bytes:
    """The document."""
    style, script = _asset("status.css"), _asset("status.js")
    return _asset("status.html").replace("{{style}}", style).replace("{{script}}", script).encode()


@cache
def headers() -> tuple[tuple[bytes, bytes], ...]:
    """What goes with it: nothing from elsewhere may run in it, be loaded by it or frame it (CSP Level 3)."""
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_digest(_asset('status.css'))}'",
            f"script-src '{_digest(_asset('status.js'))}'",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    return ((b"content-security-policy", policy.encode()), *PRIVATE)


PRIVATE = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text("utf-8")


def _digest(inline: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
