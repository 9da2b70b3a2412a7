"""The management port: health for supervisors and metrics for Prometheus. Never content, never a pushkey.

GET /health/live    200 while the process answers at all
GET /health/ready   200 while notifications are taken; 503 with the reason otherwise
GET /metrics        Prometheus text format
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST

Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class Console:
    """The management port as an ASGI application."""

    def __init__(self, *, unready: Callable[[], str | None], metrics: Callable[[], bytes]) -> None:
        """`unready` says why no notifications are taken, or None; `metrics` gives the text of all metrics."""
        self._unready = unready
        self._metrics = metrics

    async def __call__(self, scope: Mapping[str, Any], receive: object, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        status, media_type, body = self._answer(scope["method"], scope["path"])
        headers = [(b"content-type", media_type.encode()), (b"content-length", b"%d" % len(body))]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, method: str, path: str) -> tuple[int, str, bytes]:
        if path not in ("/health/live", "/health/ready", "/metrics"):
            return 404, "application/json", b'{"error":"There is nothing at this path."}'
        if method not in ("GET", "HEAD"):
            return 405, "application/json", b'{"error":"This path takes GET, HEAD only."}'
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, self._metrics()
        if path == "/health/live" or (reason := self._unready()) is None:
            return 200, "application/json", b'{"status":"ok"}'
        return 503, "application/json", msgspec.json.encode({"status": "not ready", "reason": reason})
