"""What of a changed configuration a running gateway cannot take over: the keys that wait for a restart."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from pushgate.config.settings import Settings

TAKEN_OVER = frozenset(
    {
        "apps",
        "clients",
        "api.tls",
        "api.trusted_proxies",
        "api.proxy_header",
        "management.token_file",
        "delivery.drain_s",
        "rejections.breaker_share",
        "rejections.breaker_count",
        "rejections.breaker_window_s",
    }
)
"""Tables and keys that take effect while the gateway runs."""


def waiting_for_restart(before: Settings, after: Settings) -> list[str]:
    """The keys whose new values have no effect yet, without their values."""
    waiting = list(_changed(before, after, ""))
    if (before.api.tls is None) != (after.api.tls is None):
        waiting.append("api.tls")
    if "api.auth" in waiting:  # nothing of who may call is taken over then
        waiting += ["clients"] if before.clients != after.clients else []
        waiting += ["api.tls"] if before.api.tls != after.api.tls and "api.tls" not in waiting else []
    return waiting


def _changed(before: BaseModel, after: BaseModel, at: str) -> Iterator[str]:
    for name in type(before).model_fields:
        path, old, new = f"{at}{name}", getattr(before, name), getattr(after, name)
        if path in TAKEN_OVER or old == new:
            continue
        if isinstance(old, BaseModel) and isinstance(new, BaseModel):
            yield from _changed(old, new, f"{path}.")
        else:
            yield path
