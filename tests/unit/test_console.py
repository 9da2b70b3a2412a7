"""console: honest health, metrics, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pushgate.console import Console


async def ask(console: Console, path: str, method: str = "GET") -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Mapping[str, Any]] = []

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    await console({"type": "http", "method": method, "path": path}, None, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def console(reason: str | None = None) -> Console:
    return Console(unready=lambda: reason, metrics=lambda: b"pushgate_waiting 0\n")


async def test_ready_tells_the_reason_when_it_is_not() -> None:
    assert (await ask(console(), "/health/ready"))[0] == 200
    status, _, body = await ask(console("draining"), "/health/ready")
    assert (status, body) == (503, b'{"status":"not ready","reason":"draining"}')


async def test_live_does_not_depend_on_ready() -> None:
    assert (await ask(console("draining"), "/health/live"))[0] == 200


async def test_metrics_are_prometheus_text() -> None:
    status, headers, body = await ask(console(), "/metrics")
    assert (status, body) == (200, b"pushgate_waiting 0\n")
    assert headers[b"content-type"].startswith(b"text/plain")


@pytest.mark.parametrize(("path", "method", "status"), [("/", "GET", 404), ("/metrics", "POST", 405)])
async def test_anything_else_is_refused_as_json(path: str, method: str, status: int) -> None:
    answered, headers, body = await ask(console(), path, method)
    assert answered == status
    assert headers[b"content-type"] == b"application/json"
    assert body.startswith(b'{"error"')


async def test_other_protocols_are_ignored() -> None:
    async def send(message: Mapping[str, Any]) -> None:
        pytest.fail("nothing is to be sent")

    await console()({"type": "lifespan"}, None, send)
